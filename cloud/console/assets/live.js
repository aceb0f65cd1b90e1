// The live state of the control plane: one EventSource, one snapshot object, a note of whether it is fresh.
import { useEffect, useState } from '/console/vendor/htm/standalone.module.js';

const RETRY_MS = 2000;

/** Subscribes to the overview. Answers `{ overview, link }`, link being 'connecting', 'live', 'lost' or 'signed-out'. */
export function useOverview() {
  const [overview, setOverview] = useState(null);
  const [link, setLink] = useState('connecting');
  useEffect(() => {
    let source = null;
    let timer = null;
    let stopped = false;
    const open = () => {
      source = new EventSource('/api/v1/events');
      source.addEventListener('overview', (event) => {
        setOverview(JSON.parse(event.data));
        setLink('live');
      });
      source.onerror = async () => {
        source.close();
        if (stopped) return;
        setLink(await reason());
        timer = setTimeout(open, RETRY_MS);
      };
    };
    open();
    return () => {
      stopped = true;
      clearTimeout(timer);
      source.close();
    };
  }, []);
  return { overview, link };
}

/** An EventSource does not say why it failed; a plain request does. */
async function reason() {
  try {
    const response = await fetch('/api/v1/whoami');
    return response.status === 401 ? 'signed-out' : 'lost';
  } catch {
    return 'lost';
  }
}
