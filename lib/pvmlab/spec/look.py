# SPDX-License-Identifier: MIT
"""The model's state as a Snapshot, as if a machine had been looked at.

Adds: made-up addresses and frame numbers, the same at every look, and the entries' bits.
Leaves out: counters, and everything the tasks of a machine have beside the memory they mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..entry import LEVEL_SIZE
from ..model import PAGE_SHIFT, AnonVma, ChainLink, Entries, Mm, Page, Snapshot, Table, Task, Vma
from . import mm_types
from .memory import ZERO_PAGE
from .mm_types import ACCESS

_PRESENT, _RW, _USER, _PROTNONE, _SPECIAL = 1 << 0, 1 << 1, 1 << 2, 1 << 8, 1 << 9
_OBJECTS, _FRAMES, _ZERO_PFN = 0xFFFF888000000000, 0x1000, 0x2


class Look:
    """Makes Snapshots. It remembers what it called each thing: nothing is given an address twice."""

    def __init__(self) -> None:
        self._places: dict[object, int] = {ZERO_PAGE: 0}

    def __call__(self, mms: Mapping[str, mm_types.Mm], label: str = "") -> Snapshot:
        """Freeze the address spaces of tasks, by name."""
        vmas = [vma for mm in mms.values() for vma in mm.vmas]
        anon_vmas = {a.addr: a for a in map(self._anon_vma, _with_ancestors(vmas))}
        frames = {pte.frame for mm in mms.values() for pte in mm.ptes.values()}
        pages = {page.pfn: page for page in sorted(map(self._page, frames))}
        tasks = tuple(self._task(name, mm, anon_vmas) for name, mm in mms.items())
        return Snapshot(tasks, pages=pages, anon_vmas=anon_vmas, kernel="the specification", label=label)

    def _number(self, thing: object) -> int:
        return self._places.setdefault(thing, len(self._places))

    def _addr(self, thing: object) -> int:
        """A kernel address for a structure."""
        return _OBJECTS + 0x100 * self._number(thing)

    def _pfn(self, frame: mm_types.Frame) -> int:
        return _ZERO_PFN if frame is ZERO_PAGE else _FRAMES + self._number(frame)

    def _task(self, name: str, mm: mm_types.Mm, anon_vmas: Mapping[int, AnonVma]) -> Task:
        number = self._number(mm)
        vmas = tuple(self._vma(vma, anon_vmas) for vma in mm.vmas)
        tables, entries = self._tables(mm)
        counters = {"total_vm": sum(vma.pages for vma in vmas), "map_count": len(vmas)}
        pgd = tables[0].phys
        return Task(name, number, number, Mm(self._addr(mm), number, pgd, vmas, entries, tables, counters), (number,))

    def _vma(self, vma: mm_types.Vma, anon_vmas: Mapping[int, AnonVma]) -> Vma:
        flags = tuple(flag.name for flag in vma.vm_flags)
        own = anon_vmas[self._addr(vma.anon_vma)] if vma.anon_vma else None
        return Vma(self._addr(vma), self._number(vma), self._addr(vma.mm), vma.vm_start, vma.vm_end, int(vma.vm_flags),
                   flags, vma.vm_pgoff, "", own, tuple(self._link(vma, anon_vma) for anon_vma in vma.chain))

    def _anon_vma(self, av: mm_types.AnonVma) -> AnonVma:
        return AnonVma(self._addr(av), self._number(av), self._addr(av.root), self._addr(av.parent), av.refcount,
                       av.num_children, av.num_active_vmas, tuple(self._link(vma, av) for vma in av.tree))

    def _link(self, vma: mm_types.Vma, anon_vma: mm_types.AnonVma) -> ChainLink:
        return ChainLink(self._addr((vma, anon_vma)), self._addr(vma), self._addr(anon_vma),
                         vma.vm_pgoff, vma.vm_pgoff + vma.pages - 1)

    def _page(self, frame: mm_types.Frame) -> Page:
        pfn = self._pfn(frame)
        if frame is ZERO_PAGE:
            return Page(pfn, 0, (), 0, 1, 0, 0, False, pfn, 0, "zero")
        return Page(pfn, pfn, ("swapbacked",), frame.mapcount, frame.mapcount, self._addr(frame.anon_vma) | 1,
                    frame.index, frame.exclusive, pfn, 0, "anon")

    def _tables(self, mm: mm_types.Mm) -> tuple[tuple[Table, ...], Entries]:
        """The tables that the entries need, and the entries with their places in them."""
        made = {("pgd", 0): Table("pgd", self._phys(mm, "pgd", 0), 0, 0)}
        rows = []
        for addr, pte in sorted(mm.ptes.items()):
            upper = made["pgd", 0]
            for level in ("pud", "pmd", "pte"):
                span = LEVEL_SIZE[level] << 9
                parent, start = upper.phys + 8 * (addr // span % 512), addr // span * span
                upper = made.setdefault((level, start), Table(level, self._phys(mm, level, start), start, parent))
            rows.append((addr, self._raw(mm, addr, pte), upper.phys + 8 * ((addr >> PAGE_SHIFT) % 512), "pte"))
        return tuple(made.values()), Entries(rows)

    def _phys(self, mm: mm_types.Mm, level: str, start: int) -> int:
        return (_FRAMES + self._number((mm, level, start))) << PAGE_SHIFT

    def _raw(self, mm: mm_types.Mm, addr: int, pte: mm_types.Pte) -> int:
        """The 64 bits (entry.py): what must not be accessed at all has its frame's bits inverted."""
        special = _SPECIAL if pte.frame is ZERO_PAGE else 0
        place = self._pfn(pte.frame) << PAGE_SHIFT
        if not mm.at(addr).vm_flags & ACCESS:
            return ~place & ((1 << 52) - 1) & -1 << PAGE_SHIFT | _PROTNONE | special
        return place | _PRESENT | _USER | special | (_RW if pte.writable else 0)


def _with_ancestors(vmas: list[mm_types.Vma]) -> Iterator[mm_types.AnonVma]:
    """The anon_vmas of the chains, and their parents and roots, each once."""
    todo, seen = [anon_vma for vma in vmas for anon_vma in vma.chain], set()
    while todo:
        anon_vma = todo.pop()
        if anon_vma not in seen:
            seen.add(anon_vma)
            todo += [anon_vma.parent, anon_vma.root]
            yield anon_vma
