// The devices that a query finds, fetched a page at a time as they are looked at.
import { useEffect, useMemo, useRef, useState } from '/console/vendor/htm/standalone.module.js';
import { EVERY_MS, get } from '/console/get.js';

/** Devices of a page. */
const PAGE = 100;
/** Until a question is asked again that did not get through. */
const RETRY_MS = 2000;
/** Pages that are kept; those farthest from what is looked at go. */
const KEPT = 12;

/** The part of an address that asks for what is looked for: `{ search, filter, sort }`. */
export function asked(query) {
  return Object.entries(query).filter(([, text]) => text).map(([name, text]) => `&${name}=${encodeURIComponent(text)}`).join('');
}

class Found {
  constructor(query, redraw) {
    this.query = query;
    this.redraw = redraw;
    this.total = null;
    this.problem = '';
    this.pages = new Map();
    this.asking = new Set();
    this.age = 0;
    this.asked = Date.now();
    this.timer = null;
    this.seen = [0, 0];
    this.stop = new AbortController();
  }

  at(index) {
    return this.pages.get(Math.floor(index / PAGE))?.devices[index % PAGE];
  }

  /** Says which rows are looked at. */
  look(first, last) {
    this.seen = [Math.floor(first / PAGE), Math.floor(Math.max(first, last) / PAGE)];
    for (let page = this.seen[0]; page <= this.seen[1]; page += 1) {
      if (this.pages.get(page)?.age !== this.age && !this.asking.has(page)) this.fetch(page);
    }
  }

  /** Another stamp says that something has changed: what is looked at is fetched again, the rest when it is. */
  hear(stamp) {
    const news = this.stamp !== undefined && this.stamp !== stamp;
    this.stamp = stamp;
    if (news) this.again(this.asked + EVERY_MS - Date.now());
  }

  again(wait) {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.asked = Date.now();
      this.age += 1;
      this.look(this.seen[0] * PAGE, this.seen[1] * PAGE);
    }, Math.max(0, wait));
  }

  end() {
    clearTimeout(this.timer);
    this.stop.abort();
  }

  async fetch(page) {
    const age = this.age;
    this.asking.add(page);
    const answer = await get(`/api/v1/devices?limit=${PAGE}&skip=${page * PAGE}${asked(this.query)}`, this.stop.signal);
    this.asking.delete(page);
    if (this.stop.signal.aborted) return;
    this.problem = answer.problem ?? '';
    if (answer.lost) this.again(RETRY_MS);
    if (answer.value) {
      this.total = answer.total;
      this.pages.set(page, { age, devices: answer.value });
      this.forget();
      // It has changed again meanwhile.
      if (age !== this.age) this.look(this.seen[0] * PAGE, this.seen[1] * PAGE);
    }
    this.redraw();
  }

  forget() {
    const [first, last] = this.seen;
    const distance = (page) => Math.max(first - page, page - last);
    const far = [...this.pages.keys()].sort((a, b) => distance(b) - distance(a));
    far.slice(0, Math.max(0, far.length - KEPT)).forEach((page) => this.pages.delete(page));
  }
}

/**
 * What a query finds. While its first answer is on the way, and where it cannot be answered, `shown` is what the one before
 * found; `problem` says why it cannot.
 */
export function useFound(query, stamp) {
  const [, redraw] = useState(0);
  const key = JSON.stringify(query);
  const found = useMemo(() => new Found(query, () => redraw((n) => n + 1)), [key]);
  const shown = useRef(found);
  if (found.total !== null) shown.current = found;
  useEffect(() => {
    found.look(0, 0);
    return () => found.end();
  }, [found]);
  useEffect(() => found.hear(stamp), [found, stamp]);
  return { shown: shown.current, problem: found.problem, waiting: shown.current !== found && !found.problem };
}
