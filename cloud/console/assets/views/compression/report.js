// What a compression found: the candidates as a picture and as a table, and which layer takes rounding worst.
import { html, useEffect, useRef, useState } from '/console/vendor/htm/standalone.module.js';
import { bytes, count, millis, percent } from '/console/format.js';

/** Layers that are shown at first. */
const LAYERS = 10;

export const METRICS = { accuracy: 'accuracy', map: 'mAP', r2: 'R2', mae: 'mean absolute error', auc: 'AUC', fidelity: 'fidelity' };
const SHARES = ['accuracy', 'map', 'auc', 'fidelity'];

/** A figure of a metric, for people. */
export function figure(metric, value) {
  return SHARES.includes(metric) ? percent(value) : value.toFixed(4);
}

/** What is lost of it, with its interval. */
export function lost(metric, drop, interval) {
  const share = SHARES.includes(metric);
  // No minus before what is rounded to zero.
  const shown = (value) => (share ? value * 100 : value).toFixed(2).replace(/^-(0\.00)$/, '$1');
  const range = interval ? ` (${shown(interval[0])} to ${shown(interval[1])})` : '';
  return `${shown(drop)}${share ? ' pt' : ''}${range}`;
}

/** The candidates as the control plane draws them. The picture is put into the page itself, so that it has its colours. */
function Plot({ view }) {
  const place = useRef(null);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    const asked = new AbortController();
    const draw = async () => {
      const response = await fetch(`/api/v1/models/${encodeURIComponent(view.model)}/versions/${view.version}/pareto.svg`, { signal: asked.signal });
      const text = await response.text();
      if (!response.ok) return setProblem(JSON.parse(text).detail);
      const picture = new DOMParser().parseFromString(text, 'image/svg+xml').documentElement;
      return place.current?.replaceChildren(document.importNode(picture, true));
    };
    draw().catch(() => asked.signal.aborted || setProblem('the control plane does not answer'));
    return () => asked.abort();
  }, [view.model, view.version]);
  return html`<figure class="plot"><figcaption>Candidates by size and loss: filled ones no other beats, the large one ships, dashed lines are the budget, bars 95 % intervals</figcaption>
    ${problem ? html`<p class="bad">${problem}</p>` : ''}<div ref=${place}></div></figure>`;
}

function Points({ points, chosen, metric }) {
  const name = METRICS[metric] ?? metric;
  const judged = name[0].toUpperCase() + name.slice(1);
  const cell = (name, value, number = true) => html`<td class=${number ? 'n' : ''} data-th=${name}>${value}</td>`;
  return html`<table class="cards candidates"><thead><tr><th>Candidate</th><th class="n">${judged}</th><th class="n">Lost (95 %)</th><th class="n">Size</th><th class="n">Latency</th><th class="n">MACs</th><th class="n">Memory</th></tr></thead><tbody>
    ${points.map((point, index) => html`<tr key=${index} data-candidate=${point.name} class=${index === chosen ? 'chosen' : ''}>
      ${cell('Candidate', html`${point.name}${index === chosen ? html` <span class="state succeeded">ships</span>` : point.pareto ? html` <small>on the front</small>` : ''}`, false)}
      ${cell(judged, figure(metric, point.value))}
      ${cell('Lost (95 %)', lost(metric, point.drop, point.drop_interval))}
      ${cell('Size', bytes(point.bytes))}
      ${cell('Latency', millis(point.latency_ms ?? point.latency.p50_ms))}
      ${cell('MACs', count(point.macs))}
      ${cell('Memory', bytes(point.peak_bytes))}
    </tr>`)}</tbody></table>`;
}

/** A job over its budget: the candidates that are nearest to it. */
export function Refused({ facts }) {
  return html`<h3>Nearest to the budget, of ${facts.measured} measured</h3>
    <${Points} points=${facts.nearest} chosen=${null} metric=${facts.nearest[0]?.metric ?? 'accuracy'} />`;
}

export function Report({ view, report }) {
  const [all, setAll] = useState(false);
  const layers = [...report.layers].sort((a, b) => b.output_error - a.output_error);
  const worst = Math.max(layers[0]?.output_error ?? 0, Number.EPSILON);
  const chosen = report.chosen ?? report.measured.length - 1;
  return html`${report.made ? html`<p>Network: ${report.made.how} <small>seed ${report.made.seed}</small></p>` : ''}
    <p>${report.metric === 'fidelity' ? 'Judged by how far answers stay those of the model before, for want of labels' : `Judged by ${METRICS[report.metric] ?? report.metric}`}, on ${count(report.samples)} samples; lost ${lost(report.metric, report.drop, report.drop_interval)}.
      ${report.latency_on ? html` Latency is predicted for ${report.latency_on}.` : ''}</p>
    ${view.warnings.map((said) => html`<p class="warning" key=${said}>${said}</p>`)}
    <${Plot} view=${view} />
    <h3>Candidates</h3>
    <${Points} points=${report.measured} chosen=${chosen} metric=${report.metric} />
    <h3>Error a layer, worst first</h3>
    <table class="cards layers"><thead><tr><th>Layer</th><th>Stored as</th><th class="n">Bytes</th><th>Output error at 8 bits</th></tr></thead><tbody>
      ${(all ? layers : layers.slice(0, LAYERS)).map((layer) => html`<tr key=${layer.name}><td data-th="Layer">${layer.name}</td><td data-th="Stored as">${layer.precision}</td>
        <td class="n" data-th="Bytes">${bytes(layer.bytes_before)} → ${bytes(layer.bytes_after)}</td>
        <td data-th="Output error at 8 bits"><meter max=${worst} value=${layer.output_error}></meter> <small>${layer.output_error.toExponential(1)}</small></td></tr>`)}
    </tbody></table>
    ${layers.length > LAYERS && !all ? html`<button onClick=${() => setAll(true)}>Show all ${count(layers.length)} layers</button>` : ''}`;
}
