// The page of a model version: its card, as the control plane tells it in words, tables and pictures.
import { html, useEffect, useRef } from '/console/vendor/htm/standalone.module.js';
import { useAnswers } from '/console/get.js';

export function CardPage({ model, version, stamp }) {
  const base = `/api/v1/models/${encodeURIComponent(model)}/versions/${version}/card`;
  const [{ card }] = useAnswers({ card: `${base}?page=true` }, stamp);
  const name = `${model} v${version}`;
  if (!card) return html`<p class="empty">Asking for ${name}…</p>`;
  if (card.problem) return html`<section class="notice"><h2>${name}</h2><p class="bad">${card.problem}</p></section>`;
  const { title, sections } = card.value.page;
  const file = `${model}-v${version}-card`;
  return html`<div id="card" data-model=${model} data-version=${version}>
    <section class="title"><h2>${title}</h2>
      <p class="forms"><a href=${`${base}.html`} target="_blank" rel="noopener">As a page of its own</a>
        <a href=${`${base}.html`} download=${`${file}.html`}>Download HTML</a>
        <a href=${`${base}.md`} download=${`${file}.md`}>Download Markdown</a>
        <a href=${base} download=${`${file}.json`}>Download JSON</a></p>
    </section>
    ${sections.map((section) => html`<section key=${section.id} id=${`card-${section.id}`}><h2>${section.title}</h2>
      ${section.blocks.map((block) => html`<${Block} block=${block} />`)}</section>`)}
  </div>`;
}

function Block({ block }) {
  if (block.text !== undefined) return html`<p>${block.text}</p>`;
  if (block.facts) {
    return html`<dl class="facts">${block.facts.map((fact) => html`<div><dt>${fact.name}</dt><dd><${Cell} cell=${fact.value} /></dd></div>`)}</dl>`;
  }
  if (block.table) return html`<${Table} table=${block.table} />`;
  const { svg, caption, table } = block.picture;
  return html`<figure><figcaption>${caption}</figcaption><${Picture} svg=${svg} />
    ${table ? html`<details><summary>The same as a table</summary><${Table} table=${table} /></details>` : ''}</figure>`;
}

function Table({ table }) {
  const kind = (column) => (column.number ? 'n' : null);
  return html`<div class="scroll"><table>${table.caption ? html`<caption>${table.caption}</caption>` : ''}
    <thead><tr>${table.columns.map((column) => html`<th class=${kind(column)}>${column.name}</th>`)}</tr></thead>
    <tbody>${table.rows.map((row) => html`<tr>${row.map((cell, place) => html`<td class=${kind(table.columns[place])}><${Cell} cell=${cell} /></td>`)}</tr>`)}</tbody></table>
    ${table.more > 0 ? html`<p><small>${table.more} more rows are in the JSON form.</small></p>` : ''}</div>`;
}

function Cell({ cell }) {
  return cell.code === undefined ? cell.text : html`<code>${cell.code}</code>`;
}

/** SVG from the control plane, as part of this page, so that it has the page's colours. */
function Picture({ svg }) {
  const place = useRef(null);
  useEffect(() => {
    const root = new DOMParser().parseFromString(svg, 'image/svg+xml').documentElement;
    if (root.localName === 'svg') place.current.replaceChildren(document.importNode(root, true));
  }, [svg]);
  return html`<div class="picture" ref=${place}></div>`;
}
