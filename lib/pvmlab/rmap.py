# SPDX-License-Identifier: MIT
"""The reverse map: from a page to every entry that maps it, as the kernel would go.

Adds: rmap_walk() retraced over a Snapshot, step by step, hits and misses, and
the reading of KSM's own items.
Leaves out: taking locks. The walk sees one frozen moment.
"""

from __future__ import annotations

from collections.abc import Iterator

from .model import AnonVma, ChainLink, KsmItem, Page, RmapStep, RmapWalk, Snapshot, Vma


def walk(snapshot: Snapshot, pfn: int) -> RmapWalk:
    """Retrace rmap_walk() (mm/rmap.c) for the folio of a frame, one frame at a time.

    Raises UsageError for a frame that no entry of the snapshot maps.
    """
    page = snapshot.page(pfn)
    route = {"anon": _anon, "ksm": _ksm, "file": _file}.get(page.kind)
    start = page.mapping & ~3
    steps = tuple(route(snapshot, page)) if route else ()
    via = page.kind if route else "none"
    found = snapshot.anon_vmas.get(start)
    name = snapshot.anon_vma_names.get(found.id, "") if found else ""
    return RmapWalk(pfn, via, start, steps, _missed(snapshot, pfn, steps) if route else (), name)


def _anon(snapshot: Snapshot, page: Page) -> Iterator[RmapStep]:
    """rmap_walk_anon(): the anon_vma's interval tree, only VMAs that span the page's index."""
    tree = snapshot.anon_vma(page.mapping & ~3).tree if (page.mapping & ~3) in snapshot.anon_vmas else ()
    for link in _spanning(tree, page.index, page.index):
        yield _step(snapshot, page, link.vma, page.index)


def _file(snapshot: Snapshot, page: Page) -> Iterator[RmapStep]:
    """rmap_walk_file(): the file's i_mmap tree."""
    for address in snapshot.files.get(page.mapping, ()):
        vma = snapshot.vma_at(address)
        if vma and vma.vm_pgoff <= page.index < vma.vm_pgoff + vma.pages:
            yield _step(snapshot, page, address, page.index)


def _ksm(snapshot: Snapshot, page: Page) -> Iterator[RmapStep]:
    """rmap_walk_ksm() (mm/ksm.c): for each item, its anon_vma's VMAs at the item's own address.

    First pass: the VMAs of the mm that KSM merged in; second pass: the others,
    as after a fork. A copy at another address is looked for in the wrong place.
    """
    items = snapshot.ksm.get(page.pfn, ())
    for forks in (False, True):
        for item in items:
            for link in snapshot.anon_vmas[item.anon_vma].tree if item.anon_vma in snapshot.anon_vmas else ():
                vma = snapshot.vma_at(link.vma)
                if vma and (vma.mm == item.mm) != forks:
                    yield _ksm_step(snapshot, page, vma, item)


def _ksm_step(snapshot: Snapshot, page: Page, vma: Vma, item: KsmItem) -> RmapStep:
    if item.address not in vma:
        return RmapStep(vma.addr, vma.mm, snapshot.users(vma.mm), None, False,
                        f"KSM merged it at {item.address:#x}; that is not in this VMA")
    return _at(snapshot, page, vma, item.address)


def _spanning(tree: tuple[ChainLink, ...], first: int, last: int) -> Iterator[ChainLink]:
    return (link for link in tree if link.start <= last and link.last >= first)


def _step(snapshot: Snapshot, page: Page, vma_address: int, index: int) -> RmapStep:
    vma = snapshot.vma_at(vma_address)
    if vma is None:
        return RmapStep(vma_address, 0, (), None, False, "a VMA of a process that was not looked at")
    address = vma.address_of(index)
    if address is None:
        return RmapStep(vma.addr, vma.mm, snapshot.users(vma.mm), None, False, f"index {index:#x} lies outside")
    return _at(snapshot, page, vma, address)


def _at(snapshot: Snapshot, page: Page, vma: Vma, address: int) -> RmapStep:
    """Look into the page table at one address: page_vma_mapped_walk() (mm/page_vma_mapped.c)."""
    mm = next(mm for mm in snapshot.mms if mm.addr == vma.mm)
    pte = mm.entries.at(address)
    hit = pte is not None and pte.pfn_at(address) == page.pfn
    return RmapStep(vma.addr, vma.mm, snapshot.users(vma.mm), address, hit, _why(pte, address, hit))


def _why(pte, address: int, hit: bool) -> str:
    if pte is None:
        return "nothing is mapped there"
    if pte.swap:
        return f"a {pte.swap.kind} entry is there"
    return "the entry there maps the page" if hit else f"another frame is there: {pte.pfn_at(address):#x}"


def _missed(snapshot: Snapshot, pfn: int, steps: tuple[RmapStep, ...]) -> tuple[tuple[str, int], ...]:
    """Entries that map the frame although the walk does not come by."""
    found = {(s.mm, s.address) for s in steps if s.hit}
    return tuple(("/".join(snapshot.users(mm.addr)), address) for mm, address in snapshot.mapped(pfn)
                 if (mm.addr, address) not in found)
