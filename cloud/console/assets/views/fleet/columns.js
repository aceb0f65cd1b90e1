// The columns of the fleet table, and what stands in them.
import { html } from '/console/vendor/htm/standalone.module.js';
import { ago, short } from '/console/format.js';
import { deviceHref } from '/console/route.js';

/** `{ name, title, sort, cell }`; `sort` is the server's name of the column, if it can sort by it. */
export const COLUMNS = [
  { name: 'device', title: 'Device', sort: 'id', cell: identity },
  { name: 'state', title: 'State', sort: 'state', cell: state },
  { name: 'release', title: 'Release', cell: release },
  { name: 'labels', title: 'Labels', cell: labels },
  { name: 'board', title: 'Board', sort: 'board', cell: (device) => html`<span title=${`${device.os} ${device.arch}`}>${device.board || '–'}</span>` },
  { name: 'agent', title: 'Agent', sort: 'agent', cell: (device) => device.agent || '–' },
  { name: 'cpu', title: 'CPU', sort: 'cpu', n: true, cell: (device) => measured(device.cpu_percent, 0, '%') },
  { name: 'temperature', title: 'Temperature', sort: 'temperature', n: true, cell: (device) => measured(device.temperature_c, 1, '°C') },
  { name: 'seen', title: 'Seen', sort: 'seen', n: true, cell: (device) => (device.connected ? 'online' : ago(device.last_seen_ms)) },
];

function measured(value, digits, unit) {
  return typeof value === 'number' ? `${value.toFixed(digits)} ${unit}` : '–';
}

export function Dot({ device }) {
  return html`<span class="dot ${device.connected ? 'on' : 'off'}" title=${device.connected ? 'online' : 'offline'}></span>`;
}

function identity(device) {
  return html`<${Dot} device=${device} /> <a href=${deviceHref(device.id)} tabindex="-1"><b>${device.id}</b></a>
    ${device.name ? html` <small>${device.name}</small>` : ''}
    ${device.renewal === 'pending' ? html` <small class="bad">asks for a new certificate</small>` : ''}`;
}

function state(device) {
  const model = device.models.find((one) => one.state === device.state);
  const failure = model?.failure;
  const why = device.quarantine ?? (failure ? `${failure.code}: ${failure.detail}` : '');
  return html`<span class="state ${device.state}" title=${why}>${device.state.replaceAll('_', ' ')}</span>
    ${device.state === 'downloading' && model?.bytes_total > 0 ? html` <progress max=${model.bytes_total} value=${model.bytes_done}></progress>` : ''}`;
}

/** The model that is worst off, and how many others there are. */
function release(device) {
  const model = device.models.find((one) => one.state === device.state) ?? device.models[0];
  if (!model) return '–';
  const rest = device.models.length - 1;
  return html`<span title=${model.release ?? ''}>${model.model} ${model.release ? `v${model.version ?? '?'}` : ''}</span>
    ${' '}<small><code>${model.release ? short(model.release) : 'none confirmed'}</code>${rest > 0 ? ` +${rest}` : ''}</small>`;
}

function labels(device) {
  const attributes = Object.entries(device.attributes).map(([key, value]) => `${key}=${value}`);
  const all = [...device.labels, ...attributes];
  return html`<span title=${all.join(' ')}>${device.labels.map((label) => html`<span class="chip">${label}</span>`)}
    <small>${attributes.join(' ')}</small></span>`;
}
