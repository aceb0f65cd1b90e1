// The curve of a gate's test: evidence of harm and of none at the end of each window, in shares of what decides.
import { html } from '/console/vendor/htm/standalone.module.js';

const [WIDTH, HEIGHT, TOP] = [140, 36, 1.25];

export function Evidence({ points }) {
  if (points.length === 0) return '–';
  const x = (index) => (points.length === 1 ? WIDTH / 2 : 4 + (index * (WIDTH - 8)) / (points.length - 1));
  const y = (share) => HEIGHT - 2 - (Math.min(share, TOP) / TOP) * (HEIGHT - 4);
  const line = (of) => points.map((point, index) => `${x(index).toFixed(1)},${y(point[of]).toFixed(1)}`).join(' ');
  const dots = (of, name) => points.map((point, index) => html`<circle class=${name} cx=${x(index)} cy=${y(point[of])} r="2" />`);
  const last = points.at(-1);
  const words = `evidence of harm ${percent(last.against)} of what stops it, of none ${percent(last.in_favour)} of what lets it through`;
  return html`<svg class="evidence" width=${WIDTH} height=${HEIGHT} role="img" aria-label=${words}><title>${words}</title>
    <line class="needed" x1="0" x2=${WIDTH} y1=${y(1)} y2=${y(1)} />
    <polyline class="harm" points=${line('against')} /><polyline class="none" points=${line('in_favour')} />
    ${dots('against', 'harm')}${dots('in_favour', 'none')}</svg>`;
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}
