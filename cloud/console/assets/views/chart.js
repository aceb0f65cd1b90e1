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

/**
 * `series`: `[{ label, colour, scale, values }]`; `xs`: the shared axis, in seconds since 1970 where it is one of `time`;
 * `axes`: `[{ scale, show, side }]`, `show` writing a value of the scale.
 */
export function Chart({ xs, series, axes, time = false, xLabel, label }) {
  const holder = useRef(null);
  const plot = useRef(null);
  const dark = useDark();
  useEffect(() => {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = { stroke: colour('--muted'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line') } };
    const width = () => Math.max(260, holder.current.clientWidth);
    const show = (scale) => axes.find((one) => one.scale === scale).show;
    const options = {
      width: width(),
      height: HEIGHT,
      scales: { x: { time } },
      axes: [
        xLabel ? { ...axis, label: xLabel, labelSize: 20 } : axis,
        ...axes.map((one) => ({
          ...axis,
          scale: one.scale,
          side: one.side ?? 3,
          grid: one.side === 1 ? { show: false } : axis.grid,
          values: (_, ticks) => ticks.map((tick) => one.show(tick)),
          size: 64,
        })),
      ],
      series: [xLabel ? { label: xLabel } : {}, ...series.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: 2,
        scale: line.scale,
        dash: line.dash,
        points: { show: xs.length < 30, size: 4 },
        value: (_, v) => (v === null || v === undefined ? '–' : show(line.scale)(v)),
      }))],
    };
    plot.current = new uPlot(options, [xs, ...series.map((line) => line.values)], holder.current);
    const observer = new ResizeObserver(() => plot.current.setSize({ width: width(), height: HEIGHT }));
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
