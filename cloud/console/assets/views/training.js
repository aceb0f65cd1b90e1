// The training curve of the newest training job.
import { html } from '/console/vendor/htm/standalone.module.js';
import { Chart } from '/console/views/chart.js';
import { count, percent } from '/console/format.js';

const AXES = [{ scale: 'share', show: (v) => `${+(v * 100).toFixed(2)} %` }, { scale: 'loss', side: 1, show: (v) => `${+v.toFixed(4)}` }];

export function Training({ jobs }) {
  const job = jobs.filter((j) => j.kind === 'train').at(-1);
  return html`<section id="training"><h2>Training</h2>${job ? html`<${Job} key=${job.id} job=${job} />` : html`<p class="empty">Nothing has been trained yet.</p>`}</section>`;
}

function Job({ job }) {
  const metrics = job.metrics;
  const column = (name) => metrics.map((point) => point[name] ?? null);
  const last = metrics.at(-1);
  return html`<p><b>${job.id}</b> <span class="state ${job.state}">${job.state}</span>
      ${job.progress ? html` <small>${job.progress.stage} ${job.progress.done} / ${job.progress.total}</small>` : ''}</p>
    ${job.failure ? html`<p class="bad">${job.failure.code}: ${job.failure.detail}</p>` : ''}
    ${metrics.length === 0 ? html`<p class="empty">The first epoch is running…</p>` : html`<${Chart}
      xs=${column('epoch')} xLabel="epoch" label="Training curve: accuracy and loss by epoch" axes=${AXES} series=${[
        { label: 'validation accuracy', colour: '--accent', scale: 'share', values: column('validation_accuracy') },
        { label: 'training accuracy', colour: '--accent-2', scale: 'share', values: column('train_accuracy') },
      ].filter((line) => line.values.some((value) => value !== null)).concat([
        ...(last?.validation_r2 === undefined ? [] : [{ label: 'validation R²', colour: '--accent', scale: 'share', values: column('validation_r2') }]),
        { label: 'validation loss', colour: '--accent-3', scale: 'loss', dash: [5, 4], values: column('validation_loss') },
      ])} />`}
    <dl data-epochs=${metrics.length} data-validation-accuracy=${last?.validation_accuracy ?? ''}>
      <div><dt>Epochs</dt><dd>${metrics.length}</dd></div>
      ${last?.validation_r2 === undefined
        ? html`<div><dt>Validation accuracy</dt><dd>${percent(last?.validation_accuracy)}</dd></div>
          <div><dt>Test accuracy</dt><dd>${percent(job.result?.test_accuracy)}</dd></div>`
        : html`<div><dt>Validation R²</dt><dd>${last.validation_r2.toFixed(3)}</dd></div>
          <div><dt>Test R²</dt><dd>${job.result?.value?.toFixed(3) ?? '…'}</dd></div>`}
      <div><dt>Parameters</dt><dd>${count(job.result?.parameters)}</dd></div>
    </dl>`;
}
