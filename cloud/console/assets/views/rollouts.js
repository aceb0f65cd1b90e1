// Rollouts, newest first: how far each wave is, what the watch over it has found, and how to control it.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { clock, count, short } from '/console/format.js';
import { post } from '/console/post.js';
import { Evidence } from '/console/views/evidence.js';
import { NewRollout } from '/console/views/new_rollout.js';

/** Rollouts that are shown. */
const SHOWN = 5;
/** Devices of a wave that are shown one by one. */
const CHIPS = 24;
const STATES = ['confirmed', 'sent', 'retrying', 'failed', 'reverted', 'skipped', 'pending'];

export function Rollouts({ rollouts, releases }) {
  return html`<section id="rollouts"><h2>Rollouts</h2>
    <${NewRollout} releases=${releases} />
    ${rollouts.length === 0
      ? html`<p class="empty">Nothing has been rolled out yet.</p>`
      : [...rollouts].reverse().slice(0, SHOWN).map((rollout) => html`<${Rollout} key=${rollout.id} rollout=${rollout} />`)}
  </section>`;
}

function Rollout({ rollout }) {
  return html`<article class="rollout" data-rollout=${rollout.id} data-state=${rollout.state}>
    <h3>${rollout.model} <code title=${rollout.release}>${short(rollout.release)}</code>
      <span class="state ${rollout.state}">${rollout.state.replaceAll('_', ' ')}</span></h3>
    <${Controls} rollout=${rollout} />
    <small>${rollout.id} · ${rollout.state === 'scheduled' ? `begins ${clock(rollout.starts_at_ms)}` : `started ${clock(rollout.started_at_ms)}`}
      ${rollout.created_by ? ` by ${rollout.created_by}` : ''}${rollout.follows ? ` · takes in who comes into ${rollout.follows}` : ''}
      ${rollout.superseded_by.length > 0 ? ` · a newer rollout of the model: ${rollout.superseded_by.at(-1)}` : ''}</small>
    ${rollout.policy.length > 0 ? html`<p class="reason"><small>${rollout.policy.join(' · ')}</small></p>` : ''}
    ${rollout.reason ? html`<p class="reason">${rollout.reason}</p>` : ''}
    ${rollout.shadow ? html`<${Shadow} stage=${rollout.shadow} />` : ''}
    <ol class="waves">${rollout.waves.map((wave, index) => html`<${Wave} wave=${wave} name=${name(rollout, index)} />`)}</ol>
    ${rollout.watch?.since_ms ? html`<${Watch} watch=${rollout.watch} words="beside devices that wait" />` : ''}
  </article>`;
}

function name(rollout, index) {
  return `Wave ${index + 1}${index === 0 && rollout.waves.length > 1 ? ' (canary)' : ''}`;
}

function Wave({ wave, name }) {
  const told = STATES.filter((state) => wave.counts[state] > 0);
  const words = told.map((state) => `${count(wave.counts[state])} ${state}`).join(', ');
  const chips = wave.size <= CHIPS ? wave.devices : wave.devices.filter((device) => device.state === 'failed').slice(0, CHIPS);
  return html`<li class=${wave.state}>
    <b>${name}</b> <small>${wave.state}${wave.size > CHIPS ? ` · ${words}` : ''}</small>
    ${wave.size > CHIPS ? html`<div class="bar" role="img" aria-label=${words}>${told.map((state) => html`<i class=${state} style=${`flex: ${wave.counts[state]}`} title=${`${count(wave.counts[state])} ${state}`}></i>`)}</div>` : ''}
    <div>${chips.map((device) => html`<span class="chip ${device.state}" title=${device.detail ?? device.state}>${device.id}</span>`)}</div>
  </li>`;
}

const STAGES = {
  waiting: 'first the release is to run as a shadow',
  running: 'the release runs as a shadow: no application gets an answer of it',
  done: 'the release has run as a shadow',
  stopped: 'the release ran as a shadow',
  skipped: 'no device ran anything that the release could be a shadow of',
};

/** The stage before the first wave. */
function Shadow({ stage }) {
  const many = `${count(stage.devices)} ${stage.devices === 1 ? 'device' : 'devices'}`;
  return html`<div class="shadow-stage" data-stage=${stage.state}>
    <p><b>Shadow</b> <small>${stage.state} · ${STAGES[stage.state]}${stage.state === 'skipped' ? '' : ` on ${many}`}</small></p>
    ${stage.watch.since_ms ? html`<${Watch} watch=${stage.watch} words="on the same inputs as the confirmed release" />` : ''}
  </div>`;
}

/** What is known of a wave all of whose devices are decided, or of shadows. */
export function Watch({ watch, words }) {
  const evidence = (has, needs) => `${has.toFixed(1)} of ${needs.toFixed(1)}`;
  return html`<p class="watch"><small>Watched since ${clock(watch.since_ms)}, ${words}, for ${duration(watch.soak_s)} to
      ${' '}${duration(watch.max_soak_s)}; ${watch.windows} ${watch.windows === 1 ? 'window is' : 'windows are'} over.</small></p>
    ${watch.findings.length > 0 && html`<table class="cards">
      <thead><tr><th>Metric</th><th>Verdict</th><th>Change</th><th class="n">Devices</th>
        <th class="n">Evidence of harm</th><th class="n">Evidence of none</th><th>Over time</th></tr></thead>
      <tbody>${watch.findings.map((finding) => html`<tr data-metric=${finding.metric}>
        <td data-th="Metric">${finding.metric.replaceAll('_', ' ')}</td>
        <td data-th="Verdict"><span class="state ${finding.verdict}">${finding.verdict}</span></td>
        <td data-th="Change">${finding.change}</td>
        <td data-th="Devices" class="n">${finding.devices}</td>
        <td data-th="Evidence of harm" class="n">${evidence(finding.against, finding.against_needed)}</td>
        <td data-th="Evidence of none" class="n">${evidence(finding.in_favour, finding.in_favour_needed)}</td>
        <td data-th="Over time"><${Evidence} points=${watch.curve.filter((point) => point.metric === finding.metric)} /></td>
      </tr>`)}</tbody></table>`}`;
}

function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** What can be done in each state, and what it is called. */
const ORDERS = {
  draft: [['start', 'Start'], ['abort', 'Throw away']],
  waiting_for_approval: [['approve', 'Approve'], ['reject', 'Reject']],
  scheduled: [['abort', 'Cancel']],
  running: [['pause', 'Pause']],
  paused: [['resume', 'Resume']],
  failed: [['retry', 'Try the failed ones again']],
};
const UNDER_WAY = ['running', 'paused', 'failed'];

function Controls({ rollout }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState(false);
  const order = async (verb) => {
    setBusy(true);
    setNote(await post(`/api/v1/rollouts/${rollout.id}/${verb}`, verb === 'retry' ? {} : null));
    setBusy(false);
    setSure(false);
  };
  const orders = ORDERS[rollout.state] ?? [];
  const failed = rollout.waves.reduce((sum, wave) => sum + wave.counts.failed, 0);
  const touched = rollout.waves.reduce((sum, wave) => sum + wave.size - wave.counts.pending - wave.counts.skipped, 0);
  const many = (n) => `${count(n)} ${n === 1 ? 'device' : 'devices'}`;
  if (orders.length === 0) return '';
  return html`<p class="controls">
    ${orders.map(([verb, words]) => html`<button data-order=${verb} disabled=${busy} onClick=${() => order(verb)}>${words}</button> `)}
    ${rollout.state === 'running' && failed > 0 ? html`<button data-order="retry" disabled=${busy} onClick=${() => order('retry')}>Tell ${many(failed)} again</button> ` : ''}
    ${rollout.follows && UNDER_WAY.includes(rollout.state) ? html`<button data-order="finish" disabled=${busy} onClick=${() => order('finish')}>Take nobody in any more</button> ` : ''}
    ${UNDER_WAY.includes(rollout.state) ? html`<button data-order="rollback" class="danger" disabled=${busy} onClick=${() => (sure ? order('rollback') : setSure(true))}>
      ${sure ? `Send ${many(touched)} back` : 'Stop and roll back'}</button>` : ''}
    ${note ? html`<small class="bad"> ${note}</small>` : ''}
  </p>`;
}
