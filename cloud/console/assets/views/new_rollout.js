// A new rollout: what it would do is shown before anybody is touched.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { count, short } from '/console/format.js';

/** Obstacles that are shown. */
const SHOWN = 10;

/** Asks for an answer. What went wrong comes as `problem`. */
async function ask(path, body) {
  try {
    const response = await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    const answer = await response.json();
    return response.ok ? { answer } : { problem: answer.detail };
  } catch {
    return { problem: 'the control plane does not answer' };
  }
}

/** The form as the control plane wants it: what is left empty is as usual. */
function request(form) {
  const text = (name) => form.get(name).trim();
  const number = (name) => (text(name) === '' ? undefined : Number(text(name)));
  const waves = text('waves').split(/[\s,]+/).filter((wave) => wave !== '');
  const hours = number('soak');
  return {
    release: text('release'),
    group: text('group') || undefined,
    waves: waves.length > 0 ? waves : undefined,
    soak_s: hours === undefined ? undefined : Math.round(hours * 3600),
    shadow: text('shadow') === '' ? undefined : { devices: text('shadow'), soak_s: Math.round((number('shadow-hours') ?? 1) * 3600) },
    per_minute: number('rate'),
    concurrency: number('concurrency'),
    window: text('window') || undefined,
    approve_waves: form.get('approve') !== null,
  };
}

export function NewRollout({ releases }) {
  const [open, setOpen] = useState(false);
  const [plan, setPlan] = useState(null);
  const [note, setNote] = useState('');
  if (releases.length === 0) return '';
  if (!open) return html`<p><button data-order="new" onClick=${() => setOpen(true)}>New rollout</button></p>`;
  const close = () => {
    setOpen(false);
    setPlan(null);
    setNote('');
  };
  const preview = async (event) => {
    event.preventDefault();
    const asked = request(new FormData(event.target));
    const { answer, problem } = await ask('/api/v1/rollouts/plan', asked);
    setNote(problem ?? '');
    setPlan(answer ? { asked, answer } : null);
  };
  const start = async () => {
    const { problem } = await ask('/api/v1/rollouts', plan.asked);
    if (problem) setNote(problem);
    else close();
  };
  return html`<form class="new" onSubmit=${preview} onInput=${() => setPlan(null)}>
    <label>Release <select name="release">${[...releases].reverse().map((release) => html`<option value=${release.digest}>${release.model} v${release.version} · ${short(release.digest)}</option>`)}</select></label>
    <label>Group <input name="group" placeholder="all devices" /></label>
    <label>Waves <input name="waves" placeholder="1 5% 50%" /></label>
    <label>Watch each for, hours <input name="soak" type="number" min="0" step="any" placeholder="3 from 100 devices on" /></label>
    <label>As a shadow first on <input name="shadow" placeholder="nobody; 20, or 5%" /></label>
    <label>for, hours <input name="shadow-hours" type="number" min="0" step="any" placeholder="1" /></label>
    <label>Devices a minute <input name="rate" type="number" min="1" placeholder="no bound" /></label>
    <label>At the same time <input name="concurrency" type="number" min="1" placeholder="no bound" /></label>
    <label>Hours on their clock <input name="window" placeholder="mon-fri 01:00-05:00" /></label>
    <label class="check"><input name="approve" type="checkbox" /> ask before each wave</label>
    <div><button data-order="plan">Show what it would do</button> <button type="button" onClick=${close}>Close</button></div>
    ${note ? html`<p class="bad">${note}</p>` : ''}
    ${plan ? html`<${Plan} plan=${plan.answer} start=${start} />` : ''}
  </form>`;
}

function Plan({ plan, start }) {
  const more = plan.obstacles.length - SHOWN;
  return html`<div class="plan" data-plan=${plan.devices}>
    <p><b>${plan.model}</b> to ${count(plan.devices)} ${plan.devices === 1 ? 'device' : 'devices'} in waves of ${plan.waves.map(count).join(' + ')}${plan.policy.map((phrase) => html`<br />${phrase}`)}
      ${plan.supersedes.length > 0 ? html`<br />It takes its devices from ${plan.supersedes.join(', ')}, which is under way.` : ''}</p>
    ${plan.obstacles.length === 0
      ? html`<p>Nothing stands in the way of any of them.</p>`
      : html`<ul>${plan.obstacles.slice(0, SHOWN).map((found) => html`<li><code>${found.device}</code> ${found.detail}</li>`)}${more > 0 ? html`<li>and ${count(more)} more</li>` : ''}</ul>`}
    <button type="button" data-order="create" onClick=${start}>Start it</button>
  </div>`;
}
