// A line chart in the page's colours that follows its container's width.
import { html, useEffect, useRef, useState } from '/console/vendor/htm/standalone.module.js';
import uPlot from '/console/vendor/uplot/uPlot.esm.js';

const HEIGHT = 220;

const DARK = matchMedia('(prefers-color-scheme: dark)');

/** Whether the page is dark now: a canvas does not follow the style sheet by itself. */
function useDark() {
  const [dark, setDark] = useState(DARK.matches);
  useEffect(() => {
    const follow = () => setDark(DARK.matches);
    DARK.addEventListener('change', follow);
    return () => DARK.removeEventListener('change', follow);
  }, []);
  return dark;
}

/** `series`: `[{ label, colour, scale, values }]`; `xs`: the shared axis; `percent` names the scale shown in per cent. */
export function Chart({ xs, series, xLabel, label }) {
  const holder = useRef(null);
  const plot = useRef(null);
  const dark = useDark();
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
  }, [dark]);
  useEffect(() => {
    plot.current?.setData([xs, ...series.map((line) => line.values)]);
  }, [JSON.stringify([xs, series.map((line) => line.values)])]);
  return html`<div class="chart" ref=${holder} role="img" aria-label=${label}></div>`;
}
