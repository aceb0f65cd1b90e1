// The recent past of a device: its samples as charts, and what happened.
import { html } from '/console/vendor/htm/standalone.module.js';
import { Chart } from '/console/views/chart.js';
import { bytes, clock, millis, short } from '/console/format.js';

const WHOLE = (value) => `${+value.toFixed(1)}`;

export function History({ points }) {
  if (points.length < 2) return html`<p class="empty">It has sent too few samples for a chart.</p>`;
  const xs = points.map((point) => point.at_ms / 1000);
  const column = (name, by = 1) => points.map((point) => (typeof point[name] === 'number' ? point[name] / by : null));
  const rate = points.map((point, at) => {
    const before = points[at - 1];
    const minutes = before ? (point.at_ms - before.at_ms) / 60_000 : 0;
    // An agent that has started anew counts from zero.
    return minutes > 0 && point.predictions >= before.predictions ? (point.predictions - before.predictions) / minutes : null;
  });
  const axes = (left, right) => [{ scale: 'left', show: left }, { scale: 'right', show: right, side: 1 }];
  return html`<div class="history" data-samples=${points.length}>
    <figure><figcaption>CPU and memory of the agent</figcaption><${Chart} xs=${xs} time label="CPU and memory of the agent" axes=${axes((v) => `${WHOLE(v)} %`, (v) => bytes(Math.round(v)))} series=${[
      { label: 'CPU', colour: '--accent', scale: 'left', values: column('cpu_percent') },
      { label: 'memory', colour: '--accent-3', scale: 'right', values: column('rss_bytes') }]} /></figure>
    <figure><figcaption>Latency</figcaption><${Chart} xs=${xs} time label="Latency: median and 95th percentile" axes=${axes(millis, null).slice(0, 1)} series=${[
      { label: 'p50', colour: '--accent', scale: 'left', values: column('p50_us', 1000) },
      { label: 'p95', colour: '--accent-2', scale: 'left', values: column('p95_us', 1000) }]} /></figure>
    <figure><figcaption>Predictions a minute, and drift</figcaption><${Chart} xs=${xs} time label="Predictions a minute, and drift" axes=${axes(WHOLE, (v) => v.toFixed(2))} series=${[
      { label: 'a minute', colour: '--accent', scale: 'left', values: rate },
      { label: 'drift', colour: '--accent-2', scale: 'right', values: column('drift') }]} /></figure>
  </div>`;
}

export function Events({ events }) {
  if (events.length === 0) return html`<p class="empty">Nothing has happened yet.</p>`;
  return html`<ul class="events">${[...events].reverse().map((event, index) => html`<li key=${`${event.at_ms}/${index}`} data-event=${event.kind}>
    <small>${clock(event.at_ms)}</small> <b>${event.kind}</b> ${event.model ?? ''} ${event.release ? html`<code title=${event.release}>${short(event.release)}</code>` : ''}
    ${event.code ? html` <span class="bad">${event.code}</span>` : ''} <span>${event.detail}</span></li>`)}</ul>`;
}
