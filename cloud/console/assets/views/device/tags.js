// What operators have written on a device: its name, labels and attributes; and the groups that it is in.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { order } from '/console/post.js';

export function Tags({ device, again }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const write = async (change) => {
    setBusy(true);
    const { problem } = await order('/api/v1/device-tags', { devices: [device.id], ...change });
    setNote(problem ?? '');
    await again();
    setBusy(false);
    return !problem;
  };
  const gone = (text, change) => html`<button class="gone" disabled=${busy} aria-label=${`Remove ${text}`} onClick=${() => write(change)}>×</button>`;
  return html`<section id="tags"><h2>Written on it</h2>
    <div class="tags">
      <h3>Name</h3><div><span class="name">${device.name ?? ''}</span>
        <${Add} label="Name" hint=${device.name ? 'another name' : 'a name'} verb="Set" busy=${busy} add=${(name) => write({ name })} />
        ${device.name ? html` <button disabled=${busy} onClick=${() => write({ name: '' })}>Remove</button>` : ''}</div>
      <h3>Labels</h3><div>${device.labels.map((label) => html`<span class="chip" key=${label} data-label=${label}>${label}
          ${gone(label, { remove: [label] })}</span>`)}
        <${Add} label="Label" hint="canary" verb="Add" busy=${busy} add=${(label) => write({ add: [label] })} /></div>
      <h3>Attributes</h3><div>${Object.entries(device.attributes).map(([key, value]) => html`<span class="chip" key=${key} data-attribute=${key}>${key}=${value}
          ${gone(key, { set: { [key]: null } })}</span>`)}
        <${Add} label="Attribute" hint="site=berlin" verb="Set" busy=${busy} add=${async (text) => {
          const at = text.indexOf('=');
          if (at > 0) return write({ set: { [text.slice(0, at)]: text.slice(at + 1) } });
          setNote('an attribute is KEY=VALUE, such as site=berlin');
          return false;
        }} /></div>
      <h3>Groups</h3><div>${(device.groups ?? []).map((group) => html`<span class="chip" key=${group} data-group=${group}>${group}</span>`)}
        ${(device.groups ?? []).length === 0 ? html`<small>none</small>` : ''}</div>
    </div>
    ${note ? html`<p class="bad" role="alert">${note}</p>` : ''}
  </section>`;
}

function Add({ label, hint, verb, busy, add }) {
  const [text, setText] = useState('');
  const submit = async (event) => {
    event.preventDefault();
    if (text.trim() && await add(text.trim())) setText('');
  };
  return html`<form class="line" onSubmit=${submit}><input name=${label.toLowerCase()} aria-label=${label} placeholder=${hint} value=${text}
    autocomplete="off" onInput=${(e) => setText(e.target.value)} /> <button disabled=${busy || !text.trim()}>${verb}</button></form>`;
}
