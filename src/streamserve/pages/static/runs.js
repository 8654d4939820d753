// Runs of the server: started, followed through broken connections, cancelled.

export const root = document.documentElement.dataset.root;

/**
 * Starts a run that goes on by itself, whoever reads it.
 * @param {string} chain its name
 * @param {object} body as for POST /{chain}/stream
 * @returns {Promise<string>} the run's id
 * @throws {TypeError} the server could not be reached; any other Error has the server's reason
 */
export async function startRun(chain, body) {
  const response = await fetch(`${root}/${chain}/runs`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await refusal(response));
  return (await response.json()).run_id;
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const places = Array.isArray(body.detail) ? body.detail.map(({ loc, msg }) => `${loc.join(".")}: ${msg}`) : [body.detail];
  return `${response.status} ${places.join("; ") || response.statusText}`;
}

/**
 * Follows a run from its start. Through broken connections the browser itself goes on after the last block.
 * @param {string} id the run's
 * @param {{start: () => void, chunk: (value: unknown) => void, broken: () => void,
 *   end: (state: string, message?: string) => void}} on
 *   `end` is called last: "done", "stopped", "error" with its message, "lost" or "gone".
 * @returns {() => void} stops following; the run goes on
 */
export function followRun(id, on) {
  const source = new EventSource(`${root}/runs/${id}/stream`);
  const end = (state, message) => {
    source.close();
    on.end(state, message);
  };
  source.addEventListener("metadata", () => on.start());
  source.addEventListener("data", (event) => on.chunk(JSON.parse(event.data)));
  source.addEventListener("end", () => end("done"));
  source.addEventListener("error", async (event) => {
    // The server's own error blocks have data; a broken connection has none.
    if (event.data) end(...failureOf(JSON.parse(event.data)));
    else if (source.readyState === EventSource.CONNECTING) on.broken();
    else end(...(await recordedEnd(id)));
  });
  return () => source.close();
}

function failureOf(error) {
  return error.code === "cancelled" ? ["stopped"] : ["error", error.message];
}

async function recordedEnd(id) {
  const response = await fetch(`${root}/runs/${id}`).catch(() => null);
  if (response?.status === 404 || response?.status === 410) return ["gone"];
  const run = response?.ok ? await response.json() : {};
  if (run.error) return failureOf(run.error);
  return [run.status === "done" ? "done" : "lost"];
}

/** Asks a run to stop, and waits a while until it has. */
export function cancelRun(id) {
  return fetch(`${root}/runs/${id}/cancel?wait=10`, { method: "POST" }).catch(() => null);
}
