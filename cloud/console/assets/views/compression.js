// Compressions: the one that runs or was refused, the reports of those that were made, and a form for the next.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { versionHref } from '/console/route.js';
import { bytes, millis } from '/console/format.js';
import { useAnswers } from '/console/get.js';
import { Form } from '/console/views/compression/form.js';
import { figure, METRICS, Refused, Report } from '/console/views/compression/report.js';

export function Compression({ compression, jobs }) {
  const [chosen, setChosen] = useState(null);
  const name = (view) => `${view.model} v${view.version}`;
  const shown = compression.find((view) => name(view) === chosen) ?? compression.at(-1);
  const job = jobs.filter((j) => j.kind === 'compress').at(-1);
  return html`<section id="compression"><h2>Compression</h2>
    <${Form} />
    ${job && job.state !== 'succeeded' ? html`<${Job} key=${job.id} job=${job} />` : ''}
    ${shown ? html`
      ${compression.length > 1 ? html`<p><label>Version <select name="compressed" value=${name(shown)} onChange=${(event) => setChosen(event.target.value)}>
        ${[...compression].reverse().map((view) => html`<option key=${name(view)} value=${name(view)}>${name(view)} · ${bytes(view.bytes_after)}</option>`)}</select></label></p>` : ''}
      <${Version} key=${name(shown)} view=${shown} />` : html`<p class="empty">Nothing has been compressed yet.</p>`}</section>`;
}

function Job({ job }) {
  return html`<p><b>${job.id}</b> <span class="state ${job.state}">${job.state}</span>
      ${job.progress ? html` <small>${job.spec.model} v${job.spec.version}: ${job.progress.stage} ${job.progress.done} / ${job.progress.total}</small>` : ''}</p>
    ${job.failure ? html`<p class="bad">${job.failure.code}: ${job.failure.detail}</p>` : ''}
    ${job.result?.nearest ? html`<${Refused} facts=${job.result} />` : ''}`;
}

function Version({ view }) {
  const path = `/api/v1/models/${encodeURIComponent(view.model)}/versions/${view.version}/report`;
  const [{ report }] = useAnswers({ report: path }, '');
  return html`<p><a href=${versionHref(view.model, view.version)}><b>${view.model} v${view.version}</b></a> <small>${view.recipe}</small></p>
    <table class="summary"><thead><tr><th></th><th class="n">Before</th><th class="n">After</th></tr></thead><tbody>
      <tr><th>Size</th><td class="n">${bytes(view.bytes_before)}</td><td class="n">${bytes(view.bytes_after)}</td></tr>
      <tr><th>Test ${METRICS[view.metric] ?? view.metric}</th><td class="n">${figure(view.metric, view.value_before)}</td><td class="n">${figure(view.metric, view.value_after)}</td></tr>
      <tr><th>Latency p50</th><td class="n">${millis(view.latency_before_ms)}</td><td class="n">${millis(view.latency_after_ms)}</td></tr>
    </tbody></table>
    ${report?.problem ? html`<p class="bad">${report.problem}</p>` : ''}
    ${report?.value ? html`<${Report} view=${view} report=${report.value} />` : ''}`;
}
