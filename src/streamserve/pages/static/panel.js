import { Questions } from "./questions.js";
import { cancelRun, followRun, root, startRun } from "./runs.js";
import { Transcript } from "./transcript.js";

/** One chain's panel: input, Run, Stop, the state in words, the output. */
export class Panel {
  constructor(form) {
    this.chain = form.dataset.chain;
    this.input = form.elements.input;
    this.run = form.querySelector("[type=submit]");
    this.stop = form.elements.stop;
    this.state = form.querySelector("[role=status]");
    this.output = form.querySelector("[role=log]");
    this.transcript = new Transcript(this.output);
    this.questions = new Questions(form.querySelector(".questions"), (answers, said) => this.answer(answers, said));
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

  start() {
    const input = this.readInput();
    if (input === undefined || this.running) return;
    this.transcript.clear();
    this.begin({ input }, null);
  }

  /** Goes on with a graph that asked: a command on the thread of its first run. */
  answer(answers, said) {
    if (this.running) return;
    this.transcript.note(said);
    const command = { __type__: "command", resume: answers };
    this.begin({ input: command, config: { configurable: { thread_id: this.thread } } }, this.thread);
  }

  async begin(body, thread) {
    this.running = true;
    this.clock = new Clock();
    this.unanswered = thread === null ? null : this.questions.asked;
    this.questions.clear();
    this.show("running", "Waiting for the first token");
    try {
      const id = await startRun(this.chain, body);
      this.thread = thread ?? id; // a run without a thread makes one of its own id
      sessionStorage.setItem(this.kept, JSON.stringify({ id, input: this.input.value, thread: this.thread }));
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
    const { id, input, thread } = JSON.parse(kept);
    this.input.value = input;
    this.thread = thread ?? id;
    this.running = true;
    this.show("running", "Streaming");
    this.follow(id);
  }

  follow(id) {
    this.setButtons(this.run, this.stop);
    const leave = followRun(id, {
      start: () => this.transcript.rewind(),
      chunk: (value) => {
        this.clock?.chunk();
        this.show("running", "Streaming");
        this.transcript.add(value);
        this.questions.take(value);
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
    // An answer that did not get through, or did not fit, can be given again.
    if (state !== "done" && this.unanswered && this.questions.asked.size === 0) this.questions.asked = this.unanswered;
    const asks = this.questions.show(this.output.textContent);
    this.show(state, inWords(asks && state === "done" ? "asks" : state, message, this.clock));
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
  if (state === "asks") return `Waiting for your answer: stopped${clock ?? ""}`;
  if (state === "done") return `Done${clock ?? ""}`;
  if (state === "stopped") return "Stopped: the answer is not complete";
  if (state === "lost") return "Connection lost: the answer is not complete";
  if (state === "gone") return "The server no longer has this run";
  return `Error: ${message}`;
}
