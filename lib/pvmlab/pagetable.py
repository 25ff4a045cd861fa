# SPDX-License-Identifier: MIT
"""Page tables and struct pages, from the guest's memory.

Adds: the walk twice. `walk()` is the one to read; `quick_walk()` is walk.c
and does the same in one pass. The tests hold them equal, on real and on random
tables, and equal to what the guest's /proc/PID/pagemap says.
Leaves out: the meaning of the bits (entry.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from . import entry
from ._walk import ffi, lib
from .errors import MachineDied
from .memory import Memory
from .model import Entries, Page, Table

#: Levels by depth: index 0 is the leaf table.
_LEVELS = ("pte", "pmd", "pud", "pgd")
_USER_ENTRIES = 256  # of the pgd's 512: the lower half of the address space is user space
_FRAME = ((1 << 52) - 1) & ~0xFFF


def walk(memory: Memory, pgd: int) -> tuple[Entries, tuple[Table, ...]]:
    """Walk the user half of a page-table tree and return its entries and its table pages.

    pgd: physical address of the top table (mm->pgd, less the direct map).
    Source: walk_page_range(), mm/pagewalk.c. Raises MachineDied for a pgd
    outside the RAM.
    """
    entries: list[tuple[int, int, int, str]] = []
    tables: list[Table] = []

    def visit(level: int, phys: int, start: int, parent: int, named: int, count: int) -> None:
        if not 0 <= phys <= memory.size - 4096:
            return
        tables.append(Table(_LEVELS[level], phys, start, parent, named))
        for i, raw in enumerate(struct.unpack(f"<{count}Q", memory.read(phys, 8 * count))):
            addr, at = start + (i << 12 + 9 * level), phys + 8 * i
            if not raw:
                continue
            if level and raw & 1 and not entry.is_huge(raw):
                visit(level - 1, raw & _FRAME, addr, at, raw, 512)
            else:
                entries.append((addr, raw, at, _LEVELS[level]))

    _inside(memory, pgd)
    visit(3, pgd, 0, 0, 0, _USER_ENTRIES)
    return Entries(entries), tuple(tables)


def quick_walk(memory: Memory, pgd: int, room: int = 4096) -> tuple[Entries, tuple[Table, ...]]:
    """Do what walk() does, in C (walk.c). room: entries to make place for at first."""
    _inside(memory, pgd)
    found = ffi.new("uint64_t *")
    n_entries, n_tables = room, 64 + room // 256
    while True:
        entries, tables = ffi.new("struct pvm_entry[]", n_entries), ffi.new("struct pvm_table[]", n_tables)
        n = lib.pvm_walk(memory.pointer, memory.size, pgd, entries, n_entries, tables, n_tables, found)
        if n <= n_entries and found[0] <= n_tables:
            break
        n_entries, n_tables = max(n, n_entries), max(found[0], n_tables)
    rows = struct.iter_unpack("<4Q", ffi.buffer(entries, n * ffi.sizeof("struct pvm_entry")))
    spans = struct.iter_unpack("<5Q", ffi.buffer(tables, found[0] * ffi.sizeof("struct pvm_table")))
    return (Entries((addr, raw, phys, _LEVELS[level]) for addr, raw, phys, level in rows),
            tuple(Table(_LEVELS[level], *span) for level, *span in spans))


def _inside(memory: Memory, pgd: int) -> None:
    if pgd & 0xFFF or not 0 <= pgd <= memory.size - 4096:
        raise MachineDied(f"{pgd:#x} is no page table", "it is not a page of the machine's RAM",
                          "the kernel's structures look damaged: start a new Lab")


# --- struct pages -----------------------------------------------------------------------------------------------------

#: include/linux/page-flags.h: PAGE_MAPPING_FLAGS, the low two bits of folio->mapping.
_KINDS = ("file", "anon", "other", "ksm")


def pages(memory: Memory, layout: object, flag_names: tuple[dict[int, str], dict[int, str]], zero: int,
          huge_zero: int, pfns: Iterable[int]) -> Iterator[Page]:
    """Yield the Page of each frame, in the order given; frames outside the RAM are left out.

    layout: Kernel.layout; flag_names: Kernel.page_flags and .anon_page_flags;
    zero, huge_zero: the first frames of the two zero pages, -1 where there is none.
    """
    wanted = list(pfns)
    out = ffi.new("struct pvm_page[]", len(wanted))
    n = lib.pvm_pages(memory.pointer, memory.size, layout, wanted, len(wanted), out)
    general, anonymous = map(_FlagNames, flag_names)
    special = {zero: "zero"} | {pfn: "huge zero" for pfn in range(huge_zero, huge_zero + 512) if huge_zero >= 0}
    for pfn, born, flags, mapping, index, head, mapcount, refcount, order, exclusive in struct.iter_unpack(
            "<6Q2i2I", ffi.buffer(out, n * ffi.sizeof("struct pvm_page"))):
        kind = special.get(pfn) or _KINDS[mapping & 3] if mapping else special.get(pfn, "other")
        anon = kind == "anon"
        yield Page._make((pfn, born, anonymous[flags] if anon else general[flags], mapcount, refcount, mapping, index,
                          anon and exclusive == 1, head, order, kind))


class _FlagNames(dict):
    """page->flags to names, each combination decoded once; zone and node bits are no flags."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, flags: int) -> tuple[str, ...]:
        self[flags] = tuple(name for bit, name in self._names.items() if flags >> bit & 1)
        return self[flags]
