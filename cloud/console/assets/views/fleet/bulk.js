// What can be done to the devices that are selected, and what became of it.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { count } from '/console/format.js';
import { order } from '/console/post.js';

/** Failures that are listed. */
const LISTED = 20;

/** `selected`: `{ all, ids }`; `query`: what is looked for; `total`: how many it finds. */
export function Bulk({ selected, query, total, clear, done }) {
  const [label, setLabel] = useState('');
  const [reason, setReason] = useState('');
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState('');
  const [told, setTold] = useState(null);
  const many = selected.all ? total : selected.ids.size;
  const send = async (name, path, body) => {
    // Asked twice where it keeps rollouts away, or where it is for more than one can see.
    if (sure !== name && (name === 'quarantine' || selected.all)) return setSure(name);
    setSure('');
    setBusy(true);
    const found = { filter: query.filter || (query.search ? undefined : 'true'), search: query.search || undefined };
    const of = selected.all ? found : { devices: [...selected.ids] };
    const { value, problem } = await order(path, { ...of, ...body });
    const single = !selected.all && selected.ids.size === 1 ? `${[...selected.ids][0]}: ` : '';
    setTold(value ?? { problem: `${single}${problem}` });
    setBusy(false);
    done();
  };
  const tag = (name, change) => send(name, '/api/v1/device-tags', change);
  const quarantine = (name, why) => send(name, '/api/v1/device-quarantine', { reason: why });
  const button = (name, text, act, disabled) => html`<button data-bulk=${name} class=${name === 'quarantine' ? 'danger' : ''}
    disabled=${busy || disabled} onClick=${act}>${sure === name ? `${text} ${count(many)} ${many === 1 ? 'device' : 'devices'}?` : text}</button>`;
  const words = label.split(/[\s,]+/).filter((word) => word);
  if (many === 0 && !told) return '';
  return html`<div class="bulk" role="group" aria-label="Selected devices">
    ${many > 0 ? html`<b>${count(many)} selected</b>
      <input aria-label="Label" placeholder="label" value=${label} onInput=${(e) => setLabel(e.target.value)} data-bulk-label />
      ${button('add', 'Add label', () => tag('add', { add: words }), words.length === 0)}
      ${button('remove', 'Remove label', () => tag('remove', { remove: words }), words.length === 0)}
      <input aria-label="Reason for quarantine" placeholder="reason" value=${reason} onInput=${(e) => setReason(e.target.value)} />
      ${button('quarantine', 'Quarantine', () => quarantine('quarantine', reason.trim()), !reason.trim())}
      ${button('release', 'Release', () => quarantine('release', null))}
      <button onClick=${() => { clear(); setTold(null); setSure(''); }}>Clear selection</button>` : ''}
    <div class="told-by" role="status">${busy ? 'Working…' : told ? html`<${Told} told=${told} />` : ''}</div>
  </div>`;
}

function Told({ told }) {
  if (told.problem) return html`<span class="bad">${told.problem}</span>`;
  const failed = told.failed ?? [];
  return html`<span data-changed=${told.changed}>${count(told.changed)} of ${count(told.devices)} changed${failed.length > 0 ? `, ${count(failed.length)} failed:` : ''}</span>
    ${failed.length > 0 ? html`<ul>${failed.slice(0, LISTED).map(({ device, failure }) => html`<li class="bad" key=${device}>
      <b>${device}</b>: ${failure.code}: ${failure.detail}</li>`)}
      ${failed.length > LISTED ? html`<li>and ${count(failed.length - LISTED)} more</li>` : ''}</ul>` : ''}`;
}
