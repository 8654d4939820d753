// The browser's session: begun with a key, which is sent once and kept nowhere.

const root = document.documentElement.dataset.root;

async function begin(form) {
  const state = form.querySelector(".state");
  state.textContent = "Signing in…";
  const response = await fetch(`${root}/session`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key: form.elements.key.value.trim() }),
  }).catch(() => null);
  if (response?.ok) return location.reload();
  const body = (await response?.json().catch(() => ({}))) ?? { detail: "The server cannot be reached" };
  state.textContent = typeof body.detail === "string" ? body.detail : "The key is not valid";
  form.elements.key.select();
}

async function end() {
  await fetch(`${root}/session`, { method: "DELETE" });
  location.reload();
}

document.querySelector("form.session")?.addEventListener("submit", (event) => {
  event.preventDefault();
  begin(event.target);
});
document.querySelector("[name=sign-out]")?.addEventListener("click", end);
