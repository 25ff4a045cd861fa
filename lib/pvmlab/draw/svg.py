# SPDX-License-Identifier: MIT
"""The looks of a figure: SVG for one step, with the marks against another.

Adds: colours, outlines, badges; ids, classes and data-refs on every part; a
card of its own, light under any theme.
Leaves out: places (layout.py), what is shown (parts.py).

Meaning is carried three times: by text ("+ new"), by outline (thick for new,
dashed for gone, double for changed) and by colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from ..diff import Line
from .layout import Placed, Point
from .parts import (CHAR, FONT, LINE, PAD, Box, Edge, Mark, Panel, Row, badge, box_mark, height, mark_of, ref,
                    width)

MARGIN, GAP, MOST_LINES = 16, 20, 14
NARROWEST, WIDEST = 980, 1216  # a card fits a screen of 1280 pixels
TOP = 17  # from a row's upper edge to its first line's foot
_HEAD = 46  # title and caption of a panel
LEGEND = "+ new (thick outline)   – gone (dashed)   ~ changed (double outline)"
INK, DIM, CARD, RULE = "#1f2328", "#57606a", "#ffffff", "#8c959f"
#: sign: (outline, fill, dash)
MARKS = {"+": ("#116329", "#dcf5e3", ""), "–": ("#a40e26", "#fdeceb", "5 3"), "~": ("#7a4100", "#fff3cf", "")}
ALARM = MARKS["–"][1]
#: fill of a box's header, by the box's class
HEADS = {"mm": "#dbe9fb", "table": "#ece7fb", "upper": "#ece7fb", "frame": "#fdf6e3", "vma": "#dbe9fb",
         "anon_vma": "#d9f2ee", "walk": "#eef0f2"}
_STYLE = (f".pvmlab text{{font-family:'DejaVu Sans Mono',Menlo,Consolas,'Liberation Mono',monospace;"
          f"font-size:{FONT}px;fill:{INK};white-space:pre}}"
          f".pvmlab .title{{font-family:'DejaVu Sans',Verdana,Arial,sans-serif;font-size:15px;font-weight:bold}}"
          f".pvmlab .caption{{font-family:'DejaVu Sans',Verdana,Arial,sans-serif;fill:{DIM}}}"
          f".pvmlab .bold{{font-weight:bold}} .pvmlab .dim{{fill:{DIM}}}")


def text_width(placed: dict[str, Placed]) -> float:
    """The width that the list of changes may use."""
    return max([NARROWEST, *(p.width for p in placed.values())])


class Sheet:
    """The places of all panels on one card, the same for every step."""

    def __init__(self, panels: Sequence[Panel], placed: dict[str, Placed], lines: int) -> None:
        self.panels, self.placed = panels, placed
        self.text_width = text_width(placed)
        self.lines_height = lines * LINE + _HEAD if lines else 0
        self.origins = self._stack()

    def _stack(self) -> dict[str, Point]:
        """Panels one under the other; two share a row where both fit."""
        x, y, row, origins = 0.0, MARGIN + 30.0 + self.lines_height, 0.0, {}
        widest = self.text_width
        for panel in self.panels:
            wide, high = self.size(panel)
            if x and x + wide > max(WIDEST, self.text_width):
                x, y, row = 0.0, y + row + GAP, 0.0
            origins[panel.name] = (MARGIN + x, y)
            widest = max(widest, x + wide)
            x, row = x + wide + 2 * GAP, max(row, high)
        self.width = int(widest) + 2 * MARGIN
        self.height = int(y + row + MARGIN)
        return origins

    def size(self, panel: Panel) -> Point:
        at = self.placed.get(panel.name)
        wide = max(at.width if at else 0, min(420, len(panel.caption) * 6.6), len(panel.title) * 10)
        extra = len(caption_lines(panel, wide)) - 1
        notes = len(note_lines(panel, wide)) * LINE + 8 if panel.notes else 0
        return wide, _HEAD + extra * LINE + (at.height if at else 0) + notes


def caption_lines(panel: Panel, wide: float) -> list[str]:
    """The caption, wrapped to the panel's width."""
    return textwrap.wrap(panel.caption, max(30, int(wide / 6.6))) or [""]


def note_lines(panel: Panel, wide: float) -> list[str]:
    """The notes, wrapped to the panel's width."""
    return [line for note in panel.notes for line in textwrap.wrap(note, int(wide / CHAR), subsequent_indent="  ")]


def draw(sheet: Sheet, step: int, old: int | None, title: str, lines: Sequence[Line], nothing: str) -> str:
    """Return the SVG of one step; with `old`, marks say what changed since that step.

    nothing: what stands in the list of changes when it has no lines
    """
    body = [_text(MARGIN, MARGIN + 16, title, "title"), *_changes(sheet, lines, nothing)]
    body += [_panel(sheet, panel, step, old) for panel in sheet.panels if panel.shown(step, old)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="pvmlab" role="img" data-step="{step}" '
            f'viewBox="0 0 {sheet.width} {sheet.height}" width="{sheet.width}" height="{sheet.height}" '
            f'aria-label="{escape(title)}" style="max-width:100%;height:auto">'
            f"<title>{escape(title)}</title><desc>{escape(_desc(lines, nothing))}</desc><style>{_STYLE}</style>"
            f'<rect x="0.5" y="0.5" width="{sheet.width - 1}" height="{sheet.height - 1}" rx="8" fill="{CARD}" '
            f'stroke="{RULE}"/>{"".join(body)}</svg>')


def _desc(lines: Sequence[Line], nothing: str) -> str:
    return "; ".join(map(str, lines)) or nothing


# The list of changes


def folded(lines: Sequence[Line], wide: float) -> list[tuple[Line | None, str]]:
    """The lines as they are shown: wrapped, at most MOST_LINES of them, (None, text) for the rest."""
    chars, shown = int(wide / CHAR) - 3, []
    for i, line in enumerate(lines):
        wrapped = textwrap.wrap(str(line), chars, subsequent_indent="  ")
        wrapped = wrapped[:2] if len(wrapped) <= 2 else [wrapped[0], wrapped[1][:chars - 2] + " …"]
        if len(shown) + len(wrapped) >= MOST_LINES and i < len(lines) - 1:
            return [*shown, (None, f"… and {len(lines) - i} more changes: the text form has them all")]
        shown += [(line, text) for text in wrapped]
    return shown


def _changes(sheet: Sheet, lines: Sequence[Line], nothing: str) -> list[str]:
    if not sheet.lines_height or not (lines or nothing):
        return []
    y = MARGIN + 30
    parts = ['<g id="changes" class="panel">', _text(MARGIN, y + 16, "What changed", "title"),
             _text(MARGIN + 130, y + 16, LEGEND, "caption") if lines else _text(MARGIN, y + 40, nothing, "dim")]
    number, last = 0, None
    for i, (line, text) in enumerate(folded(lines, sheet.text_width)):
        first = line is not last
        number, last = number + first, line
        refs = " ".join(ref(*r) for r in line.refs[:64]) if line and first else ""
        parts.append(f'<g {_id(f"changes-{number}") if first else ""}class="change" data-refs="{escape(refs)}">'
                     f"{_change(MARGIN, y + 40 + i * LINE, line, text)}</g>")
    return [*parts, "</g>"]


def _change(x: float, y: float, line: Line | None, text: str) -> str:
    colour = MARKS[line.sign][0] if line else DIM
    return (f'<text x="{x}" y="{y}"><tspan style="fill:{colour};font-weight:bold">{escape(text[:1])}</tspan>'
            f"{escape(text[1:])}</text>")


# Panels, boxes, rows, edges


def _panel(sheet: Sheet, panel: Panel, step: int, old: int | None) -> str:
    x, y = sheet.origins[panel.name]
    wide, high = sheet.size(panel)
    captions, notes = caption_lines(panel, wide), note_lines(panel, wide)
    words = [_text(0, 16, panel.title, "title"),
             *(_text(0, 34 + i * LINE, line, "caption") for i, line in enumerate(captions)),
             *(_text(0, high - (len(notes) - i) * LINE + 12, note, "dim") for i, note in enumerate(notes))]
    at, inner = sheet.placed.get(panel.name), ""
    if at is not None:
        quiet = {box.id for box in panel.boxes if box.quiet}
        edges = "".join(_edge(edge, at.edges[edge.id], step, None if edge.tail[0] in quiet else old)
                        for edge in panel.edges if edge.id in at.edges)
        boxes = "".join(_box(box, at.boxes[box.id], step, old) for box in panel.boxes)
        inner = f'<g transform="translate(0 {_HEAD + (len(captions) - 1) * LINE})">{edges}{boxes}</g>'
    return (f'<g {_id(f"panel-{panel.name}")}class="panel" transform="translate({x:.0f} {y:.0f})">'
            f'{"".join(words)}{inner}</g>')


def _box(box: Box, at: Point, step: int, old: int | None) -> str:
    old = None if box.quiet else old
    if not box.shown(step) and not box.shown(old):
        return ""
    (x, y), wide = at, width(box)
    rows, top = [], y
    for row in box.rows:
        rows.append(_row(row, box, (x, top), step, old))
        top += height(row, box)
    mark = box_mark(box, old, step)
    whole = mark.sign in ("+", "–")
    colour, _, dash = MARKS[mark.sign] if whole else (RULE, "", "")
    rim = _rect(x, y, wide, top - y, stroke=colour, thick=2.5 if whole else 1, dash=dash)
    return (f'<g {_id(box.id)}class="box {box.cls}{_state(mark)}">{_rect(x, y, wide, top - y, fill=CARD)}'
            f'{"".join(rows)}{rim}</g>')


def _row(row: Row, box: Box, at: Point, step: int, old: int | None) -> str:
    seen = row.seen[step] or (row.seen[old] if old is not None else None)
    if seen is None:
        return ""
    (x, y), mark = at, mark_of(row, box, old, step)
    lines = [(text, _weight(row, box, i), "") for i, text in enumerate(seen.lines)]
    lines += [(text, "bold badge", MARKS[mark.sign][0]) for text in badge(row, box, old, step)]
    texts = "".join(_text(x + PAD, y + TOP + LINE * i, *line) for i, line in enumerate(lines))
    return (f'<g {_id(row.id)}class="row {row.cls}{_state(mark)}" data-refs="{escape(" ".join(row.refs))}">'
            f"{_ground(row, box, mark, at)}{texts}</g>")


def _weight(row: Row, box: Box, line: int) -> str:
    if row.cls in ("gap", "fold"):
        return "dim"
    return "bold" if line == 0 and (row is box.header or row.cls == "alarm") else ""


def _ground(row: Row, box: Box, mark: Mark, at: Point) -> str:
    """The row's background: header tint, or the mark's fill with its outline."""
    (x, y), wide, high = at, width(box), height(row, box)
    if row is box.header or row.cls == "alarm":
        plain = _rect(x, y, wide, high, fill=ALARM if row.cls == "alarm" else HEADS.get(box.cls, "none"))
    else:
        plain = f'<path d="M{x:.1f} {y:.1f}h{wide}" stroke="#d0d7de" fill="none"/>'
    if not mark.sign:
        return plain
    colour, tint, dash = MARKS[mark.sign]
    outline = _rect(x + 2, y + 1.5, wide - 4, high - 3, tint, colour, 2 if mark.sign == "+" else 1.2, dash)
    inner = _rect(x + 4.5, y + 4, wide - 9, high - 8, stroke=colour, thick=0.8) if mark.sign == "~" else ""
    return plain + outline + inner


def _edge(edge: Edge, points: Sequence[Point], step: int, old: int | None) -> str:
    was = old is not None and edge.seen[old]
    if not edge.seen[step] and not was:
        return ""
    sign = "" if old is None or was == edge.seen[step] else "+" if edge.seen[step] else "–"
    colour, _, dash = MARKS.get(sign, (DIM, "", "4 3" if edge.cls == "parent" else ""))
    (x, y), curve = points[0], " ".join(f"{x:.1f} {y:.1f}" for x, y in points[1:-1])
    ends = f'data-tail="{escape(edge.tail[1] or edge.tail[0])}" data-head="{escape(edge.head[1] or edge.head[0])}"'
    return (f'<g {_id(edge.id)}class="edge {edge.cls}{_state(Mark(sign, ""))}" {ends}>'
            f'<path d="M{x:.1f} {y:.1f}C{curve}" fill="none" stroke="{colour}" stroke-width="{2 if sign == "+" else 1.2}"'
            f"{_dash(dash)}/>{_arrow(points[-2], points[-1], colour)}{_edge_badge(edge, sign, points, colour)}</g>")


def _edge_badge(edge: Edge, sign: str, points: Sequence[Point], colour: str) -> str:
    if not sign or edge.cls == "walk":
        return ""
    x, y = _middle(points[9:13] if edge.cls == "parent" else points[:4])
    return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="{CARD}" stroke="{colour}"/>'
            + _text(x - 3.6, y + 4, sign, "bold", colour))


def _middle(points: Sequence[Point]) -> Point:
    """The middle of one piece of a curve."""
    return tuple((p + 3 * q + 3 * r + s) / 8 for p, q, r, s in zip(*points))


def _arrow(tail: Point, tip: Point, colour: str) -> str:
    if tail == tip:
        return ""
    dx, dy = tip[0] - tail[0], tip[1] - tail[1]
    length = (dx * dx + dy * dy) ** 0.5
    nx, ny = -dy / length * 3, dx / length * 3
    return (f'<path d="M{tip[0]:.1f} {tip[1]:.1f}L{tail[0] + nx:.1f} {tail[1] + ny:.1f}L{tail[0] - nx:.1f} '
            f'{tail[1] - ny:.1f}Z" fill="{colour}"/>')


# Elements


def _rect(x: float, y: float, wide: float, high: float, fill: str = "none", stroke: str = "none", thick: float = 1,
          dash: str = "") -> str:
    line = f' stroke="{stroke}" stroke-width="{thick}"{_dash(dash)}' if stroke != "none" else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide}" height="{high:.1f}" rx="3" fill="{fill}"{line}/>'


def _text(x: float, y: float, text: str, cls: str = "", colour: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""
    return f'<text class="{cls}"{style} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _id(name: str) -> str:
    return f'id="{escape(name)}" '


def _dash(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _state(mark: Mark) -> str:
    return {"+": " added", "–": " removed", "~": " changed"}.get(mark.sign, "")
