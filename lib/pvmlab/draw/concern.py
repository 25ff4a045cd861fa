# SPDX-License-Identifier: MIT
"""Which changes concern what a figure was asked for, and where the others are.

Adds: a test for one change, and the list of changes in two parts: first what
concerns the focus, then under one heading what went on elsewhere.
Leaves out: which VMAs the focus is (scene.py), the sentences (words.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .. import words
from ..diff import Change, Diff, Line
from ..identity import Key
from ..model import Vma
from .scene import Scene, present

#: The sign of the line that is the heading of all lines after it.
ELSEWHERE = "…"
#: So many of the places are named in the heading.
_MOST_PLACES = 8
_LISTS = "LRU lists"
_PLACES = {"list": _LISTS, "page": "other frames", "anon_vma": "other anon_vmas", "counter": "counters", "lock": "locks"}


class Concern:
    """The VMAs of a figure's focus over all steps, with the entries, frames and anon_vmas of theirs."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.vmas = scene, scene.related
        self._seen = [(step, vma) for key in self.vmas for step, vma in enumerate(scene.vmas[key].seen) if vma]
        self._mms = {vma.mm for _, vma in self._seen}
        self._pfns = {pfn for step, vma in self._seen for _, pfn, _ in present(scene.mm_at(vma.mm, step), vma)}
        self._anon_vmas = {link.key[1] for link in scene.links if link.key[0] in self.vmas}
        self._by_kind: dict[str, Callable[[Change], bool]] = {
            "task": lambda c: (c.after or c.before).mm.addr in self._mms,
            "mm": lambda c: c.id[0] in self._mms,
            "vma": lambda c: c.id in self.vmas,
            "anon_vma": lambda c: c.id in self._anon_vmas,
            "link": lambda c: c.id[0] in self.vmas,
            "entry": lambda c: self._holds(*c.id[:2]),
            "page": lambda c: c.id[0] in self._pfns and not words.only_listed(c),
            "table": lambda c: c.id[0][0] in self._mms,
            "counter": lambda c: words.is_exact(c.id[0]),
            "lock": lambda c: True}

    def __call__(self, change: Change) -> bool:
        """Whether a change concerns the focus. Of the machine's counters those do that count single events."""
        return self._by_kind[change.kind](change)

    def _holds(self, mm: Key, addr: int) -> bool:
        return any(vma.mm == mm[0] and addr in vma for _, vma in self._seen)

    def lines(self, diff: Diff) -> tuple[Line, ...]:
        """The lines of a diff; where some do not concern the focus, they stand last, under a heading."""
        mine, others = words.told(diff, self), words.told(diff, lambda change: not self(change))
        if not mine or not others:
            return (*mine, *others)
        places = sorted(dict.fromkeys(self._place(change) for line in others for change in line.changes[:1]),
                        key=(*_PLACES.values(),).count)
        more = ", …" if len(places) > _MOST_PLACES else ""
        where = ", ".join(places[:_MOST_PLACES]) + more
        return (*mine, Line(ELSEWHERE, f"and {len(others)} more elsewhere: {where}", ()), *others)

    def _place(self, change: Change) -> str:
        """Where a change is that does not concern the focus: a process, or what of the focus's own one."""
        thing = change.after or change.before
        if change.kind == "task":
            return thing.name
        if change.kind == "page" and words.only_listed(change):
            return _LISTS
        if change.kind in ("vma", "link"):
            return self._of(change.id if change.kind == "vma" else change.id[0])
        if change.kind == "entry":
            return next(self._of_entry(*change.id[:2]), self.scene.mm_name(change.id[0]))
        if change.kind in ("mm", "table"):
            return self.scene.mm_name(change.id if change.kind == "mm" else change.id[0])
        return _PLACES[change.kind]

    def _of_entry(self, mm: Key, addr: int) -> Iterator[str]:
        return (self._of(key) for key, life in self.scene.vmas.items()
                if any(_in(vma, mm, addr) for vma in life.seen if vma))

    def _of(self, key: Key) -> str:
        life = self.scene.vmas.get(key)
        if life is None or (mm := self.scene.mm_of(life))[0] not in self._mms:
            return self.scene.mm_name(mm) if life else "other VMAs"
        return self.scene.special_name(life) or "other memory"


def _in(vma: Vma, mm: Key, addr: int) -> bool:
    return vma.mm == mm[0] and addr in vma


def parted(lines: tuple[Line, ...]) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """The lines before the heading, and the heading with what is under it."""
    at = next((i for i, line in enumerate(lines) if line.sign == ELSEWHERE), len(lines))
    return lines[:at], lines[at:]
