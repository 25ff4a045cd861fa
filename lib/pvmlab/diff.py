# SPDX-License-Identifier: MIT
"""What changed between snapshots, as data and in words.

Adds: Diff (`after - before`), Steps (any number of snapshots in a row),
Change (one thing added, removed or changed, field by field) and Line (one
sentence that covers one or more changes).
Leaves out: who is who (identity.py), sentences (words.py), pictures (draw).

Entries are compared as raw rows, and only those that differ are decoded.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from . import entry as _entry
from .errors import UsageError
from .identity import Identity, Key, Life
from .model import AnonVma, Mm, Page, Pte, Snapshot, Task, Vma

#: Printed lines are not longer: an output of a notebook is at least so wide, and breaks others in the middle of words.
COLUMNS = 88
KINDS = ("task", "mm", "vma", "anon_vma", "link", "entry", "page", "table", "counter", "lock")


class Field(NamedTuple):
    """One field that changed: its kernel name, what it was, what it is."""

    name: str
    before: object
    after: object


class Change(NamedTuple):
    """One thing that was added, removed or changed.

    kind:   one of KINDS; id: its key (identity.py); what: "added", "removed"
            or "changed"; before, after: the thing itself, None if not there
    fields: what changed in it, for what == "changed"
    refs:   (kind, id) of the things it touches, itself first: what a figure
            lights up
    Ids by kind: task (pid, start) · mm, vma, anon_vma (address, born) · page
    (pfn, born) · link (VMA's id, anon_vma's id) · entry (mm's id, address,
    level) · table (mm's id, level, physical address, start) · counter (name,)
    · lock (text,).
    """

    kind: str
    id: Key
    what: str
    before: object
    after: object
    fields: tuple[Field, ...] = ()
    refs: tuple[tuple[str, Key], ...] = ()

    def field(self, name: str) -> Field | None:
        """Return the change of one field, or None if it kept its value."""
        return next((f for f in self.fields if f.name == name), None)


class Line(NamedTuple):
    """One change in words. sign: "+", "–" or "~"; changes: those it speaks of."""

    sign: str
    text: str
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return f"{self.sign} {self.text}"

    @property
    def refs(self) -> tuple[tuple[str, Key], ...]:
        """(kind, id) of everything the line is about, each once."""
        return tuple(dict.fromkeys(ref for c in self.changes for ref in c.refs))


class Steps:
    """Snapshots in a row, and what changed at each step. Made by steps().

    identity: the keys and names of all things; at: which of its steps these
    snapshots are (a Diff may be two of a longer row)
    """

    def __init__(self, *snapshots: Snapshot) -> None:
        if not snapshots or not all(isinstance(s, Snapshot) for s in snapshots):
            raise UsageError("steps() got something else than snapshots", "it compares what lab.look() returns",
                             "write steps(before, after) or after - before")
        self.snapshots = snapshots
        self.identity = Identity(snapshots)
        self.at = tuple(range(len(snapshots)))

    def __len__(self) -> int:
        return len(self.snapshots)

    @cached_property
    def diffs(self) -> tuple[Diff, ...]:
        """The change at each step; one fewer than there are snapshots."""
        return tuple(Diff._of(self.identity, i - 1, i) for i in range(1, len(self)))

    @cached_property
    def whole(self) -> Diff:
        """The change from the first snapshot to the last."""
        return Diff._of(self.identity, 0, len(self) - 1)

    def lives(self, kind: str) -> tuple[Life, ...]:
        """What was seen, over all steps, of each "mm", "vma", "anon_vma", "page", "link" or "table"."""
        return self.identity.lives(kind)

    def labels(self) -> tuple[str, ...]:
        """What each step is called: the snapshot's label, else before / step N / after."""
        last = len(self) - 1
        plain = ["before", *(f"step {i}" for i in range(1, last)), "after"] if last else ["now"]
        return tuple(s.label or name for s, name in zip(self.snapshots, plain))

    def words(self) -> list[str]:
        """Return what changed, step by step, as sentences."""
        labels = self.labels()
        return [f"{labels[i + 1]}: {text}" for i, diff in enumerate(self.diffs) for text in diff.words()]

    def __str__(self) -> str:
        return "\n".join(f"{label}\n{diff}" for label, diff in zip(self.labels()[1:], self.diffs)) or "one snapshot"

    def __repr__(self) -> str:
        return f"<Steps: {' → '.join(self.labels())}>"


class Diff(Steps):
    """What changed from one snapshot to another: `after - before`."""

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        super().__init__(before, after)
        self.at = (0, 1)

    @classmethod
    def _of(cls, identity: Identity, first: int, last: int) -> Diff:
        """Compare two steps of a longer row under the keys and names of the whole row."""
        made = cls.__new__(cls)
        made.snapshots = (identity.snapshots[first], identity.snapshots[last])
        made.identity, made.at = identity, (first, last)
        return made

    @property
    def before(self) -> Snapshot:
        return self.snapshots[0]

    @property
    def after(self) -> Snapshot:
        return self.snapshots[1]

    @property
    def diffs(self) -> tuple[Diff, ...]:
        return (self,)

    @property
    def whole(self) -> Diff:
        return self

    def lives(self, kind: str) -> tuple[Life, ...]:
        seen = (Life(kind, key, tuple(life[i] for i in self.at)) for kind, key, life in self.identity.lives(kind))
        return tuple(life for life in seen if any(thing is not None for thing in life.seen))

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Every thing added, removed or changed, in the order of KINDS."""
        return tuple(_changes(self.identity, *self.at))

    def of(self, kind: str) -> tuple[Change, ...]:
        """Return the changes of one kind (see KINDS)."""
        return tuple(c for c in self.changes if c.kind == kind)

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The changes in words, runs of equal ones folded; each change is in exactly one line."""
        from .words import lines  # here, because words.py is made of this module's classes
        return lines(self)

    def words(self) -> list[str]:
        """Return the changes as a short list of sentences."""
        return [line.text for line in self.lines]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(part for line in self.lines for part in textwrap.wrap(
            str(line), COLUMNS, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)) \
            or "nothing changed"

    def __repr__(self) -> str:
        return f"<Diff: {len(self.changes)} changes in {len(self.lines)} lines>"


def steps(*snapshots: Snapshot) -> Steps:
    """Return what changed over several snapshots, oldest first; a Diff for two of them."""
    return Diff(*snapshots) if len(snapshots) == 2 else Steps(*snapshots)


# Finding the changes


def _changes(who: Identity, a: int, b: int) -> Iterator[Change]:
    yield from _tasks(who, a, b)
    yield from _things("mm", who, a, b, _mm_fields)
    yield from _things("vma", who, a, b, _vma_fields)
    yield from _things("anon_vma", who, a, b, _anon_vma_fields)
    yield from _links(who, a, b)
    yield from _entries(who, a, b)
    yield from _pages(who, a, b)
    yield from _tables(who, a, b)
    before, after = who.snapshots[a], who.snapshots[b]
    yield from _counters(before.counters, after.counters)
    yield from _set_changes("lock", {(t,): t for t in before.held}, {(t,): t for t in after.held})


def _compare(kind: str, before: Mapping, after: Mapping, fields) -> Iterator[Change]:
    """Compare two {key: thing}; `fields(old, new)` names what changed in a survivor."""
    for key, old in before.items():
        new = after.get(key)
        if new is None:
            yield Change(kind, key, "removed", old, None, (), ((kind, key),))
        elif old is not new and old != new and (changed := tuple(fields(old, new))):
            yield Change(kind, key, "changed", old, new, changed, ((kind, key),))
    for key, new in after.items():
        if key not in before:
            yield Change(kind, key, "added", None, new, (), ((kind, key),))


def _things(kind: str, who: Identity, a: int, b: int, fields) -> Iterator[Change]:
    def of(old: object, new: object) -> Iterator[Field]:
        return fields(who, a, b, old, new)
    return _compare(kind, who.at(kind, a), who.at(kind, b), of)


def _set_changes(kind: str, before: Mapping, after: Mapping) -> Iterator[Change]:
    return _compare(kind, before, after, lambda old, new: ())


def _tasks(who: Identity, a: int, b: int) -> Iterator[Change]:
    def fields(old: Task, new: Task) -> Iterator[Field]:
        yield from _plain(old, new, "name", "tids")
        yield from _pointer(who, a, b, "mm", old.mm, new.mm)
    return _compare("task", *({t.id: t for t in (*s.tasks, *s.others)}
                              for s in (who.snapshots[a], who.snapshots[b])), fields)


def _plain(old: object, new: object, *names: str) -> Iterator[Field]:
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield Field(name, before, after)


def _pointer(who: Identity, a: int, b: int, name: str, old: object, new: object) -> Iterator[Field]:
    kind = {"root": "anon_vma", "parent": "anon_vma"}.get(name, name)
    before, after = (t and who.key(kind, i, t if isinstance(t, int) else t.addr) for i, t in ((a, old), (b, new)))
    if before != after:
        yield Field(name, before, after)


def _mm_fields(who: Identity, a: int, b: int, old: Mm, new: Mm) -> Iterator[Field]:
    yield from _plain(old, new, "pgd", "locked")
    for name in dict.fromkeys((*old.counters, *new.counters)):
        before, after = old.counters.get(name, 0), new.counters.get(name, 0)
        if before != after:
            yield Field(name, before, after)


def _vma_fields(who: Identity, a: int, b: int, old: Vma, new: Vma) -> Iterator[Field]:
    yield from _plain(old, new, "vm_start", "vm_end", "vm_flags", "flags", "vm_pgoff", "name", "file", "dev", "inode")
    yield from _pointer(who, a, b, "anon_vma", old.anon_vma, new.anon_vma)


def _anon_vma_fields(who: Identity, a: int, b: int, old: AnonVma, new: AnonVma) -> Iterator[Field]:
    yield from _pointer(who, a, b, "root", old.root, new.root)
    yield from _pointer(who, a, b, "parent", old.parent, new.parent)
    yield from _plain(old, new, "refcount", "num_children", "num_active_vmas", "locked")


def _pages(who: Identity, a: int, b: int) -> Iterator[Change]:
    """Compare by frame first: most pages are equal, and equal ones need no key."""
    before, after = who.snapshots[a].pages, who.snapshots[b].pages
    differ = [pfn for pfn, old in before.items() if after.get(pfn) != old]
    old = {who.key("page", a, pfn): before[pfn] for pfn in differ}
    come = (*(pfn for pfn in differ if pfn in after), *(pfn for pfn in after if pfn not in before))
    new = {who.key("page", b, pfn): after[pfn] for pfn in come}
    return _compare("page", old, new, lambda was, now: _plain(was, now, *Page._fields))


def _links(who: Identity, a: int, b: int) -> Iterator[Change]:
    def fields(old: object, new: object) -> Iterator[Field]:
        return _plain(old, new, "start", "last", "in_chain", "in_tree")
    for change in _compare("link", who.links(a), who.links(b), fields):
        vma, anon_vma = change.id
        yield change._replace(refs=(*change.refs, ("vma", vma), ("anon_vma", anon_vma)))


def _tables(who: Identity, a: int, b: int) -> Iterator[Change]:
    for change in _set_changes("table", who.tables(a), who.tables(b)):
        yield change._replace(refs=(*change.refs, ("mm", change.id[0])))


def _counters(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, 0), after.get(name, 0)
        if old != new:
            yield Change("counter", (name,), "changed", old, new, (Field(name, old, new),), (("counter", (name,)),))


def _entries(who: Identity, a: int, b: int) -> Iterator[Change]:
    before, after = who.at("mm", a), who.at("mm", b)
    reborn = _reborn(who, a, b)
    for mm in dict.fromkeys((*before, *after)):
        old = before[mm].entries.rows() if mm in before else ()
        new = after[mm].entries.rows() if mm in after else ()
        yield from _row_changes(who, (a, b), mm, old, new, reborn)


def _reborn(who: Identity, a: int, b: int) -> frozenset[int]:
    """PFNs that were freed and used again in between."""
    pages = who.snapshots[b].pages
    return frozenset(pfn for pfn, old in who.snapshots[a].pages.items()
                     if (new := pages.get(pfn)) is not None and new is not old and (
                         old.born != new.born or not old.born and who.key("page", a, pfn) != who.key("page", b, pfn)))


def _row_changes(who: Identity, at: tuple[int, int], mm: Key, old: tuple, new: tuple,
                 reborn: frozenset[int]) -> Iterator[Change]:
    if old == new and not reborn:
        return
    same = set(old) & set(new)
    if reborn:
        same = {row for row in same if not (_entry.is_present(row[1]) and _entry.pfn_of(row[1]) in reborn)}
    gone = {(row[0], row[3]): row for row in old if row not in same}
    come = {(row[0], row[3]): row for row in new if row not in same}
    for addr, level in sorted(gone.keys() | come.keys()):
        before, after = gone.get((addr, level)), come.get((addr, level))
        yield _entry_change(who, at, (mm, addr, level), before and Pte(*before), after and Pte(*after))


def _entry_change(who: Identity, at: tuple[int, int], key: Key, before: Pte | None, after: Pte | None) -> Change:
    frames = [who.key("page", step, pte.pfn) if pte is not None and pte.present else None
              for step, pte in zip(at, (before, after))]
    refs = (("entry", key), ("mm", key[0]), *(("page", f) for f in dict.fromkeys(frames) if f))
    if before is None or after is None:
        return Change("entry", key, "removed" if after is None else "added", before, after, (), refs)
    fields = [Field(n, x, y) for n, x, y in (("flags", before.flags, after.flags), ("pfn", before.pfn, after.pfn),
                                             ("swap", before.swap, after.swap), ("phys", before.phys, after.phys))
              if x != y]
    if before.pfn == after.pfn and frames[0] != frames[1]:
        fields.append(Field("page", frames[0], frames[1]))
    if not fields:  # bits that have no name
        fields.append(Field("raw", before.raw, after.raw))
    return Change("entry", key, "changed", before, after, tuple(fields), refs)
