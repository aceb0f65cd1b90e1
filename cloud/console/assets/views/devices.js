// The fleet: a row a device and model, a card each on narrow screens.
import { html } from '/console/vendor/htm/standalone.module.js';
import { ago, bytes, count, micros, millis, percent, short } from '/console/format.js';

export function Devices({ devices }) {
  return html`<section id="devices"><h2>Devices</h2>
    ${devices.length === 0
      ? html`<p class="empty">No device has enrolled yet. Make a claim code with <code>flotilla device claim</code>.</p>`
      : html`<table class="cards"><thead><tr>
          <th>Device</th><th>State</th><th>Release</th><th>Slot</th><th class="n">Accuracy</th>
          <th class="n">Latency p50 / p95</th><th class="n">Memory</th><th class="n">Predictions</th><th>Seen</th>
        </tr></thead><tbody>${devices.flatMap(rows)}</tbody></table>`}
  </section>`;
}

function rows(device) {
  const models = device.models.length > 0 ? device.models : [null];
  return models.map((model) => html`<${Row} key=${`${device.id}/${model?.model}`} device=${device} model=${model} />`);
}

function Row({ device, model }) {
  // A revoked device is that, whatever its models last said.
  const state = device.state === 'revoked' || !model ? device.state : model.state;
  const latency = typeof model?.p50_us === 'number'
    ? `≤ ${micros(model.p50_us)} / ≤ ${micros(model.p95_us)}`
    : `${millis(model?.probe?.p50_ms)} / ${millis(model?.probe?.p95_ms)}`;
  return html`<tr data-device=${device.id} data-model=${model?.model ?? ''} data-state=${state}>
    <td data-th="Device"><span class="dot ${device.connected ? 'on' : 'off'}" title=${device.connected ? 'online' : 'offline'}></span>
      <b>${device.id}</b> <small>${device.arch}</small>
      ${device.renewal === 'pending'
        ? html`<small class="bad" title=${device.renewal_key}>asks for a new certificate over
            <code>${short(device.renewal_key)}</code>: flotilla device approve ${device.id}</small>` : ''}</td>
    <td data-th="State"><span class="state ${state}">${state}</span>
      ${model && model.bytes_total > 0 && state === 'downloading'
        ? html`<progress max=${model.bytes_total} value=${model.bytes_done}></progress>` : ''}
      ${model?.failure ? html`<small class="bad">${model.failure.code}: ${model.failure.detail}</small>` : ''}</td>
    <td data-th="Release">${model
      ? html`<span title=${model.release ?? ''}>${model.model} ${model.release ? `v${model.version ?? '?'}` : ''}</span>${' '}
        <small><code>${model.release ? short(model.release) : 'none confirmed'}</code></small>` : '–'}</td>
    <td data-th="Slot">${model?.slot ? model.slot.toUpperCase() : '–'}</td>
    <td data-th="Accuracy" class="n" title=${model?.accuracy_source ?? ''}>${percent(model?.accuracy)}</td>
    <td data-th="Latency p50 / p95" class="n">${latency}</td>
    <td data-th="Memory" class="n">${bytes(device.rss_bytes)}</td>
    <td data-th="Predictions" class="n">${model ? count(model.predictions) : '–'}</td>
    <td data-th="Seen">${device.connected ? 'online' : ago(device.last_seen_ms)}</td>
  </tr>`;
}
