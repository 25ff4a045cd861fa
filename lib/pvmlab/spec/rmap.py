# SPDX-License-Identifier: MIT
"""How VMAs and anon_vmas are tied together (mm/rmap.c).

Adds: first fault, copying a chain, fork's own anon_vma or one that is used again, and letting go.
Leaves out: walking them to find a page's entries (pvmlab.rmap does that on what was read).
"""

from __future__ import annotations

from .mm_types import ACCESS, MERGES_ANYWAY, AnonVma, Vma


def _attach(vma: Vma, anon_vma: AnonVma) -> None:
    """anon_vma_chain_assign() and the insertion after it: on top of the VMA's chain, into the anon_vma's tree."""
    vma.chain.insert(0, anon_vma)
    anon_vma.insert(vma)


def _singular(vma: Vma) -> bool:
    """list_is_singular(&vma->anon_vma_chain): it has an anon_vma, and never went through a fork."""
    return len(vma.chain) == 1


def may_share(a: AnonVma | None, b: AnonVma | None, vma: Vma | None) -> bool:
    """is_mergeable_anon_vma(), mm/vma.c: whether the VMAs of these two anon_vmas can become one.

    The same one, or none on both sides, will do. One on one side only will do if the VMA that stands there
    already, `vma`, never went through a fork (None: do not ask).
    """
    if (a is None or b is None) and (vma is None or _singular(vma)):
        return True
    return a is b


def find_mergeable_anon_vma(vma: Vma) -> AnonVma | None:
    """find_mergeable_anon_vma(), mm/vma.c: the anon_vma of the next or the previous VMA, if it could ever merge.

    It touches, continues the page offsets, differs in nothing that mprotect() does not set, and never went
    through a fork.
    """
    prev, next = vma.mm.neighbours(vma.vm_start, vma.vm_end)
    for old, a, b in ((next, vma, next), (prev, prev, vma)):
        if old and old.anon_vma and _singular(old) and _compatible(a, b):
            return old.anon_vma
    return None


def _compatible(a: Vma, b: Vma) -> bool:
    """anon_vma_compatible(), mm/vma.c."""
    return not (a.vm_flags ^ b.vm_flags) & ~(ACCESS | MERGES_ANYWAY) and b.vm_pgoff == a.vm_pgoff + a.pages


def anon_vma_prepare(vma: Vma) -> None:
    """__anon_vma_prepare(): before its first own page a VMA gets a neighbour's anon_vma, or a new root.

    A new root counts itself among its children.
    """
    if vma.anon_vma:
        return
    vma.anon_vma = find_mergeable_anon_vma(vma) or AnonVma(num_children=1)
    _attach(vma, vma.anon_vma)
    vma.anon_vma.num_active_vmas += 1


def anon_vma_clone(dst: Vma, src: Vma) -> None:
    """anon_vma_clone(): dst gets the whole chain of src, in the same order.

    A dst without an anon_vma is a fork's: the oldest in the chain that no VMA uses for its own pages, and that
    has not more than one child, becomes its own. (Never the root, which always has a child: itself.)
    """
    for anon_vma in reversed(src.chain):
        _attach(dst, anon_vma)
        if not dst.anon_vma and anon_vma.num_children < 2 and anon_vma.num_active_vmas == 0:
            dst.anon_vma = anon_vma
    if dst.anon_vma:
        dst.anon_vma.num_active_vmas += 1


def anon_vma_fork(vma: Vma, pvma: Vma) -> None:
    """anon_vma_fork(): the child's VMA gets the parent's chain, and an anon_vma for its own pages."""
    vma.anon_vma = None
    if not pvma.anon_vma:
        return
    anon_vma_clone(vma, pvma)
    if vma.anon_vma:
        return
    own = vma.anon_vma = AnonVma(pvma.anon_vma.root, pvma.anon_vma, num_active_vmas=1)
    own.root.refcount += 1
    own.parent.num_children += 1
    _attach(vma, own)


def unlink_anon_vmas(vma: Vma) -> None:
    """unlink_anon_vmas(): out of every tree; an anon_vma whose tree is empty goes, its root after the last of them."""
    empty = []
    for anon_vma in vma.chain:
        anon_vma.tree.remove(vma)
        if not anon_vma.tree:
            anon_vma.parent.num_children -= 1
            empty.append(anon_vma)
    if vma.anon_vma:
        vma.anon_vma.num_active_vmas -= 1
    vma.anon_vma, vma.chain = None, []
    for anon_vma in empty:
        _put(anon_vma)


def _put(anon_vma: AnonVma) -> None:
    """put_anon_vma(): the last reference to an anon_vma gives back the one it holds on its root."""
    anon_vma.refcount -= 1
    if anon_vma.refcount == 0 and anon_vma.root is not anon_vma:
        anon_vma.root.refcount -= 1
