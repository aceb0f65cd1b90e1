// The console, live: the overview, whose sections are views over one snapshot, and a page a device. The snapshot says of
// devices only how many there are and that some have changed; the views ask for those that they show.
import { html, render } from '/console/vendor/htm/standalone.module.js';
import { useOverview } from '/console/live.js';
import { Loop } from '/console/views/loop.js';
import { MODELS, useRoute } from '/console/route.js';
import { DevicePage } from '/console/views/device/page.js';
import { Fleet } from '/console/views/fleet/table.js';
import { Telemetry } from '/console/views/telemetry.js';
import { Rollouts } from '/console/views/rollouts.js';
import { Experiments } from '/console/views/experiments.js';
import { Shadows } from '/console/views/shadows.js';
import { Training } from '/console/views/training.js';
import { Compression } from '/console/views/compression.js';
import { HardExamples } from '/console/views/hard.js';
import { Releases } from '/console/views/releases.js';
import { CardPage } from '/console/views/card.js';
import { ModelsPage } from '/console/views/models.js';

const LINK = {
  connecting: 'connecting…',
  live: 'live',
  lost: 'connection lost, retrying…',
  'signed-out': 'signed out',
};

function App() {
  const { overview, link } = useOverview();
  const route = useRoute();
  return html`
    <header>
      <h1><a href="#/"><img src="/console/icon.svg" alt="" width="28" height="28" /> Flotilla</a></h1>
      <nav aria-label="Pages">
        <a href="#/" aria-current=${route.page || route.device ? null : 'page'}>Overview</a>
        <a href=${MODELS} aria-current=${route.page === 'models' ? 'page' : null}>Models</a>
      </nav>
      <span class="project">${overview ? `project ${overview.server.project}` : ''}</span>
      <span class="link ${link}" role="status" data-link=${link}>${LINK[link]}</span>
    </header>
    <main>${body(overview, link, route)}</main>
    <footer>${overview ? `Flotilla ${overview.server.version} · ` : ''}
      <a href="/api/v1/openapi.json">API description</a></footer>
  `;
}

function body(overview, link, route) {
  if (link === 'signed-out') {
    return html`<section class="notice"><h2>You are signed out</h2>
      <p>Ask the command line for a fresh one-time address and open it here:</p><pre>flotilla login --dir YOUR_FOLDER</pre></section>`;
  }
  if (!overview) return html`<p class="empty">Waiting for the control plane…</p>`;
  // A control plane that has started anew counts anew.
  const stamp = `${overview.server.started_at_ms}/${overview.fleet.changes}`;
  if (route.device) return html`<${DevicePage} key=${route.device} id=${route.device} stamp=${stamp} />`;
  if (route.page === 'models') return html`<${ModelsPage} jobs=${overview.jobs} stamp=${overview.jobs.map((job) => job.state).join()} />`;
  if (route.model) {
    // A release more is news for a card.
    return html`<${CardPage} key=${`${route.model}/${route.version}`} model=${route.model} version=${route.version} stamp=${overview.releases.length} />`;
  }
  return html`
    <${Loop} overview=${overview} />
    <${Fleet} fleet=${overview.fleet} stamp=${stamp} />
    <${Telemetry} devices=${overview.drifted} total=${overview.fleet.total} />
    <${Rollouts} rollouts=${overview.rollouts} releases=${overview.releases} />
    <${Experiments} stamp=${stamp} />
    <${Shadows} shadows=${overview.shadows} />
    <${Training} jobs=${overview.jobs} />
    <${Compression} compression=${overview.compression} jobs=${overview.jobs} />
    <${HardExamples} examples=${overview.hard_examples} />
    <${Releases} releases=${overview.releases} />
  `;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
