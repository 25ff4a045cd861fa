# SPDX-License-Identifier: MIT
"""Why a page is in a process more than once, in words: by the chains of the VMAs in which a walk found it.

Leaves out: the walk itself (rmap.py), and showing what is spoken of (figure.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..diff import Steps
from ..model import RmapStep, RmapWalk, Vma
from .walk import hits_in


def why(steps: Steps | None, step: int, walk: RmapWalk, name: str) -> str:
    """Return where the page is in the process called `name`, and why it is found there each time.

    All of it is read from the snapshot of a step; where that has no chains (a
    file's page, a walk without a snapshot), only where the page is.
    """
    hits = hits_in(walk, name)
    first = f"The page is in {name} more than once, at {_and(f'{visit.address:#x}' for visit in hits)}."
    page = steps.snapshots[step].pages.get(walk.pfn) if steps is not None else None
    if page is None or page.anon_vma is None:
        return first
    seen = _Seen(steps, step, walk)
    told = "; ".join(seen.chain(visit) for visit in hits)
    sums = (f"{visit.address:#x} with vm_pgoff {seen.vma(visit).vm_pgoff:#x}" for visit in hits)
    return (f"{first} Why: {seen.anon_vma(walk.start)} is in the chain of each of these VMAs, so its tree holds them "
            f"all: {told}. The page's index {page.index:#x} and vm_pgoff give one address in each: {_and(sums)}.")


class _Seen:
    """The VMAs that a walk visited, as they are at a step."""

    def __init__(self, steps: Steps, step: int, walk: RmapWalk) -> None:
        self.walk, self.who, self.at = walk, steps.identity, steps.at[step]
        self.vmas = {vma.addr: vma for mm in steps.snapshots[step].mms for vma in mm.vmas}

    def vma(self, visit: RmapStep) -> Vma:
        return self.vmas[visit.vma]

    def anon_vma(self, addr: int) -> str:
        return self.who.anon_vma_names.get(self.who.key("anon_vma", self.at, addr), f"anon_vma {addr:#x}")

    def chain(self, visit: RmapStep) -> str:
        """"A 0x7f4400000000 has av·B, av·A": and whose chain is the same, for one was copied from the other."""
        names = [self.anon_vma(addr) for addr in self._owners(visit)]
        other = next((each for each in self.walk.steps if each.mm != visit.mm
                      and self._owners(each) == self._owners(visit)), None)
        alike = f" (the chain of {self._place(other)}: who clones a VMA copies its chain)" if other else ""
        return f"{self._place(visit)} has {', '.join(names)}{alike}"

    def _owners(self, visit: RmapStep) -> list[int]:
        """What a VMA's chain leads to, newest first; nothing of a VMA whose process was not looked at."""
        return [link.anon_vma for link in self.vmas[visit.vma].chain] if visit.vma in self.vmas else []

    def _place(self, visit: RmapStep) -> str:
        return f"{'/'.join(visit.tasks)} {self.vma(visit).vm_start:#x}"


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
