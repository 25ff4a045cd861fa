// SPDX-License-Identifier: MIT
// What a folded part stands for: lists of VMAs, entries and frames, made of draw/inventory.py's numbers.
//
// Adds: a list for whatever a figure's `opens` says; of each item a line, all that is known, what it opens itself,
// and the rows of the figure to light.
// Leaves out: showing them (view.js). A list of a million entries is a few runs: its items are made when asked for.

const PVMLAB_COUNT = new Intl.NumberFormat("en"); // once: to make one takes longer than to format many numbers

/** The lists of a figure at a step: {list(spec), one(item)}. */
function pvmlabUnfold(figure, step) {
  const { inventory, words, lists } = figure, LEVELS = ["pte", "pmd", "pud"];
  const text = (n) => words[n], hex = (n) => `0x${n.toString(16)}`, address = (page) => hex(BigInt(page) << 12n);
  const pages = (level) => 512 ** level;
  const plural = (n, what) => `${PVMLAB_COUNT.format(n)} ${n === 1 ? what : what === "entry" ? "entries" :
    what === "process" ? "processes" : `${what}s`}`;
  const pairs = (list) => lists[list].flatMap((n, i, all) => i % 2 ? [] : [[text(n), text(all[i + 1])]]);
  const decoded = new Map(), [mms, held] = inventory.steps[step];
  const spaces = new Map(mms.map(([mm, ...space]) => [mm, space]));

  /** Numbers of a list as objects; `wide` numbers each. */
  function decode(list, wide, make) {
    if (!decoded.has(list)) {
      const flat = lists[list], made = [];
      for (let i = 0, end = 0; i < flat.length; i += wide) end = make(flat.slice(i, i + wide), end, made);
      decoded.set(list, made);
    }
    return decoded.get(list);
  }

  const runs = (mm) => !spaces.has(mm) ? [] :
    decode(spaces.get(mm)[1], 6, ([gap, count, level, bits, first, by], end, made) => {
      made.push({ page: end + gap, count, level, bits, first, by, present: inventory.bits[bits][2] === blank });
      return end + gap + count * pages(level);
    });
  const frames = decode(held, 5, ([gap, count, facts, first, by], end, made) => {
    made.push({ page: end + gap, count, level: 0, facts, first, by });
    return end + gap + count;
  });
  const vmas = (mm) => !spaces.has(mm) ? [] : lists[spaces.get(mm)[0]].map((n) => {
    const [id, page, size, pgoff, prot, name, owner, chain, flags] = lists[n];
    return { kind: "vma", mm, id, page, size, pgoff, prot, name, owner, chain, flags };
  });

  const vma = (id) => vmas(inventory.vmas[id]?.[0]).find((each) => each.id === id);
  const name = (mm) => text(inventory.mms[mm][0]);

  /** The pieces of runs that lie in [from, to). */
  function* within(all, from, to) {
    for (const run of all) {
      const size = pages(run.level), end = run.page + run.count * size;
      if (end <= from || run.page >= to) continue;
      const low = Math.max(Math.floor((from - run.page) / size), 0);
      const high = Math.min(Math.ceil((to - run.page) / size), run.count);
      yield { run, low, count: high - low };
    }
  }

  /** The pieces of runs whose frames are in [pfn, pfn + count). */
  function* naming(all, pfn, count) {
    for (const run of all) {
      if (!run.present) continue;
      const wide = pages(run.level), hits = (i) => run.first + i * run.by < pfn + count &&
        run.first + i * run.by + wide > pfn;
      if (run.count === 1 || !run.by) {
        if (hits(0)) yield { run, low: 0, count: run.by ? 1 : run.count };
        continue;
      }
      const ends = [(pfn - wide - run.first) / run.by, (pfn + count - run.first) / run.by].sort((a, b) => a - b);
      let low = Math.max(Math.floor(ends[0]), 0), high = Math.min(Math.ceil(ends[1]), run.count - 1);
      while (low <= high && !hits(low)) low += 1;
      while (high >= low && !hits(high)) high -= 1;
      if (low <= high) yield { run, low, count: high - low + 1 };
    }
  }

  /** A list: of how many, and the items [from, to). */
  function listed(title, items) {
    return { title, count: items.length, items: (from, to) => items.slice(from, to) };
  }

  function pieced(what, pieces, make) {
    const count = pieces.reduce((sum, piece) => sum + piece.count, 0);
    return { title: plural(count, what), count, items: (from, to) => {
      const made = [];
      for (let i = 0, at = 0; i < pieces.length && at < to; at += pieces[i].count, i += 1)
        for (let k = Math.max(from - at, 0); k < Math.min(pieces[i].count, to - at); k += 1)
          made.push(make(pieces[i], pieces[i].low + k));
      return made;
    } };
  }

  const entry = ({ mm, run }, i) => ({ kind: "entry", mm, run, page: run.page + i * pages(run.level),
    at: run.first + i * run.by });
  const frame = ({ run }, i) => ({ kind: "frame", run, pfn: run.page + i, index: run.first + i * run.by });
  const inMm = (mm, pieces) => [...pieces].map((piece) => ({ ...piece, mm }));
  const mappers = (pfn, count = 1) => [...spaces.keys()].flatMap((mm) => inMm(mm, naming(runs(mm), pfn, count)));
  const some = (vmas) => listed(plural(vmas.length, "VMA"), vmas);

  const lines = (steps, what) => listed(plural(lists[steps[step]].length, what),
    lists[steps[step]].map((n) => ({ kind: "line", line: text(n) })));

  /** The list that a part or an item opens. */
  const make = {
    entries: (ranges) => pieced("entry", ranges.flatMap(([mm, from, to]) =>
      inMm(mm, within(runs(mm), from, to))), entry),
    vma: (id) => {
      const { mm, page, size } = vma(id) || { mm: -1, page: 0, size: 0 };
      return pieced("entry", inMm(mm, within(runs(mm), page, page + size)), entry);
    },
    vmas: (ids) => some(ids.map(vma).filter(Boolean)),
    mm: (mm) => some(vmas(mm)),
    mms: (mms) => listed(plural(mms.filter((mm) => spaces.has(mm)).length, "process"),
      mms.filter((mm) => spaces.has(mm)).map((mm) => ({ kind: "mm", mm }))),
    frames: (ranges) => pieced("frame", ranges.flatMap(([pfn, count]) => [...within(frames, pfn, pfn + count)]), frame),
    mapped: (pfn) => {
      const list = pieced("entry", mappers(pfn), entry);
      return { ...list, title: `${list.title} that map${list.count === 1 ? "s" : ""} frame ${hex(pfn)}` };
    },
    lines: (steps) => lines(steps, "counter"),
    visits: (steps) => listed(plural(lists[steps[step]].length / 2, "visit"), lists[steps[step]].flatMap((n, i, all) =>
      i % 2 ? [] : [{ kind: "visit", line: text(n), vma: vma(all[i + 1]) }])),
    anon_vmas: (steps) => lines(steps, "anon_vma"),
  };
  const blank = words.indexOf("");

  // Items

  function raw({ run, at }) {
    const [base, unit] = inventory.bits[run.bits];
    return `0x${(BigInt(base) + BigInt(at) * BigInt(unit)).toString(16).padStart(16, "0")}`;
  }

  const index = (page, level) => Math.floor(page / pages(level)) % 512;
  const split = (page, level) => ["pgd", "pud", "pmd", "pte"].slice(0, 4 - level)
    .map((each, i) => `${each} ${index(page, 3 - i)}`).join(" · ");

  /** Where the entry itself lies. */
  function place({ mm, run, page }) {
    const flat = lists[spaces.get(mm)[2]], span = 512 ** (run.level + 1);
    for (let i = 0; i < flat.length; i += 3)
      if (flat[i] === run.level && flat[i + 1] <= page && page < flat[i + 1] + span)
        return `, at ${hex(flat[i + 2] * 4096 + index(page, run.level) * 8)}`;
    return "";
  }

  const range = ({ page, size }) => `${address(page)}–${address(page + size)}`;
  const holds = ({ run, at }) => run.present ? `frame ${hex(at)}` : `${text(inventory.bits[run.bits][2])}, offset ${at}`;
  const bits = (run) => pairs(inventory.bits[run.bits][3]);

  const say = {
    entry: (item) => ({
      line: `${address(item.page)} ${LEVELS[item.run.level]}[${index(item.page, item.run.level)}] ` +
        `${bits(item.run).map(([bit]) => bit).join(" ")} → ${holds(item)}, in ${name(item.mm)}`,
      facts: [["address", `${address(item.page)} in ${name(item.mm)}`], ["its indices", split(item.page, item.run.level)],
        ["the entry", raw(item) + place(item)], ...bits(item.run), ["holds", holds(item)]],
      opens: item.run.present ? ["mapped", item.at] : null }),
    frame: (item) => {
      const [short, known] = inventory.facts[item.run.facts], all = make.mapped(item.pfn);
      return { line: `frame ${hex(item.pfn)} ${text(short)}`, opens: ["mapped", item.pfn],
        facts: [["frame", `${hex(item.pfn)}, at ${address(item.pfn)}`], ...all.items(0, all.count).map((each) =>
          ["mapped by", `${name(each.mm)} at ${address(each.page)}`]), ...pairs(known),
        ["index", `${hex(item.index)}: its page offset`]] };
    },
    vma: (item) => ({
      line: `${range(item)} ${text(item.prot)} ${plural(item.size, "page")}, ${text(item.name) || "anonymous"}, ` +
        `of ${name(item.mm)}`,
      facts: [["range", `${range(item)}, ${plural(item.size, "page")} of ${name(item.mm)}`],
        ["vm_start", split(item.page, 0)], ["vm_pgoff", hex(item.pgoff)],
        ["->anon_vma", text(item.owner) || "none yet: no page was written"],
        ...(lists[item.chain].length ? [["chain", `newest first: ${lists[item.chain].map(text).join(", ")}`]] : []),
        ["entries", make.vma(item.id).title], ...pairs(item.flags)],
      opens: make.vma(item.id).count ? ["vma", item.id] : null }),
    mm: ({ mm }) => ({ facts: [], opens: ["mm", mm],
      line: `${name(mm)}: ${make.mm(mm).title}, ${plural(runs(mm).reduce((sum, run) => sum + run.count, 0), "entry")}` }),
    line: (item) => ({ line: item.line, facts: [], opens: null }),
    visit: (item) => ({ ...(item.vma ? say.vma(item.vma) : { facts: [], opens: null }), line: item.line }),
  };

  // Lights

  const spans = Object.entries(figure.opens).filter(([, [kind]]) => kind === "entries")
    .flatMap(([n, [, ranges]]) => ranges.map((each) => [Number(n), ...each]));
  const groups = Object.entries(figure.opens).filter(([, [kind]]) => kind === "frames")
    .flatMap(([n, [, ranges]]) => ranges.map((each) => [Number(n), ...each]));
  const framed = (pfn, count) => groups.filter(([, from, size]) => pfn < from + size && from < pfn + count)
    .map(([n]) => n);

  /** The rows that show entries [from, to) of an mm, the way there, and their VMAs. */
  function rows(mm, from, to) {
    const found = spans.filter(([, of, low, high]) => of === mm && low < to && from < high).map(([n]) => n);
    const over = vmas(mm).filter((each) => each.page < to && from < each.page + each.size);
    return [...found, ...found.flatMap((n) => figure.ways[n] || []),
      ...over.flatMap((each) => inventory.vmas[each.id][1])];
  }

  const lit = {
    entry: ({ mm, run, page, at }) => [...rows(mm, page, page + pages(run.level)),
      ...(run.present ? framed(at, pages(run.level)) : [])],
    frame: ({ pfn }) => [...framed(pfn, 1), ...mappers(pfn).flatMap(({ mm, run, low, count }) =>
      Array.from({ length: count }, (_, i) => run.page + (low + i) * pages(run.level))
        .flatMap((page) => rows(mm, page, page + pages(run.level))))],
    vma: ({ mm, page, size }) => [...rows(mm, page, page + size), ...inMm(mm, within(runs(mm), page, page + size))
      .filter(({ run }) => run.present).flatMap(({ run, low, count }) => {
        const wide = pages(run.level), first = run.first + low * run.by, last = first + (count - 1) * run.by;
        if (Math.abs(run.by) === wide) return framed(Math.min(first, last), Math.abs(last - first) + wide);
        return Array.from({ length: count }, (_, i) => framed(first + i * run.by, wide)).flat();
      })],
    mm: ({ mm }) => inventory.mms[mm][1],
    line: () => [],
    visit: (item) => item.vma ? lit.vma(item.vma) : [],
  };

  return {
    list: ([kind, what]) => make[kind](what),
    one: (item) => ({ ...say[item.kind](item), lit: [...new Set(lit[item.kind](item))] }),
    line: (item) => say[item.kind](item),
  };
}
