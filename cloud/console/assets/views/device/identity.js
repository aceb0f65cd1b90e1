// Who a device is, and whether rollouts may take it.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { ago, bytes, clock, count, short } from '/console/format.js';
import { order } from '/console/post.js';
import { Dot } from '/console/views/fleet/columns.js';
import { Fact, Sensors } from '/console/views/telemetry.js';

export function Identity({ device, again }) {
  const fact = (name, value) => html`<${Fact} name=${name} value=${value || '–'} />`;
  return html`<section id="identity">
    <h2 class="title"><${Dot} device=${device} /> ${device.id}${device.name ? html` <small>${device.name}</small>` : ''}
      ${' '}<span class="state ${device.state}">${device.state.replaceAll('_', ' ')}</span></h2>
    ${device.problem ? html`<p class="bad">${device.problem.code}: ${device.problem.detail}</p>` : ''}
    ${device.renewal === 'pending' ? html`<p class="bad" title=${device.renewal_key}>It asks for a new certificate over <code>${short(device.renewal_key)}</code>:
      ${' '}<code>flotilla device approve ${device.id}</code></p>` : ''}
    ${device.state === 'waiting' ? html`<${Admission} device=${device} again=${again} />` : ''}
    <dl>
      ${fact('Seen', device.connected ? 'online' : ago(device.last_seen_ms))}
      ${fact('Board', device.board)}
      ${device.serial ? fact('Serial number', device.serial) : ''}
      ${fact('Architecture', device.arch)}
      ${fact('System', device.os)}
      ${fact('CPUs', device.cpus > 0 ? count(device.cpus) : '')}
      ${fact('Memory', device.memory_bytes > 0 ? bytes(device.memory_bytes) : '')}
      ${fact('Agent', device.agent)}
      ${fact('Engines', device.engines.join(', '))}
      ${fact('Agent memory', bytes(device.rss_bytes))}
      ${fact('Disk free', bytes(device.disk_free_bytes))}
      <${Sensors} device=${device} />
      ${fact('Enrolled', clock(device.enrolled_at_ms))}
      ${fact('Certificate ends', clock(device.certificate_ends_ms))}
      ${fact('Records', `${count(device.records)}${device.records_dropped + device.records_missing > 0
        ? `, ${count(device.records_dropped)} dropped, ${count(device.records_missing)} missing` : ''}`)}
    </dl>
    ${['waiting', 'revoked', 'decommissioned'].includes(device.state) ? '' : html`<${Quarantine} device=${device} again=${again} />`}
  </section>`;
}

/** A device that waits to be taken into the fleet. */
function Admission({ device, again }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState(false);
  const send = async (reject) => {
    setBusy(true);
    const { problem } = await order('/api/v1/device-admission', { devices: [device.id], reject });
    setNote(problem ?? '');
    await again();
    setBusy(false);
  };
  return html`<p class="line" id="admission"><span class="bad">It waits for approval, and gets nothing before.</span>
    ${' '}<button data-order="admit" disabled=${busy} onClick=${() => send(null)}>Approve</button>
    ${' '}<button data-order="refuse" class="danger" disabled=${busy} onClick=${() => (sure ? send('rejected in the console') : setSure(true))}>${sure ? 'Shut it out for good' : 'Reject'}</button>
    ${note ? html` <span class="bad" role="alert">${note}</span>` : ''}</p>`;
}

function Quarantine({ device, again }) {
  const [reason, setReason] = useState('');
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const send = async (why) => {
    setBusy(true);
    const { problem } = await order('/api/v1/device-quarantine', { devices: [device.id], reason: why });
    setNote(problem ?? '');
    if (!problem) setReason('');
    await again();
    setBusy(false);
  };
  return html`<form class="line" id="quarantine" onSubmit=${(e) => { e.preventDefault(); send(device.quarantine ? null : reason.trim()); }}>
    ${device.quarantine
      ? html`<span class="bad">In quarantine, no rollout takes it: ${device.quarantine}</span> <button disabled=${busy}>Release</button>`
      : html`<input aria-label="Reason for quarantine" placeholder="reason" value=${reason} onInput=${(e) => setReason(e.target.value)} />
        ${' '}<button class="danger" disabled=${busy || !reason.trim()}>Quarantine</button> <small>No rollout takes a device in quarantine; it works on.</small>`}
    ${note ? html` <span class="bad" role="alert">${note}</span>` : ''}
  </form>`;
}
