# SPDX-License-Identifier: MIT
"""What a figure is made of, before it has places: panels of boxes of rows, and edges.

Adds: the parts, each with what it shows at every step, and the mark it gets
between two steps ("+ new", "– gone", "~ RW lost").
Leaves out: which parts there are (strips, tables, frames, forest, walk),
their places (layout.py) and their looks (svg.py, text.py).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

#: Pixels per character of a monospaced font (0.602 em in the widest common one) and between lines.
FONT, CHAR, LINE, PAD = 12, 7.3, 16, 10


class Seen(NamedTuple):
    """A row at one step: its lines, and the facts by which a change is told (a set is compared by member)."""

    lines: tuple[str, ...]
    facts: Mapping[str, object] = {}


class Mark(NamedTuple):
    """sign: "+", "–", "~" or "" (as it was); text: the badge, sign included."""

    sign: str
    text: str


SAME = Mark("", "")


class Opens(NamedTuple):
    """What a part stands for, so that it can be listed.

    kind and what: "entries" ((mm's key, from, to), …) · "vma" (its key,): its
    entries · "vmas" (keys) · "mm" (its key,): its VMAs · "mms" (keys) · "frames"
    (PFNs) · "lines", "anon_vmas" (the lines of each step) ·
    "visits" ((line, VMA's key) … of each step)
    """

    kind: str
    what: tuple


class Row(NamedTuple):
    """One line or more inside a box.

    refs: names of all the things it shows (ref()); inline: its mark stands at the
    end of its one line instead of below; opens: what can be listed of it
    """

    id: str
    cls: str
    seen: tuple[Seen | None, ...]
    refs: tuple[str, ...] = ()
    inline: bool = False
    opens: Opens | None = None

    def mark(self, old: int | None, new: int) -> Mark:
        """Return how the row at step `new` differs from step `old`."""
        if old is None or old == new or self.cls == "gap":
            return SAME
        before, after = self.seen[old], self.seen[new]
        if before is None or after is None:
            return SAME if before is after else Mark("+", "+ new") if before is None else Mark("–", "– gone")
        words = "; ".join(_facts(before.facts, after.facts))
        return Mark("~", f"~ {words}") if words else SAME


def _facts(before: Mapping[str, object], after: Mapping[str, object]):
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, tuple) and isinstance(new, tuple):
            lost, come = [f for f in old if f not in new], [f for f in new if f not in old]
            for was, now in (("D", "SAVED_DIRTY"), ("SAVED_DIRTY", "D")):
                if was in lost and now in come:
                    lost.remove(was)
                    come.remove(now)
                    yield f"{was} → {now}"
            yield from ([f"{' '.join(lost)} lost"] if lost else [])
            yield from ([f"{' '.join(come)} gained"] if come else [])
        elif old != new and None not in (old, new):
            yield f"{name} {_plain(old)} → {_plain(new)}".lstrip()


def _plain(fact: object) -> str:
    return " ".join(fact) if isinstance(fact, tuple) else str(fact)


@dataclass(frozen=True)
class Box:
    """Rows under a header (the first row). rank: boxes of one rank stand in one column.

    chars: the box is at least as wide as so many characters; quiet: no marks;
    column: which part of a panel it belongs to, where parts can be hidden
    """

    id: str
    cls: str
    rows: tuple[Row, ...]
    rank: str = ""
    chars: int = 7
    quiet: bool = False
    column: str = ""

    @property
    def header(self) -> Row:
        return self.rows[0]

    @cached_property
    def longest(self) -> int:
        """Characters of its longest line at any step."""
        return _chars(self)

    @cached_property
    def heights(self) -> dict[str, int]:
        """{row's id: pixels it needs at any step, badge included}."""
        return {row.id: _height(row, self) for row in self.rows}

    def shown(self, step: int | None) -> bool:
        """Whether the box is there at a step."""
        return step is not None and self.header.seen[step] is not None


class Edge(NamedTuple):
    """A line from a row to a row (or a box: row ""), and at which steps it is there."""

    id: str
    cls: str
    tail: tuple[str, str]
    head: tuple[str, str]
    seen: tuple[bool, ...]
    says: str = ""


class Span(NamedTuple):
    """A row that is a piece of a bar: from x0 to x1, with what fills it.

    filled: (from, to, "present" or "absent") of the entries in it; label: as
    much as there is room for
    """

    x0: float
    x1: float
    filled: tuple[tuple[float, float, str], ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """Boxes and edges that are laid out together.

    caption explains it in a sentence; folds (boxes of one row that opens) and
    notes stand below; ranksep: inches
    between columns; how: "graph" (dot places it), "row" (boxes side by side)
    or "bars" (a box is a bar, its rows lie where `spans` has them at each
    step); most: boxes past so many are folded, 0 for none
    """

    name: str
    title: str
    caption: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...] = ()
    notes: tuple[str, ...] = ()
    folds: tuple[Box, ...] = ()
    rankdir: str = "LR"
    ranksep: float = 0.3
    how: str = "graph"
    most: int = 0
    spans: Mapping[str, tuple[Span | None, ...]] = field(default_factory=dict)

    def shown(self, step: int, old: int | None) -> bool:
        """Whether any of it is there at a step, or was at the one it is compared with."""
        return any(box.shown(step) or not box.quiet and box.shown(old) for box in self.boxes)

    @property
    def below(self) -> tuple[str, ...]:
        """All that stands below it, in words."""
        return (*(line for box in self.folds for line in next(filter(None, box.header.seen)).lines), *self.notes)

    def titled(self, title: str) -> Panel:
        """The panel under another title."""
        return replace(self, title=title)

    def cut(self) -> Panel:
        """The panel with at most `most` boxes, and a note of how many it leaves out."""
        rest = len(self.boxes) - self.most if self.most else 0
        if rest <= 0:
            return self
        return replace(self, boxes=self.boxes[:self.most], notes=(*self.notes, f"… and {rest} more processes"))

    def only(self, columns: set[str]) -> Panel:
        """The panel without the other columns; what ties two columns is "direct" where those between are hidden."""
        if not any(box.column for box in self.boxes):
            return self
        boxes = tuple(box for box in self.boxes if box.column in columns)
        there, direct = {box.id for box in boxes}, "path" not in columns
        return replace(self, boxes=boxes, edges=tuple(
            e for e in self.edges if {e.tail[0], e.head[0]} <= there and (e.cls != "direct" or direct)))


def fold(name: str, text: str, steps: int, refs: tuple[str, ...], opens: Opens) -> Box:
    """A line below a panel that stands for what the panel leaves out."""
    return Box(name, "fold", (Row(f"{name}-row", "fold", (Seen((text,)),) * steps, refs, opens=opens),))


def pairs(count: int) -> list[tuple[int, int]]:
    """The pairs of steps between which marks are shown: each step, and first to last."""
    return [*((i, i + 1) for i in range(count - 1)), *([(0, count - 1)] if count > 2 else [])]


def width(box: Box) -> int:
    """Pixels a box needs so that no line of any step is too long."""
    return int(box.longest * CHAR) + 2 * PAD


def _chars(box: Box) -> int:
    lines = (line for row in box.rows for seen in row.seen if seen for line in seen.lines)
    return max(box.chars, *map(len, lines), *(_inline(row) for row in box.rows if row.inline), 0)


def _inline(row: Row) -> int:
    """Characters of the longest line of a row with its mark behind it."""
    marks = max((len(row.mark(*pair).text) for pair in pairs(len(row.seen))), default=0)
    return max(len(seen.lines[0]) for seen in row.seen if seen) + 2 + marks


def even(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Make the boxes of a column equally wide."""
    boxes = tuple(boxes)
    widest: dict[str, int] = {}
    for box in boxes:
        widest[box.rank] = max(box.longest, widest.get(box.rank, 0))
    return tuple(replace(box, chars=widest[box.rank]) if box.rank else box for box in boxes)


def badge(row: Row, box: Box, old: int | None, new: int) -> list[str]:
    """The badge's lines, broken between facts where it can be."""
    lines: list[str] = []
    for fact in filter(None, mark_of(row, box, old, new).text.split("; ")):
        if lines and len(lines[-1]) + 2 + len(fact) <= box.longest:
            lines[-1] += f"; {fact}"
        else:
            lines += textwrap.wrap(fact, box.longest)
    return lines


def box_mark(box: Box, old: int | None, new: int) -> Mark:
    """The mark of the box as a whole: that of its header."""
    return SAME if box.quiet else box.header.mark(old, new)


def mark_of(row: Row, box: Box, old: int | None, new: int) -> Mark:
    """A row's mark, left out where the whole box is new or gone."""
    whole = box_mark(box, old, new)
    if row is box.header:
        return whole
    return SAME if box.quiet or whole.sign in ("+", "–") else row.mark(old, new)


def height(row: Row, box: Box) -> int:
    """Pixels a row needs at any step, badge included."""
    return box.heights[row.id]


def _height(row: Row, box: Box) -> int:
    if row.inline:
        return LINE + PAD // 2
    steps = len(row.seen)
    lines = max((len(seen.lines) for seen in row.seen if seen), default=0)
    badges = max((len(badge(row, box, *pair)) for pair in pairs(steps)), default=0)
    return (lines + badges) * LINE + PAD


def ref(kind: str, key: tuple) -> str:
    """Name a thing for data-refs: ref(*r) of a Change's or Line's refs finds it in the SVG."""
    return "-".join([kind, *map(str, _flat(key))])


def _flat(key: object):
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, tuple):
            yield from _flat(part)
        else:
            yield format(part, "x") if isinstance(part, int) else str(part)
