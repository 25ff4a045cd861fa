# SPDX-License-Identifier: MIT
"""What loads, stores and copies do to page-table entries and frames (mm/memory.c).

Adds: page faults, fork's copy of entries, moving them to another mm, taking them away.
Leaves out: swap, huge pages, pinned pages, and anything but anonymous memory.
"""

from __future__ import annotations

from ..model import PAGE_SIZE
from .mm_types import VM, Frame, Mm, Pte, Vma, pages_in
from .rmap import anon_vma_prepare

#: The page of zeros that reading untouched memory maps; nobody owns it and nobody counts it.
ZERO_PAGE = Frame(None, 0, bytearray(PAGE_SIZE), exclusive=False)


def fault_in(vma: Vma, addr: int, write: bool) -> Frame:
    """handle_pte_fault(): make the page at addr readable, or writable; return its frame."""
    pte = vma.mm.ptes.get(addr)
    if not pte and not write:
        pte = vma.mm.ptes[addr] = Pte(ZERO_PAGE, writable=False)
    elif write and not (pte and pte.writable):
        pte = _wp_page(vma, addr, pte)
    return pte.frame


def _wp_page(vma: Vma, addr: int, old: Pte | None) -> Pte:
    """do_anonymous_page() and do_wp_page(): a page that is one's own alone is used; otherwise a copy is made.

    A page with no other mapping left counts as one's own, and moves to the anon_vma of the VMA that writes it.
    """
    frame = old.frame if old else ZERO_PAGE
    if frame is not ZERO_PAGE and (frame.exclusive or frame.mapcount == 1):
        if not frame.exclusive:
            frame.anon_vma, frame.exclusive = vma.anon_vma, True
        old.writable = True
        return old
    anon_vma_prepare(vma)
    new = Frame(vma.anon_vma, vma.pgoff_at(addr), bytearray(frame.data), mapcount=1)
    if old:
        _unmap(vma.mm, addr)
    vma.mm.ptes[addr] = Pte(new, writable=True)
    return vma.mm.ptes[addr]


def copy_page_range(dst_vma: Vma, src_vma: Vma, dst: int, src: int, end: int) -> None:
    """copy_page_range(): let dst_vma map at dst what src_vma maps at [src, end), read-only on both sides.

    vma_needs_copy(): a source that has no anon_vma has zero pages at most; they can be faulted in again.
    """
    if not src_vma.anon_vma:
        return
    for addr in pages_in(src, end):
        if pte := src_vma.mm.ptes.get(addr):
            pte.writable = False
            if pte.frame is not ZERO_PAGE:
                pte.frame.mapcount += 1
                pte.frame.exclusive = False
            dst_vma.mm.ptes[dst + addr - src] = Pte(pte.frame, writable=False)


def move_entries(dst_mm: Mm, src_mm: Mm, dst: int, src: int, end: int) -> None:
    """process_vm_move(), mm/process_vm_move.c of v3: the entries as they are, exclusive and writable or not."""
    for addr in pages_in(src, end):
        if addr in src_mm.ptes:
            dst_mm.ptes[dst + addr - src] = src_mm.ptes.pop(addr)


def zap_range(mm: Mm, start: int, end: int) -> None:
    """zap_page_range_single() and unmap_vmas(): take the entries away; VMAs and anon_vmas stay."""
    for addr in pages_in(start, end):
        if addr in mm.ptes:
            _unmap(mm, addr)


def _unmap(mm: Mm, addr: int) -> None:
    """folio_remove_rmap_pte(), mm/rmap.c: one mapping less; whether the page is exclusive is not looked at."""
    frame = mm.ptes.pop(addr).frame
    if frame is not ZERO_PAGE:
        frame.mapcount -= 1


def change_protection(vma: Vma, start: int, end: int) -> None:
    """change_pte_range(), mm/mprotect.c: only exclusive pages become writable at once, the others when written."""
    for addr in pages_in(start, end):
        if pte := vma.mm.ptes.get(addr):
            pte.writable = bool(vma.vm_flags & VM.WRITE) and pte.frame.exclusive
