// SPDX-License-Identifier: MIT
// A lesson's cells in the browser: a prediction is committed, and the answer in a later cell opens.
//
// Adds: forms that commit once, answers that wait for them, hints one by one. What was committed lives in the page; it
// is told to Python where a kernel listens (wire.js). Leaves out: what is right (question.py). No network.

const pvlPage = (window.pvmlabLesson ||= { given: new Map() });

function pvlId(data) {
  return `${data.token} ${data.name}`;
}

/** Tell all cells of the page, and whoever listens for Python. */
function pvlCommit(data, given) {
  pvlPage.given.set(pvlId(data), given);
  document.dispatchEvent(new CustomEvent("pvmlab-commit", { detail: { ...data, given } }));
}

/**
 * A part of a lesson keeps its keys. JupyterLab takes keys from the document before they come to what has the focus
 * (Enter, arrows, letters): so it listens at the window, while the focus is in it. What has Ctrl, Alt or Meta passes,
 * and Shift+Enter, which runs the cell.
 */
function pvlOn(root) {
  root.classList.add("pvl-on");
  function keep(event) {
    const passes = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey && event.key === "Enter";
    if (root.contains(event.target) && !passes && event.key !== "Escape") event.stopPropagation();
  }
  root.addEventListener("focusin", () => window.addEventListener("keydown", keep, true));
  root.addEventListener("focusout", () => window.removeEventListener("keydown", keep, true));
}

/** A question: its form is committed once. */
function pvlAsk(root, data) {
  pvlOn(root);
  const form = root.querySelector("form"), set = form.querySelector("fieldset"), said = form.querySelector(".pvl-said");
  function close() {
    set.disabled = true;
    said.textContent = "Committed. The kernel answers below, where the call is made.";
  }
  if (pvlPage.given.has(pvlId(data))) close();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = new FormData(form).getAll("given");
    close();
    said.tabIndex = -1;
    said.focus();
    const answer = data.kind === "number" ? String(Number(given[0])) : given.join(",");
    pvlCommit({ token: data.token, name: data.name }, answer);
  });
}

/** An answer: opens when the question is committed, or is opened without. */
function pvlReveal(root, data) {
  pvlOn(root);
  const details = root.querySelector("details"), told = root.querySelector(".pvl-told");
  function open(given) {
    const [right, text] = data.told[given] ?? data.told[""];
    told.innerHTML = text;
    root.dataset.right = right;
    root.querySelector("summary").textContent = right ? "✓ You predicted it." : "✗ The kernel does something else.";
    details.open = true;
  }
  const known = pvlPage.given.get(pvlId(data)) ?? data.given;
  if (known !== null) open(known);
  document.addEventListener("pvmlab-commit", (event) => {
    if (pvlId(event.detail) === pvlId(data)) open(event.detail.given);
  });
  root.querySelector(".pvl-next").addEventListener("click", () => {
    const all = [...document.querySelectorAll(".pvl-reveal")], next = all[all.indexOf(root) + 1];
    if (next) pvlGo(next);
  });
}

/** Bring an answer into view, opened. */
function pvlGo(reveal) {
  reveal.querySelector("details").open = true;
  reveal.querySelector("summary").focus({ preventScroll: true });
  reveal.scrollIntoView({ block: "start" });
}

/** The head of a lesson: a reviewer skips to the calls. */
function pvlHead(root) {
  pvlOn(root);
  root.querySelector(".pvl-skip").addEventListener("click", () => {
    const all = [...document.querySelectorAll(".pvl-reveal")];
    for (const reveal of all) reveal.querySelector("details").open = true;
    if (all.length) pvlGo(all[0]);
    else root.querySelector(".pvl-said").textContent = "No call has been made yet: run all cells first.";
  });
}
