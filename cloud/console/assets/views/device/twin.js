// What a device should run beside what it says it runs.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { ago, count, micros, percent, short } from '/console/format.js';

export function Twin({ twin, now }) {
  const behind = twin.version !== twin.reported_version;
  return html`<dl>
      <div><dt>Desired document</dt><dd>version ${twin.version} <small>${ago(twin.changed_at_ms)}</small></dd></div>
      <div class=${behind ? 'differs' : ''} data-versions=${`${twin.version}/${twin.reported_version}`}><dt>Answered by the device</dt><dd>${twin.reported_version > 0
        ? html`version ${twin.reported_version} <small>${ago(twin.reported_at_ms)}</small>` : 'none yet'}</dd></div>
      <div><dt>Differences</dt><dd class=${twin.differences.length > 0 ? 'bad' : 'good'} data-differences=${twin.differences.length}>${twin.differences.length || 'none'}</dd></div>
    </dl>
    ${twin.models.length > 0 ? html`<table class="cards"><thead><tr><th>Model</th><th>Wanted</th><th>Running</th><th>Phase</th><th>Slot</th>
        <th class="n">Accuracy</th><th class="n">Latency p50 / p95</th><th class="n">Predictions</th></tr></thead>
      <tbody>${twin.models.map((model) => html`<${Row} key=${model.model} model=${model} told=${now.models.find((one) => one.model === model.model)} />`)}</tbody></table>`
      : html`<p class="empty">It should run no model, and runs none.</p>`}
    ${twin.differences.length > 0 ? html`<h3>Where they differ</h3><table class="cards"><thead><tr><th>What</th><th>Desired</th><th>Reported</th><th>Why</th></tr></thead>
      <tbody>${twin.differences.map((one) => html`<tr key=${one.at} class="differs" data-difference=${one.at}>
        <td data-th="What"><code>${one.at}</code></td><td data-th="Desired"><${Side} text=${one.desired} /></td>
        <td data-th="Reported"><${Side} text=${one.reported} /></td><td data-th="Why">${one.why}</td></tr>`)}</tbody></table>` : ''}
    <${Documents} twin=${twin} />`;
}

function Documents({ twin }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(e) => setOpen(e.target.open)}><summary>Both documents</summary>${open ? html`<div class="sides">
    <figure><figcaption>Desired</figcaption><pre tabindex="0">${JSON.stringify(twin.desired, null, 2)}</pre></figure>
    <figure><figcaption>Reported</figcaption><pre tabindex="0">${twin.reported ? JSON.stringify(twin.reported, null, 2) : 'nothing yet'}</pre></figure>
  </div>` : ''}</details>`;
}

function Row({ model, told }) {
  const latency = typeof told?.p50_us === 'number' ? `≤ ${micros(told.p50_us)} / ≤ ${micros(told.p95_us)}` : '–';
  return html`<tr class=${model.differs ? 'differs' : ''} data-model=${model.model} data-phase=${model.phase}>
    <td data-th="Model"><b>${model.model}</b></td>
    <td data-th="Wanted"><${Release} digest=${model.wanted} version=${model.wanted_version} /></td>
    <td data-th="Running"><${Release} digest=${model.running} version=${model.running_version} />
      ${model.differs ? html` <b class="mark" title="not the release that it should run">≠</b>` : ''}</td>
    <td data-th="Phase"><span class="state ${model.phase}">${model.phase}</span>
      ${model.failure ? html` <small class="bad">${model.failure.code}: ${model.failure.detail}</small>` : ''}</td>
    <td data-th="Slot">${model.slot ? model.slot.toUpperCase() : '–'}</td>
    <td data-th="Accuracy" class="n" title=${told?.accuracy_source ?? ''}>${percent(told?.accuracy)}</td>
    <td data-th="Latency p50 / p95" class="n">${latency}</td>
    <td data-th="Predictions" class="n">${count(told?.predictions)}</td></tr>`;
}

function Release({ digest, version }) {
  if (!digest) return html`<small>none</small>`;
  return html`<span title=${digest}>v${version ?? '?'} <small><code>${short(digest)}</code></small></span>`;
}

/** Digests are told by their beginning. */
function Side({ text }) {
  if (text === null) return html`<small>none</small>`;
  return /^[0-9a-f]{64}$/.test(text) ? html`<code title=${text}>${short(text)}</code>` : text;
}
