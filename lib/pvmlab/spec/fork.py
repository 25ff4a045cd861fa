# SPDX-License-Identifier: MIT
"""What fork() and exit() do to an address space (kernel/fork.c, mm/mmap.c).

Leaves out: everything of a process that is not memory.
"""

from __future__ import annotations

from .memory import copy_page_range, zap_range
from .mm_types import VM, Mm
from .rmap import anon_vma_fork, unlink_anon_vmas


def dup_mmap(oldmm: Mm, series: str) -> Mm:
    """dup_mmap(): the child's copy, VMA by VMA in address order, but for what must not be copied or is wiped.

    v3 marks what is copied, in parent and child.
    """
    mm = Mm(oldmm.mmap_base)
    for mpnt in oldmm.vmas:
        if mpnt.vm_flags & VM.DONTCOPY:
            continue
        if series != "v2" and not mpnt.vm_flags & VM.WIPEONFORK:
            mpnt.vm_flags |= VM.FORKED
        tmp = mpnt.dup(mm=mm, anon_vma=None)
        mm.vmas.append(tmp)
        if not mpnt.vm_flags & VM.WIPEONFORK:
            anon_vma_fork(tmp, mpnt)
            copy_page_range(tmp, mpnt, tmp.vm_start, mpnt.vm_start, mpnt.vm_end)
    return mm


def exit_mmap(mm: Mm) -> None:
    """exit_mmap(), mm/mmap.c: all entries go, then every VMA leaves its trees."""
    for vma in mm.vmas:
        zap_range(mm, vma.vm_start, vma.vm_end)
    for vma in mm.vmas:
        unlink_anon_vmas(vma)
    mm.vmas = []
