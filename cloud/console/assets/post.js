// Orders to the control plane.

/** Sends one. Answers `{ value }`, or `{ problem }`: what went wrong. */
export async function order(path, body = null) {
  try {
    const response = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const value = await response.json();
    return response.ok ? { value } : { problem: value.detail };
  } catch {
    return { problem: 'the control plane does not answer' };
  }
}

/** The same where what went well shows by itself: answers what went wrong, or nothing. */
export async function post(path, body = null) {
  return (await order(path, body)).problem ?? '';
}
