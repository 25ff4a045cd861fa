# SPDX-License-Identifier: MIT
"""The call: process_vm_mmap() of series v2 and v3 (kernel-patches/; mm/process_vm_access.c, mm/mmap.c, mm/vma.c).

Adds: what it refuses, what it makes, and, with PVMMAP_MOVE, what it takes away. Where the series differ, `series` says
which.
Leaves out: permissions, limits, and the source's other kinds of memory, each of which has an errno of its own.
"""

from __future__ import annotations

import errno

from ..calls import PVMMAP_FIXED as FIXED
from ..calls import PVMMAP_FIXED_NOREPLACE as FIXED_NOREPLACE
from ..calls import PVMMAP_MOVE as MOVE
from ..errors import UsageError
from ..model import PAGE_SHIFT, PAGE_SIZE
from .memory import copy_page_range, move_entries
from .mm_types import VM, Mm, Vma
from .mmap import MMAP_MIN_ADDR, TASK_SIZE, get_unmapped_area, page_align
from .rmap import anon_vma_clone
from .rule import RULES
from .vma import Proposal, merge_existing_range, merge_new_range, munmap

#: What the owner decided about its own memory stays behind: VM_COPY_PRIVATE, mm/vma.c.
COPY_PRIVATE = VM.WIPEONFORK | VM.DONTCOPY
PMD_SIZE = PAGE_SIZE << 9
#: The flags that a series knows.
FLAGS = {"v2": FIXED | FIXED_NOREPLACE, "v3": FIXED | FIXED_NOREPLACE | MOVE}


def process_vm_mmap(series: str, rule: str, mm: Mm, src_mm: Mm, src: int, len: int, dst: int, flags: int) -> int:
    """SYSCALL_DEFINE5(process_vm_mmap): see whether it makes sense, then do it.

    v2 rounds len up and src down, each on its own; v3 maps all pages that the range touches.
    rule: the one in force, of RULES; v2 has "any" only.
    Returns the address, or a negative errno.
    """
    len, src = page_align(len if series == "v2" else len + src % PAGE_SIZE), src & -PAGE_SIZE
    if flags & (FIXED | FIXED_NOREPLACE):
        dst &= -PAGE_SIZE
    elif dst >= PAGE_SIZE:
        dst = max(dst & -PAGE_SIZE, MMAP_MIN_ADDR)  # round_hint_to_min()
    if flags & ~FLAGS[series] or not 0 < len <= TASK_SIZE or not src or dst > TASK_SIZE - len:
        return -errno.EINVAL
    if series != "v2" and mm is src_mm:
        return -errno.EINVAL
    return _mmap_process_vm(series, rule, mm, src_mm, src, len, dst, flags)


def _mmap_process_vm(series: str, rule: str, mm: Mm, src_mm: Mm, src: int, len: int, dst: int, flags: int) -> int:
    """mmap_process_vm(): the source has to be in one VMA; make room; make the VMA; fill it."""
    src_vma = src_mm.at(src)
    if not src_vma or len > src_vma.vm_end - src:
        return -errno.EFAULT
    if series != "v2" and src_vma.vm_flags & (VM.DONTCOPY | VM.WIPEONFORK):
        return -errno.EFAULT
    if not flags & (FIXED | FIXED_NOREPLACE):
        dst = get_unmapped_area(mm, dst, len)
    elif flags & FIXED_NOREPLACE and mm.between(dst, dst + len):
        return -errno.EEXIST
    if not RULES[rule](mm, src_vma, src, src + len):
        return -errno.EBUSY
    if mm is src_mm:
        _refuse_disaster(src_vma, src, len, dst)
    replace = _replace_v2 if series == "v2" else _move if flags & MOVE else _replace_v3
    replace(_proposal(mm, src_vma, src, len, dst), src_vma, src)
    return dst


def _refuse_disaster(src_vma: Vma, src: int, len: int, dst: int) -> None:
    """Within one mm v2 can go wrong in ways that leave no state to speak of (D2, D3): raise UsageError for them."""
    mm, what = src_vma.mm, "process_vm_mmap() of one's own memory"
    if src_vma in mm.between(dst, dst + len):
        raise UsageError(what, "over its own source, v2 uses a VMA that it has freed (D3)", "another destination")
    copied = any(v and v.anon_vma for v in (src_vma, mm.at(dst - 1), mm.at(dst + len)))     # or a merge may make it so
    if copied and any((src + at) // PMD_SIZE == (dst + at) // PMD_SIZE for at in range(0, len, PAGE_SIZE)):
        raise UsageError(what, "source and destination share a page table: v2 takes its lock twice and hangs (D2)",
                         "a destination 2 MiB away")


def _proposal(mm: Mm, src_vma: Vma, src: int, len: int, dst: int) -> Proposal:
    """copy_vma(), mm/vma.c: page offsets, flags and anon_vma are the source's.

    A source without pages of its own has no use for its page offsets: then they are those of the new place.
    """
    pgoff = src_vma.pgoff_at(src) if src_vma.anon_vma else dst >> PAGE_SHIFT
    return Proposal(mm, dst, dst + len, src_vma.vm_flags & ~COPY_PRIVATE, pgoff, src_vma.anon_vma)


def _new_vma(new: Proposal, src_vma: Vma) -> Vma:
    """copy_vma(): the source's anon_vma and its whole chain, not one made by a fork."""
    vma = src_vma.dup(mm=new.mm, vm_start=new.start, vm_end=new.end, vm_flags=new.flags, vm_pgoff=new.pgoff)
    anon_vma_clone(vma, src_vma)
    return vma


def _replace_v2(new: Proposal, src_vma: Vma, src: int) -> None:
    """v2 unmaps, merges, and copies the entries into what came out."""
    munmap(new.mm, new.start, new.end)
    dst_vma = merge_new_range(new) or new.mm.link(_new_vma(new, src_vma))
    if src_vma not in src_vma.mm.vmas:
        src_vma = dst_vma   # it was merged with its own copy
    copy_page_range(dst_vma, src_vma, new.start, src, src + (new.end - new.start))


def _replace_v3(new: Proposal, src_vma: Vma, src: int) -> None:
    """v3 makes the VMA aside, so that what it replaces is there until nothing can fail, and fills it before it is
    merged, so that a walk of the reverse map never passes it too early."""
    dst_vma = _new_vma(new, src_vma)
    munmap(new.mm, new.start, new.end)
    new.mm.link(dst_vma)
    copy_page_range(dst_vma, src_vma, new.start, src, src + (new.end - new.start))
    merge_existing_range(dst_vma, new)


def _move(new: Proposal, src_vma: Vma, src: int) -> None:
    """move_region(): as v3 makes a clone, but the entries leave the source, and then the range does."""
    dst_vma, end = _new_vma(new, src_vma), src + (new.end - new.start)
    munmap(new.mm, new.start, new.end)
    new.mm.link(dst_vma)
    move_entries(new.mm, src_vma.mm, new.start, src, end)
    munmap(src_vma.mm, src, end)
    merge_existing_range(dst_vma, new)
