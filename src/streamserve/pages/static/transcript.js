/** What a chain streamed: text, messages and JSON, each in a block that grows. */
export class Transcript {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.mark();
  }

  /** What is there now stays when a run is shown again from its start. */
  mark() {
    this.kept = this.element.childElementCount;
    this.current = { key: null };
  }

  rewind() {
    while (this.element.childElementCount > this.kept) this.element.lastElementChild.remove();
    this.current = { key: null };
  }

  /** Adds what the reader said, and keeps all that is there. */
  note(text) {
    this.append("answer", "answer", text, "you answered");
    this.mark();
  }

  add(chunk) {
    const { element } = this;
    const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    if (typeof chunk === "string") this.append("text", "text", chunk);
    else if (isMessage(chunk)) this.addMessage(chunk);
    else if (!isQuestion(chunk)) this.addJson(chunk);
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

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

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

function isQuestion(chunk) {
  return isObject(chunk) && "__interrupt__" in chunk && Object.keys(chunk).length === 1;
}

function textOf(content) {
  if (typeof content === "string") return content;
  return content.map((part) => (typeof part === "string" ? part : (part.text ?? ""))).join("");
}
