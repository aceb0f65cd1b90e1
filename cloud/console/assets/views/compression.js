// The newest compression report: before and after, and which layer cost what.
import { html } from '/console/vendor/htm/standalone.module.js';
import { versionHref } from '/console/route.js';
import { bytes, millis, percent } from '/console/format.js';

export function Compression({ compression }) {
  const report = compression.at(-1);
  return html`<section id="compression"><h2>Compression</h2>${report ? html`<${Report} report=${report} />` : html`<p class="empty">Nothing has been compressed yet.</p>`}</section>`;
}

function Report({ report }) {
  const worst = Math.max(...report.layers.map((layer) => layer.output_error), Number.EPSILON);
  return html`<p><a href=${versionHref(report.model, report.version)}><b>${report.model} v${report.version}</b></a> <small>${report.recipe}</small></p>
    <table><thead><tr><th></th><th class="n">Before</th><th class="n">After</th></tr></thead><tbody>
      <tr><th>Size</th><td class="n">${bytes(report.bytes_before)}</td><td class="n">${bytes(report.bytes_after)}</td></tr>
      <tr><th>Test accuracy</th><td class="n">${percent(report.accuracy_before)}</td><td class="n">${percent(report.accuracy_after)}</td></tr>
      <tr><th>Latency p50</th><td class="n">${millis(report.latency_before_ms)}</td><td class="n">${millis(report.latency_after_ms)}</td></tr>
    </tbody></table>
    <h3>Error a layer</h3>
    <table class="layers"><thead><tr><th>Layer</th><th class="n">Bytes</th><th>Output error</th></tr></thead><tbody>
      ${report.layers.map((layer) => html`<tr key=${layer.name}><td>${layer.name}</td>
        <td class="n">${bytes(layer.bytes_before)} → ${bytes(layer.bytes_after)}</td>
        <td><meter max=${worst} value=${layer.output_error}></meter> <small>${layer.output_error.toExponential(1)}</small></td></tr>`)}
    </tbody></table>`;
}
