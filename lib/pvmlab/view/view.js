// SPDX-License-Identifier: MIT
// The figure that steps: what figure.py describes, in the browser.
//
// Adds: steps by button and key, panels to show and hide, the list of changes to choose from, lights on what belongs
// together, all that is known of a part, what is folded as a list to page through, the reverse-map walk one visit at a
// time, the same in words for a screen reader, text form, full screen, presenter's notes, a link to a step.
// Leaves out: what is drawn (draw/), what belongs together and how that is said (figure.py), what a list holds
// (unfold.js). No animation, no network.

/** Make an element; `has` are attributes, children are nodes or text. */
function pvmlabMake(tag, has, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(has)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const PVMLAB_PANELS = { changes: "what changed", scale: "to scale", spaces: "VMAs", tables: "page tables",
  frames: "frames", forest: "anon_vma forest", walk: "reverse-map walk", counters: "counters" };
const PVMLAB_COLUMNS = { spaces: ["spaces"], tables: ["path", "entries"], frames: ["entries", "frames"] };
const PVMLAB_HINT = "Choose a part (click, or Tab to its panel and ↑ ↓): what belongs to it lights up. Point at one " +
  "to read what it says. Keys: ← → Home End step, Enter lists what a part stands for, W walks, F fills the screen, " +
  "Escape lets go.";
const PVMLAB_PLACES = ".row[role=button], li > button"; // what ↑ and ↓ go to in a panel, and in the list of changes
const PVMLAB_ELSEWHERE = "…"; // the sign of the line that is the heading of all lines after it
const PVMLAB_PAGE = 40; // lines of a list that are shown at once

/** Turn `root` into the figure. `at` is the stop to begin with; `told` is called with each stop that is gone to. */
function pvmlabView(root, figure, at = figure.start, told = () => {}) {
  const make = pvmlabMake, SVG = "http://www.w3.org/2000/svg";
  const many = figure.stops.length > 1, crowded = figure.stops.length > 8;
  const open = new Set(figure.open), whole = new Set(); // whole: panels of which all is shown
  let chosen = null; // {part: number}, {line: number}, {walk: number} or null
  let trail = []; // lists that are open, each opened from the one before: {opens, step, from, picked}
  const unfolded = new Map(); // by step
  let scale = 1, desk = null, eye = null;

  // The parts of the page

  const say = make("p", { class: "pv-said", role: "status" });
  const facts = make("dl", { class: "pv-facts" });
  const live = make("p", { class: "pv-live", role: "status", "aria-live": "polite" });
  const text = make("pre", { tabindex: "0", "aria-label": "this step as text" });
  const wheres = figure.stops.map((stop, i) => make("p", { class: "pv-where" },
    make("strong", {}, many ? `${i + 1}/${figure.stops.length} ` : ""), stop.title,
    ...stop.where.map((line) => make("span", { class: "pv-inside" }, line))));
  const where = make("div", { class: "pv-each" }, ...wheres);
  const jotted = figure.stops.map((stop) =>
    make("p", { class: "pv-note", role: "note", "aria-label": "presenter's note" }, stop.note));
  const note = make("div", { class: "pv-each", hidden: "" }, ...jotted);
  const back = button("◀", "the step before (left arrow)", () => go(at - 1));
  const on = button("▶", "the next step (right arrow)", () => go(at + 1));
  const tabs = crowded ? [] : figure.stops.map((stop, i) =>
    button(stop.label, `step ${i + 1}: ${stop.label}`, () => go(i)));
  const slider = make("input", { type: "range", min: 1, max: figure.stops.length, "aria-label": "step" });
  slider.addEventListener("input", () => go(slider.value - 1));
  const marked = make("input", { type: "checkbox" });
  marked.checked = true;
  marked.addEventListener("change", () => draw());
  const lists = figure.stops.map(list);
  const changes = make("div", { class: "pv-changes", role: "group", "aria-label": "what changed" }, ...lists);
  const more = button("", "", () => changes.scrollBy({ top: changes.clientHeight - 30 }));
  const listing = make("div", { class: "pv-listed" }, changes, more);
  const panels = new Map(figure.panels.map((panel) => [panel.name, section(panel)]));
  const card = make("div", { class: "pv-card" }, ...[...panels.values()].map((panel) => panel.node));
  const toggles = new Map(Object.entries(PVMLAB_PANELS).filter(has).map(([name, title]) =>
    [name, button(title, `show or hide: ${title}`, () => toggle(name))]));
  const bar = make("div", { class: "pv-bar", role: "toolbar", "aria-label": "steps of the figure" });
  if (many) bar.append(back, ...(crowded ? [slider] : tabs), on, make("label", {}, marked, "mark changes"));
  const last = make("span", { class: "pv-end" });
  if (figure.stops.some((stop) => stop.note)) last.append(button("notes", "presenter's notes here (N)", () => notes()),
    button("notes in a window", "presenter's notes in a window of their own", () => away()));
  if (many) last.append(button("link", "copy a link to this step", () => link()));
  const fill = button("full screen", "full screen, and back (F)", () => full());
  if (document.fullscreenEnabled) last.append(fill);
  bar.append(last);
  const shows = make("div", { class: "pv-bar pv-shows", role: "toolbar", "aria-label": "panels of the figure" },
    "show ", ...toggles.values());
  const top = make("div", { class: "pv-top" }, bar, where, note);
  const tip = make("div", { class: "pv-tip", "aria-hidden": "true", hidden: "" });
  const region = { class: "pv-foot", role: "region", "aria-label": "what is chosen", tabindex: "0" };
  const unfold = button("", "", () => openPart(chosen.part));
  const drawer = make("div", { class: "pv-list", role: "group", "aria-label": "list", hidden: "" });
  const foot = make("div", region, unfold, say, facts, drawer);
  unfold.className = "pv-unfold";
  more.className = "pv-more";
  more.tabIndex = -1; // with the arrows one comes to all lines
  changes.addEventListener("scroll", rest, { passive: true });
  if (root.firstElementChild) root.after(make("div", { class: "pvmlab-plain" }, ...root.childNodes)); // for print
  root.replaceChildren(top, shows, ...(figure.listed ? [listing] : []), make("div", { class: "pv-scroll" }, card),
    make("details", {}, make("summary", {}, "the same as text"), text),
    make("div", { class: "pv-room" }, foot), tip, live);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", `figure: ${figure.stops.map((stop) => stop.label).join(", then ")}`);
  root.tabIndex = -1;
  root.classList.add("pv-on");
  root.classList.toggle("pv-film", figure.stops.some((stop) => stop.where.length));
  const named = [...document.querySelectorAll(`[data-figure="${figure.name}"]`)];
  const twin = named.filter((other) => other !== root).length;
  const address = `#${figure.name}${twin ? `~${twin + 1}` : ""}@`;
  root.dataset.figure = figure.name;

  function button(label, title, action) {
    const made = make("button", { type: "button", title, "aria-label": title }, label);
    made.addEventListener("click", action);
    return made;
  }

  /** Whether the figure has anything to show under the name of a panel. */
  function has([name]) {
    return name === "changes" ? figure.listed : name in PVMLAB_COLUMNS ? panels.has("translation") : panels.has(name);
  }

  /** The list of one stop. All lists lie in the same place, so the figure below never moves. */
  function list(stop, i) {
    const lines = stop.lines.map((line, n) => {
      const sign = make("b", {}, line.sign);
      const has = { type: "button", "aria-pressed": "false", tabindex: n ? -1 : 0 };
      const made = make("button", has, sign, " ", line.text);
      made.addEventListener("click", () => choose({ line: n }));
      return make("li", {}, made);
    });
    const heading = stop.lines.findIndex((line) => line.sign === PVMLAB_ELSEWHERE);
    if (heading >= 0) fold(lines[heading].firstChild, lines.slice(heading + 1));
    return make("ul", { "data-stop": i }, ...(lines.length ? lines : [make("li", { class: "pv-none" }, stop.nothing)]));
  }

  /** The lines under a heading are hidden until it is pressed. */
  function fold(heading, lines) {
    const open = (now) => {
      heading.setAttribute("aria-expanded", now);
      for (const line of lines) line.hidden = !now;
    };
    heading.addEventListener("click", () => {
      open(heading.getAttribute("aria-expanded") === "false");
      rest();
    });
    open(false);
  }

  /** Say how many lines of the list lie below what can be seen of it. */
  function rest() {
    const { bottom } = changes.getBoundingClientRect();
    const below = [...lists[at].children].filter((line) => line.getBoundingClientRect().bottom > bottom + 3).length;
    more.hidden = !below;
    more.textContent = `▾ ${below} more`;
    more.title = `${below} more changes, further down in the list`;
    more.setAttribute("aria-label", more.title);
  }

  /** A panel: its title and caption, the drawing, notes below. */
  function section(panel) {
    const title = make("strong", {}, panel.title), head = make("div", { class: "pv-head" }, title);
    const svg = document.createElementNS(SVG, "svg"), sheet = make("div", { class: "pv-sheet" }, svg);
    svg.setAttribute("role", "group");
    if (panel.name === "walk" && figure.stops.some((stop) => stop.walk.length)) head.append(
      button("◀", "one visit back (Shift W)", () => stroll(-1)), button("walk ▶", "one visit on (W)", () => stroll(1)));
    if (panel.most) {
      head.append(button("", "", () => {
        whole.has(panel.name) ? whole.delete(panel.name) : whole.add(panel.name);
        draw();
      }));
    }
    const about = { class: "pv-panel", "data-panel": panel.name, role: "group", "aria-label": panel.title };
    const folds = panel.folds.map(([n, line]) => make("button", { type: "button", class: "row fold pv-fold",
      role: "button", "data-part": n, tabindex: "-1" }, line));
    const node = make("section", about, head, make("p", { class: "pv-caption" }, panel.caption), sheet, ...folds,
      ...panel.notes.map((line) => make("p", { class: "pv-caption" }, line)));
    const folded = new Map(folds.map((fold) => [Number(fold.dataset.part), fold]));
    return { node, svg, title, panel, folded, rows: new Map(), drawn: new Map() };
  }

  // Stepping

  function go(to) {
    to = Math.max(0, Math.min(figure.stops.length - 1, to));
    if (to === at) return;
    at = to;
    told(at); // before anything is drawn: whoever follows the steps is to know in any case
    if (chosen && chosen.part === undefined) chosen = null; // lines and walk are others now; a part may still be there
    trail = trail.map((each) => ({ ...each, picked: null }));
    changes.scrollTop = 0;
    draw();
    const stop = figure.stops[at], n = stop.lines.filter((line) => line.sign !== PVMLAB_ELSEWHERE).length;
    const count = !figure.listed ? "" : n ? `: ${n} change${n === 1 ? "" : "s"}. ` : `: ${stop.nothing}`;
    live.textContent = `step ${at + 1} of ${figure.stops.length}, ${stop.label}${count}` +
      [...stop.lines.slice(0, 2).map((line) => `${line.sign} ${line.text}`), ...stop.where].join("; ");
  }

  /** Show the stop `at`. */
  function draw() {
    const stop = figure.stops[at], focused = root.ownerDocument.activeElement;
    root.classList.toggle("pv-start", at === figure.start);
    const held = card.contains(focused) && focused.dataset.part, inList = changes.contains(focused);
    const drawings = marked.checked ? stop.marked : stop.plain;
    const wide = [...panels.values()].map((each) => show(each, drawings[each.panel.name]));
    card.style.minWidth = `${Math.max(...wide)}px`;
    tabs.forEach((tab, i) => i === at ? tab.setAttribute("aria-current", "step") : tab.removeAttribute("aria-current"));
    slider.value = at + 1;
    slider.setAttribute("aria-valuetext", `${at + 1} of ${figure.stops.length}: ${stop.label}`);
    for (const all of [lists, wheres, jotted]) all.forEach((each, i) => each.classList.toggle("pv-here", i === at));
    changes.tabIndex = lists[at].querySelector("button") ? -1 : 0; // it may scroll although there is nothing to press
    listing.hidden = !open.has("changes");
    for (const [name, made] of toggles) made.setAttribute("aria-pressed", open.has(name));
    back.setAttribute("aria-disabled", at === 0);
    on.setAttribute("aria-disabled", at === figure.stops.length - 1);
    text.textContent = figure.lists[stop.text].map((n) => figure.words[n]).join("\n");
    tell();
    try {
      light();
    } finally { // the keys work in any case; after the lights, for the browser then lays out the page once
      if (held) (part(held) || root).focus({ preventScroll: true });
      else if (inList) (lists[at].querySelector("button") || root).focus({ preventScroll: true });
    }
    panels.forEach(settle);
    rest();
    (window.requestIdleCallback || setTimeout)(prepare);
  }

  const isOpen = ({ panel }) => panel.name === "translation"
    ? Object.keys(PVMLAB_COLUMNS).some((name) => open.has(name)) : open.has(panel.name);

  /** Show a panel's drawing; return its width in pixels. */
  function show(each, pieces = []) {
    const { panel, node, svg } = each;
    node.hidden = !isOpen(each);
    if (node.hidden) return 0;
    const { left, width } = spread(panel), height = panel.most && !whole.has(panel.name) ? panel.most : panel.height;
    lay(each, pieces);
    if (panel.most) cut(svg, height);
    columns(each, left);
    const [wide, tall] = [width, height].map((units) => Math.round(units * scale));
    const size = { viewBox: `-1 -1 ${width} ${height}`, width: wide, height: tall };
    for (const [what, value] of Object.entries(size)) // the same again would lay out all of it
      if (svg.getAttribute(what) !== String(value)) svg.setAttribute(what, value);
    return wide;
  }

  /** Put the pieces of a drawing into its panel. What two stops have in common stays, and is not laid out again. */
  function lay(each, pieces) {
    const { svg } = each, made = pieces.map((n) => piece(each, n)), nodes = made.map(({ node }) => node);
    const stay = new Set(nodes);
    for (const node of [...svg.children]) if (!stay.has(node)) node.remove();
    made.forEach(({ node, rows }, i) => {
      if (svg.children[i] === node) return;
      if (node.parentNode !== svg) for (const { row } of rows) row.setAttribute("tabindex", "-1");
      svg.insertBefore(node, svg.children[i] || null);
    });
    each.rows = new Map(made.flatMap(({ rows }) => rows.map(({ n, row }) => [n, row])));
    for (const { rows } of made) rows.forEach(name);
  }

  /** A piece of a drawing, made when it is first needed: its node, and its rows with their numbers and marks. */
  function piece({ drawn }, n) {
    if (!drawn.has(n)) {
      const draft = document.createElementNS(SVG, "svg");
      draft.innerHTML = figure.pieces[n];
      const node = draft.firstElementChild, rows = [...node.querySelectorAll(".row[data-part]")].map((row) =>
        ({ n: Number(row.dataset.part), row, marks: [...row.querySelectorAll(".badge")].map((e) => e.textContent) }));
      drawn.set(n, { node, rows });
    }
    return drawn.get(n);
  }

  /** What can be chosen at this stop is a button that says what it is. */
  function name({ n, row, marks }) {
    const stop = figure.stops[at], label = n in stop.says ? [called(n, stop), ...marks].join(", ") : null;
    if (row.getAttribute("aria-label") === label) return;
    if (label === null) return ["role", "tabindex", "aria-label"].forEach((each) => row.removeAttribute(each));
    row.setAttribute("role", "button");
    row.setAttribute("aria-label", label);
    if (!row.hasAttribute("tabindex")) row.setAttribute("tabindex", "-1");
  }

  /** Make what the next stops need while nobody waits for it. */
  function prepare() {
    for (const stop of [figure.stops[at + 1], figure.stops[at - 1]])
      for (const each of stop ? panels.values() : [])
        if (isOpen(each)) ((marked.checked ? stop.marked : stop.plain)[each.panel.name] || []).forEach((n) => piece(each, n));
  }

  /** Leave out the bars below a height: nobody is to come to what cannot be seen. */
  function cut(svg, height) {
    for (const box of svg.querySelectorAll(".box"))
      box.style.display = Number(box.querySelector("rect").getAttribute("y")) < height ? "" : "none";
  }

  /** What a part is, without what belongs to it. */
  const called = (n, stop = figure.stops[at]) => figure.words[stop.says[n]].split(". ")[0];

  /** Which columns of a panel are shown. */
  const columnsOpen = () => new Set(Object.keys(PVMLAB_COLUMNS).filter((name) => open.has(name))
    .flatMap((name) => PVMLAB_COLUMNS[name]));

  /** How far the columns of a panel go left, and its width. The same sum as Placed.shifts() in layout.py. */
  function spread(panel) {
    const order = Object.entries(panel.columns).sort((a, b) => a[1][0] - b[1][0]), shown = columnsOpen(), left = {};
    let before = null, hidden = false, width = panel.width;
    for (const [name, [from, to]] of order) {
      if (!shown.has(name)) { hidden = true; continue; }
      left[name] = before === null ? from
        : left[before] + (hidden ? Math.max(from - panel.columns[before][1] - figure.close, 0) : 0);
      width = to - left[name] + 4;
      [before, hidden] = [name, false];
    }
    return { left, width };
  }

  /** Move and hide the columns of a drawing, where they are not as they were. */
  function columns({ panel, title, svg }, left) {
    const names = Object.keys(PVMLAB_COLUMNS).filter((name) => open.has(name)), shown = columnsOpen();
    if (!Object.keys(panel.columns).length) return;
    const key = names.join();
    const words = names.map((name) => PVMLAB_PANELS[name]).join(" → ").replace(/^[a-z]/, (c) => c.toUpperCase());
    if (title.textContent !== words) title.textContent = words;
    for (const node of svg.children) {
      const { column, between, columns } = node.dataset;
      if (columns === key || !(column || between)) continue;
      const [tail, head, direct] = between ? between.split(" ") : [column, column];
      node.dataset.columns = key;
      node.style.display = shown.has(tail) && shown.has(head) && !(direct && shown.has("path")) ? "" : "none";
      node.setAttribute("transform", `translate(${-((direct ? left.spaces : left[head]) || 0)} 0)`);
    }
  }

  function toggle(name, force) {
    (force === undefined ? open.has(name) : !force) ? open.delete(name) : open.add(name);
    draw();
    live.textContent = `${PVMLAB_PANELS[name]}: ${open.has(name) ? "shown" : "hidden"}`;
    fit();
  }

  // By Tab one comes to one place of each panel, and from there with ↑ and ↓ to all

  const group = (node) => node.closest(".pv-panel, .pv-changes ul");
  const places = (panel) => [...panel.querySelectorAll(PVMLAB_PLACES)].filter((node) => node.getClientRects().length);

  /** Make a place the one that Tab comes to in its panel. */
  function rove(node) {
    if (!node) return;
    const mine = group(node), panel = panels.get(mine.dataset.panel);
    for (const other of mine.querySelectorAll(`:is(${PVMLAB_PLACES})[tabindex="0"]`))
      other.setAttribute("tabindex", "-1");
    node.setAttribute("tabindex", "0");
    if (panel) panel.last = node.dataset.part;
  }

  /** In a panel that shows another drawing, or other columns: the place where one was last, or the first. */
  function settle(each) {
    const seen = (row) => row?.getClientRects().length ? row : null;
    if (isOpen(each) && !seen(each.node.querySelector(".row[tabindex='0']")))
      rove(seen(part(each.last)) || places(each.node)[0]);
  }

  /** Go on to another place of the same panel. */
  function along(node, by) {
    const all = places(group(node));
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(node) + by))].focus();
  }

  // Lights

  function part(n) {
    for (const { rows, folded } of panels.values()) {
      const row = rows.get(Number(n)) || folded.get(Number(n));
      if (row) return row;
    }
    return null;
  }

  /** `opened`: the lists that are open then. */
  function choose(what, opened = []) {
    if (!what || !chosen || what.part === undefined || what.part !== chosen.part) trail = opened;
    chosen = what;
    if (what && what.part === undefined) reveal(what);
    light();
    const lit = [...card.querySelectorAll(".pv-lit")].filter((row) => row.getClientRects().length);
    if (what && what.part === undefined && lit.length && !lit.some(inSight))
      lit[0].scrollIntoView({ block: "center", inline: "nearest" });
  }

  /** Show the panel that a line or a step of the walk is about, if none of its places is in one that is shown. */
  function reveal(what) {
    const places = what.line !== undefined ? figure.stops[at].lines[what.line].places : [];
    if (!places.length || places.some((n) => part(n)?.getClientRects().length)) return;
    for (const each of panels.values()) {
      const pieces = figure.stops[at].marked[each.panel.name] || [];
      if (!pieces.some((p) => places.some((n) => figure.pieces[p].includes(`data-part="${n}"`)))) continue;
      if (each.panel.most && open.has(each.panel.name)) whole.add(each.panel.name);
      toggle(each.panel.name === "translation" ? "tables" : each.panel.name, true);
      return;
    }
  }

  function inSight(node) {
    const { top: from, bottom: to } = node.getBoundingClientRect(), [high, low] = sight();
    return from >= high + top.offsetHeight && to <= low - 40;
  }

  /** Light what belongs to the chosen part, line or visit. */
  function light() {
    for (const old of card.querySelectorAll(".pv-light")) old.remove();
    for (const old of card.querySelectorAll(".pv-lit")) old.classList.remove("pv-lit");
    for (const old of root.querySelectorAll(".row[aria-pressed], .pv-changes [aria-pressed]"))
      old.setAttribute("aria-pressed", "false");
    peek(null);
    lightChosen();
    edges();
    offers();
    speak();
  }

  function lightChosen() {
    const stop = figure.stops[at];
    if (!chosen) return;
    if (chosen.line !== undefined) {
      stop.lines[chosen.line].places.forEach((n) => lamp(part(n)));
      lists[at].querySelectorAll("button")[chosen.line].setAttribute("aria-pressed", "true");
    } else if (chosen.walk !== undefined) {
      stop.walk[chosen.walk][0].forEach((n, i) => lamp(part(n), i === 0));
    } else if (picked()) {
      picked().lit.forEach((n) => lamp(part(n)));
    } else if (part(chosen.part) && chosen.part in stop.kin) {
      for (const n of figure.lists[stop.kin[chosen.part]]) lamp(part(n), n === chosen.part);
      part(chosen.part).setAttribute("aria-pressed", "true");
    }
  }

  /** The buttons of panels that leave bars out: how many there are, and how many of those left out are lit. */
  function offers() {
    for (const { node, panel } of panels.values()) {
      if (!panel.most) continue;
      const all = node.querySelector(".pv-head button"), out = [...node.querySelectorAll(".box")].filter((box) =>
        box.style.display === "none" && box.querySelector(".pv-lit")).length;
      const words = whole.has(panel.name) ? "show fewer" : `show all ${panel.count}`;
      const lit = out ? `, ${out} more ${out === 1 ? "is" : "are"} lit` : "";
      all.textContent = words + lit;
      all.title = `${words} processes${lit}`;
      all.setAttribute("aria-label", all.title);
      all.classList.toggle("pv-lit", out > 0);
    }
  }

  /** Say what is chosen. */
  function speak() {
    const stop = figure.stops[at];
    facts.replaceChildren();
    unfold.hidden = true;
    if (!chosen) say.textContent = PVMLAB_HINT;
    else if (chosen.line !== undefined) {
      const line = stop.lines[chosen.line], n = line.places.length;
      say.textContent = `${line.text}: ${n === 1 ? "1 place" : `${n || "no"} places`} in the figure`;
    } else if (chosen.walk !== undefined) {
      const [lit, words] = stop.walk[chosen.walk];
      say.textContent = `${chosen.walk + 1}/${stop.walk.length} ${figure.words[words]}`;
      facts.append(...(picked() ? terms(picked().facts) : known(lit[0])));
    } else if (!(chosen.part in stop.says) || !part(chosen.part))
      say.textContent = "What was chosen is not there at this step.";
    else {
      const words = figure.words[stop.says[chosen.part]];
      say.textContent = trail.length ? words.split(". ")[0] : words;
      facts.append(...(picked() ? terms(picked().facts) : known(chosen.part)));
      const all = trail.length ? null : listOf(chosen.part);
      unfold.hidden = !all || !all.list.count;
      if (all) unfold.textContent = `list: ${all.list.title} ▸`;
    }
    if (!chosen || chosen.line !== undefined || chosen.part !== undefined && !part(chosen.part)) trail = [];
    unroll();
    foot.classList.toggle("pv-idle", !chosen);
    if (chosen) foot.parentElement.classList.add("pv-used"); // and it keeps that room: what is below stays put
    stick();
  }

  const terms = (facts) => facts.map(([term, words]) => make("div", {}, make("dt", {}, term), make("dd", {}, words)));

  /** All that is known of a part: terms and words; of a folded line, what it begins with. */
  function known(n) {
    const words = (figure.lists[figure.stops[at].details[n]] || []).map((w) => figure.words[w]);
    const all = !words.length && listOf(n);
    if (all) return terms(all.list.items(0, 5).map((item, i) => [`${i + 1}.`, all.from.line(item).line]));
    return terms(words.flatMap((word, i) => i % 2 ? [] : [[word, words[i + 1]]]));
  }

  // Lists of what a part stands for

  /** The lists of a step, made when they are first needed. */
  function stepLists(step) {
    if (!unfolded.has(step)) unfolded.set(step, pvmlabUnfold(figure, step));
    return unfolded.get(step);
  }

  /** The list that something opens; one that holds a single thing is passed over for what that opens. The list of
   *  those that map a frame holds entries that open the same list: it ends there. */
  function listOf(n, opens = (figure.opens || {})[n]) {
    if (!opens) return null;
    const stop = figure.stops[at], from = stepLists(stop.gone.includes(Number(n)) ? stop.was : stop.at);
    const list = from.list(opens), only = list.count === 1 && from.line(list.items(0, 1)[0]).opens;
    return only && !same(only, opens) ? listOf(n, only) : { list, from, opens };
  }

  /** What is picked in the list that is open. */
  function picked() {
    const here = trail[trail.length - 1], all = shown(); // which may say that it is there no more
    return all && here.picked !== null ? all.from.one(all.list.items(here.picked, here.picked + 1)[0]) : null;
  }

  function shown() {
    const here = trail[trail.length - 1];
    const all = here && listOf(chosen.part, here.opens);
    if (all && here.picked >= all.list.count) here.picked = null;
    return all;
  }

  function openPart(n) {
    if (!listOf(n)?.list.count) return;
    choose({ part: n });
    enter((figure.opens || {})[n]);
    const { top: from, bottom: to } = part(n).getBoundingClientRect(), [high, low] = sight();
    if (from < high + top.offsetHeight || to > low - foot.offsetHeight) part(n).scrollIntoView({ block: "center" });
    stick();
  }

  function enter(opens) {
    trail.push({ opens, from: 0, picked: null });
    turn(0);
  }

  /** Show the page of the list that begins with item `from`, and go there. */
  function turn(from, at = from) {
    const here = trail[trail.length - 1], { list } = shown();
    here.from = Math.max(0, Math.min(from, Math.floor((list.count - 1) / PVMLAB_PAGE) * PVMLAB_PAGE));
    pick(list.count ? Math.min(Math.max(at, here.from), list.count - 1) : null);
    live.textContent = drawer.querySelector(".pv-count").textContent;
  }

  function pick(i) {
    trail[trail.length - 1].picked = i;
    const visit = chosen.walk === undefined ? -1 : figure.stops[at].walk.findIndex(([, , item]) => item === i);
    if (visit >= 0 && trail.length === 1) chosen = { walk: visit };
    light();
    drawer.querySelector(`[data-item="${i}"]`)?.focus();
  }

  /** One list back, and in the end to the part. */
  function leave() {
    const n = chosen.part;
    trail.pop();
    light();
    if (!trail.length) return (part(n) || root).focus({ preventScroll: true });
    drawer.querySelector(`[data-item="${trail[trail.length - 1].picked}"]`)?.focus();
  }

  /** Show the list that is open. */
  function unroll() {
    const here = trail[trail.length - 1], all = here && shown();
    drawer.hidden = !all;
    foot.classList.toggle("pv-listing", Boolean(all));
    if (!all) return drawer.replaceChildren();
    const { list, from, opens } = all, to = Math.min(here.from + PVMLAB_PAGE, list.count), first = here.from;
    const key = [JSON.stringify(trail.map((each) => each.opens)), first, at, list.count].join();
    if (drawer.dataset.key !== key || !drawer.firstChild) {
      drawer.dataset.key = key;
      const count = make("span", { class: "pv-count" }, `${list.title}: ${list.count ? first + 1 : 0} to ${to}`);
      const bar = make("div", { class: "pv-bar" }, button("◂ back", "one list back (Escape)", leave), count);
      if (first > 0) bar.append(button(`◀ ${PVMLAB_PAGE} before`, "the page before (Page Up)",
        () => turn(first - PVMLAB_PAGE)));
      if (to < list.count) bar.append(button(`${Math.min(PVMLAB_PAGE, list.count - to)} more ▶`,
        "the next page (Page Down)", () => turn(to)));
      drawer.replaceChildren(bar, make("ol", { start: first + 1 }, ...list.items(first, to).map((item, i) =>
        make("li", {}, ...line(from.line(item), first + i, opens)))));
    }
    for (const each of drawer.querySelectorAll("[data-item]"))
      each.setAttribute("aria-pressed", Number(each.dataset.item) === here.picked);
  }

  const same = (opens, others) => String(opens) === String(others);

  /** A line of the list that `here` opened. One that opens this very list does not: an entry among those that map its
   *  frame. */
  function line({ line, opens }, i, here) {
    const made = make("button", { type: "button", "data-item": i, "aria-pressed": "false" }, line);
    made.addEventListener("click", () => pick(i));
    if (!opens || same(opens, here)) return [made];
    made.addEventListener("dblclick", () => enter(opens));
    const more = make("button", { type: "button", title: "what this stands for (Enter)", tabindex: "-1",
      "aria-label": `list: ${line}` }, "▸");
    more.addEventListener("click", () => { pick(i); enter(opens); });
    return [made, more];
  }

  /** Say what is pointed at, beside it. */
  function peek(row) {
    tip.hidden = !row || chosen && chosen.part === Number(row.dataset.part); // that stands below already
    if (tip.hidden) return;
    const n = Number(row.dataset.part), box = row.getBoundingClientRect(), home = root.getBoundingClientRect();
    tip.replaceChildren(make("strong", {}, called(n)),
      make("dl", { class: "pv-facts" }, ...known(n)));
    const [high, low] = sight(), below = low - box.bottom > tip.offsetHeight + 8 || low - box.bottom > box.top - high;
    tip.style.left = `${Math.max(0, Math.min(box.left - home.left, home.width - tip.offsetWidth))}px`;
    tip.style.top = `${(below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) - home.top + root.scrollTop}px`;
  }

  /** Put a rim around a row: its ground is its first child. */
  function lamp(row, first = false) {
    if (!row) return;
    row.classList.add("pv-lit");
    if (!(row instanceof SVGElement)) return; // a folded line below the drawing
    const rim = document.createElementNS(SVG, "rect");
    for (const name of ["x", "y", "width", "height"]) rim.setAttribute(name, row.firstElementChild.getAttribute(name));
    rim.setAttribute("rx", 3);
    rim.setAttribute("class", first ? "pv-light pv-first" : "pv-light");
    row.parentElement.append(rim);
  }

  /** Light the edges between lit rows; an edge that ends at a box is lit with any row of it. */
  function edges() {
    const lit = (n) => {
      const row = part(n);
      return row && (row.matches(".pv-lit") || row === row.parentElement.querySelector(".row") &&
        row.parentElement.querySelector(".pv-lit"));
    };
    for (const edge of card.querySelectorAll(".edge"))
      if (lit(edge.dataset.tail) && lit(edge.dataset.head)) edge.classList.add("pv-lit");
  }

  /** The reverse-map walk, one visit on or back. */
  function stroll(by) {
    const visits = figure.stops[at].walk;
    if (!visits.length) return;
    const now = chosen && chosen.walk !== undefined ? chosen.walk : by > 0 ? -1 : visits.length;
    if (!open.has("walk")) toggle("walk", true);
    const to = Math.max(0, Math.min(visits.length - 1, now + by)), [[first], , item] = visits[to];
    const folded = item !== null; // then it is a line of the list that its fold opens
    choose({ walk: to }, folded ? [{ opens: figure.opens[first], from: item - item % PVMLAB_PAGE, picked: item }] : []);
    drawer.querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest" });
  }

  // In a room

  function full() {
    document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen();
  }

  function notes() {
    note.hidden = !note.hidden;
    stick();
  }

  /** Notes, and what comes next, in a window that follows the steps. */
  function away() {
    desk = window.open("", `pvmlab-${figure.name}`, "popup,width=560,height=420");
    tell();
  }

  function tell() {
    if (!desk || desk.closed) return;
    const stop = figure.stops[at], next = figure.stops[at + 1], page = desk.document;
    page.title = `notes: ${stop.label}`;
    page.body.style.font = "20px/1.4 system-ui, sans-serif";
    page.body.replaceChildren(make("h1", {}, stop.label), make("p", {}, stop.note || "no note for this step"),
      make("ul", {}, ...stop.lines.slice(0, 6).map((line) => make("li", {}, `${line.sign} ${line.text}`))),
      make("p", {}, next ? `next: ${next.label}` : "this is the last step"));
  }

  /** Name the step in the address bar, and copy the address. */
  function link() {
    history.replaceState(history.state, "", address + (at + 1));
    const done = () => { live.textContent = say.textContent = `link to step ${at + 1}: ${location.href}`; };
    navigator.clipboard ? navigator.clipboard.writeText(location.href).then(done, done) : done();
  }

  /** Go where the address bar says; whether it says anything of this figure. */
  function arrive() {
    const hash = decodeURIComponent(location.hash);
    if (!hash.startsWith(address)) return false;
    go(Number(hash.slice(address.length)) - 1 || 0);
    root.scrollIntoView();
    return true;
  }

  // Room, and what stays in sight

  /** Upper and lower edge of what can be seen of the figure, whatever scrolls around it. */
  function sight() {
    let { top: high, bottom: low } = root.getBoundingClientRect();
    high = Math.max(high, 0);
    low = Math.min(low, window.innerHeight);
    for (let node = root.parentElement; node && document.fullscreenElement !== root; node = node.parentElement) {
      if (!/auto|scroll|hidden/.test(getComputedStyle(node).overflowY)) continue;
      const box = node.getBoundingClientRect();
      if (node === document.body || node === document.documentElement || box.height > window.innerHeight * 4) continue;
      [high, low] = [Math.max(high, box.top), Math.min(low, box.bottom)];
    }
    return [high, low];
  }

  /** Keep the steps at the upper edge of what is seen, and what is chosen at the lower. */
  function stick() {
    const box = root.getBoundingClientRect(), [high, low] = sight(), inner = box.height - foot.offsetHeight;
    const scrolls = root.scrollHeight > root.clientHeight + 1; // in full screen
    const shift = scrolls ? root.scrollTop : Math.max(high - box.top, 0);
    const room = (scrolls ? root.scrollHeight : inner) - top.offsetHeight;
    top.style.transform = `translateY(${Math.min(shift, Math.max(room, 0))}px)`;
    const natural = foot.parentElement.getBoundingClientRect().bottom, up = Math.max(natural - low, 0);
    const row = chosen && chosen.part !== undefined && part(chosen.part)?.getBoundingClientRect();
    const covered = row && up > 0 && row.bottom > low - foot.offsetHeight && row.top < low;
    const beside = aside(covered ? row : null, box);
    const lift = covered && !beside ? natural - foot.offsetHeight - top.getBoundingClientRect().bottom : up;
    foot.style.transform = `translateY(${-Math.min(lift, natural - box.top - foot.offsetHeight + root.scrollTop)}px)`;
    foot.classList.toggle("pv-afloat", up > 0);
  }

  /** Put what is said of a row beside it, if it would lie over it and there is room; whether that is so. */
  function aside(row, box) {
    const left = row ? row.left - box.left - 12 : 0, right = row ? box.right - row.right - 12 : 0;
    const beside = Math.max(left, right) > 380;
    foot.style.left = beside && right >= left ? `${box.width - right}px` : "";
    foot.style.right = beside && right < left ? `${box.width - left}px` : "";
    return beside;
  }

  /** Hear of it when the steps stand elsewhere: what is above the figure may grow, and no event says so. */
  function mind() {
    const { top: high, left, right, bottom: low } = top.getBoundingClientRect();
    const margins = [-high, right - innerWidth, low - innerHeight, -left].map((px) => `${Math.ceil(px) + 1}px`);
    eye?.disconnect();
    // It calls at once, and then when the steps leave the place where they stood above: they may have left it before
    // the first call, which then is the only one, so that what counts is where they are.
    eye = new IntersectionObserver(() => {
      if (gone() || Math.abs(top.getBoundingClientRect().top - high) < 1) return;
      stick();
      mind();
    }, { rootMargin: margins.join(" "), threshold: [0, 0.25, 0.5, 0.75, 1] });
    eye.observe(top);
  }

  /** As large as the widest panel that is shown has room for; it scrolls where its text would be too small to read. */
  function fit() {
    const room = card.parentElement.clientWidth;
    if (!room) return;
    const [least, most] = document.fullscreenElement === root ? [1.5, 2.2] : [figure.least, 1];
    const widest = Math.max(300, ...[...panels.values()].filter(isOpen).map(({ panel }) => spread(panel).width));
    const next = Math.max(least, Math.min(most, (room - 30) / widest));
    if (Math.abs(next - scale) > 0.005) {
      scale = next;
      root.style.setProperty("--pv-scale", scale);
      draw();
    }
    stick();
  }

  /** Dark, if what the figure stands on is dark. */
  function theme() {
    let node = root.parentElement, ground = "";
    root.style.removeProperty("--pv-ground");
    for (; node && !ground; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      const [r, g, b, alpha = 1] = (colour.match(/[\d.]+/g) || []).map(Number);
      if (r === undefined || alpha <= 0.5) continue;
      ground = (r * 299 + g * 587 + b * 114) / 1000 < 128 ? "dark" : "light";
      root.style.setProperty("--pv-ground", colour);
    }
    const asked = matchMedia("(prefers-color-scheme: dark)").matches &&
      getComputedStyle(document.documentElement).colorScheme.includes("dark");
    root.classList.toggle("pv-dark", ground ? ground === "dark" : asked);
  }

  // Keys and pointer

  const rowOf = (event) => event.target.closest(".row[role=button]");
  card.addEventListener("focusin", (event) => {
    const row = rowOf(event), n = Number(row?.dataset.part);
    if (!row) return;
    rove(row);
    if (chosen?.part !== n) choose({ part: n });
  });
  changes.addEventListener("focusin", (event) => event.target.matches("button") && rove(event.target));
  card.addEventListener("click", (event) => {
    const row = rowOf(event);
    if (row?.matches(".fold")) openPart(Number(row.dataset.part));
    else if (!event.target.closest("button")) choose(row ? { part: Number(row.dataset.part) } : null);
  });
  card.addEventListener("dblclick", (event) => rowOf(event) && openPart(Number(rowOf(event).dataset.part)));
  card.addEventListener("mouseover", (event) => {
    peek(rowOf(event));
  });
  card.addEventListener("mouseleave", () => peek(null));
  // JupyterLab takes keys from the document before they come to the figure (Enter, arrows): so the figure listens at
  // the window, while the focus is in it, for the keys it knows. All others (save, copy …) stay what they are.
  const keys = {
    ArrowLeft: () => go(at - 1), ArrowRight: () => go(at + 1), Home: () => go(0), End: () => go(Infinity),
    Escape: () => trail.length ? leave() : choose(null), w: () => stroll(1), W: () => stroll(-1), f: () => full(),
    n: () => notes(),
  };
  const passed = ["Enter", " ", "ArrowUp", "ArrowDown", "PageUp", "PageDown"]; // elsewhere the browser's: press, scroll

  /** What a key does in a list. */
  function listed(key) {
    const here = trail[trail.length - 1], { list, from, opens: mine } = shown();
    const to = (i) => () => i < 0 || i >= list.count ? null :
      i < here.from || i >= here.from + PVMLAB_PAGE ? turn(Math.floor(i / PVMLAB_PAGE) * PVMLAB_PAGE, i) : pick(i);
    const opens = here.picked !== null && from.line(list.items(here.picked, here.picked + 1)[0]).opens;
    return { ArrowUp: to(here.picked - 1), ArrowDown: to(here.picked === null ? here.from : here.picked + 1),
      PageUp: () => turn(here.from - PVMLAB_PAGE), PageDown: () => turn(here.from + PVMLAB_PAGE),
      Enter: opens && !same(opens, mine) ? () => enter(opens) : () => {}, " ": () => {} }[key];
  }

  /** What a key does; nothing where it is the browser's. */
  function meant({ target, key }) {
    const row = target.closest(".row[role=button]"), n = row && Number(row.dataset.part);
    const place = target.closest(PVMLAB_PLACES), by = { ArrowUp: -1, ArrowDown: 1 }[key];
    const item = target.matches("[data-item]") && listed(key);
    if (item) return item;
    if (by && place && group(place)) return () => along(place, by);
    if (row && (key === "Enter" || key === " ")) return () => chosen?.part === n ? openPart(n) : choose({ part: n });
    return target === text && key !== "Escape" ? null : keys[key];
  }

  function pressed(event) {
    if (!root.contains(event.target) || event.altKey || event.ctrlKey || event.metaKey) return;
    const action = meant(event);
    if (!action && !passed.includes(event.key) && !keys[event.key]) return;
    event.stopPropagation();
    if (!action) return;
    event.preventDefault();
    action();
  }
  root.addEventListener("focusin", () => window.addEventListener("keydown", pressed, true));
  root.addEventListener("focusout", () => window.removeEventListener("keydown", pressed, true));

  // What goes on around the figure; it is let go of when the figure is no longer on the page

  const watch = new AbortController(), sized = new ResizeObserver(() => gone() || fit());
  const themed = new MutationObserver(() => gone() || theme());
  function gone() {
    if (root.isConnected) return false;
    watch.abort();
    sized.disconnect();
    eye?.disconnect();
    themed.disconnect();
    return true;
  }
  const scrolled = { capture: true, passive: true, signal: watch.signal };
  document.addEventListener("scroll", () => root.isConnected && stick(), scrolled);
  window.addEventListener("hashchange", arrive, { signal: watch.signal });
  document.addEventListener("fullscreenchange", () => {
    fill.textContent = document.fullscreenElement === root ? "leave full screen" : "full screen";
    if (root.isConnected) fit();
  }, { signal: watch.signal });
  sized.observe(root);
  themed.observe(document.body, { attributes: true });

  theme();
  draw();
  fit();
  mind();
  document.readyState === "complete" ? arrive() : window.addEventListener("load", arrive, { signal: watch.signal });
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
