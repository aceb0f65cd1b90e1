// A model of another tool on its way into the registry: sent, looked at, made right, confirmed, imported.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { bytes } from '/console/format.js';
import { order } from '/console/post.js';
import { ModelReport } from '/console/views/model_report.js';

const OVER = ['succeeded', 'failed', 'cancelled'];

/** Sends a file. Answers `{ value }` or `{ problem }`. */
async function send(file) {
  try {
    const path = `/api/v1/uploads?name=${encodeURIComponent(file.name)}`;
    const response = await fetch(path, { method: 'POST', headers: { 'content-type': 'application/octet-stream' }, body: file });
    const value = await response.json();
    return response.ok ? { value } : { problem: value.detail };
  } catch {
    return { problem: 'the control plane does not answer' };
  }
}

/** `N=1 T=16000` as an object. */
function pairs(text) {
  const found = text.split(/[\s,]+/).filter((pair) => pair !== '').map((pair) => pair.split('='));
  return Object.fromEntries(found.map(([name, value]) => [name, Number(value)]));
}

/** How the file is read, as the form says. */
function reading(form) {
  const labels = form.get('labels').split('\n').map((line) => line.trim()).filter((line) => line !== '');
  return {
    dimensions: pairs(form.get('dimensions')),
    fixed: pairs(form.get('fixed')),
    float_activations: form.get('float_activations') !== null,
    labels: labels.length > 0 ? labels : null,
  };
}

export function ImportModel({ jobs, names, datasets }) {
  const [upload, setUpload] = useState(null);
  const [report, setReport] = useState(null);
  const [pipeline, setPipeline] = useState('');
  const [busy, setBusy] = useState('');
  const [note, setNote] = useState('');
  const [job, setJob] = useState(null);

  const forget = () => {
    setUpload(null);
    setReport(null);
    setPipeline('');
    setNote('');
  };
  const look = async (id, options) => {
    setBusy('Looking at the model…');
    const { value, problem } = await order(`/api/v1/uploads/${id}/inspect`, options);
    setBusy('');
    setNote(problem ?? '');
    if (!value) return;
    setReport(value);
    setPipeline(JSON.stringify(value.proposal.pipeline, null, 2));
  };
  const choose = async (event) => {
    const file = event.target.files[0];
    forget();
    setJob(null);
    if (!file) return;
    setBusy(`Sending ${bytes(file.size)}…`);
    const { value, problem } = await send(file);
    setBusy('');
    setNote(problem ?? '');
    if (!value) return;
    setUpload(value);
    await look(value.id, {});
  };
  const again = (event) => look(upload.id, reading(new FormData(event.target.form)));
  const start = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    let wanted;
    try {
      wanted = JSON.parse(pipeline);
    } catch (error) {
      setNote(`The pipeline is no JSON: ${error.message}`);
      return;
    }
    const text = (name) => form.get(name).trim() || undefined;
    const path = `/api/v1/models/${encodeURIComponent(text('model') ?? '')}/import`;
    const asked = { upload: upload.id, options: reading(form), pipeline: wanted, dataset: text('dataset'), licence: text('licence'), note: text('note') };
    setBusy('Starting…');
    const { value, problem } = await order(path, asked);
    setBusy('');
    if (problem) {
      setNote(problem);
      return;
    }
    forget();
    setJob(value);
  };
  const running = job && (jobs.find((other) => other.id === job.id) ?? job);
  return html`<form class="import" onSubmit=${start}>
    <label>File <input name="file" type="file" accept=".onnx,.zip,.tar,.gz" onChange=${choose} /></label>
    <p class="hint">An ONNX file, or a ModelArts model package. Nothing is registered before you confirm it.</p>
    ${busy ? html`<p role="status">${busy}</p>` : ''}
    ${note ? html`<p class="bad" role="alert">${note}</p>` : ''}
    ${running ? html`<${Job} job=${running} />` : ''}
    ${report ? html`<${ModelReport} report=${report} />
      <fieldset><legend>How the file is read</legend>
        <label>Labels, one a line <textarea name="labels" rows="4" placeholder=${report.labels.join('\n') || 'the file names none'}></textarea></label>
        <label>Open dimensions <input name="dimensions" placeholder="T=16000" /></label>
        <label>Inputs that never change <input name="fixed" placeholder="sr=16000" /></label>
        <label class="check"><input name="float_activations" type="checkbox" /> of a quantised model, do not round activations: faster, other numbers</label>
        <div><button type="button" data-order="look" disabled=${busy !== ''} onClick=${again}>Look again</button></div>
      </fieldset>
      <fieldset><legend>Pipeline</legend>
        <${Points} points=${report.proposal.points} problem=${report.proposal.problem} />
        <textarea name="pipeline" class="code" rows="18" spellcheck=${false} aria-label="Pipeline as JSON" value=${pipeline} onInput=${(event) => setPipeline(event.target.value)}></textarea>
        ${report.proposal.points.length > 0
          ? html`<label class="check"><input name="confirmed" type="checkbox" required /> These points are as the model was trained with</label>`
          : ''}
      </fieldset>
      <fieldset><legend>Register</legend>
        <label>Model <input name="model" list="model-names" required maxlength="64" placeholder="name" /></label>
        <datalist id="model-names">${names.map((name) => html`<option value=${name} />`)}</datalist>
        <label>Measure on <select name="dataset"><option value="">nothing</option>${datasets.map((dataset) => html`<option value=${dataset.name}>${dataset.name} v${dataset.version}</option>`)}</select></label>
        <label>Licence <input name="licence" maxlength="200" placeholder="Apache-2.0" /></label>
        <label>Note <input name="note" maxlength="400" placeholder="where it comes from" /></label>
        <div><button data-order="import" disabled=${busy !== ''}>Import</button> <button type="button" onClick=${forget}>Leave it</button></div>
      </fieldset>` : ''}
  </form>`;
}

function Points({ points, problem }) {
  return html`${problem ? html`<p class="bad">${problem}</p>` : ''}
    ${points.length === 0
      ? html`<p>The file tells all of it.</p>`
      : html`<p>The file does not tell these points. Make them what the model was trained with:</p>
        <ul class="points">${points.map((point) => html`<li><code>${point.field}</code> ${point.text}</li>`)}</ul>`}`;
}

function Job({ job }) {
  const done = job.progress;
  const notes = job.result?.notes ?? [];
  return html`<p data-job=${job.state}><b>${job.id}</b> <span class="state ${job.state}">${job.state}</span>
      ${done?.stage && !OVER.includes(job.state) ? html` <small>${done.stage} ${done.done} / ${done.total}</small>` : ''}
      ${job.state === 'succeeded' ? html` <b>${job.spec.model}</b> has a new version.` : ''}</p>
    ${job.failure ? html`<p class="bad">${job.failure.detail} <small>[${job.failure.code}]</small></p>` : ''}
    ${notes.map((text) => html`<p class="hint">${text}</p>`)}`;
}
