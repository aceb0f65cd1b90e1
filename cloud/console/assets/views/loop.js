// The loop at a glance: collect, train, shrink, ship, watch.
import { html } from '/console/vendor/htm/standalone.module.js';
import { bytes, count, percent } from '/console/format.js';
import { figure, METRICS } from '/console/views/compression/report.js';

// What a training is judged by: the share that is right, or of numbers the share of their variance that is explained.
const headline = (result) => (result.metric === 'r2' ? result.value?.toFixed(3) ?? '–' : percent(result.test_accuracy));

export function Loop({ overview }) {
  const dataset = overview.datasets.at(-1);
  const training = overview.jobs.filter((job) => job.kind === 'train').at(-1);
  const compression = overview.compression.at(-1);
  const rollout = overview.rollouts.at(-1);
  const { total, online, states } = overview.fleet;
  return html`<ol class="loop" aria-label="The loop">
    <${Step} verb="Collect" value=${dataset ? `${count(dataset.samples)} samples` : 'no dataset yet'}
      note=${dataset ? `${dataset.name} v${dataset.version}, ${dataset.classes} classes` : ''} />
    <${Step} verb="Train" value=${training?.result ? headline(training.result) : (training?.state ?? 'nothing trained yet')}
      note=${training?.result ? `test ${training.result.metric === 'r2' ? 'R²' : 'accuracy'}, ${count(training.result.parameters)} parameters` : ''} />
    <${Step} verb="Shrink" value=${compression ? bytes(compression.bytes_after) : 'nothing compressed yet'}
      note=${compression ? `${percent(compression.bytes_after / compression.bytes_before, 0)} of ${bytes(compression.bytes_before)}, ${METRICS[compression.metric] ?? compression.metric} ${figure(compression.metric, compression.value_after)}` : ''} />
    <${Step} verb="Ship" value=${rollout ? rollout.state.replaceAll('_', ' ') : 'no rollout yet'}
      note=${rollout ? `${rollout.model}, ${rollout.waves.length} waves` : ''} />
    <${Step} verb="Watch" value=${`${count(states.confirmed ?? 0)} of ${count(total)} confirmed`} note=${`${count(online)} online`} />
  </ol>`;
}

function Step({ verb, value, note }) {
  return html`<li><b>${verb}</b><strong>${value}</strong><small>${note}</small></li>`;
}
