// The fleet: as many devices as there are, of which the page holds those that can be seen.
import { html, useEffect, useLayoutEffect, useRef, useState } from '/console/vendor/htm/standalone.module.js';
import { count } from '/console/format.js';
import { get } from '/console/get.js';
import { deviceHref } from '/console/route.js';
import { Bulk } from '/console/views/fleet/bulk.js';
import { COLUMNS } from '/console/views/fleet/columns.js';
import { useFound } from '/console/views/fleet/found.js';

/** Heights of a row, as the style sheet has them: a line, and on narrow screens a card of three. */
const ROW = 44;
const CARD = 88;
/** Rows beyond what can be seen, above and below. */
const BESIDE = 6;
/** Rows that one can scroll to: browsers end at some height. */
const REACHED = 150_000;
const TYPING_MS = 250;
const NARROW = matchMedia('(max-width: 720px)');

/** What is looked for and where one was, for whoever comes back from a device's page. */
const kept = { search: '', filter: '', group: '', sort: 'id', top: 0 };

export function Fleet({ fleet, stamp }) {
  if (fleet.total === 0) {
    return html`<section id="devices"><h2>Devices</h2>
      <p class="empty">No device has enrolled yet. Make a claim code with <code>flotilla device claim</code>.</p></section>`;
  }
  return html`<${Table} stamp=${stamp} queue=${fleet.states.waiting ?? 0} />`;
}

function Table({ stamp, queue }) {
  const [asked, setAsked] = useState({ ...kept });
  const [selected, setSelected] = useState({ all: false, ids: new Set() });
  const change = (part) => {
    Object.assign(kept, part);
    setAsked((before) => ({ ...before, ...part }));
    // Who is selected among what is seen no more would be a surprise.
    if (!('sort' in part)) setSelected({ all: false, ids: new Set() });
  };
  const query = { search: asked.search.trim(), filter: whole(asked), sort: asked.sort };
  const [again, setAgain] = useState(0);
  const { shown, problem, waiting } = useFound(query, `${stamp}/${again}`);
  const total = shown.total ?? 0;
  return html`<section id="devices" class="fleet">
    <h2>Devices <small role="status" data-total=${shown.total ?? ''}>${shown.total === null ? '' : `${count(total)} ${query.search || query.filter ? 'match' : 'in all'}`}${waiting ? ' …' : ''}</small></h2>
    ${queue > 0 ? html`<p class="queue"><b>${count(queue)}</b> ${queue === 1 ? 'device waits' : 'devices wait'} for approval
      ${' '}<button data-order="queue" onClick=${() => change({ filter: "state == 'waiting'", search: '', group: '' })}>Show</button></p>` : ''}
    <${Ask} asked=${asked} change=${change} problem=${problem} stamp=${stamp} />
    <${Bulk} selected=${selected} query=${query} total=${total} done=${() => setAgain((n) => n + 1)}
      clear=${() => setSelected({ all: false, ids: new Set() })} />
    <${Grid} shown=${shown} asked=${JSON.stringify(query)} total=${total} sort=${asked.sort} setSort=${(sort) => change({ sort })} selected=${selected} setSelected=${setSelected} />
    ${total > REACHED ? html`<p class="empty">The list ends after ${count(REACHED)}: search or filter for the others.</p>` : ''}
  </section>`;
}

/** The expression, within the group. */
function whole({ filter, group }) {
  const text = filter.trim();
  if (!group) return text;
  const within = `${JSON.stringify(group)} in groups`;
  // On a line of its own, where a comment could end.
  return text ? `(${text}\n) && ${within}` : within;
}

function Ask({ asked, change, problem, stamp }) {
  const [groups, setGroups] = useState([]);
  useEffect(() => {
    get('/api/v1/groups').then(({ value }) => value && setGroups(value));
  }, []);
  const options = groups.some((group) => group.name === asked.group) || !asked.group
    ? groups : [...groups, { name: asked.group }];
  return html`<div class="ask">
    <label>Search<${Typed} type="search" name="search" value=${asked.search} placeholder="id, name, label, board" set=${(search) => change({ search })} /></label>
    <label class="wide">Filter<${Typed} type="text" name="filter" value=${asked.filter} invalid=${Boolean(problem)}
      placeholder=${'online && attributes.site == "berlin"'} set=${(filter) => change({ filter })} /></label>
    <label>Group<select name="group" value=${asked.group} onChange=${(e) => change({ group: e.target.value })}>
      <option value="">all devices</option>
      ${options.map((group) => html`<option key=${group.name} value=${group.name}>${group.name}</option>`)}</select></label>
    <label class="narrow">Sort<select value=${asked.sort} onChange=${(e) => change({ sort: e.target.value })}>
      ${COLUMNS.filter((column) => column.sort).flatMap(({ sort, title }) => [
        html`<option key=${sort} value=${sort}>${title}, up</option>`, html`<option key=${`-${sort}`} value=${`-${sort}`}>${title}, down</option>`])}
    </select></label>
    <p id="filter-problem" class="bad" role="alert">${problem}</p>
  </div>`;
}

/** A box whose text counts once nobody types. */
function Typed({ name, type, value, placeholder, invalid, set }) {
  const [text, setText] = useState(value);
  const timer = useRef(null);
  useEffect(() => () => clearTimeout(timer.current), []);
  const later = (wait) => (event) => {
    const typed = event.target.value;
    setText(typed);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set(typed), wait);
  };
  return html`<input name=${name} type=${type} value=${text} placeholder=${placeholder} autocomplete="off" spellcheck=${false}
    aria-invalid=${invalid ? 'true' : 'false'} aria-describedby="filter-problem" onInput=${later(TYPING_MS)} onChange=${later(0)} />`;
}

function useNarrow() {
  const [narrow, setNarrow] = useState(NARROW.matches);
  useEffect(() => {
    const follow = () => setNarrow(NARROW.matches);
    NARROW.addEventListener('change', follow);
    return () => NARROW.removeEventListener('change', follow);
  }, []);
  return narrow;
}

function Grid({ shown, asked, total, sort, setSort, selected, setSelected }) {
  const box = useRef(null);
  const head = useRef(null);
  const row = useNarrow() ? CARD : ROW;
  const rows = Math.min(total, REACHED);
  const [view, setView] = useState({ top: kept.top, height: 600 });
  const [active, setActive] = useState(0);
  const placed = useRef(false);
  const measure = () => {
    if (placed.current) kept.top = box.current.scrollTop;
    setView({ top: box.current.scrollTop, height: box.current.clientHeight });
  };
  useLayoutEffect(() => {
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  // Once the list is as long as it was, one is where one was.
  useLayoutEffect(() => {
    if (placed.current || rows === 0) return;
    placed.current = true;
    box.current.scrollTop = kept.top;
  }, [rows]);
  const before = useRef(asked);
  useLayoutEffect(() => {
    if (before.current === asked) return;
    before.current = asked;
    box.current.scrollTop = 0;
    setActive(0);
  }, [asked]);
  useEffect(() => {
    if (active >= rows) setActive(Math.max(0, rows - 1));
  }, [rows]);

  const first = Math.max(0, Math.min(rows, Math.floor(view.top / row)) - BESIDE);
  const last = Math.min(rows, Math.ceil((view.top + view.height) / row) + BESIDE);
  useEffect(() => {
    if (rows > 0) shown.look(first, last - 1);
  }, [shown, first, last]);

  const toggle = (id) => {
    if (selected.all) return;
    const ids = new Set(selected.ids);
    if (!ids.delete(id)) ids.add(id);
    setSelected({ all: false, ids });
  };
  const go = (to) => {
    const next = Math.max(0, Math.min(rows - 1, to));
    setActive(next);
    const cover = head.current.offsetHeight;
    const { scrollTop, clientHeight } = box.current;
    if (next * row < scrollTop) box.current.scrollTop = next * row;
    else if ((next + 1) * row + cover > scrollTop + clientHeight) box.current.scrollTop = (next + 1) * row + cover - clientHeight;
  };
  const keys = (event) => {
    // A column's button and a row's box have keys of their own.
    if (event.target !== box.current) return;
    const page = Math.max(1, Math.floor(view.height / row) - 1);
    const steps = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: rows - 1 };
    const device = shown.at(active);
    if (event.key in steps) go(steps[event.key]);
    else if (event.key === ' ' && device) toggle(device.id);
    else if (event.key === 'Enter' && device) location.hash = deviceHref(device.id);
    else return;
    event.preventDefault();
  };

  const visible = [];
  for (let index = first; index < last; index += 1) visible.push(index);
  return html`<div class="grid" ref=${box} tabindex="0" role="grid" aria-label="Devices" aria-multiselectable="true"
      aria-rowcount=${total + 1} aria-colcount=${COLUMNS.length + 1} aria-activedescendant=${`device-${active}`} onScroll=${measure} onKeyDown=${keys}>
    <div class="row head" role="row" aria-rowindex="1" ref=${head}>
      <div role="columnheader" class="pick"><input type="checkbox" aria-label="Select all that match" checked=${selected.all}
        onChange=${(e) => setSelected({ all: e.target.checked, ids: new Set() })} /></div>
      ${COLUMNS.map((column) => html`<${Head} key=${column.name} column=${column} sort=${sort} setSort=${setSort} />`)}
    </div>
    <div role="rowgroup" class="rows" style=${{ height: `${rows * row}px` }}>
      ${visible.map((index) => html`<${Row} key=${index} index=${index} top=${index * row} device=${shown.at(index)} active=${index === active}
        picked=${selected.all || selected.ids.has(shown.at(index)?.id)} fixed=${selected.all} toggle=${toggle} touch=${() => setActive(index)} />`)}
    </div>
    ${shown.total === 0 ? html`<p class="empty">No device matches.</p>` : ''}
  </div>`;
}

function Head({ column, sort, setSort }) {
  const up = sort === column.sort;
  const down = sort === `-${column.sort}`;
  const classes = `c-${column.name}${column.n ? ' n' : ''}`;
  if (!column.sort) return html`<div role="columnheader" class=${classes}>${column.title}</div>`;
  return html`<div role="columnheader" class=${classes} aria-sort=${up ? 'ascending' : down ? 'descending' : 'none'}>
    <button class="plain" data-sort=${column.sort} onClick=${() => setSort(up ? `-${column.sort}` : column.sort)}>
      ${column.title}<span aria-hidden="true">${up ? ' ▲' : down ? ' ▼' : ''}</span></button></div>`;
}

function Row({ index, top, device, active, picked, fixed, toggle, touch }) {
  const place = { transform: `translateY(${top}px)` };
  if (!device) return html`<div class="row" role="row" id=${`device-${index}`} aria-rowindex=${index + 2} style=${place}><div role="gridcell" class="empty">…</div></div>`;
  return html`<div class="row${active ? ' active' : ''}" role="row" id=${`device-${index}`} aria-rowindex=${index + 2} aria-selected=${picked ? 'true' : 'false'}
      style=${place} data-device=${device.id} data-state=${device.state} onClick=${touch}>
    <div role="gridcell" class="pick"><input type="checkbox" tabindex="-1" aria-label=${`Select ${device.id}`} checked=${picked}
      disabled=${fixed} onChange=${() => toggle(device.id)} /></div>
    ${COLUMNS.map((column) => html`<div role="gridcell" key=${column.name} class="c-${column.name}${column.n ? ' n' : ''}" data-th=${column.title}>${column.cell(device)}</div>`)}
  </div>`;
}
