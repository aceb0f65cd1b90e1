// What was asked of a device and what became of it, and what it found when it last examined itself.
import { html, useState } from '/console/vendor/htm/standalone.module.js';
import { ago, bytes } from '/console/format.js';
import { order } from '/console/post.js';

export function Commands({ all, diagnosis, path, again }) {
  const [note, setNote] = useState('');
  const [busy, setBusy] = useState(false);
  const ask = async (kind) => {
    setBusy(true);
    const { problem } = await order(`${path}/commands`, { kind });
    setNote(problem ?? '');
    await again();
    setBusy(false);
  };
  const button = (kind, text) => html`<button data-ask=${kind} disabled=${busy} onClick=${() => ask(kind)}>${text}</button>`;
  return html`<p class="controls">${button('ping', 'Ping')} ${button('diagnostics', 'Examine')} ${button('log_pull', 'Fetch its log')}
      ${note ? html` <span class="bad" role="alert">${note}</span>` : ''}</p>
    ${all.length === 0 ? html`<p class="empty">Nothing has been asked of it yet.</p>` : html`<table class="cards"><thead><tr><th>Command</th><th>State</th><th>Asked</th><th>By</th><th>Answer</th></tr></thead>
      <tbody>${all.map((one) => html`<${Row} key=${one.number} one=${one} path=${path} />`)}</tbody></table>`}
    ${diagnosis?.answer ? html`<${Findings} answer=${diagnosis.answer} />` : ''}`;
}

function Row({ one, path }) {
  return html`<tr data-command=${one.number} data-kind=${one.kind} data-state=${one.state}>
    <td data-th="Command">${one.kind.replaceAll('_', ' ')} <small>${one.subject ?? ''}</small></td>
    <td data-th="State"><span class="state ${one.state}">${one.state}</span></td>
    <td data-th="Asked">${ago(one.asked_at_ms)}</td>
    <td data-th="By">${one.by || '–'}</td>
    <td data-th="Answer">${one.failure ? html`<small class="bad">${one.failure.code}: ${one.failure.detail}</small>`
      : one.log_bytes ? html`<a href=${`${path}/commands/${one.number}/log`} target="_blank" rel="noopener">log, ${bytes(one.log_bytes)}</a>
        ${one.lines_left_out ? html` <small>${one.lines_left_out} older lines left out</small>` : ''}`
      : one.ended_at_ms ? ago(one.ended_at_ms) : '–'}</td></tr>`;
}

function Findings({ answer }) {
  return html`<h3>Last examination <small>${ago(answer.at_ms)}</small></h3>
    ${answer.failure ? html`<p class="bad">${answer.failure.code}: ${answer.failure.detail}</p>` : ''}
    <ul class="findings">${answer.findings.map((finding, index) => html`<li key=${index} data-finding=${finding.subject}>
      <span class="state ${finding.verdict}">${finding.verdict}</span> <b>${finding.subject}</b> ${finding.what}
      ${finding.remedy ? html`<div><small>${finding.remedy}</small></div>` : ''}</li>`)}</ul>`;
}
