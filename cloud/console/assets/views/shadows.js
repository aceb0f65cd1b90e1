// Releases that run beside confirmed ones: how they compare, a row a device and one for all.
import { html } from '/console/vendor/htm/standalone.module.js';
import { count, micros, percent, short } from '/console/format.js';

export function Shadows({ shadows }) {
  if (shadows.length === 0) return '';
  return html`<section id="shadows"><h2>Shadows</h2>${shadows.map((shadow) => html`
    <table class="cards" key=${shadow.model} data-shadow=${shadow.model}><thead><tr>
      <th>${shadow.model} on</th><th>State</th><th>Release</th><th class="n">Compared</th><th class="n">Agreement</th>
      <th class="n">Failed / skipped</th><th class="n">Confidence</th><th class="n">Latency p50</th><th class="n">p95</th>
    </tr></thead><tbody>
      ${shadow.devices.map((device) => html`<${Row} key=${device.device} name=${device.device} state=${device.state}
        release=${device.release} failure=${device.failure} figures=${device.figures} />`)}
      ${shadow.devices_left_out ? html`<tr><td colspan="9"><small>and ${count(shadow.devices_left_out)} more</small></td></tr>` : ''}
      ${shadow.totals.map((total) => html`<${Row} key=${`${total.release}/${total.against}`} name="all" state=""
        release=${total.release} against=${total.against} figures=${total} />`)}
    </tbody></table>`)}
    <small>Confirmed release / shadow, on the inputs that both answered. Applications never get a shadow's answers.</small>
  </section>`;
}

function Row({ name, state, release, against, failure, figures }) {
  const score = (share) => (typeof share === 'number' ? share.toFixed(3) : '–');
  const both = (one, two, show) => (figures ? `${show(one)} / ${show(two)}` : '–');
  return html`<tr data-device=${name} data-state=${state}>
    <td data-th="Device"><b>${name}</b></td>
    <td data-th="State">${state ? html`<span class="state ${state}">${state}</span>` : ''}
      ${failure ? html`<small class="bad">${failure.code}: ${failure.detail}</small>` : ''}</td>
    <td data-th="Release"><code title=${release ?? ''}>${short(release)}</code>
      ${against ? html`<small> against <code title=${against}>${short(against)}</code></small>` : ''}</td>
    <td data-th="Compared" class="n">${count(figures?.compared)}</td>
    <td data-th="Agreement" class="n">${percent(figures?.agreement, 1)}</td>
    <td data-th="Failed / skipped" class="n">${both(figures?.failures, figures?.skipped, count)}</td>
    <td data-th="Confidence" class="n">${both(figures?.confirmed_confidence, figures?.shadow_confidence, score)}</td>
    <td data-th="Latency p50" class="n">${both(figures?.confirmed_p50_us, figures?.shadow_p50_us, micros)}</td>
    <td data-th="p95" class="n">${both(figures?.confirmed_p95_us, figures?.shadow_p95_us, micros)}</td>
  </tr>`;
}
