# SPDX-License-Identifier: MIT
"""mmap(), mprotect(), madvise(): what they ask of the rules in vma.py (mm/mmap.c, mm/mprotect.c, mm/madvise.c).

Adds: where a mapping goes, and which flags it gets.
Leaves out: limits, seals, protection keys, and all advice but that on forks and MADV_DONTNEED.

They return an errno, 0 for none; map_anonymous() the address, or an errno made negative.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from .. import calls
from ..model import PAGE_SHIFT, PAGE_SIZE
from .memory import change_protection, zap_range
from .mm_types import ACCESS, MAY_ACCESS, VM, Mm, Vma
from .vma import Proposal, merge_new_range, modify_flags, munmap

TASK_SIZE = (1 << 47) - PAGE_SIZE
MMAP_MIN_ADDR = 1 << 16
ADVICE: dict[int, Callable[[VM], VM]] = {
    calls.MADV_DONTFORK: lambda flags: flags | VM.DONTCOPY,
    calls.MADV_DOFORK: lambda flags: flags & ~VM.DONTCOPY,
    calls.MADV_WIPEONFORK: lambda flags: flags | VM.WIPEONFORK,
    calls.MADV_KEEPONFORK: lambda flags: flags & ~VM.WIPEONFORK,
}


def page_align(len: int) -> int:
    """PAGE_ALIGN()."""
    return -(-len // PAGE_SIZE) * PAGE_SIZE


def get_unmapped_area(mm: Mm, hint: int, len: int) -> int:
    """arch_get_unmapped_area_topdown(), arch/x86/kernel/sys_x86_64.c: at the hint, or in the highest gap that fits."""
    hint = page_align(hint)
    if hint and hint + len <= TASK_SIZE and not mm.between(hint, hint + len):
        return hint
    end = mm.mmap_base
    for vma in reversed(mm.vmas):
        if vma.vm_end <= end - len:
            break
        end = min(end, vma.vm_start)
    return end - len


def map_anonymous(mm: Mm, addr: int, len: int, prot: int, flags: int) -> int:
    """do_mmap() and mmap_region(): private anonymous memory, merged with its neighbours where that can be.

    Only what can be written and is not MAP_NORESERVE is charged (VM_ACCOUNT, accountable_mapping()).
    """
    if len == 0:
        return -errno.EINVAL
    len = page_align(len)
    vm_flags = VM(prot) | MAY_ACCESS | (VM.NORESERVE if flags & calls.MAP_NORESERVE else 0)
    if vm_flags & (VM.WRITE | VM.NORESERVE) == VM.WRITE:
        vm_flags |= VM.ACCOUNT
    if flags & calls.MAP_FIXED_NOREPLACE:
        if mm.between(addr, addr + len):
            return -errno.EEXIST
    elif flags & calls.MAP_FIXED:
        munmap(mm, addr, addr + len)
    else:
        addr = get_unmapped_area(mm, addr, len)
    new = Proposal(mm, addr, addr + len, vm_flags, addr >> PAGE_SHIFT)
    vma = merge_new_range(new) or mm.link(Vma(mm, addr, addr + len, vm_flags, addr >> PAGE_SHIFT))
    vma.vm_flags |= VM.SOFTDIRTY
    return addr


def mprotect(mm: Mm, start: int, len: int, prot: int) -> int:
    """do_mprotect_pkey(): one VMA after the other, up to the first hole."""
    cursor, end = start, start + page_align(len)
    while cursor < end:
        vma = mm.at(cursor)
        if not vma:
            return errno.ENOMEM
        cursor = _mprotect_fixup(vma, cursor, min(vma.vm_end, end), prot).vm_end
    return 0


def _mprotect_fixup(vma: Vma, start: int, end: int, prot: int) -> Vma:
    """mprotect_fixup(): what becomes writable is charged, and stays so once a page was written."""
    flags = vma.vm_flags & ~ACCESS | VM(prot)
    if flags == vma.vm_flags:
        return vma
    if flags & VM.WRITE:
        if not vma.vm_flags & (VM.ACCOUNT | VM.WRITE | VM.NORESERVE):
            flags |= VM.ACCOUNT
    elif not vma.anon_vma:
        flags &= ~VM.ACCOUNT
    vma = modify_flags(vma, start, end, flags)
    change_protection(vma, start, end)
    return vma


def madvise(mm: Mm, start: int, len: int, advice: int) -> int:
    """do_madvise(): holes are passed over, and reported at the end."""
    cursor, end, hole = start, start + page_align(len), 0
    while cursor < end:
        vma = mm.find(cursor)
        if not vma or vma.vm_start > cursor:
            hole = errno.ENOMEM
        if not vma or vma.vm_start >= end:
            break
        cursor = _advise(vma, max(cursor, vma.vm_start), min(vma.vm_end, end), advice).vm_end
    return hole


def _advise(vma: Vma, start: int, end: int, advice: int) -> Vma:
    """madvise_vma_behavior(): forget the pages, or set what a fork does with them."""
    if advice == calls.MADV_DONTNEED:
        zap_range(vma.mm, start, end)
        return vma
    flags = ADVICE[advice](vma.vm_flags)
    return vma if flags == vma.vm_flags else modify_flags(vma, start, end, flags)
