// Experiments, newest first: two releases beside each other, what speaks against each, and how to end or decide it.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { clock, count, short } from '/console/format.js';
import { useAnswers } from '/console/get.js';
import { post } from '/console/post.js';
import { Watch } from '/console/views/rollouts.js';

/** Experiments that are shown. */
const SHOWN = 5;

/** `stamp` changes whenever there may be news. */
export function Experiments({ stamp }) {
  const [{ all }, again] = useAnswers({ all: '/api/v1/experiments' }, stamp);
  if (all?.problem) return html`<section id="experiments"><h2>Experiments</h2><p class="bad">${all.problem}</p></section>`;
  const experiments = all?.value ?? [];
  if (experiments.length === 0) return '';
  return html`<section id="experiments"><h2>Experiments</h2>
    ${[...experiments].reverse().slice(0, SHOWN).map((one) => html`<${Experiment} key=${one.id} experiment=${one} again=${again} />`)}
  </section>`;
}

function Experiment({ experiment, again }) {
  const out = Object.entries(experiment.left_out).map(([code, devices]) => `${count(devices)} take no part (${code})`);
  return html`<article class="rollout" data-experiment=${experiment.id} data-state=${experiment.state}>
    <h3>${experiment.name || experiment.model} <span class="state ${experiment.state}">${experiment.state}</span></h3>
    <${Controls} experiment=${experiment} again=${again} />
    <small>${[experiment.id, experiment.model, `started ${clock(experiment.created_at_ms)} by ${experiment.created_by}`, ...out].join(' · ')}</small>
    <p class="reason">${experiment.reason}</p>
    <div class="pair">
      ${['a', 'b'].map((side) => html`<${Half} key=${side} side=${side} half=${experiment[side]} wins=${experiment.decided === side} />`)}
    </div>
    ${experiment.promotion ? html`<small>${experiment.promoted.toUpperCase()} goes to the others with ${experiment.promotion}</small>` : ''}
  </article>`;
}

function Half({ side, half, wins }) {
  return html`<div data-half=${side}>
    <h4>${side.toUpperCase()}: version ${half.version} <code title=${half.release}>${short(half.release)}</code>
      ${wins ? html` <span class="state harmless">winner</span>` : ''}</h4>
    <small>${count(half.devices)} devices · ${half.rollout ?? 'they run it already'}</small>
    ${half.watch.since_ms ? html`<${Watch} watch=${half.watch} words="beside the other half" />` : ''}
  </div>`;
}

function Controls({ experiment, again }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState(false);
  const order = async (verb, body) => {
    setBusy(true);
    setNote(await post(`/api/v1/experiments/${experiment.id}/${verb}`, body));
    setBusy(false);
    setSure(false);
    again();
  };
  const stops = ['running', 'comparing', 'decided'].includes(experiment.state);
  const promote = (side) => html`<button data-order=${`promote-${side}`} disabled=${busy} onClick=${() => order('promote', { side })}>
    Promote ${side.toUpperCase()}</button> `;
  if (!stops && !note) return '';
  return html`<p class="controls">
    ${experiment.state === 'decided' ? ['a', 'b'].map(promote) : ''}
    ${stops ? html`<button data-order="stop" disabled=${busy} onClick=${() => order('stop', {})}>Stop</button>${' '}
      <button data-order="back" class="danger" disabled=${busy} onClick=${() => (sure ? order('stop', { back: true }) : setSure(true))}>
        ${sure ? `Send ${count(experiment.a.devices + experiment.b.devices)} devices back` : 'Stop and go back'}</button>` : ''}
    ${note ? html`<small class="bad"> ${note}</small>` : ''}
  </p>`;
}
