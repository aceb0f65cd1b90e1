// A line chart in the page's colours that follows its container's width.
import { html, useEffect, useRef } from '/console/vendor/htm/standalone.module.js';
import uPlot from '/console/vendor/uplot/uPlot.esm.js';

const HEIGHT = 220;

/** `series`: `[{ label, colour, scale, values }]`; `xs`: the shared axis; `percent` names the scale shown in per cent. */
export function Chart({ xs, series, xLabel, label }) {
  const holder = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = { stroke: colour('--muted'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line') } };
    const options = {
      width: Math.max(260, holder.current.clientWidth),
      height: HEIGHT,
      scales: { x: { time: false } },
      axes: [
        { ...axis, label: xLabel, labelSize: 20 },
        { ...axis, scale: 'share', values: (_, ticks) => ticks.map((t) => `${+(t * 100).toFixed(1)} %`), size: 60 },
        { ...axis, scale: 'loss', side: 1, grid: { show: false }, size: 56 },
      ],
      series: [{ label: xLabel }, ...series.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: 2,
        scale: line.scale,
        dash: line.dash,
        points: { show: xs.length < 30, size: 4 },
        value: (_, v) => (v === null ? '–' : line.scale === 'share' ? `${(v * 100).toFixed(2)} %` : v.toFixed(4)),
      }))],
    };
    plot.current = new uPlot(options, [xs, ...series.map((line) => line.values)], holder.current);
    const observer = new ResizeObserver(() => plot.current.setSize({ width: Math.max(260, holder.current.clientWidth), height: HEIGHT }));
    observer.observe(holder.current);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, []);
  useEffect(() => {
    plot.current?.setData([xs, ...series.map((line) => line.values)]);
  }, [JSON.stringify([xs, series.map((line) => line.values)])]);
  return html`<div class="chart" ref=${holder} role="img" aria-label=${label}></div>`;
}
