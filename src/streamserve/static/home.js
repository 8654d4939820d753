// The home page: runs a chain and shows its stream while it arrives.

const root = document.documentElement.dataset.root;

/**
 * Starts a run that goes on by itself, whoever reads it.
 * @param {string} chain its name
 * @param {object} body as for POST /{chain}/stream
 * @returns {Promise<string>} the run's id
 * @throws {TypeError} the server could not be reached; any other Error has the server's reason
 */
async function startRun(chain, body) {
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
function followRun(id, on) {
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
function cancelRun(id) {
  return fetch(`${root}/runs/${id}/cancel?wait=10`, { method: "POST" }).catch(() => null);
}

/** What a chain streamed: text, messages and JSON, each in a block that grows. */
class Transcript {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.current = { key: null };
  }

  add(chunk) {
    const { element } = this;
    const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    if (typeof chunk === "string") this.append("text", "text", chunk);
    else if (isMessage(chunk)) this.addMessage(chunk);
    else this.addJson(chunk);
    if (atEnd) element.scrollTop = element.scrollHeight;
  }

  addMessage(message) {
    const kind = message.type === "tool" ? "tool" : "text";
    this.append(kind, `${kind} ${message.id}`, textOf(message.content), kind === "tool" ? `${message.name} answered` : "");
    const calls = message.tool_call_chunks ?? message.tool_calls ?? [];
    calls.forEach((call, index) => this.addCall(call, `call ${message.id} ${call.index ?? index}`));
  }

  addCall(call, key) {
    const args = typeof call.args === "string" ? call.args : JSON.stringify(call.args);
    this.append("call", key, args, call.name ? `calls ${call.name}` : "");
  }

  addJson(value) {
    if (this.current.key !== "json" || !this.current.json.takes(value)) {
      this.open("json", "json");
      this.current.json = new Growing(value);
    }
    this.current.text.data = JSON.stringify(this.current.json.value, null, 2);
  }

  append(kind, key, text, label = "") {
    if (!text && !label) return;
    if (this.current.key !== key) this.open(kind, key, label);
    this.current.text.appendData(text);
  }

  open(kind, key, label = "") {
    const block = document.createElement("div");
    block.dataset.kind = kind;
    if (label) block.append(Object.assign(document.createElement("span"), { className: "label", textContent: label }));
    const text = document.createTextNode("");
    block.append(text);
    this.element.append(block);
    this.current = { key, text };
  }
}

/**
 * A JSON value that grows chunk by chunk. Chains stream objects in two ways that the wire does not tell apart:
 * each chunk the whole so far (parsers), or each chunk an addition by key (parallel branches). It counts as
 * the first until a chunk does not contain its predecessor.
 */
class Growing {
  constructor(value) {
    this.whole = this.sum = value;
    this.isWhole = true;
  }

  get value() {
    return this.isWhole ? this.whole : this.sum;
  }

  /** Takes in a chunk, unless it neither contains nor adds to what is here. */
  takes(chunk) {
    const sum = add(this.sum, chunk);
    const isWhole = this.isWhole && contains(chunk, this.whole);
    if (!isWhole && sum === undefined) return false;
    Object.assign(this, { whole: chunk, sum, isWhole });
    return true;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function contains(next, previous) {
  if (typeof previous === "string") return typeof next === "string" && next.startsWith(previous);
  if (Array.isArray(previous)) return Array.isArray(next) && previous.every((item, index) => contains(next[index], item));
  if (isObject(previous)) return isObject(next) && Object.keys(previous).every((key) => contains(next[key], previous[key]));
  return previous === null || next === previous;
}

function add(one, other) {
  if (!isObject(one) || !isObject(other)) return undefined;
  const sum = { ...one };
  for (const [key, value] of Object.entries(other)) {
    if (!(key in one)) sum[key] = value;
    else if (typeof one[key] === "string" && typeof value === "string") sum[key] = one[key] + value;
    else if (Array.isArray(one[key]) && Array.isArray(value)) sum[key] = [...one[key], ...value];
    else return undefined;
  }
  return sum;
}

function isMessage(chunk) {
  return isObject(chunk) && typeof chunk.type === "string" && "content" in chunk && "response_metadata" in chunk;
}

function textOf(content) {
  if (typeof content === "string") return content;
  return content.map((part) => (typeof part === "string" ? part : (part.text ?? ""))).join("");
}

/** One chain's panel: input, Run, Stop, the state in words, the output. */
class Panel {
  constructor(form) {
    this.chain = form.dataset.chain;
    this.input = form.elements.input;
    this.run = form.querySelector("[type=submit]");
    this.stop = form.elements.stop;
    this.state = form.querySelector("[role=status]");
    this.output = form.querySelector("[role=log]");
    this.transcript = new Transcript(this.output);
    this.kept = `run ${root}/${this.chain}`;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    this.resume();
  }

  async start() {
    const input = this.readInput();
    if (input === undefined || this.running) return;
    this.running = true;
    this.clock = new Clock();
    this.transcript.clear();
    this.show("running", "Waiting for the first token");
    try {
      const id = await startRun(this.chain, { input });
      sessionStorage.setItem(this.kept, JSON.stringify({ id, input: this.input.value }));
      this.follow(id);
    } catch (cause) {
      if (cause instanceof TypeError) this.end("lost");
      else this.end("error", cause.message);
    }
  }

  /** After a reload of the page: shows the last run from its start. */
  resume() {
    const kept = sessionStorage.getItem(this.kept);
    if (!kept) return;
    const { id, input } = JSON.parse(kept);
    this.input.value = input;
    this.running = true;
    this.show("running", "Streaming");
    this.follow(id);
  }

  follow(id) {
    this.setButtons(this.run, this.stop);
    const leave = followRun(id, {
      start: () => this.transcript.clear(),
      chunk: (value) => {
        this.clock?.chunk();
        this.show("running", "Streaming");
        this.transcript.add(value);
      },
      broken: () => this.show("running", "Connection lost, trying again"),
      end: (state, message) => this.end(state, message),
    });
    this.stop.onclick = async () => {
      // Left first: browsers allow six connections to a server, and the cancel needs one.
      leave();
      this.show("running", "Stopping");
      await cancelRun(id);
      this.follow(id);
    };
  }

  end(state, message) {
    if (state === "gone") sessionStorage.removeItem(this.kept);
    this.running = false;
    this.setButtons(this.stop, this.run);
    this.show(state, inWords(state, message, this.clock));
    this.clock = null;
  }

  readInput() {
    try {
      const input = JSON.parse(this.input.value);
      this.input.removeAttribute("aria-invalid");
      return input;
    } catch (error) {
      this.input.setAttribute("aria-invalid", "true");
      this.show("error", `The input is not JSON: ${error.message}`);
      return undefined;
    }
  }

  setButtons(off, on) {
    const focused = document.activeElement === off;
    on.disabled = false;
    if (focused) on.focus();
    off.disabled = true;
    this.output.setAttribute("aria-busy", String(this.running));
  }

  show(state, text) {
    this.state.dataset.state = state;
    if (this.state.textContent !== text) this.state.textContent = text;
  }
}

/** When a run began, and when its first token came. */
class Clock {
  constructor() {
    this.began = performance.now();
    this.first = null;
  }

  chunk() {
    this.first ??= performance.now();
  }

  toString() {
    const since = (time) => `${((time - this.began) / 1000).toFixed(2)} s`;
    return ` in ${since(performance.now())}${this.first === null ? "" : `, first token after ${since(this.first)}`}`;
  }
}

function inWords(state, message, clock) {
  if (state === "done") return `Done${clock ?? ""}`;
  if (state === "stopped") return "Stopped: the answer is not complete";
  if (state === "lost") return "Connection lost: the answer is not complete";
  if (state === "gone") return "The server no longer has this run";
  return `Error: ${message}`;
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(code.textContent);
  } else {
    // Browsers have no clipboard API on plain http outside localhost.
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

document.querySelectorAll(".origin").forEach((element) => (element.textContent = location.origin));
document.querySelectorAll("form.try").forEach((form) => new Panel(form));
document.querySelectorAll("[name=copy]").forEach((button) => button.addEventListener("click", () => copy(button)));
