# SPDX-License-Identifier: MIT
"""The nouns: frames, page-table entries, anon_vmas, VMAs, and the mm that holds them (include/linux/mm_types.h).

Adds: five structures with the kernel's names, and finding a VMA by address.
Leaves out: every rule. They are in the other files, one for each file of the kernel.
"""

from __future__ import annotations

import enum
from bisect import insort
from dataclasses import dataclass, field, replace

from ..model import PAGE_SHIFT, PAGE_SIZE


class VM(enum.IntFlag):
    """The bits of vm_flags that private anonymous memory can have here (include/linux/mm.h)."""

    READ, WRITE, EXEC = 1 << 0, 1 << 1, 1 << 2
    MAYREAD, MAYWRITE, MAYEXEC = 1 << 4, 1 << 5, 1 << 6
    DONTCOPY, ACCOUNT, NORESERVE = 1 << 17, 1 << 20, 1 << 21
    WIPEONFORK, SOFTDIRTY = 1 << 25, 1 << 27
    FORKED = 1 << 41        # v3 only


ACCESS = VM.READ | VM.WRITE | VM.EXEC
MAY_ACCESS = VM.MAYREAD | VM.MAYWRITE | VM.MAYEXEC
#: What is_mergeable_vma() (mm/vma.c) does not compare.
MERGES_ANYWAY = VM.SOFTDIRTY | VM.FORKED


@dataclass(eq=False)
class Frame:
    """One page of memory: struct page. `index` says where in its anon_vma it lies, in pages; the zero page has none."""

    anon_vma: AnonVma | None
    index: int
    data: bytearray
    mapcount: int = 0
    exclusive: bool = True


@dataclass
class Pte:
    """One page-table entry: which frame, and whether the processor lets a store through."""

    frame: Frame
    writable: bool


@dataclass(eq=False)
class AnonVma:
    """struct anon_vma (include/linux/rmap.h): which VMAs may map the pages that belong to it.

    tree: those VMAs by vm_pgoff; those with the same one in the order they came.
    root and parent are the anon_vma itself unless a fork made it.
    """

    root: AnonVma = None
    parent: AnonVma = None
    refcount: int = 1
    num_children: int = 0
    num_active_vmas: int = 0
    tree: list[Vma] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root, self.parent = self.root or self, self.parent or self

    def insert(self, vma: Vma) -> None:
        """anon_vma_interval_tree_insert(), mm/interval_tree.c."""
        insort(self.tree, vma, key=lambda v: v.vm_pgoff)


@dataclass(eq=False)
class Vma:
    """struct vm_area_struct: addresses in bytes, vm_pgoff in pages.

    chain: the anon_vmas where its pages can belong, newest first; anon_vma: where its own new pages go.
    """

    mm: Mm
    vm_start: int
    vm_end: int
    vm_flags: VM
    vm_pgoff: int
    anon_vma: AnonVma | None = None
    chain: list[AnonVma] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return (self.vm_end - self.vm_start) >> PAGE_SHIFT

    def pgoff_at(self, addr: int) -> int:
        """linear_page_index(), include/linux/pagemap.h."""
        return self.vm_pgoff + ((addr - self.vm_start) >> PAGE_SHIFT)

    def dup(self, **changed: object) -> Vma:
        """vm_area_dup(), kernel/fork.c: a copy that is in no chain yet."""
        return replace(self, chain=[], **changed)


@dataclass(eq=False)
class Mm:
    """struct mm_struct: VMAs in address order, entries by address; new mappings go below mmap_base."""

    mmap_base: int
    vmas: list[Vma] = field(default_factory=list)
    ptes: dict[int, Pte] = field(default_factory=dict)

    def link(self, vma: Vma) -> Vma:
        """vma_link(), mm/vma.c."""
        insort(self.vmas, vma, key=lambda v: v.vm_start)
        return vma

    def find(self, addr: int) -> Vma | None:
        """find_vma(), mm/mmap.c: the VMA at addr, or else the next one."""
        return next((v for v in self.vmas if addr < v.vm_end), None)

    def at(self, addr: int) -> Vma | None:
        """vma_lookup(), include/linux/mm.h: the VMA at addr."""
        return next((v for v in self.vmas if v.vm_start <= addr < v.vm_end), None)

    def between(self, start: int, end: int) -> list[Vma]:
        """for_each_vma_range(): the VMAs that have a page in [start, end)."""
        return [v for v in self.vmas if v.vm_start < end and start < v.vm_end]

    def neighbours(self, start: int, end: int) -> tuple[Vma | None, Vma | None]:
        """The VMAs that end exactly at start and begin exactly at end."""
        prev = next((v for v in self.vmas if v.vm_end == start), None)
        return prev, next((v for v in self.vmas if v.vm_start == end), None)


def pages_in(start: int, end: int) -> range:
    """The addresses of the pages in [start, end)."""
    return range(start, end, PAGE_SIZE)
