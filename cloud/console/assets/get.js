// Questions to the control plane.
import { useEffect, useRef, useState } from '/console/vendor/htm/standalone.module.js';

/** What changes all the time is asked for again at most this often. */
export const EVERY_MS = 1000;

/**
 * Asks one. Answers `{ value, total }`, `total` being how many there are where this is a page of them; or `{ problem, lost }`,
 * `lost` where the question did not get through.
 */
export async function get(path, signal) {
  try {
    const response = await fetch(path, { signal });
    const value = await response.json();
    if (!response.ok) return { problem: value.detail };
    const total = response.headers.get('x-total-count');
    return { value, total: total === null ? null : Number(total) };
  } catch {
    return { problem: 'the control plane does not answer', lost: true };
  }
}

/** The answers to some questions by name, asked again when `stamp` changes and when `again` is called. */
export function useAnswers(paths, stamp) {
  const [answers, setAnswers] = useState({});
  const asked = useRef({ at: 0, timer: null, wanted: null });
  const key = JSON.stringify(paths);
  const ask = async () => {
    const state = asked.current;
    state.at = Date.now();
    state.timer = null;
    const names = Object.keys(paths);
    const all = await Promise.all(names.map((name) => get(paths[name])));
    // Somebody looks at another page by now.
    if (state.wanted === key) setAnswers(Object.fromEntries(names.map((name, index) => [name, all[index]])));
  };
  useEffect(() => {
    const state = asked.current;
    if (state.wanted !== key) {
      state.wanted = key;
      setAnswers({});
      ask();
    } else if (!state.timer) {
      state.timer = setTimeout(ask, Math.max(0, state.at + EVERY_MS - Date.now()));
    }
  }, [key, stamp]);
  useEffect(() => () => {
    clearTimeout(asked.current.timer);
    asked.current.wanted = null;
  }, []);
  return [answers, ask];
}
