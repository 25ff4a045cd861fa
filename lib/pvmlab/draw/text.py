# SPDX-License-Identifier: MIT
"""The text form of a figure: everything it shows, to be read aloud or in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ..diff import Line
from .concern import ELSEWHERE, parted
from .parts import Box, Panel, Row, mark_of


def text(panels: Sequence[Panel], step: int, old: int | None, title: str, lines: Sequence[Line],
         nothing: str) -> str:
    """Return one step as text; with `old`, each part says what changed since that step."""
    parts = [title]
    if lines or nothing:
        mine, others = parted(tuple(lines))
        parts += ["", "What changed", *(f"  {line}" for line in mine or (nothing,))]
        parts += [str(line) if line.sign == ELSEWHERE else f"  {line}" for line in others]
    for panel in (panel for panel in panels if panel.shown(step, old)):
        parts += ["", panel.title, f"  ({panel.caption})"]
        say = _bar if panel.how == "bars" else _box
        parts += [line for box in panel.boxes for line in say(panel, box, step, old)]
        parts += [f"  {note}" for note in panel.below]
    return "\n".join(parts)


def _box(panel: Panel, box: Box, step: int, old: int | None) -> list[str]:
    old = None if box.quiet else old
    if not box.shown(step) and (old is None or not box.shown(old)):
        return []
    lines = [line for row in box.rows for line in _row(panel, box, row, step, old)]
    whole = [line for edge in panel.edges if edge.tail == (box.id, "") for line in _edge(edge, step, old)]
    return lines + [f"      {line}" for line in whole]


def _bar(panel: Panel, box: Box, step: int, old: int | None) -> list[str]:
    """An address space in one line for its name and one for each VMA or gap."""
    if not box.shown(step) and not box.shown(old):
        return []
    lines = [line.strip() for row in box.rows for line in _row(panel, box, row, step, old)]
    return ["  " + ", ".join(lines[:2]), *(f"      {line}" for line in lines[2:])]


def _row(panel: Panel, box: Box, row: Row, step: int, old: int | None) -> list[str]:
    seen = row.seen[step] or (row.seen[old] if old is not None else None)
    if seen is None:
        return []
    indent = "  " if row is box.header else "      "
    mark = mark_of(row, box, old, step)
    first, *rest = seen.lines
    lines = [f"{indent}{first}" + (f"   [{mark.text}]" if mark.sign else ""), *(f"{indent}  {line}" for line in rest)]
    edges = [line for edge in panel.edges if edge.tail == (box.id, row.id) for line in _edge(edge, step, old)]
    return lines + [f"{indent}  {line}" for line in edges]


def _edge(edge, step: int, old: int | None) -> list[str]:
    was = old is not None and edge.seen[old]
    if not edge.seen[step] and not was:
        return []
    mark = "" if old is None or was == edge.seen[step] else "   [+ new]" if edge.seen[step] else "   [– gone]"
    return [f"→ {edge.says}{mark}"]
