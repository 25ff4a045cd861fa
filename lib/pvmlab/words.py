# SPDX-License-Identifier: MIT
"""A Diff in sentences: "server: 4 entries 0x…–0x… lost RW, D kept".

Adds: the lines of a Diff, runs of equal changes folded, so that each change
is spoken of exactly once.
Leaves out: finding the changes (diff.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from .diff import Change, Diff, Line
from .entry import is_present, pfn_of
from .identity import Key, is_special
from .model import PAGE_SHIFT, AnonVma, Pte, Vma

SIGN = {"added": "+", "removed": "–", "changed": "~"}


def lines(diff: Diff) -> tuple[Line, ...]:
    """Return the lines of a diff; last those about what every program has and about the kernel's own lists."""
    beside = Beside(diff)
    return tuple(sorted(told(diff, beside=beside), key=beside.line))


def told(diff: Diff, wanted: Callable[[Change], bool] = lambda change: True,
         beside: Callable[[Change], bool] = lambda change: False) -> tuple[Line, ...]:
    """Return lines about some of the changes, in the order in which a figure shows their places.

    Locks and processes; VMAs, entries, frames; anon_vmas and chains; then the
    book-keeping: tables and counters. What came or went with a process is
    spoken of with it. Frames that are `beside` have lines of their own.
    """
    say = _Say(diff, beside)
    by_kind = defaultdict(list)
    whole = set()
    for task in (c for c in diff.changes if c.kind == "task"):
        whole |= say.moved_in_or_out(task)
    for change in diff.changes:
        if wanted(change) and not _belongs(change, whole):
            by_kind[change.kind].append(change)
    return tuple(line for part in (
        say.locks(by_kind["lock"]), say.tasks(filter(wanted, diff.of("task"))), say.vmas(by_kind["vma"]),
        say.entries(by_kind["entry"]), say.pages(by_kind["page"]), say.anon_vmas(by_kind["anon_vma"]),
        say.links(by_kind["link"]), say.tables(by_kind["table"]), say.mms(by_kind["mm"]),
        say.counters(by_kind["counter"])) for line in part)


#: Counters that count single events of everybody; the others move in batches, or with the kernel's own needs.
_EXACT = ("pswp", "pgmajfault", "swpin", "swpout", "thp_", "ksm_", "cow_ksm", "memcg:", "Committed_AS")


def is_exact(counter: str) -> bool:
    """Whether a counter of the machine counts single events."""
    return counter.startswith(_EXACT)


class Beside:
    """Tells what a program has beside the memory that a lesson speaks of, and what the kernel does on its own account.

    That is its program, stack and the like with their entries, frames and anon_vmas; all of processes that nobody
    named; the LRU lists; counters of the machine that count in batches.
    """

    def __init__(self, diff: Diff) -> None:
        self.diff, self.who = diff, diff.identity
        named = {task.mm.addr for snapshot in diff.snapshots for task in snapshot.tasks}
        self._mms = {(at, key): mm for at in diff.at for key, mm in self.who.at("mm", at).items() if mm.addr in named}
        self._vmas = {self.who.key("vma", at, vma.addr): vma for (at, _), mm in self._mms.items()
                      for vma in mm.vmas if not is_special(mm, vma)}
        self._by_kind: dict[str, Callable[[Change], bool]] = {
            "mm": lambda c: not self._named(c.id), "table": lambda c: not self._named(c.id[0]),
            "vma": lambda c: c.id not in self._vmas, "link": lambda c: c.id[0] not in self._vmas,
            "anon_vma": lambda c: c.id not in self._anon_vmas,
            "entry": lambda c: not any(vma.mm == c.id[0][0] and c.id[1] in vma for vma in self._vmas.values()),
            "page": lambda c: only_listed(c) or c.id[0] not in self._frames,
            "counter": lambda c: not is_exact(c.id[0])}

    def __call__(self, change: Change) -> bool:
        return change.kind in self._by_kind and self._by_kind[change.kind](change)

    def line(self, line: Line) -> bool:
        """Whether a line speaks of nothing else."""
        return all(map(self, line.changes))

    def _named(self, mm: Key) -> bool:
        return any((at, mm) in self._mms for at in self.diff.at)

    @cached_property
    def _anon_vmas(self) -> set[Key]:
        return {anon_vma for at in self.diff.at for vma, anon_vma in self.who.links(at) if vma in self._vmas}

    @cached_property
    def _frames(self) -> set[int]:
        """Those that the other memory maps at one of the two steps, of huge pages each."""
        found = set()
        for mm in self._mms.values():
            for vma in (vma for vma in mm.vmas if not is_special(mm, vma)):
                for pte in mm.entries.between(vma.vm_start, vma.vm_end):
                    found.update(range(pte.pfn, pte.pfn + (pte.size >> PAGE_SHIFT)) if pte.present else ())
        return found


def _belongs(change: Change, whole: set[tuple[str, Key]]) -> bool:
    """Whether the line of a process that came or went covers the change already."""
    mm = {"mm": change.id, "entry": change.id[0], "table": change.id[0]}.get(change.kind)
    return change.kind == "task" or (("mm", mm) in whole if mm else (change.kind, change.id) in whole)


class _Say:
    """The sentences about one diff; holds the names and who maps what."""

    def __init__(self, diff: Diff, beside: Callable[[Change], bool]) -> None:
        self.diff, self.who, self.beside = diff, diff.identity, beside
        self.gained, self.lost = _mappers(diff)

    def mm(self, key: Key) -> str:
        return self.who.mm_names.get(key, f"mm {key[0]:#x}")

    def anon_vma(self, key: Key) -> str:
        return self.who.anon_vma_names.get(key, f"anon_vma {key[0]:#x}")

    def vma(self, vma: Vma | None, step: int, whole: bool = False) -> str:
        if vma is None:
            return "a VMA that was not read"
        where = _range(vma) if whole else f"{vma.vm_start:#x}"
        return f"{self.mm(self.who.key('mm', step, vma.mm))} {where}{_name(vma)}"

    def vma_of(self, key: Key, whole: bool = False) -> str:
        """Name a VMA by its key, as it is in the later snapshot that has it; whole: from where to where."""
        for step in reversed(self.diff.at):
            found = self.who.at("vma", step).get(key)
            if found is not None:
                return self.vma(found, step, whole)
        return self.vma(None, 0)

    # Processes

    def moved_in_or_out(self, task: Change) -> set[tuple[str, Key]]:
        """Return (kind, id) of what came or went together with a process: its mm and VMAs."""
        if task.what == "changed":
            return set()
        step = self.diff.at[task.what == "added"]
        mm = (task.after or task.before).mm
        key = self.who.key("mm", step, mm.addr)
        if key in self.who.at("mm", self.diff.at[task.what == "removed"]):
            return set()
        return {("mm", key), *(("vma", self.who.key("vma", step, v.addr)) for v in mm.vmas)}

    def tasks(self, changes: Iterable[Change]) -> Iterator[Line]:
        told: set[tuple[str, Key]] = set()
        for task in changes:
            mine = self.moved_in_or_out(task) - told
            told |= mine
            covered = tuple(c for c in self.diff.changes if c.kind != "task" and _belongs(c, mine))
            yield Line(SIGN[task.what], self.task(task, covered), (task, *covered))

    def task(self, change: Change, covered: tuple[Change, ...]) -> str:
        task = change.after or change.before
        if change.what == "changed":
            return f"{task.name}: " + ", ".join(
                f"threads {list(f.before)} → {list(f.after)}" if f.name == "tids" else
                "it has another mm now" if f.name == "mm" else f"{f.name} {f.before} → {f.after}"
                for f in change.fields)
        count = {kind: sum(c.kind == kind for c in covered) for kind in ("vma", "entry", "table")}
        held = (f"{_n(count['vma'], 'VMA')}, {_n(count['entry'], 'entry')}, "
                f"{_n(count['table'], 'page-table page')}") if covered else "it shares an mm"
        verb = "is new" if change.what == "added" else "is gone"
        return f"process {task.name} (pid {task.pid}) {verb}: {held}"

    # VMAs, anon_vmas and the chains between them

    def vmas(self, changes: Iterable[Change]) -> Iterator[Line]:
        for c in changes:
            vma = c.after or c.before
            step = self.diff.at[c.after is not None]
            who = self.mm(self.who.key("mm", step, vma.mm))
            if c.what == "changed":
                text = f"{who}: VMA {_range(vma)}{_name(vma)}: " + "; ".join(self.vma_fields(c))
            else:
                own = vma.anon_vma and self.anon_vma(self.who.key("anon_vma", step, vma.anon_vma.addr))
                text = (f"{who}: VMA {_range(vma)}{_name(vma)} {vma.prot} ({_n(vma.pages, 'page')}) "
                        f"is {'new' if c.what == 'added' else 'gone'}, "
                        + (f"anon_vma {own}" if own else "no anon_vma"))
            yield Line(SIGN[c.what], text, (c,))

    def vma_fields(self, change: Change) -> Iterator[str]:
        old, new = change.before, change.after
        if change.field("vm_start") or change.field("vm_end"):
            yield _resized(old, new)
        if change.field("flags") or change.field("vm_flags"):
            yield _flag_words(old.flags, new.flags) or f"vm_flags {old.vm_flags:#x} → {new.vm_flags:#x}"
        for field in change.fields:
            if field.name == "anon_vma":
                yield "anon_vma " + " → ".join(self.anon_vma(k) if k else "none" for k in field[1:])
            elif field.name not in ("vm_start", "vm_end", "flags", "vm_flags"):
                yield f"{field.name} {_value(field.before)} → {_value(field.after)}"

    def anon_vmas(self, changes: Iterable[Change]) -> Iterator[Line]:
        for c in changes:
            thing, name = c.after or c.before, self.anon_vma(c.id)
            if c.what == "changed":
                yield Line("~", f"anon_vma {name}: " + ", ".join(
                    f"{f.name} {self._pointer(f.before, f.name)} → {self._pointer(f.after, f.name)}"
                    for f in c.fields), (c,))
                continue
            verb = "is new" if c.what == "added" else "is freed"
            yield Line(SIGN[c.what], f"anon_vma {name} {verb}: {self._ancestry(thing, c)}", (c,))

    def _pointer(self, value: object, name: str) -> str:
        return self.anon_vma(value) if name in ("root", "parent") and value else str(value)

    def _ancestry(self, anon_vma: AnonVma, change: Change) -> str:
        step = self.diff.at[change.after is not None]
        if anon_vma.is_root:
            return f"a root, num_active_vmas {anon_vma.num_active_vmas}"
        parent, root = (self.anon_vma(self.who.key("anon_vma", step, a)) for a in (anon_vma.parent, anon_vma.root))
        return f"parent {parent}, root {root}, num_active_vmas {anon_vma.num_active_vmas}"

    def links(self, changes: Iterable[Change]) -> Iterator[Line]:
        groups = defaultdict(lambda: defaultdict(list))
        for c in changes:
            groups[c.id[1]][c.what].append(c)
        for anon_vma, group in groups.items():
            for c in group["changed"]:
                yield Line("~", f"chain of {self.vma_of(c.id[0])} to {self.anon_vma(anon_vma)}: {_fields(c)}", (c,))
            if group["added"] or group["removed"]:
                yield self.tree(anon_vma, group["added"], group["removed"])

    def tree(self, anon_vma: Key, come: list[Change], gone: list[Change]) -> Line:
        """What came into an interval tree and what went, and how many VMAs it held and holds."""
        sizes = " → ".join(str(self._tree_size(anon_vma, step)) for step in self.diff.at)
        if come and gone:
            new, old = (_and(self.vma_of(c.id[0], whole=True) for c in group) for group in (come, gone))
            said, sign = f"now holds {new} in place of {old}", "~"
        else:
            verb, sign = ("now holds", "+") if come else ("no longer holds", "–")
            said = f"{verb} {_and(self.vma_of(c.id[0]) for c in come or gone)}"
        return Line(sign, f"{self.anon_vma(anon_vma)}: its interval tree {said} ({sizes} VMAs)", (*come, *gone))

    def _tree_size(self, key: Key, step: int) -> int:
        found = self.who.at("anon_vma", step).get(key)
        return len(found.tree) if found else 0

    # Entries and frames

    def entries(self, changes: Iterable[Change]) -> Iterator[Line]:
        for run, text in _runs(changes):
            mm, first = run[0].id[0], run[0].id[1]
            last = (run[-1].after or run[-1].before)
            end = last.addr + last.size
            level = "" if run[0].id[2] == "pte" else f"{run[0].id[2]} "
            what = f"{level}entry {first:#x}" if len(run) == 1 else f"{len(run)} {level}entries {first:#x}–{end:#x}"
            text = f"{self.mm(mm)}: {what}{self.inside(run[0])} {text}{_single(run)}"
            yield Line(SIGN[run[0].what], text, tuple(run))

    def inside(self, change: Change) -> str:
        """Say " in [stack]": the name of the VMA an entry lies in, when it has one."""
        step = self.diff.at[change.after is not None]
        found = self.who.at("mm", step)[change.id[0]].vma(change.id[1])
        return f" in {found.name}" if found is not None and found.name else ""

    def pages(self, changes: Iterable[Change]) -> Iterator[Line]:
        changes = tuple(changes)
        gone = {c.id[0]: c for c in changes if c.what == "removed"}
        reused = {c.id[0] for c in changes if c.what == "added" and c.id[0] in gone}
        groups = defaultdict(list)
        for c in changes:
            if c.id[0] not in reused:
                groups[c.what, self.page(c), self.beside(c)].append(c)
        for (what, text, _), group in groups.items():
            yield Line(SIGN[what], f"{_frames([c.id[0] for c in group])}: {text}", tuple(group))
        for pfn in sorted(reused):
            pair = tuple(c for c in changes if c.id[0] == pfn)
            yield Line("~", f"frame {pfn:#x}: freed and used again, it is another page now", pair)

    def page(self, change: Change) -> str:
        page = change.after or change.before
        if change.what == "added":
            return f"mapped now{_by(self.gained(page.pfn))} ({page.kind}, mapcount {page.mapcount})"
        if change.what == "removed":
            return f"no longer mapped{_by(self.lost(page.pfn))}"
        counts = ", ".join(f"{f.name} {f.before} → {f.after}" for f in change.fields
                           if f.name in ("mapcount", "refcount"))
        parts = [*self._mapped(page.pfn), *_page_words(change)]
        return "; ".join(parts) + (f" ({counts})" if parts and counts else counts)

    def _mapped(self, pfn: int) -> Iterator[str]:
        gained, lost = self.gained(pfn), self.lost(pfn)
        if both := [name for name in gained if name in lost]:
            yield f"mapped{_by(both)} through another entry"
        gained, lost = ([n for n in names if n not in both] for names in (gained, lost))
        again = [name for name in gained if name in self._had.get(pfn, ())]
        if once := [name for name in gained if name not in again]:
            yield f"now mapped{_by(once)} too"
        if again:
            yield f"now mapped{_by(again)} once more"
        if lost:
            yield f"no longer mapped{_by(lost)}"

    @cached_property
    def _had(self) -> dict[int, set[str]]:
        """Who mapped each frame before, for the frames that gained a mapping (not through huge entries)."""
        wanted = {c.id[0] for c in self.diff.of("page") if c.what == "changed" and self.gained(c.id[0])}
        found = defaultdict(set)
        for mm in self.diff.before.mms if wanted else ():
            name = self.mm(self.who.key("mm", self.diff.at[0], mm.addr))
            for _, raw, _, level in mm.entries.rows():
                if level == "pte" and is_present(raw) and (pfn := pfn_of(raw)) in wanted:
                    found[pfn].add(name)
        return found

    # The rest

    def tables(self, changes: Iterable[Change]) -> Iterator[Line]:
        groups = defaultdict(list)
        for c in changes:
            groups[c.id[0], c.what].append(c)
        for (mm, what), group in groups.items():
            levels = defaultdict(int)
            for c in group:
                levels[c.id[1]] += 1
            names = ", ".join(f"{n} {level}" for level, n in levels.items())
            yield Line(SIGN[what], f"{self.mm(mm)}: {_n(len(group), 'page-table page')} "
                       f"{'new' if what == 'added' else 'freed'} ({names})", tuple(group))

    def mms(self, changes: Iterable[Change]) -> Iterator[Line]:
        for c in changes:
            if c.what == "changed":
                yield Line("~", f"mm of {self.mm(c.id)}: {_fields(c)}", (c,))
            else:
                yield Line(SIGN[c.what], f"mm of {self.mm(c.id)} is {'new' if c.what == 'added' else 'gone'}", (c,))

    def counters(self, changes: list[Change]) -> Iterator[Line]:
        exact = [c for c in changes if is_exact(c.id[0])]
        for name, some in (("counters", exact), ("counters of the whole machine",
                                                 [c for c in changes if c not in exact])):
            if some:
                yield Line("~", f"{name}: " + ", ".join(f"{c.id[0]} {c.after - c.before:+d}" for c in some),
                           tuple(some))

    def locks(self, changes: Iterable[Change]) -> Iterator[Line]:
        for c in changes:
            yield Line(SIGN[c.what], f"{'held now' if c.what == 'added' else 'held no longer'}: {c.id[0]}", (c,))


# Who maps a frame newly, who no more


def _mappers(diff: Diff):
    """Return two functions, pfn → names: who has a new mapping of it, who lost one."""
    sides = []
    for which in ("after", "before"):
        small, huge = defaultdict(dict), []
        for c in diff.of("entry"):
            pte, other = getattr(c, which), c.before if which == "after" else c.after
            if pte is None or not pte.present or _maps_same(c, pte, other):
                continue
            name = diff.identity.mm_names.get(c.id[0], "?")
            if pte.level == "pte":
                small[pte.pfn][name] = None
            else:
                huge.append((pte.pfn, pte.pfn + (pte.size >> PAGE_SHIFT), name))
        sides.append(_finder(small, sorted(huge)))
    return sides


def _maps_same(change: Change, pte: Pte, other: Pte | None) -> bool:
    return other is not None and other.pfn == pte.pfn and change.field("page") is None


def _finder(small: dict, huge: list):
    starts = [h[0] for h in huge]

    def find(pfn: int) -> tuple[str, ...]:
        i = bisect_right(starts, pfn) - 1
        first = next((k for k in range(i, -1, -1) if starts[k] != starts[i]), -1) + 1 if i >= 0 else 0
        big = [name for start, end, name in huge[first:i + 1] if start <= pfn < end]
        return tuple(dict.fromkeys((*small.get(pfn, ()), *big)))
    return find


# Entries: runs and words


def _runs(changes: Iterable[Change]) -> Iterator[tuple[list[Change], str]]:
    """Fold entries that follow each other in one mm and changed in the same way."""
    run, said = [], ""
    for c in sorted(changes, key=lambda c: (c.id[0], c.id[1])):
        text = _entry_words(c)
        if run and said == text and run[-1].id[0] == c.id[0] and run[-1].id[2] == c.id[2] \
                and run[-1].id[1] + (run[-1].after or run[-1].before).size == c.id[1]:
            run.append(c)
            continue
        if run:
            yield run, said
        run, said = [c], text
    if run:
        yield run, said


def _entry_words(change: Change) -> str:
    """Say what happened to an entry, without its numbers, so that equal changes read equal."""
    old, new = change.before, change.after
    if change.what == "added":
        return f"new: {_kind(new)}"
    if change.what == "removed":
        return f"gone (was {_kind(old)})"
    parts = []
    if old.present != new.present or old.swap and new.swap:
        parts.append(f"{_kind(old)} → {_kind(new)}")
    else:
        parts += [w] if (w := _flag_words(old.flags, new.flags)) else []
        parts += ["maps another frame"] if change.field("pfn") else []
    parts += ["maps another page in the same frame"] if change.field("page") else []
    parts += ["now in another table page"] if change.field("phys") else []
    parts += ["unnamed bits changed"] if change.field("raw") else []
    return ", ".join(parts) or "changed"


def _kind(pte: Pte) -> str:
    flags = " ".join(pte.flags)
    if pte.present:
        return flags
    kind = pte.swap.kind
    return f"{kind} entry" + (f" ({flags})" if flags else "")


def _single(run: list[Change]) -> str:
    """The numbers of one entry alone: its frame or swap slot."""
    if len(run) > 1:
        return ""
    old, new = run[0].before, run[0].after
    if run[0].field("pfn") and old.present and new.present:
        return f" ({old.pfn:#x} → {new.pfn:#x})"
    pte = new or old
    return f" → frame {pte.pfn:#x}" if pte.present else f" (area {pte.swap.type}, offset {pte.swap.offset})"


def _flag_words(old: Iterable[str], new: Iterable[str]) -> str:
    """"lost RW, D kept": what went and what came; D is named when it outlives RW.

    A dirty entry that loses RW keeps the fact in another bit (pte_wrprotect()
    in arch/x86/include/asm/pgtable.h), and gets it back with RW.
    """
    lost, come = [f for f in old if f not in new], [f for f in new if f not in old]
    parts = []
    for was, now in (("D", "SAVED_DIRTY"), ("SAVED_DIRTY", "D")):
        if was in lost and now in come:
            lost.remove(was)
            come.remove(now)
            parts.append(f"{was} became {now}")
    kept = ["D kept"] if "RW" in lost and "D" in old and "D" in new else []
    return ", ".join([*([f"lost {' '.join(lost)}"] if lost else []), *kept, *parts,
                      *([f"gained {' '.join(come)}"] if come else [])])


#: Page flags that have words of their own.
_TOLD = ("anon_exclusive", "lru")
_LISTED, _UNLISTED = "put on an LRU list", "taken off the LRU lists"


def only_listed(change: Change) -> bool:
    """Whether all that happened to a frame is that it went onto an LRU list or off one."""
    return (change.what == "changed" and change.field("mapcount") is None
            and set(_page_words(change)) in ({_LISTED}, {_UNLISTED}))


def _page_words(change: Change) -> list[str]:
    words = []
    for field in change.fields:
        if field.name == "exclusive":
            words.append("exclusive now" if field.after else "no longer exclusive")
        elif field.name == "flags":
            words += [_LISTED] if "lru" in set(field.after) - set(field.before) else []
            before, after = ([f for f in flags if f not in _TOLD] for flags in field[1:])
            words += [_UNLISTED] if "lru" in set(field.before) - set(field.after) else []
            words += [f"flags {said}"] if (said := _flag_words(before, after)) else []
        elif field.name not in ("mapcount", "refcount"):
            words.append(f"{field.name} {_value(field.before)} → {_value(field.after)}")
    return words or ([] if change.field("mapcount") or change.field("refcount") else ["flags changed"])


# Numbers and names


def _resized(old: Vma, new: Vma) -> str:
    grew = new.vm_end - new.vm_start > old.vm_end - old.vm_start
    merged = " (merged)" if grew and new.name != "[stack]" else ""
    verb = "grew" if grew else "moved" if new.pages == old.pages else "shrank"
    return f"{verb} from {_range(old)} to {_range(new)}{merged}"


def _range(vma: Vma) -> str:
    return f"{vma.vm_start:#x}–{vma.vm_end:#x}"


def _name(vma: Vma) -> str:
    return f" {vma.name}" if vma.name else ""


def _fields(change: Change) -> str:
    return ", ".join(f"{f.name} {_value(f.before)} → {_value(f.after)}" for f in change.fields)


def _value(value: object) -> str:
    big = isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 16
    return hex(value) if big else "none" if value == "" else str(value)


def _n(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count} {noun if count == 1 else plural}"


def _and(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4] if len(names) < 5 else names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 4 else "")


def _by(names: Iterable[str], verb: str = "by") -> str:
    names = list(names)
    return f" {verb} {_and(names)}" if names else ""


def _frames(pfns: list[int]) -> str:
    """"frame 0x1a2b", "4 frames 0x1a2b–0x1a2e", "3 frames 0x10, 0x20, 0x30"."""
    pfns = sorted(pfns)
    if len(pfns) == 1:
        return f"frame {pfns[0]:#x}"
    if pfns[-1] - pfns[0] == len(pfns) - 1:
        return f"{len(pfns)} frames {pfns[0]:#x}–{pfns[-1]:#x}"
    return f"{len(pfns)} frames {_and(hex(p) for p in pfns)}"
