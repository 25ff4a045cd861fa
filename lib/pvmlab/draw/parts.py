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
from dataclasses import dataclass, replace
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


class Row(NamedTuple):
    """One line or more inside a box. refs: names of the things it shows (refs.ref())."""

    id: str
    cls: str
    seen: tuple[Seen | None, ...]
    refs: tuple[str, ...] = ()

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

    chars: the box is at least as wide as so many characters; quiet: no marks
    """

    id: str
    cls: str
    rows: tuple[Row, ...]
    rank: str = ""
    chars: int = 7
    quiet: bool = False

    @property
    def header(self) -> Row:
        return self.rows[0]

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


@dataclass(frozen=True)
class Panel:
    """Boxes and edges that are laid out together.

    caption explains it in a sentence; notes stand below; ranksep: inches
    between columns
    """

    name: str
    title: str
    caption: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...] = ()
    notes: tuple[str, ...] = ()
    rankdir: str = "LR"
    ranksep: float = 0.42

    def shown(self, step: int, old: int | None) -> bool:
        """Whether any of it is there at a step, or was at the one it is compared with."""
        return any(box.shown(step) or not box.quiet and box.shown(old) for box in self.boxes)


def pairs(count: int) -> list[tuple[int, int]]:
    """The pairs of steps between which marks are shown: each step, and first to last."""
    return [*((i, i + 1) for i in range(count - 1)), *([(0, count - 1)] if count > 2 else [])]


def width(box: Box) -> int:
    """Pixels a box needs so that no line of any step is too long."""
    return int(_chars(box) * CHAR) + 2 * PAD


def _chars(box: Box) -> int:
    lines = (line for row in box.rows for seen in row.seen if seen for line in seen.lines)
    return max(box.chars, *map(len, lines), 0)


def even(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Make the boxes of a column equally wide."""
    boxes = tuple(boxes)
    widest: dict[str, int] = {}
    for box in boxes:
        widest[box.rank] = max(_chars(box), widest.get(box.rank, 0))
    return tuple(replace(box, chars=widest[box.rank]) if box.rank else box for box in boxes)


def badge(row: Row, box: Box, old: int | None, new: int) -> list[str]:
    """The badge's lines, broken between facts where it can be."""
    chars = int((width(box) - 2 * PAD) / CHAR)
    lines: list[str] = []
    for fact in filter(None, mark_of(row, box, old, new).text.split("; ")):
        if lines and len(lines[-1]) + 2 + len(fact) <= chars:
            lines[-1] += f"; {fact}"
        else:
            lines += textwrap.wrap(fact, chars)
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
