// The home page: runs a chain, shows its stream while it arrives, and asks what the chain asks.

import { Panel } from "./panel.js";
import "./session.js";

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
