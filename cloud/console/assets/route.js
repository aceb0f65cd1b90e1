// Where the console is: the part of the address behind `#`, so that the browser's back button works.
import { useEffect, useState } from '/console/vendor/htm/standalone.module.js';

/** The address of a device's page. */
export function deviceHref(id) {
  return `#/devices/${encodeURIComponent(id)}`;
}

/** The address of the page of all models. */
export const MODELS = '#/models';
/** The address of a model version's page. */
export function versionHref(model, version) {
  return `#/models/${encodeURIComponent(model)}/${version}`;
}

function read() {
  if (location.hash === MODELS) return { device: null, model: null, page: 'models' };
  const [, id] = location.hash.match(/^#\/devices\/([^/]+)$/) ?? [];
  const [, model, version] = location.hash.match(/^#\/models\/([^/]+)\/(\d+)$/) ?? [];
  try {
    return { device: id ? decodeURIComponent(id) : null, model: model ? decodeURIComponent(model) : null, version };
  } catch {
    return { device: null, model: null };
  }
}

/** `{ device, model, version, page }`: the device, the model version or the page that is open; none for the overview. */
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
