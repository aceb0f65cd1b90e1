// One device: what it is, what it should run and what it says, what it tells, and what was asked of it.
import { html, useEffect, useState } from '/console/vendor/htm/standalone.module.js';
import { useAnswers } from '/console/get.js';
import { Commands } from '/console/views/device/commands.js';
import { Events, History } from '/console/views/device/history.js';
import { Identity } from '/console/views/device/identity.js';
import { Tags } from '/console/views/device/tags.js';
import { Twin } from '/console/views/device/twin.js';
import { Card } from '/console/views/telemetry.js';

/** Not everything that is shown here is news of the fleet: it is asked for again this often, too. */
const IDLE_MS = 5000;

export function DevicePage({ id, stamp }) {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setTick((n) => n + 1), IDLE_MS);
    return () => clearInterval(timer);
  }, []);
  const path = `/api/v1/devices/${encodeURIComponent(id)}`;
  const [answers, again] = useAnswers({
    device: path, twin: `${path}/twin`, telemetry: `${path}/telemetry`, commands: `${path}/commands`, diagnosis: `${path}/diagnosis`,
  }, `${stamp}/${tick}`);
  const { device, twin, telemetry, commands, diagnosis } = answers;
  const back = html`<p class="back"><a href="#/">← All devices</a></p>`;
  if (!device) return html`${back}<p class="empty">Asking for ${id}…</p>`;
  if (device.problem) return html`${back}<section class="notice"><h2>${id}</h2><p class="bad" role="alert">${device.problem}</p></section>`;
  const part = (answer, show) => (answer.problem ? html`<p class="bad" role="alert">${answer.problem}</p>` : show(answer.value));
  return html`<div data-page=${id}>${back}
    <${Identity} device=${device.value} path=${path} again=${again} />
    <${Tags} device=${device.value} again=${again} />
    <section id="twin"><h2>Desired and reported</h2>${part(twin, (value) => html`<${Twin} twin=${value} now=${device.value} />`)}</section>
    ${device.value.models.length > 0 ? html`<section id="told"><h2>Models</h2><div class="told">
      ${device.value.models.map((model) => html`<${Card} key=${model.model} device=${device.value} model=${model} alone />`)}</div></section>` : ''}
    <section id="history"><h2>Telemetry</h2>${part(telemetry, (value) => html`<${History} points=${value.history} />`)}</section>
    <div class="pair">
      <section id="commands"><h2>Commands</h2>${part(commands, (value) => html`<${Commands} all=${value} diagnosis=${diagnosis.value} path=${path} again=${again} />`)}</section>
      <section id="device-events"><h2>Events</h2>${part(telemetry, (value) => html`<${Events} events=${value.events} />`)}</section>
    </div>
  </div>`;
}
