# SPDX-License-Identifier: MIT
"""Who is who in several snapshots, and what to call them.

Adds: one key for each thing over all steps, its life (what was seen of it at
each step), and short names for figures and sentences.
Leaves out: what changed (diff.py).

With the kernel's stamps (`born`), a key is (place, born). Without (born is 0)
a place that is seen again holds the same thing only on this evidence:

* mm:       the same pgd, and a process that had it still has it
* VMA:      same mm and file, and the two ranges overlap
* anon_vma: same root and parent, and its interval tree still holds a VMA it
            held (or is empty both times)
* frame:    same kind, mapping and index

Otherwise it is a new thing, with key (place, 0, 1), (place, 0, 2), …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from .model import AnonVma, ChainLink, Mm, Page, Snapshot, Task, Vma

Key = tuple
_SEGMENT_ALIGN = 2 << 20  # of ELF segments on x86-64, at most


class Life(NamedTuple):
    """One thing over all steps: what was seen of it, None where it was not there."""

    kind: str
    key: Key
    seen: tuple


class LinkSeen(NamedTuple):
    """One anon_vma_chain as seen from both of its lists.

    start, last: page offsets in the interval tree; in_chain: it is in the
    VMA's same_vma list; in_tree: it is in the anon_vma's interval tree.
    """

    start: int
    last: int
    in_chain: bool
    in_tree: bool


def _same_mm(a: Mm, b: Mm, at: tuple[Snapshot, Snapshot]) -> bool:
    before, after = ({t.id for t in (*s.tasks, *s.others) if t.mm.addr == a.addr} for s in at)
    return a.pgd == b.pgd and bool(before & after)


def _same_vma(a: Vma, b: Vma, at: tuple[Snapshot, Snapshot]) -> bool:
    return (a.mm == b.mm and (a.file, a.inode) == (b.file, b.inode)
            and a.vm_start < b.vm_end and b.vm_start < a.vm_end)


def _same_anon_vma(a: AnonVma, b: AnonVma, at: tuple[Snapshot, Snapshot]) -> bool:
    held, holds = ({link.vma for link in av.tree} for av in (a, b))
    return (a.root, a.parent) == (b.root, b.parent) and (bool(held & holds) or held == holds)


def _same_page(a: Page, b: Page, at: tuple[Snapshot, Snapshot]) -> bool:
    return (a.kind, a.mapping, a.index) == (b.kind, b.mapping, b.index)


def _vmas(snapshot: Snapshot) -> dict[int, Vma]:
    return {vma.addr: vma for mm in snapshot.mms for vma in mm.vmas}


class Identity:
    """The keys of all mms, VMAs, anon_vmas and frames in a row of snapshots."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self.snapshots = tuple(snapshots)
        self._found = {
            "mm": tuple({mm.addr: mm for mm in s.mms} for s in self.snapshots),
            "vma": tuple(_vmas(s) for s in self.snapshots),
            "anon_vma": tuple(s.anon_vmas for s in self.snapshots),
            "page": tuple(s.pages for s in self.snapshots),
        }
        same = {"mm": _same_mm, "vma": _same_vma, "anon_vma": _same_anon_vma, "page": _same_page}
        self._at: dict[tuple[str, int], dict[Key, object]] = {}
        self._reuse = {kind: self._count_reuse(kind, same[kind]) for kind in same}

    def _count_reuse(self, kind: str, same: Callable) -> list[dict[int, int]]:
        """For each step: {place: how often it was handed out again}, unstamped places only."""
        last: dict[int, tuple] = {}
        steps = []
        for step, things in enumerate(self._found[kind]):
            reused = {}
            for place, thing in things.items():
                if thing.born:
                    continue
                was, count, at = last.get(place, (thing, 0, step))
                if was is not thing and not same(was, thing, (self.snapshots[at], self.snapshots[step])):
                    count += 1
                if count:
                    reused[place] = count
                last[place] = (thing, count, step)
            steps.append(reused)
        return steps

    def key(self, kind: str, step: int, place: int) -> Key:
        """Return the key of what lies at a place; (place,) if it was not read."""
        thing = self._found[kind][step].get(place)
        if thing is None:
            return (place,)
        count = self._reuse[kind][step].get(place)
        return (place, thing.born, count) if count else (place, thing.born)

    def at(self, kind: str, step: int) -> dict[Key, object]:
        """Return {key: thing} of one step."""
        if (kind, step) not in self._at:
            self._at[kind, step] = self._keyed(kind, step)
        return self._at[kind, step]

    def _keyed(self, kind: str, step: int) -> dict[Key, object]:
        reused = self._reuse[kind][step]
        return {(place, thing.born, reused[place]) if place in reused else (place, thing.born): thing
                for place, thing in self._found[kind][step].items()}

    def lives(self, kind: str) -> tuple[Life, ...]:
        """Return the lives of one kind, in order of first appearance."""
        steps = ([self.links(i) for i in range(len(self.snapshots))] if kind == "link"
                 else [self.tables(i) for i in range(len(self.snapshots))] if kind == "table"
                 else [self.at(kind, i) for i in range(len(self.snapshots))])
        keys = dict.fromkeys(key for step in steps for key in step)
        return tuple(Life(kind, key, tuple(step.get(key) for step in steps)) for key in keys)

    def links(self, step: int) -> dict[Key, LinkSeen]:
        """Return {(VMA's key, anon_vma's key): link} of one step."""
        chains: dict[Key, ChainLink] = {}
        trees: dict[Key, ChainLink] = {}
        for vma in self._found["vma"][step].values():
            chains.update((self._ends(step, link), link) for link in vma.chain)
        for anon_vma in self._found["anon_vma"][step].values():
            trees.update((self._ends(step, link), link) for link in anon_vma.tree)
        return {ends: LinkSeen(link.start, link.last, ends in chains, ends in trees)
                for ends, link in (chains | trees).items()}

    def _ends(self, step: int, link: ChainLink) -> Key:
        return self.key("vma", step, link.vma), self.key("anon_vma", step, link.anon_vma)

    def tables(self, step: int) -> dict[Key, object]:
        """Return {(mm's key, level, physical address, start): Table} of one step."""
        return {(self.key("mm", step, mm.addr), t.level, t.phys, t.start): t
                for mm in self.snapshots[step].mms for t in mm.tables}

    # What to call them

    @cached_property
    def mm_names(self) -> dict[Key, str]:
        """Name each mm after the processes that used it first, with their pids where two would be called the same."""
        users: dict[Key, list] = {}
        for step, snapshot in enumerate(self.snapshots):
            for mm in snapshot.mms:
                users.setdefault(self.key("mm", step, mm.addr),
                                 [t for t in (*snapshot.tasks, *snapshot.others) if t.mm.addr == mm.addr])
        names = {key: "/".join(task.name for task in tasks) for key, tasks in users.items()}
        often = Counter(names.values())
        return {key: name if often[name] == 1 else "/".join(f"{task.name} (pid {task.pid})" for task in users[key])
                for key, name in names.items()}

    @cached_property
    def anon_vma_names(self) -> dict[Key, str]:
        """What the lab has called each anon_vma since it first saw it; without a lab, what anon_vma_names() says."""
        names = {self.key("anon_vma", step, addr): snapshot.anon_vma_names[addr, found.born]
                 for step, snapshot in enumerate(self.snapshots) for addr, found in snapshot.anon_vmas.items()
                 if (addr, found.born) in snapshot.anon_vma_names}
        for step, snapshot in enumerate(self.snapshots):
            names |= anon_vma_names(snapshot, {at: self.key("anon_vma", step, at) for at in snapshot.anon_vmas}, names)
        return names


def anon_vma_names(snapshot: Snapshot, keys: Mapping[int, Key], known: Mapping[Key, str]) -> dict[Key, str]:
    """Name each anon_vma of a snapshot; one that has a name keeps it, and no name is given twice.

    keys: {address of an anon_vma: its key}; known: the names given so far.
    An anon_vma is called after the process with the oldest VMA whose
    ->anon_vma it is: av·server for plain anonymous memory, av·server·stack
    for a VMA with a name; from the second on they are numbered, by birth.
    """
    owners, taken = _owners(snapshot), set(known.values())
    names = {}
    for addr in sorted(keys, key=lambda addr: snapshot.anon_vmas[addr].born):
        name = known.get(keys[addr]) or _free(f"av·{owners.get(addr, 'unowned')}", taken)
        names[keys[addr]] = name
        taken.add(name)
    return names


def _free(name: str, taken: set[str]) -> str:
    return next(each for each in (name, *(f"{name}·{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def _owners(snapshot: Snapshot) -> dict[int, str]:
    """Fork made each anon_vma but a root for a child: that one is not named after the root's process again."""
    users: dict[int, list[str]] = {}
    for task, vma in sorted(_used(snapshot), key=lambda used: used[1].born):
        users.setdefault(vma.anon_vma.addr, []).append(task.name + _role(task.mm, vma))
    roots = {addr: names[0] for addr, names in users.items() if snapshot.anon_vmas[addr].is_root}
    return {addr: _first_but(roots.get(snapshot.anon_vmas[addr].root), addr in roots, names)
            for addr, names in users.items()}


def _used(snapshot: Snapshot) -> Iterator[tuple[Task, Vma]]:
    """Yield each VMA that has an anon_vma, with a process it belongs to."""
    return ((task, vma) for task in (*snapshot.tasks, *snapshot.others) for vma in task.mm.vmas if vma.anon_vma)


def _first_but(taken: str | None, is_root: bool, names: list[str]) -> str:
    return names[0] if is_root else next((name for name in names if name != taken), names[0])


def _role(mm: Mm, vma: Vma) -> str:
    """"·stack", "·libc.so", "·bss" (the program's own data), or "" for anonymous memory."""
    if vma.name:
        return "·" + vma.name.strip("[]").rpartition("/")[2]
    return "·bss" if is_bss(mm, vma) else ""


def programs(mm: Mm) -> frozenset[str]:
    """Names of the files an mm executes from."""
    return frozenset(vma.name for vma in mm.vmas if vma.file and "EXEC" in vma.flags)


def is_special(mm: Mm, vma: Vma) -> bool:
    """Whether every process has such a VMA: its program, stack, heap, vdso."""
    return vma.name.startswith("[") or vma.name in programs(mm) or is_bss(mm, vma)


def is_bss(mm: Mm, vma: Vma) -> bool:
    """Whether anonymous memory is a program's data: next above its file's VMA, as far as segments are aligned."""
    below = max((v for v in mm.vmas if v.vm_end <= vma.vm_start), key=lambda v: v.vm_end, default=None)
    return (not vma.name and below is not None and below.name in programs(mm)
            and vma.vm_start - below.vm_end < _SEGMENT_ALIGN)
