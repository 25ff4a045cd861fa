# SPDX-License-Identifier: MIT
"""Which mappings the call takes: vm.process_vm_mmap_rule of series v3 (mm/process_vm_rule.c).

Adds: the five rules by name, each a question about a piece of the source's VMA.
Leaves out: swap entries, which `exclusive` asks about as it does about frames.
"""

from __future__ import annotations

from collections.abc import Callable

from .memory import ZERO_PAGE
from .mm_types import VM, Mm, Vma, pages_in


def has_single_chain(mm: Mm, vma: Vma, start: int, end: int) -> bool:
    """has_single_chain() (message 16): no other VMA can have its pages."""
    return not vma.anon_vma or (len(vma.chain) == 1 and vma.anon_vma.tree == [vma])


def has_foreign_root(mm: Mm, vma: Vma, start: int, end: int) -> bool:
    """has_foreign_root() (message 18): no VMA of the caller descends from the same first anon_vma."""
    return not vma.anon_vma or not any(own.anon_vma and own.anon_vma.root is vma.anon_vma.root for own in mm.vmas)


def is_whole_and_never_forked(mm: Mm, vma: Vma, start: int, end: int) -> bool:
    """is_whole_and_never_forked() (message 20): all of a VMA no part of which was there at a fork."""
    return (start, end) == (vma.vm_start, vma.vm_end) and not vma.vm_flags & VM.FORKED


def is_exclusive(mm: Mm, vma: Vma, start: int, end: int) -> bool:
    """is_exclusive(): nobody else has one of the pages."""
    frames = [vma.mm.ptes[addr].frame for addr in pages_in(start, end) if addr in vma.mm.ptes]
    return all(frame is ZERO_PAGE or frame.exclusive for frame in frames)


#: By its name: whether the mm that asks may have [start, end) of a VMA.
RULES: dict[str, Callable[[Mm, Vma, int, int], bool]] = {
    "any": lambda mm, vma, start, end: True,
    "single-chain": has_single_chain,
    "foreign-root": has_foreign_root,
    "never-forked": is_whole_and_never_forked,
    "exclusive": is_exclusive,
}
