import { isObject } from "./transcript.js";

/** What a graph that stopped asks: each interrupt with its choices as buttons and a field for an answer. */
export class Questions {
  /**
   * @param {HTMLElement} element where they are shown; hidden while there are none
   * @param {(answers: Record<string, unknown>, said: string) => void} onAnswer takes the answers by interrupt id
   */
  constructor(element, onAnswer) {
    this.element = element;
    this.onAnswer = onAnswer;
    this.clear();
  }

  clear() {
    this.asked = new Map();
    this.element.hidden = true;
    this.element.replaceChildren();
  }

  /** Takes note of the interrupts in a chunk; a stream may tell of each more than once. */
  take(chunk) {
    if (!isObject(chunk) || !Array.isArray(chunk.__interrupt__)) return;
    for (const { id, value } of chunk.__interrupt__) this.asked.set(id, value);
  }

  /**
   * Asks; who asks for nothing is not asked.
   * @param {string} told what the page shows already and need not say again
   * @returns {boolean} whether there is a question
   */
  show(told) {
    if (this.asked.size === 0) return false;
    this.fields = [...this.asked].map(([id, value]) => this.open(id, value, told));
    this.element.append(button("Answer", () => this.send(), "primary"));
    this.element.hidden = false;
    return true;
  }

  open(id, value, told) {
    const field = Object.assign(document.createElement("input"), { name: "answer", id: `answer-${id}`, autocomplete: "off" });
    const label = Object.assign(document.createElement("label"), { htmlFor: field.id, textContent: textOf(value, told) });
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // it would run the chain anew
      this.send();
    });
    this.element.append(label);
    const choices = isObject(value) && Array.isArray(value.choices) ? value.choices : [];
    if (choices.length) this.element.append(this.choices(choices, field));
    this.element.append(field);
    return { id, field };
  }

  choices(choices, field) {
    const row = Object.assign(document.createElement("div"), { className: "actions" });
    const pick = (choice) => {
      field.value = typeof choice === "string" ? choice : JSON.stringify(choice);
      if (this.asked.size === 1) this.send();
    };
    row.append(...choices.map((choice) => button(plain(choice), () => pick(choice))));
    return row;
  }

  send() {
    const answered = this.fields.filter(({ field }) => field.value.trim());
    if (answered.length === 0) {
      this.fields[0].field.focus();
      return;
    }
    const said = answered.map(({ field }) => field.value.trim());
    this.onAnswer(Object.fromEntries(answered.map(({ id }, index) => [id, read(said[index])])), said.join("\n"));
  }
}

/** JSON where it is an object or list, else the text. */
function read(text) {
  if (!/^[[{]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function textOf(value, told) {
  if (!isObject(value)) return plain(value);
  const { choices: _choices, question, ...rest } = value;
  const news = Object.entries(rest).filter(([, item]) => !(typeof item === "string" && told.includes(item.trim())));
  const details = news.map(([name, item]) => `${name}: ${typeof item === "string" ? item : JSON.stringify(item, null, 2)}`);
  return [plain(question ?? "Your answer"), ...details].join("\n");
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function button(text, onclick, className = "") {
  return Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick, className });
}
