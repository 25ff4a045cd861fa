# SPDX-License-Identifier: MIT
"""All that the snapshots hold, in few numbers: the browser itself lists what is folded, and finds who maps a frame.

Adds: every VMA, entry and frame of every step. Entries and frames that follow
each other are one run, however many; what two steps have in common is there once.
Leaves out: what a folded part stands for (Opens, parts.py) and how it is
listed (view/unfold.js).

    VMA     number, page, pages, vm_pgoff, prot, name, ->anon_vma, chain, flags
    entries pages since the run before, how many, level, bits, frame or swap offset, how far that goes on by entry
    frames  frames since the run before, how many, facts, index, how far that goes on by frame
    table   level, first page it translates, physical page
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .. import entry as _entry
from ..diff import Steps
from ..identity import Key
from ..model import PAGE_SHIFT, PAGE_SIZE, Entries, Mm, Page, Vma
from .details import VM_WORDS, frame_facts
from .parts import Opens, Panel, ref

_LEVELS = _entry.LEVELS[:3]


class Once(dict):
    """Texts, or tuples, each kept once; it is its number."""

    def __call__(self, what: object) -> int:
        return self.setdefault(what, len(self))


class Inventory:
    """The snapshots of a figure in numbers. words, lists: texts and tuples of numbers that the figure keeps once."""

    def __init__(self, steps: Steps, panels: Sequence[Panel], numbers: Mapping[str, int], words: Once,
                 lists: Once) -> None:
        self.steps, self.who = steps, steps.identity
        self.words, self.lists = words, lists
        self.mms = {life.key: i for i, life in enumerate(steps.lives("mm"))}
        self.vmas = {life.key: i for i, life in enumerate(steps.lives("vma"))}
        self.rows = _rows_by_ref(panels, numbers)
        self.bits, self.facts = Once(), Once()
        self._runs: dict[Entries, int] = {}

    def data(self) -> dict:
        """mms, vmas: what each is called or in which mm it is, and the rows that show it; steps: the numbers, in lists
        of the figure; bits: of an entry [what to add its frame to, times what, its swap entry's kind, names]; facts:
        of a frame [in short, in words]."""
        made = [self._step(step) for step in range(len(self.steps))]
        return {"mms": [[self.words(self.who.mm_names[key]), self._shown("mm", key)] for key in self.mms],
                "vmas": [[self.mms[self._mm_of(life.seen)], self._shown("vma", life.key)]
                         for life in self.steps.lives("vma")],
                "steps": made, "bits": [self._decoded(*bits) for bits in self.bits], "facts": [*self.facts]}

    def opens(self, what: Opens) -> list:
        """Opens, its keys as numbers."""
        say: dict[str, Callable] = {
            "entries": lambda ranges: [[self.mms[mm], start >> PAGE_SHIFT, end >> PAGE_SHIFT]
                                       for mm, start, end in ranges],
            "vma": lambda keys: self.vmas[keys[0]], "vmas": lambda keys: [self.vmas[k] for k in keys if k in self.vmas],
            "mm": lambda keys: self.mms[keys[0]], "mms": lambda keys: [self.mms[k] for k in keys],
            "frames": lambda pfns: [*_ranges(pfns)],
            "lines": self._by_step, "anon_vmas": self._by_step,
            "visits": lambda steps: [self.lists(tuple(n for line, vma in visits for n in (
                self.words(line), self.vmas.get(vma, -1)))) for visits in steps]}
        return [what.kind, say[what.kind](what.what)]

    def _by_step(self, steps: Iterable[Iterable[str]]) -> list[int]:
        return [self.lists(tuple(map(self.words, lines))) for lines in steps]

    def _shown(self, kind: str, key: Key) -> list[int]:
        return self.rows.get(ref(kind, key), [])

    def _mm_of(self, seen: Sequence[Vma | None]) -> Key:
        step, vma = next((i, vma) for i, vma in enumerate(seen) if vma)
        return self.who.key("mm", self.steps.at[step], vma.mm)

    def _step(self, step: int) -> list:
        """[[mm, VMAs, entries, tables] of each mm, frames], in numbers of lists."""
        at, snapshot = self.steps.at[step], self.steps.snapshots[step]
        spaces = [[self.mms[key], self._vmas(mm, at), self._entries(mm.entries), self._tables(mm)]
                  for key, mm in self.who.at("mm", at).items()]
        return [spaces, self.lists(tuple(self._frames(snapshot.pages.values(), at)))]

    def _vmas(self, mm: Mm, at: int) -> int:
        return self.lists(tuple(self.lists(tuple(self._vma(vma, at))) for vma in mm.vmas))

    def _vma(self, vma: Vma, at: int) -> Iterator[int]:
        chain = tuple(self.words(self._anon_vma(link.anon_vma, at)) for link in vma.chain)
        flags = tuple(self.words(text) for flag in vma.flags for text in (flag, VM_WORDS.get(flag, "")))
        yield from (self.vmas[self.who.key("vma", at, vma.addr)], vma.vm_start >> PAGE_SHIFT, vma.pages, vma.vm_pgoff)
        yield from (self.words(vma.prot), self.words(vma.name))
        yield self.words(self._anon_vma(vma.anon_vma.addr, at) if vma.anon_vma else "")
        yield from (self.lists(chain), self.lists(flags))

    def _anon_vma(self, addr: int, at: int) -> str:
        return self.who.anon_vma_names.get(self.who.key("anon_vma", at, addr), f"anon_vma {addr:#x}")

    def _tables(self, mm: Mm) -> int:
        """Those that hold entries."""
        levels = {level for *_, level in mm.entries.rows()}
        return self.lists(tuple(n for table in mm.tables if table.level in levels for n in (
            _LEVELS.index(table.level), table.start >> PAGE_SHIFT, table.phys >> PAGE_SHIFT)))

    def _entries(self, entries: Entries) -> int:
        if entries not in self._runs:
            self._runs[entries] = self.lists(tuple(_joined(self._entry(row) for row in entries.rows())))
        return self._runs[entries]

    def _entry(self, row: tuple[int, int, int, str]) -> tuple[int, int, tuple[int, int], int]:
        addr, raw, _, level = row
        at, unit = _placed(raw)
        return (addr >> PAGE_SHIFT, _entry.LEVEL_SIZE[level] >> PAGE_SHIFT,
                (_LEVELS.index(level), self.bits((raw - at * unit, unit))), at)

    def _decoded(self, base: int, unit: int) -> list:
        swap = _entry.swap_of(base)
        kind = f"{swap.kind}, area {swap.type}" if swap else ""
        return [hex(base), unit, self.words(kind),
                self.lists(tuple(self.words(text) for bit in _entry.explain(base) for text in bit))]

    def _frames(self, pages: Iterable[Page], at: int) -> Iterator[int]:
        known: dict[tuple, int] = {}

        def facts(page: Page) -> int:
            key = page._replace(pfn=0, born=0, index=0, head=0)
            if key not in known:
                known[key] = self._page_facts(page, at)
            return known[key]
        return _joined((page.pfn, 1, (facts(page),), page.index) for page in sorted(pages))

    def _page_facts(self, page: Page, at: int) -> int:
        owner = self._anon_vma(page.anon_vma, at) if page.anon_vma else ""
        state = f"of {owner}, {'' if page.exclusive else 'not '}exclusive" if owner else f"{page.kind} page"
        short = self.words(f"mapcount {page.mapcount}, refcount {page.refcount}, {state}")
        return self.facts((short, self.lists(tuple(self.words(t) for fact in frame_facts(page, owner) for t in fact))))


def _rows_by_ref(panels: Sequence[Panel], numbers: Mapping[str, int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for panel in panels:
        for box in (*panel.boxes, *panel.folds):
            for row in box.rows:
                for each in row.refs:
                    if each.startswith(("mm-", "vma-")):
                        found.setdefault(each, []).append(numbers[row.id])
    return found


def _placed(raw: int) -> tuple[int, int]:
    """(frame or swap offset, what one more of it adds to the entry)."""
    if swap := _entry.swap_of(raw):
        return swap.offset, -(1 << 9)
    return _entry.pfn_of(raw), PAGE_SIZE if raw & 1 else -PAGE_SIZE


def _joined(rows: Iterable[tuple[int, int, tuple, int]]) -> Iterator[int]:
    """Join (place, how many places, what, number) that follow each other, with numbers that grow evenly, to runs."""
    end, run = 0, None
    for place, size, what, number in rows:
        if run and place == run[0] + run[1] * size and what == run[3] and size == run[2] and (
                run[1] == 1 or number == run[4] + run[1] * run[5]):
            run[5] = number - run[4] if run[1] == 1 else run[5]
            run[1] += 1
            continue
        if run:
            yield from (run[0] - end, run[1], *run[3], run[4], run[5])
            end = run[0] + run[1] * run[2]
        run = [place, 1, size, what, number, 0]
    if run:
        yield from (run[0] - end, run[1], *run[3], run[4], run[5])


def _ranges(numbers: Iterable[int]) -> Iterator[list[int]]:
    """[first, how many] of numbers that follow each other."""
    first = last = None
    for number in sorted(numbers):
        if last is not None and number == last + 1:
            last = number
            continue
        if last is not None:
            yield [first, last - first + 1]
        first = last = number
    if last is not None:
        yield [first, last - first + 1]
