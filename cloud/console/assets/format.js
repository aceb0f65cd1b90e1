// Numbers and times for people. Every function takes null and answers a dash.
const DASH = '–';

export function bytes(n) {
  if (n === null || n === undefined) return DASH;
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? n : n.toFixed(n < 10 ? 2 : 1)} ${units[unit]}`;
}

export function percent(share, digits = 2) {
  return share === null || share === undefined ? DASH : `${(share * 100).toFixed(digits)} %`;
}

export function micros(us) {
  if (us === null || us === undefined) return DASH;
  return us < 1000 ? `${us} µs` : `${(us / 1000).toFixed(us < 10000 ? 2 : 1)} ms`;
}

export function millis(ms) {
  return ms === null || ms === undefined ? DASH : micros(Math.round(ms * 1000));
}

export function count(n) {
  return n === null || n === undefined ? DASH : n.toLocaleString('en');
}

export function short(digest) {
  return digest ? digest.slice(0, 12) : DASH;
}

export function ago(ms, now = Date.now()) {
  if (!ms) return DASH;
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(ms).toISOString().slice(0, 10);
}

export function clock(ms) {
  return ms ? new Date(ms).toLocaleString() : DASH;
}
