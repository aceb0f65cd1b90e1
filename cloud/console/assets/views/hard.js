// Hard examples in quarantine: what devices sent because a model was not sure, for somebody to accept or reject.
import { html, useEffect, useState } from '/console/vendor/htm/standalone.module.js';
import { ago, bytes, percent, short } from '/console/format.js';
import { post } from '/console/post.js';

// Pixels up to which a picture is shown unasked. Nobody has looked at it yet, and it can be far larger than its bytes.
const SHOWN_PIXELS = 4_000_000;

export function HardExamples({ examples }) {
  if (examples.length === 0) return '';
  return html`<section id="hard-examples"><h2>Hard examples</h2>
    <p><small>Inputs that a model was not sure of. Accepted ones become samples without a label.</small></p>
    <div class="pictures">${examples.map((example) => html`<${Example} key=${example.digest} example=${example} />`)}</div>
  </section>`;
}

function Example({ example }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const decide = async (verb) => {
    setBusy(true);
    setNote(await post(`/api/v1/hard-examples/${verb}`, { examples: [example.digest] }));
    setBusy(false);
  };
  return html`<figure data-example=${example.digest}>
    <${Content} example=${example} />
    <figcaption>
      <b>${example.label || 'no label'}</b> ${percent(example.score, 1)} <small>${example.reason}</small><br />
      <small title=${example.digest}>${example.model} on ${example.device} · ${ago(example.received_at_ms)} · ${bytes(example.bytes)}<br />
        <code>${short(example.digest)}</code></small><br />
      <button disabled=${busy || !example.dataset} onClick=${() => decide('accept')}
        title=${example.dataset ? '' : 'its policy names no dataset: flotilla hard accept --dataset NAME'}>
        Accept${example.dataset ? ` into ${example.dataset}` : ''}</button>${' '}
      <button disabled=${busy} onClick=${() => decide('reject')}>Reject</button>
      ${note ? html`<small class="bad"> ${note}</small>` : ''}
    </figcaption>
  </figure>`;
}

function Content({ example }) {
  switch (example.medium) {
    case 'recording': return html`<${Recording} example=${example} />`;
    case 'row': return html`<${Row} example=${example} />`;
    default: return html`<${Picture} example=${example} />`;
  }
}

const source = (example) => `/api/v1/hard-examples/${example.digest}/picture`;

function Recording({ example }) {
  return html`<audio controls preload="none" src=${source(example)} title=${`${(example.milliseconds / 1000).toFixed(1)} s`} />`;
}

// The cells of a row, by name. It is fetched when it is drawn: it is as small as a row is.
function Row({ example }) {
  const [row, setRow] = useState(null);
  useEffect(() => {
    fetch(source(example)).then((answer) => (answer.ok ? answer.json() : {})).then(setRow, () => setRow({}));
  }, [example.digest]);
  if (!row) return html`<p class="empty">…</p>`;
  return html`<table class="row"><tbody>${Object.entries(row).map(([name, cell]) =>
    html`<tr><th>${name}</th><td>${cell === null ? '' : String(cell)}</td></tr>`)}</tbody></table>`;
}

function Picture({ example }) {
  const { width, height } = example;
  const [wanted, setWanted] = useState(width * height <= SHOWN_PIXELS);
  return wanted
    ? html`<img loading="lazy" src=${source(example)} alt="" />`
    : html`<button class="large" onClick=${() => setWanted(true)}>Show ${width} × ${height} pixels</button>`;
}
