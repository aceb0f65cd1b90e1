// A new compression: what it may cost.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { get } from '/console/get.js';
import { post } from '/console/post.js';

/** The form as the control plane wants it: what is left empty is as usual. */
function request(form) {
  const number = (name, factor = 1) => (form.get(name).trim() === '' ? undefined : Number(form.get(name)) * factor);
  const whole = (name, factor) => (number(name) === undefined ? undefined : Math.round(number(name, factor)));
  const [model, version] = JSON.parse(form.get('version'));
  return {
    model,
    version,
    method: form.get('method'),
    four_bit: form.get('four-bit'),
    max_drop: number('max-drop', 0.01),
    max_bytes: whole('max-size', 1000),
    max_latency_ms: number('max-latency'),
    max_peak_bytes: whole('max-memory', 1000),
    board: form.get('board').trim() || undefined,
  };
}

export function Form() {
  const [versions, setVersions] = useState(null);
  const [note, setNote] = useState('');
  const open = async () => {
    const { value, problem } = await get('/api/v1/models');
    setNote(problem ?? '');
    // What is compressed already gains nothing by it.
    if (value) setVersions(value.filter((version) => version.source !== 'compressed').reverse());
  };
  const close = () => {
    setVersions(null);
    setNote('');
  };
  const start = async (event) => {
    event.preventDefault();
    const problem = await post('/api/v1/jobs/compress', request(new FormData(event.target)));
    if (problem) setNote(problem);
    else close();
  };
  if (!versions) return html`<p><button data-order="compress" onClick=${open}>New compression</button>${note ? html` <span class="bad">${note}</span>` : ''}</p>`;
  if (versions.length === 0) return html`<p class="empty">There is no model yet: train or import one first.</p>`;
  return html`<form class="new" data-form="compress" onSubmit=${start}>
    <label>Model <select name="version">${versions.map((version) => html`<option value=${JSON.stringify([version.model, version.version])}>${version.model} v${version.version} · ${version.source}</option>`)}</select></label>
    <label>What makes it smaller <select name="method">
      <option value="weights">smaller forms of its weights</option><option value="prune">fewer channels (trained here)</option>
      <option value="distil">a student (trained here)</option><option value="qat">learning with rounded weights (trained here)</option><option value="auto">what is needed</option></select></label>
    <label>May lose, points <input name="max-drop" type="number" min="0" step="any" placeholder="1" /></label>
    <label>Largest file, KB <input name="max-size" type="number" min="0.001" step="any" placeholder="no bound" /></label>
    <label>Longest prediction, ms <input name="max-latency" type="number" min="0.000001" step="any" placeholder="no bound" /></label>
    <label>Most memory, KB <input name="max-memory" type="number" min="0.001" step="any" placeholder="no bound" /></label>
    <label>Board <input name="board" placeholder="any; raspberry-pi-5" /></label>
    <label>4 bits <select name="four-bit"><option value="never">never</option><option value="standard">in operators of the standard</option><option value="contrib">as MatMulNBits</option></select></label>
    <div><button data-order="start-compression">Start it</button> <button type="button" onClick=${close}>Close</button></div>
    ${note ? html`<p class="bad">${note}</p>` : ''}
  </form>`;
}
