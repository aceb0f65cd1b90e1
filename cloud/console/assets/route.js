// Where the console is: the part of the address behind `#`, so that the browser's back button works.
import { useEffect, useState } from '/console/vendor/htm/standalone.module.js';

/** The address of a device's page. */
export function deviceHref(id) {
  return `#/devices/${encodeURIComponent(id)}`;
}

/** The address of the page of all models. */
export const MODELS = '#/models';

function read() {
  if (location.hash === MODELS) return { device: null, page: 'models' };
  const [, id] = location.hash.match(/^#\/devices\/([^/]+)$/) ?? [];
  try {
    return { device: id ? decodeURIComponent(id) : null };
  } catch {
    return { device: null };
  }
}

/** `{ device, page }`: the device whose page is open, or else the page; neither for the overview. */
export function useRoute() {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const follow = () => {
      setRoute(read());
      scrollTo(0, 0);
    };
    addEventListener('hashchange', follow);
    return () => removeEventListener('hashchange', follow);
  }, []);
  return route;
}
