// What the devices tell: sensors, latency, what the models answer, how sure they are, and whether that has drifted.
import { html } from '/console/vendor/htm/standalone.module.js';
import { bytes, count, micros, percent } from '/console/format.js';
import { deviceHref } from '/console/route.js';

/** Cards that are shown, those that drifted most first. */
const CARDS = 12;
/** Labels that have a bar of their own. */
const LABELS = 10;

export function Telemetry({ devices, total }) {
  const told = devices.flatMap((device) => (device.models.length > 0 ? device.models : [null]).map((model) => ({ device, model })));
  const score = ({ model }) => model?.drift?.score ?? -1;
  const cards = [...told].sort((a, b) => score(b) - score(a));
  const rest = Math.max(0, total - devices.length) + Math.max(0, cards.length - CARDS);
  return html`<section id="telemetry"><h2>Telemetry</h2>
    ${cards.length === 0
      ? html`<p class="empty">Devices tell of themselves once they have enrolled.</p>`
      : html`<div class="told">${cards.slice(0, CARDS).map(({ device, model }) => html`<${Card}
          key=${`${device.id}/${model?.model}`} device=${device} model=${model} />`)}</div>
        ${rest > 0 ? html`<p class="empty">And ${count(rest)} more that have not drifted farther.</p>` : ''}`}
  </section>`;
}

/** What a model on a device tells; `alone` on the page of that device. */
export function Card({ device, model, alone = false }) {
  const drift = model?.drift;
  return html`<article data-told=${device.id} data-shift=${drift?.shift ?? ''}>
    <h3>${alone ? '' : html`<a href=${deviceHref(device.id)}>${device.id}</a>`}${model ? `${alone ? '' : ' · '}${model.model}` : ''} ${model ? html`<${Shift} drift=${drift} />` : ''}</h3>
    <dl>
      ${model ? html`<${Fact} name="Latency p50 / p95 / p99" value=${latency(model)} />` : ''}
      ${drift ? html`<${Fact} name="Farthest off" value=${`${drift.cause}, last ${count(drift.predictions)}`} />` : ''}
      ${alone ? '' : html`<${Sensors} device=${device} />`}
    </dl>
    ${model && model.predictions > 0 ? html`<div class="charts">
      <${Answers} classes=${model.classes} /><${Confidence} counts=${model.confidence} /></div>` : ''}
  </article>`;
}

/** What the device itself measures, whatever it runs. */
export function Sensors({ device }) {
  return html`<${Fact} name="Temperature" value=${degrees(device.temperature_c)} />
    <${Fact} name="CPU" value=${share(device.cpu_percent)} />
    <${Fact} name="Network in / out" value=${`${bytes(device.received_bytes)} / ${bytes(device.network_sent_bytes)}`} />
    ${(device.npus ?? []).map((npu, index) => html`<${Fact} key=${index} name=${`NPU ${npu.chip}`} value=${unit(npu)} />`)}`;
}

export function Fact({ name, value }) {
  return html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
}

/** The word for a drift score, and the score. */
function Shift({ drift }) {
  if (!drift) {
    return html`<span class="state unknown" title="the release has no baseline, or too few predictions were made">drift unknown</span>`;
  }
  const parts = `inputs ${drift.inputs.toFixed(3)}${drift.feature ? ` (${drift.feature})` : ''}, classes ${drift.classes.toFixed(3)}, `
    + `confidence ${drift.confidence.toFixed(3)}: population stability index against the training data`;
  return html`<span class="state ${drift.shift.split(' ')[0]}" title=${parts}>${drift.shift} ${drift.score.toFixed(3)}</span>`;
}

function Answers({ classes }) {
  const all = classes.reduce((sum, answer) => sum + answer.count, 0);
  const rest = classes.slice(LABELS).reduce((sum, answer) => sum + answer.count, 0);
  const rows = [...classes.slice(0, LABELS), ...(rest > 0 ? [{ label: 'others', count: rest }] : [])];
  const most = Math.max(1, ...rows.map((row) => row.count));
  return html`<figure class="answers"><figcaption>Answers</figcaption>
    ${rows.map((row) => html`<div key=${row.label} title=${`${row.label}: ${count(row.count)}`}>
      <span>${row.label}</span><i style=${{ '--part': row.count / most }}></i><span class="n">${percent(row.count / all, 0)}</span></div>`)}
  </figure>`;
}

function Confidence({ counts }) {
  const tenths = Array.from({ length: 10 }, (_, bin) => counts[bin] ?? 0);
  const all = Math.max(1, tenths.reduce((sum, n) => sum + n, 0));
  const most = Math.max(1, ...tenths);
  return html`<figure class="confidence"><figcaption>Confidence</figcaption>
    <div role="img" aria-label=${`confidence above 0.9: ${percent(tenths[9] / all, 0)}`}>${tenths.map((n, bin) => html`<i key=${bin}
      style=${{ '--part': n / most }} title=${`${bin / 10} to ${(bin + 1) / 10}: ${count(n)}`}></i>`)}</div>
    <p><span>0</span><span>${percent(tenths[9] / all, 0)} above 0.9</span><span>1</span></p>
  </figure>`;
}

function latency(model) {
  if (typeof model.p50_us !== 'number') return '–';
  return `≤ ${micros(model.p50_us)} / ≤ ${micros(model.p95_us)} / ≤ ${micros(model.p99_us)}`;
}

function degrees(celsius) {
  return typeof celsius === 'number' ? `${celsius.toFixed(1)} °C` : '–';
}

function share(value) {
  return typeof value === 'number' ? `${value.toFixed(0)} %` : '–';
}

function unit(npu) {
  const said = [
    typeof npu.utilisation_percent === 'number' ? `${npu.utilisation_percent} % used` : null,
    typeof npu.memory_used_mb === 'number' ? `${count(npu.memory_used_mb)} of ${count(npu.memory_total_mb)} MB` : null,
    typeof npu.temperature_c === 'number' ? `${npu.temperature_c} °C` : null,
    typeof npu.power_w === 'number' ? `${npu.power_w.toFixed(1)} W` : null,
    npu.health,
  ];
  return said.filter((text) => text).join(', ') || '–';
}
