// SPDX-License-Identifier: MIT
// The figure that steps: what view.py describes, in the browser.
//
// Adds: steps by button and key, the list of changes to choose from, the lights on what belongs together, the same
// in words for a screen reader, text form, full screen.
// Leaves out: what is drawn (draw/), what belongs together and how that is said (view.py). No animation, no network.

/** Make an element; `has` are attributes, children are nodes or text. */
function pvmlabMake(tag, has, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(has)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Turn `root` into the figure. `at` is the stop to begin with; `told` is called with each stop that is gone to. */
function pvmlabView(root, figure, at = figure.start, told = () => {}) {
  const make = pvmlabMake, svgs = new Map(), places = new Map(figure.parts.map(([name], i) => [name, i]));
  const many = figure.stops.length > 1;
  let chosen = null; // {part: name}, {line: number} or null

  // The parts of the page

  const say = make("p", { class: "pv-said", role: "status" });
  const live = make("p", { class: "pv-live", role: "status", "aria-live": "polite" });
  const card = make("div", { class: "pv-card" });
  const limits = `min-width:${figure.least}px;max-width:${figure.width}px`;
  const sheet = make("div", { class: "pv-sheet", style: limits }, card);
  const text = make("pre", { tabindex: "0", "aria-label": "this step as text" });
  const back = button("◀", "the step before (left arrow)", () => go(at - 1));
  const on = button("▶", "the next step (right arrow)", () => go(at + 1));
  const tabs = figure.stops.map((stop, i) => button(stop.label, `step ${i + 1}: ${stop.label}`, () => go(i)));
  const marked = make("input", { type: "checkbox" });
  marked.checked = true;
  marked.addEventListener("change", () => draw());
  const full = button("full screen", "full screen, and back", () =>
    document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen());
  const lists = figure.stops.map(list);
  const bar = make("div", { class: "pv-bar", role: "toolbar", "aria-label": "steps of the figure" });
  if (many) bar.append(back, ...tabs, on, make("label", {}, marked, "mark changes: + new, – gone, ~ changed"));
  if (document.fullscreenEnabled) bar.append(full);
  const changes = make("div", { class: "pv-changes", role: "group", "aria-label": "what changed" }, ...lists);
  root.replaceChildren(bar, ...(figure.listed ? [changes] : []), say,
    make("div", { class: "pv-scroll" }, sheet),
    make("details", {}, make("summary", {}, "the same as text"), text), live);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", figure.stops.map((stop) => stop.label).join(", then "));
  root.tabIndex = -1;
  root.classList.add("pv-on");

  function button(label, title, action) {
    const made = make("button", { type: "button", title, "aria-label": title }, label);
    made.addEventListener("click", action);
    return made;
  }

  /** The list of one stop. All lists lie in the same place, so the figure below never moves. */
  function list(stop, i) {
    const lines = stop.lines.map((line, n) => {
      const sign = make("b", {}, line.sign);
      const made = make("button", { type: "button", "aria-pressed": "false" }, sign, " ", line.text);
      made.addEventListener("click", () => choose({ line: n }));
      return make("li", {}, made);
    });
    return make("ul", { "data-stop": i }, ...(lines.length ? lines : [make("li", { class: "pv-none" }, stop.nothing)]));
  }

  // Stepping

  function go(to) {
    to = Math.max(0, Math.min(figure.stops.length - 1, to));
    if (to === at) return;
    at = to;
    if (chosen && chosen.line !== undefined) chosen = null; // the lines are others now; a part may still be there
    draw();
    const stop = figure.stops[at], n = stop.lines.length;
    const count = !figure.listed ? "" : n ? `: ${n} change${n === 1 ? "" : "s"}. ` : `: ${stop.nothing}`;
    live.textContent = `step ${at + 1} of ${figure.stops.length}, ${stop.label}${count}` +
      stop.lines.slice(0, 2).map((line) => `${line.sign} ${line.text}`).join("; ");
    told(at);
  }

  /** Show the stop `at`. */
  function draw() {
    const stop = figure.stops[at], focused = root.ownerDocument.activeElement;
    const held = card.contains(focused) && focused.dataset.part;
    const inList = changes.contains(focused);
    card.replaceChildren(drawn(marked.checked ? stop.marked : stop.plain));
    tabs.forEach((tab, i) => i === at ? tab.setAttribute("aria-current", "step") : tab.removeAttribute("aria-current"));
    lists.forEach((each, i) => each.classList.toggle("pv-here", i === at));
    back.setAttribute("aria-disabled", at === 0);
    on.setAttribute("aria-disabled", at === figure.stops.length - 1);
    text.textContent = stop.text;
    light();
    if (held) (part(held) || root).focus({ preventScroll: true });
    else if (inList) (lists[at].querySelector("button") || root).focus({ preventScroll: true });
  }

  /** The drawing number n, made when it is first shown; its parts can be reached with Tab. */
  function drawn(n) {
    if (!svgs.has(n)) {
      const holder = make("div", {});
      holder.innerHTML = figure.svgs[n];
      const svg = holder.firstElementChild;
      svg.setAttribute("role", "group");
      for (const row of svg.querySelectorAll(".row")) {
        if (!places.has(row.dataset.part)) continue;
        row.setAttribute("role", "button");
        row.setAttribute("tabindex", "0");
        row.setAttribute("aria-label", [...row.querySelectorAll("text")].map((t) => t.textContent.trim()).join(", "));
      }
      svgs.set(n, svg);
    }
    return svgs.get(n);
  }

  // Lights

  function part(name) {
    return card.querySelector(`[data-part="${CSS.escape(name)}"]`);
  }

  function choose(what) {
    chosen = what;
    light();
    const lit = [...card.querySelectorAll(".pv-lit")];
    if (what && what.line !== undefined && lit.length && !lit.some(inSight))
      lit[0].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function inSight(node) {
    const { top, bottom, left, right } = node.getBoundingClientRect(), seen = card.parentElement.parentElement;
    const { left: from, right: to } = seen.getBoundingClientRect();
    return top >= 0 && bottom <= window.innerHeight && left >= from && right <= to;
  }

  /** Light what belongs to the chosen part or line, and say it. */
  function light() {
    const stop = figure.stops[at];
    for (const old of card.querySelectorAll(".pv-light")) old.remove();
    for (const old of card.querySelectorAll(".pv-lit")) old.classList.remove("pv-lit");
    for (const old of root.querySelectorAll("[aria-pressed]")) old.setAttribute("aria-pressed", "false");
    say.textContent = "";
    if (!chosen) return;
    if (chosen.line !== undefined) {
      const refs = new Set(stop.lines[chosen.line].refs);
      const lit = rows().filter((row) => row.dataset.refs.split(" ").some((ref) => refs.has(ref)));
      lit.forEach((row) => lamp(row));
      lists[at].querySelectorAll("button")[chosen.line].setAttribute("aria-pressed", "true");
      const count = lit.length === 1 ? "1 place" : `${lit.length || "no"} places`;
      say.textContent = `${stop.lines[chosen.line].text}: ${count} in the figure`;
    } else {
      const row = part(chosen.part), place = places.get(chosen.part);
      if (!row || !stop.kin[place]) {
        say.textContent = "What was chosen is not there at this step.";
        return;
      }
      for (const kin of stop.kin[place]) lamp(part(figure.parts[kin][0]), kin === place);
      row.setAttribute("aria-pressed", "true");
      say.textContent = stop.says[place];
    }
    edges();
  }

  function rows() {
    return [...card.querySelectorAll(".row")].filter((row) => places.has(row.dataset.part));
  }

  /** Put a rim around a row. The row begins where its ground begins; its height is the layout's. */
  function lamp(row, first = false) {
    if (!row) return;
    row.classList.add("pv-lit");
    const box = row.parentElement.firstElementChild, top = row.firstElementChild.getBBox().y;
    const rim = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const has = { x: box.getAttribute("x"), y: top, width: box.getAttribute("width"),
                  height: figure.parts[places.get(row.dataset.part)][1], rx: 3,
                  class: first ? "pv-light pv-first" : "pv-light" };
    for (const [name, value] of Object.entries(has)) rim.setAttribute(name, value);
    row.parentElement.append(rim);
  }

  /** Light the edges between lit rows; an edge may end at a box instead of a row. */
  function edges() {
    for (const edge of card.querySelectorAll(".edge")) {
      const ends = [edge.dataset.tail, edge.dataset.head].map(part);
      if (ends.every((end) => end && (end.matches(".pv-lit") || end.matches(".box") && end.querySelector(".pv-lit"))))
        edge.classList.add("pv-lit");
    }
  }

  // Keys and pointer

  card.addEventListener("focusin", (event) => {
    const row = event.target.closest(".row[role=button]");
    if (row) choose({ part: row.dataset.part });
  });
  card.addEventListener("click", (event) => {
    const row = event.target.closest(".row[role=button]");
    choose(row ? { part: row.dataset.part } : null);
  });
  // JupyterLab takes keys from the document before they come to the figure (Enter, arrows): so the figure listens at
  // the window, while the focus is in it, for the keys it knows. All others (save, copy …) stay what they are.
  const keys = {
    ArrowLeft: () => go(at - 1), ArrowRight: () => go(at + 1), Home: () => go(0), End: () => go(Infinity),
    Escape: () => choose(null),
  };
  const passed = ["Enter", " ", "ArrowUp", "ArrowDown"]; // the browser's own: press a button, scroll

  function pressed(event) {
    if (!root.contains(event.target) || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = event.target.closest(".row[role=button]"), reading = event.target === text && event.key !== "Escape";
    const action = row && passed.slice(0, 2).includes(event.key) ? () => choose({ part: row.dataset.part }) :
      !reading && keys[event.key];
    if (!action && !passed.includes(event.key) && !keys[event.key]) return;
    event.stopPropagation();
    if (!action) return;
    event.preventDefault();
    action();
  }
  root.addEventListener("focusin", () => window.addEventListener("keydown", pressed, true));
  root.addEventListener("focusout", () => window.removeEventListener("keydown", pressed, true));

  draw();
  return { go };
}

/** What anywidget calls. */
function render({ model, el }) {
  const root = pvmlabMake("div", { class: "pvmlab-view" });
  el.append(root);
  const view = pvmlabView(root, model.get("figure"), model.get("step"), (step) => {
    model.set("step", step);
    model.save_changes();
  });
  const follow = () => view.go(model.get("step"));
  model.on("change:step", follow);
  return () => model.off("change:step", follow);
}
