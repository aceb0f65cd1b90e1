// Rollouts, newest first: waves with a mark a device.
import { html } from '/console/vendor/htm/standalone.module.js';
import { clock, short } from '/console/format.js';

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
  </article>`;
}
