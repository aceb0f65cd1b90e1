// The page of all models: their versions, where each comes from, and a way to bring one from elsewhere.
import { html } from '/console/vendor/htm/standalone.module.js';
import { useAnswers } from '/console/get.js';
import { bytes, clock, percent, short } from '/console/format.js';
import { versionHref } from '/console/route.js';
import { ImportModel } from '/console/views/import_model.js';

const ASKED = { models: '/api/v1/models', datasets: '/api/v1/datasets' };

export function ModelsPage({ jobs, stamp }) {
  const [{ models, datasets }] = useAnswers(ASKED, stamp);
  const versions = models?.value ?? [];
  const names = [...new Set(versions.map((version) => version.model))].sort();
  return html`
    <section id="models"><h2>Models</h2>
      ${models?.problem ? html`<p class="bad">${models.problem}</p>` : ''}
      ${versions.length === 0
        ? html`<p class="empty">${models ? 'No model is registered yet: train one, or import one below.' : 'Asking…'}</p>`
        : html`<${Versions} versions=${versions} />`}
    </section>
    <section id="import"><h2>Import a model</h2>
      <${ImportModel} jobs=${jobs} names=${names} datasets=${datasets?.value ?? []} />
    </section>`;
}

function Versions({ versions }) {
  return html`<table class="cards"><thead><tr><th>Model</th><th>Source</th><th class="n">Size</th><th class="n">Accuracy</th><th>Dataset</th><th>Licence</th><th>File</th><th>When</th></tr></thead>
    <tbody>${[...versions].reverse().map((version) => html`<tr key=${`${version.model}/${version.version}`} data-model=${version.model} data-source=${version.source}>
      <td data-th="Model"><a href=${versionHref(version.model, version.version)}><b>${version.model}</b> v${version.version}</a></td>
      <td data-th="Source">${version.source}${version.from || version.recipe ? html`<br /><small>${version.from || version.recipe}</small>` : ''}</td>
      <td data-th="Size" class="n">${bytes(version.bytes)}</td>
      <td data-th="Accuracy" class="n">${percent(version.accuracy)}</td>
      <td data-th="Dataset">${version.dataset ? `${version.dataset} v${version.dataset_version}` : '–'}</td>
      <td data-th="Licence">${version.licence ?? '–'}</td>
      <td data-th="File"><a href=${onnx(version)} download=${`${version.model}-v${version.version}.onnx`} title=${version.onnx}>${short(version.onnx)}</a></td>
      <td data-th="When">${clock(version.created_at_ms)}</td></tr>`)}</tbody></table>`;
}

function onnx(version) {
  return `/api/v1/models/${encodeURIComponent(version.model)}/versions/${version.version}/onnx`;
}
