// The fleet: a row a device, a card each on narrow screens.
import { html } from '/console/vendor/htm/standalone.module.js';
import { ago, bytes, count, micros, millis, percent, short } from '/console/format.js';

export function Devices({ devices }) {
  return html`<section id="devices"><h2>Devices</h2>
    ${devices.length === 0
      ? html`<p class="empty">No device has enrolled yet. Make a claim code with <code>flotilla device claim</code>.</p>`
      : html`<table class="cards"><thead><tr>
          <th>Device</th><th>State</th><th>Release</th><th>Slot</th><th class="n">Accuracy</th>
          <th class="n">Latency p50 / p95</th><th class="n">Memory</th><th class="n">Predictions</th><th>Seen</th>
        </tr></thead><tbody>${devices.map((device) => html`<${Device} key=${device.id} device=${device} />`)}</tbody></table>`}
  </section>`;
}

function Device({ device }) {
  const latency = device.p50_us !== null
    ? `≤ ${micros(device.p50_us)} / ≤ ${micros(device.p95_us)}`
    : `${millis(device.probe?.p50_ms)} / ${millis(device.probe?.p95_ms)}`;
  return html`<tr data-device=${device.id} data-state=${device.state}>
    <td data-th="Device"><span class="dot ${device.connected ? 'on' : 'off'}" title=${device.connected ? 'online' : 'offline'}></span>
      <b>${device.id}</b> <small>${device.arch}</small></td>
    <td data-th="State"><span class="state ${device.state}">${device.state}</span>
      ${device.bytes_total > 0 && device.state === 'downloading'
        ? html`<progress max=${device.bytes_total} value=${device.bytes_done}></progress>` : ''}
      ${device.failure ? html`<small class="bad">${device.failure.code}: ${device.failure.detail}</small>` : ''}</td>
    <td data-th="Release">${device.release
      ? html`<span title=${device.release}>${device.model} v${device.version ?? '?'}</span> <small><code>${short(device.release)}</code></small>` : '–'}</td>
    <td data-th="Slot">${device.slot ? device.slot.toUpperCase() : '–'}</td>
    <td data-th="Accuracy" class="n" title=${device.accuracy_source ?? ''}>${percent(device.accuracy)}</td>
    <td data-th="Latency p50 / p95" class="n">${latency}</td>
    <td data-th="Memory" class="n">${bytes(device.rss_bytes)}</td>
    <td data-th="Predictions" class="n">${count(device.predictions)}</td>
    <td data-th="Seen">${device.connected ? 'online' : ago(device.last_seen_ms)}</td>
  </tr>`;
}
