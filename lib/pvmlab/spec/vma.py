# SPDX-License-Identifier: MIT
"""How VMAs are split, merged and taken away (mm/vma.c).

Adds: the rules by which mapping and changing flags join neighbours, and what that does to anon_vma chains.
Leaves out: files, policies and names, which anonymous memory of these worlds does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model import PAGE_SHIFT
from .memory import zap_range
from .mm_types import MERGES_ANYWAY, VM, AnonVma, Mm, Vma
from .rmap import anon_vma_clone, may_share, unlink_anon_vmas


@dataclass
class Proposal:
    """struct vma_merge_struct (mm/vma.h): what is to be mapped, or changed, at [start, end)."""

    mm: Mm
    start: int
    end: int
    flags: VM
    pgoff: int
    anon_vma: AnonVma | None = None

    @property
    def pages(self) -> int:
        return (self.end - self.start) >> PAGE_SHIFT

    def fits_after(self, prev: Vma | None) -> bool:
        """can_vma_merge_left()."""
        return prev is not None and self._like(prev) and prev.vm_pgoff + prev.pages == self.pgoff

    def fits_before(self, next: Vma | None, prev: Vma | None) -> bool:
        """can_vma_merge_right(); prev: what it merges with on the other side, which has to suit next as well."""
        return (next is not None and self._like(next) and self.pgoff + self.pages == next.vm_pgoff
                and (prev is None or may_share(prev.anon_vma, next.anon_vma, None)))

    def _like(self, vma: Vma) -> bool:
        """is_mergeable_vma() and is_mergeable_anon_vma()."""
        return not (vma.vm_flags ^ self.flags) & ~MERGES_ANYWAY and may_share(self.anon_vma, vma.anon_vma, vma)


def merge_new_range(new: Proposal) -> Vma | None:
    """vma_merge_new_range(): grow a neighbour over a range where nothing is yet; None if neither suits."""
    prev, next = new.mm.neighbours(new.start, new.end)
    left = prev if new.fits_after(prev) else None
    right = next if new.fits_before(next, left) else None
    if left and right:
        _take_anon_vma(left, right)
    grown = left or right
    if grown:
        _reshape(grown, left.vm_start if left else new.start, right.vm_end if right else new.end)
        _spread_mark(grown, new, *((right,) if left and right else ()))
    if left and right:
        _remove(right)
    return grown


def merge_existing_range(vma: Vma, new: Proposal) -> Vma | None:
    """vma_merge_existing_range(): a part of vma gets other flags; give it to the neighbours that have them already."""
    prev, next = new.mm.neighbours(new.start, new.end)
    left = prev if new.start == vma.vm_start and new.fits_after(prev) else None
    right = next if new.end == vma.vm_end and new.fits_before(next, left) else None
    whole = (new.start, new.end) == (vma.vm_start, vma.vm_end)
    if left and right:
        _take_anon_vma(left, right if right.anon_vma else vma)
        _reshape(left, left.vm_start, right.vm_end)
        _spread_mark(left, new, vma, right)
        _remove(vma)
        _remove(right)
    elif left:
        _take_anon_vma(left, vma)
        _move_boundary(left, vma, left.vm_start, new.end, whole)
        _spread_mark(left, new, *((vma,) if whole else ()))
    elif right:
        _take_anon_vma(right, vma)
        _move_boundary(right, vma, new.start, right.vm_end, whole)
        _spread_mark(right, new, *((vma,) if whole else ()))
    return left or right


def _spread_mark(grown: Vma, new: Proposal, *gone: Vma) -> None:
    """commit_merge(): what becomes part of a VMA brings VM_FORKED along."""
    for flags in (new.flags, *(vma.vm_flags for vma in gone)):
        grown.vm_flags |= flags & VM.FORKED


def _take_anon_vma(dst: Vma, src: Vma) -> None:
    """dup_anon_vma(): a VMA that grows over one with an anon_vma needs it for the pages it takes over."""
    if src.anon_vma and not dst.anon_vma:
        dst.anon_vma = src.anon_vma
        anon_vma_clone(dst, src)


def _move_boundary(grows: Vma, vma: Vma, start: int, end: int, whole: bool) -> None:
    """commit_merge(): grows gets [start, end); vma, which had a part of it, shrinks or goes."""
    if whole:
        _reshape(grows, start, end)
        _remove(vma)
    elif start < vma.vm_start:
        _reshape_both(grows, (start, end), vma, (end, vma.vm_end))
    else:
        _reshape_both(vma, (vma.vm_start, start), grows, (start, end))


def _reshape_both(vma: Vma, its: tuple[int, int], next: Vma, nexts: tuple[int, int]) -> None:
    """Both leave their trees before either changes (vma_prepare()), and come back in address order (vma_complete())."""
    _leave_trees(vma, next)
    _set_range(vma, *its)
    _set_range(next, *nexts)
    _enter_trees(vma, next)


def _reshape(vma: Vma, start: int, end: int) -> None:
    _leave_trees(vma)
    _set_range(vma, start, end)
    _enter_trees(vma)


def _set_range(vma: Vma, start: int, end: int) -> None:
    """vma_set_range(): every page keeps its page offset."""
    vma.vm_start, vma.vm_end, vma.vm_pgoff = start, end, vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)


def _leave_trees(*vmas: Vma) -> None:
    """anon_vma_interval_tree_pre_update_vma()."""
    for vma in vmas:
        for anon_vma in vma.chain:
            anon_vma.tree.remove(vma)


def _enter_trees(*vmas: Vma) -> None:
    """anon_vma_interval_tree_post_update_vma()."""
    for vma in vmas:
        for anon_vma in vma.chain:
            anon_vma.insert(vma)


def _remove(vma: Vma) -> None:
    """remove_vma() and anon_vma_merge()."""
    unlink_anon_vmas(vma)
    vma.mm.vmas.remove(vma)


def split(vma: Vma, addr: int, new_below: bool) -> Vma:
    """__split_vma(): make two of it at addr; return the new one, which is the lower or the upper part."""
    start, end = (vma.vm_start, addr) if new_below else (addr, vma.vm_end)
    new = vma.dup(vm_start=start, vm_end=end, vm_pgoff=vma.pgoff_at(start))
    anon_vma_clone(new, vma)
    _reshape(vma, *((addr, vma.vm_end) if new_below else (vma.vm_start, addr)))
    return vma.mm.link(new)


def modify_flags(vma: Vma, start: int, end: int, flags: VM) -> Vma:
    """vma_modify_flags(): give [start, end) of vma other flags; return the VMA that has it then."""
    new = Proposal(vma.mm, start, end, flags, vma.pgoff_at(start), vma.anon_vma)
    merged = merge_existing_range(vma, new)
    if not merged and vma.vm_start < start:
        split(vma, start, new_below=True)
    if not merged and end < vma.vm_end:
        split(vma, end, new_below=False)
    result = merged or vma
    result.vm_flags = flags | result.vm_flags & VM.FORKED       # vm_flags_reset(), include/linux/mm.h
    return result


def munmap(mm: Mm, start: int, end: int) -> None:
    """do_vmi_align_munmap(): split what reaches over the ends, then take away all between them."""
    first = mm.at(start)
    if first and first.vm_start < start:
        split(first, start, new_below=True)
    last = mm.at(end - 1)
    if last and end < last.vm_end:
        split(last, end, new_below=False)
    zap_range(mm, start, end)
    for vma in mm.between(start, end):
        _remove(vma)
