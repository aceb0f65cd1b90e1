// What a model of another tool is and costs.
import { html } from '/console/vendor/htm/standalone.module.js';
import { bytes, count } from '/console/format.js';

/** Operators that are named. */
const SHOWN = 12;

export function ModelReport({ report }) {
  const operators = [...report.operators].sort((a, b) => b.count - a.count);
  const more = operators.length - SHOWN;
  const memory = report.memory;
  return html`<div class="report" data-runs=${report.runs}>
    <dl>
      <div><dt>File</dt><dd>${bytes(report.file_bytes)}, operator set ${report.opset}</dd></div>
      <div><dt>Made by</dt><dd>${report.producer || '–'}</dd></div>
      <div><dt>Registered as</dt><dd>${bytes(report.model_bytes)}</dd></div>
      <div><dt>Parameters</dt><dd>${count(report.parameters)}</dd></div>
      <div><dt>Multiply-accumulates</dt><dd>${count(report.macs)}</dd></div>
      <div><dt>Memory of a run</dt><dd>${memory ? `${bytes(memory.weights)} weights + ${bytes(memory.activations)} activations` : '–'}</dd></div>
    </dl>
    <table><thead><tr><th></th><th>Name</th><th>Type</th><th>Shape</th></tr></thead><tbody>
      ${report.inputs.map((tensor) => html`<${Tensor} kind="input" tensor=${tensor} />`)}
      ${report.outputs.map((tensor) => html`<${Tensor} kind="output" tensor=${tensor} />`)}
    </tbody></table>
    <p class="hint">${operators.slice(0, SHOWN).map(({ name, count: times }) => `${times} ${name}`).join(', ')}${more > 0 ? `, and ${more} more` : ''}</p>
    ${report.runs
      ? html`<p class="good">The engine runs it.</p>`
      : html`<p class="bad">The engine does not run it: ${report.engine_error}</p>`}
    ${report.missing.map((missing) => html`<p class="bad">The engine lacks <b>${missing.operator}</b>, used ${missing.count} times: ${missing.advice}</p>`)}
    ${report.warnings.length > 0 ? html`<ul class="warnings">${report.warnings.map((warning) => html`<li>${warning}</li>`)}</ul>` : ''}
  </div>`;
}

function Tensor({ kind, tensor }) {
  return html`<tr><th>${kind}</th><td><code>${tensor.name}</code></td><td>${tensor.data_type ?? '?'}</td><td>${tensor.shape ? tensor.shape.join(' × ') || 'scalar' : '?'}</td></tr>`;
}
