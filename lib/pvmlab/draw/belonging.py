# SPDX-License-Identifier: MIT
"""What belongs together in a figure at one step: what lights up when a part is chosen.

Adds: ties between an entry, its VMA and the way to it through the tables; a
frame and every entry and VMA that maps it (in every process, drawn in full or
not); a link of the anon_vma_chain, its VMA and its anon_vma; parts that show one thing twice; the places of a
change, drawn or folded.
Leaves out: how that is said (details.py) and shown (view.js).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from .. import entry as _entry
from ..diff import Line, Steps
from ..identity import Key
from ..model import PAGE_SHIFT, Mm
from .concern import ELSEWHERE
from .parts import Box, Edge, Panel, Row, ref


def parts(panels: Sequence[Panel]) -> Iterator[tuple[Box, Row]]:
    """Every row that can be chosen: those that say what they show."""
    for panel in panels:
        for box in (*panel.boxes, *panel.folds):
            yield from ((box, row) for row in box.rows if row.refs)


class Belonging:
    """Which parts belong together at one stop.

    shown: {row id: (box, row, step)} of the parts that are there, with the
    step they are shown as of: the new one, or the old one of what is gone
    """

    def __init__(self, panels: Sequence[Panel], steps: Steps | None, old: int | None, new: int) -> None:
        self.panels, self.steps = panels, steps
        self.shown, self._mapped_in = {}, {}
        self._steps = [step for step in (old, new) if step is not None]
        for box, row in parts(panels):
            step = new if row.seen[new] is not None else None if box.quiet or old is None else old
            if step is not None and row.seen[step] is not None:
                self.shown[row.id] = (box, row, step)
        self._ties = {step: self._tied(step) for step in {step for _, _, step in self.shown.values()}}

    @cached_property
    def _by_ref(self) -> dict[str, list[str]]:
        """{ref: ids of the parts that show it}."""
        found = defaultdict(list)
        for name, (_, row, _) in self.shown.items():
            for each in row.refs:
                found[each].append(name)
        return found

    def lit(self, name: str) -> list[str]:
        """The ids of what belongs to a part, itself included, in the order of the figure."""
        _, row, step = self.shown[name]
        ties = self._ties[step]
        refs = {*row.refs, *(tied for mine in row.refs for tied in ties.get(mine, ()))}
        found = {other for each in refs for other in self._by_ref.get(each, ())}
        found.update(other for run in self._below.get(name, ()) for other in self.lit(run))
        lit = [other for other in self.shown if other in found]
        return [*lit, *dict.fromkeys(way for other in lit for way in self.path(other))]

    def path(self, name: str) -> Iterator[str]:
        """Yield the ids of the index rows that lead to a run of entries, lowest table first."""
        box, row, step = self.shown[name]
        yield from (way for way, edge in self._up(box) if edge.seen[step]) if row.cls == "pte" else ()

    @cached_property
    def _below(self) -> dict[str, list[str]]:
        """{id of an index row: the runs of entries that it leads to}."""
        found = defaultdict(list)
        for name in self.shown:
            for way in self.path(name):
                found[way].append(name)
        return found

    def way(self, box: Box) -> list[str]:
        """path() of a table's rows at any step."""
        return [way for way, _ in self._up(box)]

    def _up(self, box: Box) -> Iterator[tuple[str, Edge]]:
        end = box.id
        while end in self._above:
            edge = self._above[end]
            yield edge.tail[1], edge
            end = edge.tail[0]

    @cached_property
    def _above(self) -> dict[str, Edge]:
        """{id of a table's box: the edge that leads to it from an index of the table above}."""
        heads = {box.header.id for panel in self.panels for box in panel.boxes}
        return {edge.head[0]: edge for panel in self.panels for edge in panel.edges
                if edge.cls == "walk" and panel.name == "translation" and edge.tail[1] not in heads}

    def _tied(self, step: int) -> dict[str, set[str]]:
        ties: dict[str, set[str]] = defaultdict(set)
        for group in (*self._mappings(step), *self._links(step)):
            for each in group:
                ties[each] |= group
        return ties

    def _mappings(self, step: int) -> Iterator[set[str]]:
        """What each run of entries ties to its VMA; and a drawn frame to every VMA and entry that maps it, anywhere."""
        for panel in self.panels:
            rows = {(box.id, row.id): row for box in panel.boxes for row in box.rows}
            for edge in panel.edges:
                if edge.cls == "direct" and edge.seen[step]:
                    yield {rows[edge.tail].refs[0], rows[edge.head].refs[0]}
        if self.steps is not None:
            yield from self._folded(step)
            for frame, mapper in self._mapped_by(step):
                yield {frame, mapper}

    def _folded(self, step: int) -> Iterator[set[str]]:
        """What ties a line that stands for entries to each VMA that has some of them."""
        for row in (row for _, row, _ in self.shown.values() if row.cls == "fold" and row.opens.kind == "entries"):
            for mm, start, end in row.opens.what:
                space = self.steps.identity.at("mm", self.steps.at[step]).get(mm)
                for vma in space.vmas if space else ():
                    found = space.entries.between(max(start, vma.vm_start), min(end, vma.vm_end))
                    if vma.vm_start < end and start < vma.vm_end and found:
                        yield {ref("vma", self._key("vma", step, vma.addr)), ref("entry", (mm, *found[0][::3]))}

    def _key(self, kind: str, step: int, place: int) -> Key:
        return self.steps.identity.key(kind, self.steps.at[step], place)

    def _mapped_by(self, step: int) -> set[tuple[str, str]]:
        """(ref of a drawn frame, ref of what maps it): each frame that a part stands for is looked up."""
        drawn = sorted({(pfn, row.refs[0]) for _, row, _ in self.shown.values() if row.opens
                        and row.opens.kind == "frames" and row.cls != "folio" for pfn in row.opens.what})
        pfns, found = [pfn for pfn, _ in drawn], set()
        for mm in self.steps.snapshots[step].mms if drawn else ():
            mapper = self._mappers(mm, step)
            for addr, raw, _, level in mm.entries.rows():
                if not _entry.is_present(raw):
                    continue
                pfn = _entry.pfn_of(raw)
                i, end = bisect_left(pfns, pfn), pfn + (_entry.LEVEL_SIZE[level] >> PAGE_SHIFT)
                if i < len(pfns) and pfns[i] < end:
                    frames = [frame for _, frame in drawn[i:bisect_left(pfns, end)]]
                    found.update((frame, each) for each in mapper(addr, level) for frame in frames)
        return found

    def _mappers(self, mm: Mm, step: int) -> Callable[[int, str], list[str]]:
        """Says the refs of the VMA and of the entry at an address; entries of one row have one."""
        who, at = self.steps.identity, self.steps.at[step]
        key = who.key("mm", at, mm.addr)
        starts = [vma.vm_start for vma in mm.vmas]
        vmas = [ref("vma", who.key("vma", at, vma.addr)) for vma in mm.vmas]

        def mapper(addr: int, level: str) -> list[str]:
            spans, i = self._spans.get((key, level), []), bisect_right(starts, addr) - 1
            k = bisect_right(spans, (addr, 1 << 64)) - 1
            entry = spans[k][2] if k >= 0 and addr < spans[k][1] else ref("entry", (key, addr, level))
            return [vmas[i], entry] if i >= 0 and addr in mm.vmas[i] else [entry]
        return mapper

    @cached_property
    def _spans(self) -> dict[tuple[Key, str], list[tuple[int, int, str]]]:
        """{(mm's key, level): (from, to, ref) of every row of entries, in order}."""
        found = defaultdict(list)
        for _, row in parts(self.panels):
            for mm, start, end in row.opens.what if row.cls == "pte" else ():
                found[mm, row.refs[0].rpartition("-")[2]].append((start, end, row.refs[0]))
        return {at: sorted(spans) for at, spans in found.items()}

    def mapped(self, step: int) -> dict[int, list[tuple[Mm, int]]]:
        """{PFN of each drawn frame (of a group its first): (mm, address) of every entry that maps it}."""
        wanted = sorted({row.opens.what[0] for _, row, _ in self.shown.values()
                         if row.opens and row.opens.kind == "frames"})
        found: dict[int, list[tuple[Mm, int]]] = defaultdict(list)
        for mm in self.steps.snapshots[step].mms if self.steps and wanted else ():
            for addr, raw, _, level in mm.entries.rows():
                if not _entry.is_present(raw):
                    continue
                pfn, pages = _entry.pfn_of(raw), _entry.LEVEL_SIZE[level] >> PAGE_SHIFT
                i = bisect_left(wanted, pfn)
                while i < len(wanted) and wanted[i] < pfn + pages:
                    found[wanted[i]].append((mm, addr + ((wanted[i] - pfn) << PAGE_SHIFT)))
                    i += 1
        return found

    # Where changes are

    def places(self, line: Line) -> list[str]:
        """The ids of the parts that a line is about; where none is drawn, of those that stand for what is left out."""
        locks = {each for change in line.changes if change.kind == "lock" for each in self._lock(change.id[0])}
        homes = (home for kind, key in line.refs for home in self._homes(kind, key))
        return self._showing(locks | {ref(*r) for r in line.refs}) or self._showing({*homes})

    def lines(self, lines: Sequence[Line]) -> Iterator[tuple[Line, list[str]]]:
        """Yield each line of a stop with its places; a heading has those of all under it."""
        found = [self.places(line) for line in lines]
        for i, line in enumerate(lines):
            under = {name for places in found[i:] for name in places} if line.sign == ELSEWHERE else found[i]
            yield line, [name for name in self.shown if name in under]

    def _showing(self, refs: set[str]) -> list[str]:
        return [name for name, (_, row, _) in self.shown.items() if not refs.isdisjoint(row.refs)]

    def _lock(self, text: str) -> Iterator[str]:
        """The ref of what a lock of Snapshot.held belongs to: an mm, a page of its tables, an anon_vma."""
        who = self.steps.identity
        for key, name in who.anon_vma_names.items():
            if text == f"rwsem of {name}":
                yield ref("anon_vma", key)
        for key, name in who.mm_names.items():
            if text.startswith((f"mmap_lock of {name}:", f"page_table_lock of {name}")):
                yield ref("mm", key)
            for step in self._steps if text.startswith(f"lock of {name}'s") else ():
                yield from (ref("table", at) for at, table in who.tables(self.steps.at[step]).items()
                            if at[0] == key and text.endswith(f"{table.level} table for {table.start:#x}"))

    def _homes(self, kind: str, key: Key) -> Iterator[str]:
        """Refs of the VMAs that map a frame, or have an anon_vma in their chain."""
        who = self.steps.identity
        for step in self._steps:
            at = self.steps.at[step]
            if kind == "page":
                yield from self._mapping(step).get(key[0], ())
            elif kind == "anon_vma":
                yield from (ref("vma", vma) for vma, anon_vma in who.links(at) if anon_vma == key)

    def _mapping(self, step: int) -> dict[int, set[str]]:
        """{PFN: refs of the VMAs that map it} of one step."""
        if step not in self._mapped_in:
            found = self._mapped_in[step] = defaultdict(set)
            for mm in self.steps.snapshots[step].mms:
                mapper = self._mappers(mm, step)
                for addr, raw, _, level in mm.entries.rows():
                    for i in range(_entry.LEVEL_SIZE[level] >> PAGE_SHIFT) if _entry.is_present(raw) else ():
                        found[_entry.pfn_of(raw) + i].update(mapper(addr, level)[:1])
        return self._mapped_in[step]

    def _links(self, step: int) -> Iterator[set[str]]:
        """What each anon_vma_chain ties together: itself, its VMA, its anon_vma."""
        if self.steps is not None:
            for key in self.steps.identity.links(self.steps.at[step]):
                yield {ref("link", key), ref("vma", key[0]), ref("anon_vma", key[1])}
