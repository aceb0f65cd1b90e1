// Signed releases.
import { html } from '/console/vendor/htm/standalone.module.js';
import { versionHref } from '/console/route.js';
import { bytes, clock, percent, short } from '/console/format.js';

export function Releases({ releases }) {
  return html`<section id="releases"><h2>Releases</h2>${releases.length === 0
    ? html`<p class="empty">Nothing has been released yet.</p>`
    : html`<table class="cards"><thead><tr><th>Model</th><th>Digest</th><th class="n">Counter</th><th class="n">Size</th><th class="n">Accuracy</th><th>Signed by</th><th>When</th></tr></thead>
      <tbody>${[...releases].reverse().map((release) => html`<tr key=${release.digest}>
        <td data-th="Model">${release.agent ? html`<b>${release.model}</b> ${release.agent}` : html`<a href=${versionHref(release.model, release.version)}><b>${release.model}</b> v${release.version}</a>`}</td>
        <td data-th="Digest"><code title=${release.digest}>${short(release.digest)}</code></td>
        <td data-th="Counter" class="n">${release.counter}</td>
        <td data-th="Size" class="n">${bytes(release.bytes)}</td>
        <td data-th="Accuracy" class="n">${percent(release.accuracy)}</td>
        <td data-th="Signed by"><code>${short(release.key_id)}</code></td>
        <td data-th="When">${clock(release.created_at_ms)}</td></tr>`)}</tbody></table>`}</section>`;
}
