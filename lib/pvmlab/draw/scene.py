# SPDX-License-Identifier: MIT
"""What of the snapshots is worth a place in the figure.

Adds: the choice of VMAs (what changed, what shares frames or an anon_vma with
it, what the caller asks for) and the words for those left out.
Leaves out: how any of it is drawn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property

from .. import entry as _entry
from ..diff import Steps
from ..errors import UsageError
from ..identity import Key, Life, is_bss, programs
from ..model import Mm, Page, RmapWalk, Table, Task, Vma
from .parts import ref

#: More VMAs of one process than this are folded.
MOST_VMAS = 12
#: More processes than this are folded.
MOST_MMS = 6


class Scene:
    """Steps, and which of their VMAs a figure shows."""

    def __init__(self, steps: Steps, focus: Iterable = ()) -> None:
        self.steps, self.who = steps, steps.identity
        self.at = steps.at
        self.snapshots = steps.snapshots
        self.asked = tuple(focus)

    def __len__(self) -> int:
        return len(self.snapshots)

    def key(self, kind: str, step: int, place: int) -> Key:
        """The key of what lies at a place at one of the figure's steps."""
        return self.who.key(kind, self.at[step], place)

    @cached_property
    def mms(self) -> dict[Key, Life]:
        return {life.key: life for life in self.steps.lives("mm")}

    @cached_property
    def vmas(self) -> dict[Key, Life]:
        return {life.key: life for life in self.steps.lives("vma")}

    @cached_property
    def anon_vmas(self) -> dict[Key, Life]:
        return {life.key: life for life in self.steps.lives("anon_vma")}

    @cached_property
    def tables(self) -> dict[Key, dict[int, list[Table | None]]]:
        """{mm's key: {physical address: what table was there at each step}}."""
        found: dict[Key, dict[int, list[Table | None]]] = {}
        for life in self.steps.lives("table"):
            mm, _, phys, _ = life.key
            seen = found.setdefault(mm, {}).setdefault(phys, [None] * len(self))
            seen[:] = [new or was for new, was in zip(life.seen, seen)]
        return found

    @cached_property
    def links(self) -> tuple[Life, ...]:
        return self.steps.lives("link")

    @cached_property
    def folios(self) -> tuple[dict[int, list[int]], ...]:
        """For each step {kernel address of an anon_vma: the PFNs whose mapping it is, in order}."""
        found: list[dict[int, list[int]]] = []
        for snapshot in self.snapshots:
            found.append({})
            for pfn, page in sorted(snapshot.pages.items()):
                if page.kind == "anon":
                    found[-1].setdefault(page.mapping & ~3, []).append(pfn)
        return tuple(found)

    def anon_vma_name(self, key: Key | None) -> str:
        return self.who.anon_vma_names.get(key, f"anon_vma {key[0]:#x}") if key else "none"

    def mm_name(self, key: Key) -> str:
        return self.who.mm_names.get(key, f"mm {key[0]:#x}")

    def vma_name(self, key: Key) -> str:
        """"server 0x7f3a1c200000", as it was when last seen."""
        for step in reversed(range(len(self))):
            vma = self.vmas[key].seen[step] if key in self.vmas else None
            if vma is not None:
                return f"{self.mm_name(self.key('mm', step, vma.mm))} {vma.vm_start:#x}"
        return "a VMA elsewhere"

    def mm_of(self, vma: Life) -> Key:
        step, seen = next((i, v) for i, v in enumerate(vma.seen) if v is not None)
        return self.key("mm", step, seen.mm)

    # Which VMAs

    @cached_property
    def focus(self) -> dict[Key, list[Life]]:
        """{mm's key: its VMAs that are shown, in address order}."""
        touched = self._touched()
        first = self._asked_for() | touched
        wanted = first | (self._near(touched or first) or self._plain())
        groups: dict[Key, list[Life]] = {}
        order, common = {key: i for i, key in enumerate(self.vmas)}, self._in_common(first)
        for key in sorted(wanted, key=lambda k: (k not in first, -common[k], order[k])):
            groups.setdefault(self.mm_of(self.vmas[key]), []).append(self.vmas[key])
        chosen = [mm for mm in groups][:MOST_MMS]
        return {mm: sorted(groups[mm][:MOST_VMAS], key=_lowest) for mm in self.mms if mm in chosen}

    @cached_property
    def folded(self) -> dict[Key, list[Life]]:
        """{mm's key: its VMAs that are not shown}."""
        shown = {life.key for lives in self.focus.values() for life in lives}
        groups: dict[Key, list[Life]] = {}
        for key, life in self.vmas.items():
            if key not in shown:
                groups.setdefault(self.mm_of(life), []).append(life)
        return groups

    @cached_property
    def related(self) -> set[Key]:
        """The VMAs that were asked for, and those that share a frame or an anon_vma with them."""
        return self._near(self._asked_for())

    def _asked_for(self) -> set[Key]:
        found = set()
        for what in self.asked:
            keys = set(self._asked_one(what))
            if not keys:
                raise UsageError(f"focus={what!r} is nowhere in these snapshots", "no VMA of any step fits it",
                                 "give a task's name, an address, a Vma, or a Page")
            found |= keys
        return found

    def _asked_one(self, what: object) -> Iterator[Key]:
        if isinstance(what, (Page, RmapWalk)):
            yield from self._mapping({what.pfn})
            return
        for key, life in self.vmas.items():
            for step, vma in enumerate(life.seen):
                if vma is not None and self._fits(what, vma, step):
                    yield key

    def _fits(self, what: object, vma: Vma, step: int) -> bool:
        if isinstance(what, int):
            return what in vma
        if isinstance(what, Vma):
            return what.id == vma.id
        name = what.name if isinstance(what, Task) else what
        return name in self.snapshots[step].users(vma.mm)

    def _touched(self) -> set[Key]:
        """VMAs that changed or hold entries that did; of a process that came or went, none."""
        found = set()
        for diff in self.steps.diffs if len(self) > 1 else ():
            for change in diff.of("vma"):
                if change.what == "changed" or self._survives((change.after or change.before).mm):
                    found.add(change.id)
            spots: dict[Key, list[int]] = {}
            for change in diff.of("entry"):
                spots.setdefault(change.id[0], []).append(change.id[1])
            for mm, addrs in spots.items():
                found |= {v.key for v in self.vmas.values() if self.mm_of(v) == mm and not self.special(v)
                          and any(_holds_any(vma, addrs) for vma in v.seen if vma)}
        return {key for key in found if key in self.vmas}

    def _survives(self, mm: int) -> bool:
        return any(life.key[0] == mm and None not in life.seen for life in self.mms.values())

    def _near(self, touched: set[Key]) -> set[Key]:
        """Add what shares a frame or an anon_vma with what changed."""
        if not touched:
            return touched
        frames = {pfn for key in touched for pfn in self._frames(self.vmas[key])}
        trees = {link.key[1] for link in self.links if link.key[0] in touched}
        kin = {link.key[0] for link in self.links if link.key[1] in trees and link.key[0] in self.vmas}
        near = self._mapping(frames) | kin
        return touched | {key for key in near if not self.special(self.vmas[key])}

    def _in_common(self, first: set[Key]) -> Counter[Key]:
        """How many anon_vmas each VMA has in common with the first ones: near kin come before distant."""
        trees = {link.key[1] for link in self.links if link.key[0] in first}
        return Counter(link.key[0] for link in self.links if link.key[1] in trees)

    def _frames(self, vma: Life) -> Iterator[int]:
        for step, seen in enumerate(vma.seen):
            if seen is not None:
                yield from (pfn for _, pfn, _ in present(self.mm_at(seen.mm, step), seen))

    def mm_at(self, addr: int, step: int) -> Mm:
        """The mm at a kernel address at one step."""
        return self.mms[self.key("mm", step, addr)].seen[step]

    def _mapping(self, frames: set[int]) -> set[Key]:
        if not frames:
            return set()
        return {key for key, life in self.vmas.items() for step, vma in enumerate(life.seen) if vma is not None
                and any(pfn in frames for _, pfn, _ in present(self.mm_at(vma.mm, step), vma))}

    def _plain(self) -> set[Key]:
        return {key for key, life in self.vmas.items() if not self.special(life)} or set(self.vmas)

    def special(self, life: Life) -> bool:
        """Whether every process has such a VMA: its program, stack, heap, vdso."""
        return bool(self.special_name(life))

    def special_name(self, life: Life) -> str:
        """"stack", "vdso", "program" … for a VMA of that kind, "" for any other."""
        vma = next(v for v in life.seen if v is not None)
        if vma.name.startswith("["):
            return vma.name.strip("[]")
        mm = self.mm_at(vma.mm, life.seen.index(vma))
        return "program" if vma.name in programs(mm) or is_bss(mm, vma) else ""


def present(mm: Mm, vma: Vma) -> Iterator[tuple[int, int, str]]:
    """Yield (address, pfn, level) of the present entries in a VMA, without decoding more."""
    rows = mm.entries.rows()
    for i in range(bisect_left(rows, (vma.vm_start,)), len(rows)):
        addr, raw, _, level = rows[i]
        if addr >= vma.vm_end:
            return
        if _entry.is_present(raw):
            yield addr, _entry.pfn_of(raw), level


def _lowest(life: Life) -> int:
    return min(vma.vm_start for vma in life.seen if vma)


def _holds_any(vma: Vma, addrs: list[int]) -> bool:
    i = bisect_left(addrs, vma.vm_start)
    return i < len(addrs) and addrs[i] < vma.vm_end


def refs(kind: str, key: Key) -> tuple[str, ...]:
    """The one reference of a row that shows one thing."""
    return (ref(kind, key),)
