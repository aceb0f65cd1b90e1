// Rollouts, newest first: waves with a mark a device, what the watch over a wave has found, and how to stop them.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { clock, short } from '/console/format.js';
import { post } from '/console/post.js';

export function Rollouts({ rollouts }) {
  return html`<section id="rollouts"><h2>Rollouts</h2>
    ${rollouts.length === 0
      ? html`<p class="empty">Nothing has been rolled out yet.</p>`
      : [...rollouts].reverse().slice(0, 5).map((rollout) => html`<${Rollout} key=${rollout.id} rollout=${rollout} />`)}
  </section>`;
}

function Rollout({ rollout }) {
  return html`<article data-rollout=${rollout.id} data-state=${rollout.state}>
    <h3>${rollout.model} <code title=${rollout.release}>${short(rollout.release)}</code>
      <span class="state ${rollout.state}">${rollout.state.replaceAll('_', ' ')}</span></h3>
    <small>${rollout.id} · started ${clock(rollout.started_at_ms)}</small>
    ${rollout.reason ? html`<p class="reason">${rollout.reason}</p>` : ''}
    <ol class="waves">${rollout.waves.map((wave, index) => html`<li class=${wave.state}>
      <b>Wave ${index + 1}${index === 0 && rollout.waves.length > 1 ? ' (canary)' : ''}</b> <small>${wave.state}</small>
      <div>${wave.devices.map((device) => html`<span class="chip ${device.state}" title=${device.detail ?? device.state}>${device.id}</span>`)}</div>
    </li>`)}</ol>
    ${rollout.watch?.since_ms ? html`<${Watch} watch=${rollout.watch} />` : ''}
    ${['running', 'paused'].includes(rollout.state) ? html`<${Controls} rollout=${rollout} />` : ''}
  </article>`;
}

/** What is known of a wave all of whose devices are decided. */
function Watch({ watch }) {
  const evidence = (has, needs) => `${has.toFixed(1)} of ${needs.toFixed(1)}`;
  return html`<p class="watch"><small>Watched since ${clock(watch.since_ms)}, beside devices that wait, for ${duration(watch.soak_s)} to
      ${' '}${duration(watch.max_soak_s)}; ${watch.windows} ${watch.windows === 1 ? 'window is' : 'windows are'} over.</small></p>
    ${watch.findings.length > 0 && html`<table>
      <thead><tr><th>Metric</th><th>Verdict</th><th>Change</th><th class="n">Devices</th>
        <th class="n">Evidence of harm</th><th class="n">Evidence of none</th></tr></thead>
      <tbody>${watch.findings.map((finding) => html`<tr data-metric=${finding.metric}>
        <td data-th="Metric">${finding.metric.replaceAll('_', ' ')}</td>
        <td data-th="Verdict"><span class="state ${finding.verdict}">${finding.verdict}</span></td>
        <td data-th="Change">${finding.change}</td>
        <td data-th="Devices" class="n">${finding.devices}</td>
        <td data-th="Evidence of harm" class="n">${evidence(finding.against, finding.against_needed)}</td>
        <td data-th="Evidence of none" class="n">${evidence(finding.in_favour, finding.in_favour_needed)}</td>
      </tr>`)}</tbody></table>`}`;
}

function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

function Controls({ rollout }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState(false);
  const order = async (verb) => {
    setBusy(true);
    setNote(await post(`/api/v1/rollouts/${rollout.id}/${verb}`));
    setBusy(false);
    setSure(false);
  };
  const touched = rollout.waves.flatMap((wave) => wave.devices).filter((device) => device.state !== 'pending').length;
  return html`<p class="controls">
    ${rollout.state === 'running'
      ? html`<button data-order="pause" disabled=${busy} onClick=${() => order('pause')}>Pause</button>`
      : html`<button data-order="resume" disabled=${busy} onClick=${() => order('resume')}>Resume</button>`}${' '}
    <button data-order="rollback" class="danger" disabled=${busy} onClick=${() => (sure ? order('rollback') : setSure(true))}>
      ${sure ? `Send ${touched} ${touched === 1 ? 'device' : 'devices'} back` : 'Stop and roll back'}</button>
    ${note ? html`<small class="bad"> ${note}</small>` : ''}
  </p>`;
}
