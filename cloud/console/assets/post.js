// Orders to the control plane.

/** Sends one. Answers what went wrong, or nothing; what went well shows in the overview. */
export async function post(path, body = null) {
  try {
    const response = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    return response.ok ? '' : (await response.json()).detail;
  } catch {
    return 'the control plane does not answer';
  }
}
