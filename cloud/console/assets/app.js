// The console: one page, live. Each section is a view of its own over the same snapshot.
import { html, render } from '/console/vendor/htm/standalone.module.js';
import { useOverview } from '/console/live.js';
import { Loop } from '/console/views/loop.js';
import { Devices } from '/console/views/devices.js';
import { Telemetry } from '/console/views/telemetry.js';
import { Rollouts } from '/console/views/rollouts.js';
import { Shadows } from '/console/views/shadows.js';
import { Training } from '/console/views/training.js';
import { Compression } from '/console/views/compression.js';
import { HardExamples } from '/console/views/hard.js';
import { Releases } from '/console/views/releases.js';

const LINK = {
  connecting: 'connecting…',
  live: 'live',
  lost: 'connection lost, retrying…',
  'signed-out': 'signed out',
};

function App() {
  const { overview, link } = useOverview();
  return html`
    <header>
      <h1><img src="/console/icon.svg" alt="" width="28" height="28" /> Flotilla</h1>
      <span class="project">${overview ? `project ${overview.server.project}` : ''}</span>
      <span class="link ${link}" role="status" data-link=${link}>${LINK[link]}</span>
    </header>
    <main>${body(overview, link)}</main>
    <footer>${overview ? `Flotilla ${overview.server.version} · ` : ''}
      <a href="/api/v1/openapi.json">API description</a></footer>
  `;
}

function body(overview, link) {
  if (link === 'signed-out') {
    return html`<section class="notice"><h2>You are signed out</h2>
      <p>Ask the command line for a fresh one-time address and open it here:</p><pre>flotilla login --dir YOUR_FOLDER</pre></section>`;
  }
  if (!overview) return html`<p class="empty">Waiting for the control plane…</p>`;
  return html`
    <${Loop} overview=${overview} />
    <${Devices} devices=${overview.devices} />
    <${Telemetry} devices=${overview.devices} />
    <${Rollouts} rollouts=${overview.rollouts} releases=${overview.releases} />
    <${Shadows} shadows=${overview.shadows} />
    <div class="pair">
      <${Training} jobs=${overview.jobs} />
      <${Compression} compression=${overview.compression} />
    </div>
    <${HardExamples} examples=${overview.hard_examples} />
    <${Releases} releases=${overview.releases} />
  `;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
