# SPDX-License-Identifier: MIT
"""The looks of a figure: SVG for one step, with the marks against another.

Adds: outlines, badges, ids, classes and data-refs on every part; what the
classes look like, in light and dark; a card with all panels for those who do
not step.
Leaves out: places (layout.py), what is shown (parts.py).

Meaning is carried three times: by text ("+ new"), by outline (thick for new,
dashed for gone, double for changed) and by colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from ..diff import Line
from . import translation
from .concern import ELSEWHERE
from .layout import BAR, Placed, Point
from .parts import (CHAR, FONT, LINE, PAD, Box, Edge, Mark, Panel, Row, Span, badge, box_mark, height, mark_of, ref,
                    width)

MARGIN, GAP, MOST_LINES = 16, 20, 14
#: As many of a part's refs stand in the SVG, which nobody chooses from.
MOST_REFS = 64
NARROWEST, WIDEST = 980, 1216  # a card fits a screen of 1280 pixels
TOP = 17  # from a row's upper edge to its first line's foot
_HEAD = 46  # title and caption of a panel
LEGEND = "+ new (thick outline)   – gone (dashed)   ~ changed (double outline)"
SIGNS = {"+": "added", "–": "removed", "~": "changed"}

#: The colours by their role. mm, table, frame, anon_vma, walk and counters are the grounds of headers.
LIGHT = {"ink": "#1f2328", "dim": "#57606a", "card": "#ffffff", "rule": "#8c959f", "faint": "#d0d7de",
         "added": "#116329", "added-ground": "#dcf5e3", "removed": "#a40e26", "removed-ground": "#fdeceb",
         "changed": "#7a4100", "changed-ground": "#fff3cf", "mm": "#dbe9fb", "table": "#ece7fb", "frame": "#fdf6e3",
         "anon_vma": "#d9f2ee", "walk": "#eef0f2", "filled": "#3a6ea5"}
DARK = {"ink": "#e6edf3", "dim": "#a5b0bc", "card": "#161b22", "rule": "#6e7681", "faint": "#30363d",
        "added": "#6ddf86", "added-ground": "#12361f", "removed": "#ff9a92", "removed-ground": "#45181b",
        "changed": "#f0b849", "changed-ground": "#3d2c08", "mm": "#1c3556", "table": "#33285c", "frame": "#3d3413",
        "anon_vma": "#11403b", "walk": "#2a3038", "filled": "#79b8ff"}
#: The ground of a box's header, by the box's class.
HEADS = {"mm": "mm", "vma": "mm", "table": "table", "upper": "table", "frame": "frame", "anon_vma": "anon_vma",
         "walk": "walk", "counters": "walk"}


def text_width(placed: Mapping[str, Placed]) -> float:
    """The width that the list of changes may use."""
    return max([NARROWEST, *(p.width for p in placed.values())])


def rules(colours: Mapping[str, str], within: str = ".pvmlab") -> str:
    """Return the CSS that gives the classes their looks."""
    c = colours
    looks = {
        "text": f"font:{FONT}px 'DejaVu Sans Mono',Menlo,Consolas,'Liberation Mono',monospace;fill:{c['ink']};"
                "white-space:pre",
        ".title": "font:bold 15px 'DejaVu Sans',Verdana,Arial,sans-serif",
        ".caption": f"font:{FONT}px 'DejaVu Sans',Verdana,Arial,sans-serif;fill:{c['dim']}",
        ".bold": "font-weight:bold", ".dim": f"fill:{c['dim']}", ".badge": "font-weight:bold",
        ".card": f"fill:{c['card']};stroke:{c['rule']}", ".g": f"fill:{c['card']};stroke:{c['faint']};stroke-width:.7",
        ".rim": f"fill:none;stroke:{c['rule']}", ".slot": f"fill:none;stroke:{c['faint']};stroke-dasharray:2 4",
        ".mark": "stroke-width:1.2", ".mark2": "fill:none;stroke-width:.8",
        ".edge path": f"fill:none;stroke:{c['dim']};stroke-width:1.2", ".edge .tip": f"fill:{c['dim']};stroke:none",
        ".edge circle": f"fill:{c['card']}", ".filled": f"fill:{c['filled']}",
        ".hollow": f"fill:{c['card']};stroke:{c['filled']}",
        ".bar .vma .g": f"fill:{c['mm']};stroke:{c['rule']};stroke-width:1",
        ".bar>.head>.g": "stroke:none", ".small": "font-size:10.5px",
        ".gap line": f"stroke:{c['rule']};stroke-dasharray:2 4",
        ".alarm .g": f"fill:{c['walk']}",      # nothing that came, went or changed
    }
    looks |= {f".{box}>.head>.g": f"fill:{c[role]}" for box, role in HEADS.items()}
    for cls in SIGNS.values():
        ink, ground = c[cls], c[f"{cls}-ground"]
        dash = ";stroke-dasharray:5 3" if cls == "removed" else ""
        thick = ";stroke-width:2" if cls == "added" else ""
        looks |= {f".{cls}>.mark": f"fill:{ground};stroke:{ink}{dash}{thick}", f".{cls}>.mark2": f"stroke:{ink}",
                  f".{cls}>.badge,.change.{cls} tspan": f"fill:{ink};font-weight:bold",
                  f".edge.{cls} path,.edge.{cls} circle": f"stroke:{ink}{dash}{thick}",
                  f".edge.{cls} .tip": f"fill:{ink}", f".edge.{cls} text": f"fill:{ink}"}
        if cls != "changed":
            looks[f".box.{cls}>.rim"] = f"stroke:{ink};stroke-width:2.5{dash}"
    return "".join(f"{','.join(f'{within} {part}' for part in what.split(','))}{{{how}}}"
                   for what, how in looks.items())


class Sheet:
    """The places of all panels on one card, the same for every step.

    lines: how many the list of changes has at most; where: how many say where in
    a call a step is; columns: those shown, of the panel with columns
    """

    def __init__(self, panels: Sequence[Panel], placed: Mapping[str, Placed], names: Sequence[str], lines: int,
                 where: int = 0) -> None:
        self.columns = set().union(*(translation.COLUMNS.get(name, ()) for name in names))
        self.panels = [self._part(panel, names) for panel in panels
                       if panel.name in names or panel.name == "translation" and self.columns]
        self.placed = placed
        self.text_width = text_width({p.name: placed[p.name] for p in self.panels if p.name in placed})
        self.where_height = where * LINE + 4 if where else 0
        self.lines_height = lines * LINE + _HEAD if lines else 0
        self.origins = self._stack()

    def _part(self, panel: Panel, names: Sequence[str]) -> Panel:
        """What is shown of a panel; of the bars only as many as are not folded."""
        if panel.name == "translation":
            return panel.titled(translation.title(names)).only(self.columns)
        return panel.cut() if panel.how == "bars" else panel

    def _stack(self) -> dict[str, Point]:
        """Panels one under the other; two share a row where both fit."""
        x, y, row, origins = 0.0, MARGIN + 30.0 + self.where_height + self.lines_height, 0.0, {}
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

    def inner(self, panel: Panel) -> Point:
        """Width and height of what layout placed."""
        at = self.placed.get(panel.name)
        if at is None:
            return 0, 0
        wide = at.shifts(self.columns)[1] if at.columns else at.width
        return wide, BAR * len(panel.boxes) if panel.how == "bars" else at.height

    def size(self, panel: Panel) -> Point:
        inner, high = self.inner(panel)
        wide = max(inner, min(420, len(panel.caption) * 6.6), len(panel.title) * 10)
        extra = len(caption_lines(panel, wide)) - 1
        notes = len(note_lines(panel, wide)) * LINE + 8 if panel.below else 0
        return wide, _HEAD + extra * LINE + high + notes


def caption_lines(panel: Panel, wide: float) -> list[str]:
    """The caption, wrapped to the panel's width."""
    return textwrap.wrap(panel.caption, max(30, int(wide / 6.6))) or [""]


def note_lines(panel: Panel, wide: float) -> list[str]:
    """What stands below, wrapped to the panel's width."""
    return [line for note in panel.below for line in textwrap.wrap(note, int(wide / CHAR), subsequent_indent="  ")]


def wrapped(strip: Sequence[tuple[str, bool]], wide: float) -> list[tuple[str, bool]]:
    """The lines that say where in a call the steps are, and whether it is the step shown, as they are drawn."""
    return [(each, here) for line, here in strip
            for each in textwrap.wrap(f"{'▶' if here else ' '} {line}", int(wide / CHAR), subsequent_indent="     ")]


def draw(sheet: Sheet, step: int, old: int | None, title: str, strip: Sequence[tuple[str, bool]],
         lines: Sequence[Line], nothing: str) -> str:
    """Return the SVG of one step; with `old`, marks say what changed since that step.

    strip: of a film, place and locks of each step, and whether it is the one shown;
    nothing: what stands in the list of changes when it has no lines
    """
    body = [_text(MARGIN, MARGIN + 16, title, "title"),
            *(_text(MARGIN, MARGIN + 36 + i * LINE, line, "bold" if here else "")
              for i, (line, here) in enumerate(wrapped(strip, sheet.text_width))),
            *_changes(sheet, lines, nothing)]
    body += [_panel(sheet, panel, step, old) for panel in sheet.panels if panel.shown(step, old)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="pvmlab" role="img" data-step="{step}" '
            f'viewBox="0 0 {sheet.width} {sheet.height}" width="{sheet.width}" height="{sheet.height}" '
            f'aria-label="{escape(title)}" style="max-width:100%;height:auto">'
            f"<title>{escape(title)}</title><desc>{escape(_desc(lines, nothing))}</desc><style>{rules(LIGHT)}</style>"
            f'<rect class="card" x="0.5" y="0.5" width="{sheet.width - 1}" height="{sheet.height - 1}" rx="8"/>'
            f'{"".join(body)}</svg>')


def _desc(lines: Sequence[Line], nothing: str) -> str:
    return "; ".join(map(str, lines)) or nothing


# The list of changes


def folded(lines: Sequence[Line], wide: float) -> list[tuple[Line | None, str]]:
    """The lines as they are shown: wrapped, at most MOST_LINES of them, (None, text) for the rest and for a heading."""
    chars, shown = int(wide / CHAR) - 3, []
    for i, line in enumerate(lines):
        if line.sign == ELSEWHERE:
            return [*shown, (None, str(line))]
        wrapped = textwrap.wrap(str(line), chars, subsequent_indent="  ")
        wrapped = wrapped[:2] if len(wrapped) <= 2 else [wrapped[0], wrapped[1][:chars - 2] + " …"]
        if len(shown) + len(wrapped) >= MOST_LINES and i < len(lines) - 1:
            return [*shown, (None, f"… and {len(lines) - i} more changes: the text form has them all")]
        shown += [(line, text) for text in wrapped]
    return shown


def _changes(sheet: Sheet, lines: Sequence[Line], nothing: str) -> list[str]:
    if not sheet.lines_height or not (lines or nothing):
        return []
    y = MARGIN + 30 + sheet.where_height
    parts = ['<g id="changes" class="panel">', _text(MARGIN, y + 16, "What changed", "title"),
             _text(MARGIN + 130, y + 16, LEGEND, "caption") if lines else _text(MARGIN, y + 40, nothing, "dim")]
    number, last = 0, None
    for i, (line, text) in enumerate(folded(lines, sheet.text_width)):
        first = line is not last
        number, last = number + first, line
        refs = " ".join(ref(*r) for r in line.refs[:MOST_REFS]) if line and first else ""
        parts.append(f'<g {_id(f"changes-{number}") if first else ""}class="change{_state(line.sign if line else "")}" '
                     f'data-refs="{escape(refs)}">{_change(MARGIN, y + 40 + i * LINE, text)}</g>')
    return [*parts, "</g>"]


def _change(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}"><tspan>{escape(text[:1])}</tspan>{escape(text[1:])}</text>'


# Panels, boxes, rows, edges


def _panel(sheet: Sheet, panel: Panel, step: int, old: int | None) -> str:
    """One panel on the card, with title, caption and notes."""
    x, y = sheet.origins[panel.name]
    wide, high = sheet.size(panel)
    captions, notes = caption_lines(panel, wide), note_lines(panel, wide)
    words = [_text(0, 16, panel.title, "title"),
             *(_text(0, 34 + i * LINE, line, "caption") for i, line in enumerate(captions)),
             *(_text(0, high - (len(notes) - i) * LINE + 12, note, "dim") for i, note in enumerate(notes))]
    at, inner = sheet.placed.get(panel.name), ""
    if at is not None:
        shifts = at.shifts(sheet.columns)[0]
        inner = (f'<g transform="translate(0 {_HEAD + (len(captions) - 1) * LINE})">'
                 f'{"".join(pieces(panel, at, step, old, shifts))}</g>')
    return (f'<g {_id(f"panel-{panel.name}")}class="panel" transform="translate({x:.0f} {y:.0f})">'
            f'{"".join(words)}{inner}</g>')


def pieces(panel: Panel, at: Placed, step: int, old: int | None, shifts: Mapping[str, float] = {}) -> Iterator[str]:
    """Yield the SVG of a panel's edges and boxes at one step, in columns that can be moved or hidden."""
    quiet = {box.id for box in panel.boxes if box.quiet}
    column = {box.id: box.column for box in panel.boxes}
    groups: dict[tuple, list[str]] = {}
    for edge in panel.edges:
        if edge.id in at.edges:
            key = (column.get(edge.tail[0], ""), column.get(edge.head[0], ""), edge.cls == "direct")
            drawn = _edge(edge, at.edges[edge.id], step, None if edge.tail[0] in quiet else old)
            groups.setdefault(key, []).append(drawn)
    for (tail, head, direct), edges in groups.items():
        if drawn := "".join(edges):
            move = _moved(shifts.get("spaces" if direct else head, 0))
            between = f' data-between="{tail} {head}{" direct" if direct else ""}"' if tail else ""
            yield f"<g{between}{move}>{drawn}</g>"
    for box in panel.boxes:
        drawn = _bar(panel, box, at.boxes[box.id], step, old) if panel.how == "bars" else \
            _box(box, at.boxes[box.id], step, old)
        if drawn and box.column:
            yield f'<g data-column="{box.column}"{_moved(shifts.get(box.column, 0))}>{drawn}</g>'
        elif drawn:
            yield drawn


def _moved(left: float) -> str:
    return f' transform="translate({-left:.0f} 0)"' if round(left) else ""


def _box(box: Box, at: Point, step: int, old: int | None) -> str:
    old = None if box.quiet else old
    if not box.shown(step) and not box.shown(old):
        return ""
    (x, y), wide = at, width(box)
    rows, top = [], y
    for row in box.rows:
        rows.append(_row(row, box, (x, top), step, old))
        top += height(row, box)
    return (f'<g {_id(box.id)}class="box {box.cls}{_state(box_mark(box, old, step).sign)}">'
            f'{_rect("card", x, y, wide, top - y)}{"".join(rows)}{_rect("rim", x, y, wide, top - y)}</g>')


def _row(row: Row, box: Box, at: Point, step: int, old: int | None) -> str:
    seen = row.seen[step] or (row.seen[old] if old is not None else None)
    if seen is None:  # room kept for another step, which reads as a hole unless it is framed
        return _rect("slot", at[0] + 4, at[1] + 4, width(box) - 8, height(row, box) - 8)
    (x, y), mark = at, mark_of(row, box, old, step)
    lines = [(text, _weight(row, box, i)) for i, text in enumerate(seen.lines)]
    if row.inline:
        end = _text(x + PAD + (len(seen.lines[0]) + 2) * CHAR, y + TOP - 3, mark.text, "badge") if mark.sign else ""
        texts = _text(x + PAD, y + TOP - 3, *lines[0]) + end
    else:
        lines += [(text, "badge") for text in badge(row, box, old, step)]
        texts = "".join(_text(x + PAD, y + TOP + LINE * i, *line) for i, line in enumerate(lines))
    return f"{_open(row, mark)}{_ground(row, box, mark, at)}{texts}</g>"


def _open(row: Row, mark: Mark) -> str:
    refs = escape(" ".join(row.refs[:MOST_REFS]))
    return f'<g {_id(row.id)}class="row {row.cls}{_state(mark.sign)}" data-refs="{refs}">'


def _weight(row: Row, box: Box, line: int) -> str:
    if row.cls in ("gap", "fold"):
        return "dim"
    return "bold" if line == 0 and (row is box.header or row.cls == "alarm") else ""


def _ground(row: Row, box: Box, mark: Mark, at: Point) -> str:
    """The row's background, and the outline of its mark."""
    (x, y), wide, high = at, width(box), height(row, box)
    plain = _rect("g", x, y, wide, high, 0 if row is not box.header else 3)
    if not mark.sign or row.inline:
        return plain
    inner = _rect("mark2", x + 4.5, y + 4, wide - 9, high - 8) if mark.sign == "~" else ""
    return plain + _rect("mark", x + 2, y + 1.5, wide - 4, high - 3) + inner


# Bars


def _bar(panel: Panel, box: Box, at: Point, step: int, old: int | None) -> str:
    """One address space: name, VMAs, gaps. A VMA's sign stands above it."""
    if not box.shown(step) and not box.shown(old):
        return ""
    head, mark = box.header, box_mark(box, old, step)
    seen = head.seen[step] or head.seen[old]
    words = (_text(PAD, at[1] + 27, seen.lines[0], "bold") + _text(PAD, at[1] + 41, seen.lines[1], "dim")
             + (_text(PAD + (len(seen.lines[0]) + 1) * CHAR, at[1] + 27, mark.text, "badge") if mark.sign else ""))
    ground = _rect("g", 2, at[1] + 1, 140, BAR - 2, 0)
    rows = "".join(_span(row, box, panel.spans[row.id], at[1], step, old) for row in box.rows[1:])
    return (f'<g {_id(box.id)}class="box bar{_state(mark.sign)}">{_open(head, mark)}{ground}{words}</g>'
            f"{rows}</g>")


def _span(row: Row, box: Box, spans: Sequence[Span | None], y: float, step: int, old: int | None) -> str:
    span = spans[step] or (spans[old] if old is not None else None)
    if span is None:
        return ""
    if row.cls == "gap":
        middle = span.x0 + (span.x1 - span.x0 - len(span.label) * 6.4) / 2
        return (f'<g class="gap"><line x1="{span.x0}" x2="{span.x1}" y1="{y + 40}" y2="{y + 40}"/>'
                f"{_text(middle, y + 31, span.label, 'dim small')}</g>")
    mark, wide = mark_of(row, box, old, step), span.x1 - span.x0
    parts = [_rect("g", span.x0, y + 16, wide, 28, 2)]
    if mark.sign:
        parts.append(_rect("mark", span.x0 + 1, y + 17, max(wide - 2, 2), 26, 2))
        parts.append(_text((span.x0 + span.x1) / 2 - 3.6, y + 13, mark.sign, "badge"))
    parts += [_rect("filled" if kind == "present" else "hollow", x0, y + 36, max(x1 - x0, 1), 6, 0)
              for x0, x1, kind in span.filled]
    parts += [_text(span.x0 + 4, y + 31, span.label)] if span.label else []
    return f'{_open(row, mark)}{"".join(parts)}</g>'


# Edges


def _edge(edge: Edge, points: Sequence[Point], step: int, old: int | None) -> str:
    was = old is not None and edge.seen[old]
    if not edge.seen[step] and not was:
        return ""
    sign = "" if old is None or was == edge.seen[step] else "+" if edge.seen[step] else "–"
    (x, y), curve = points[0], " ".join(f"{x:.0f} {y:.0f}" for x, y in points[1:-1])
    ends = f'data-tail="{escape(edge.tail[1] or edge.tail[0])}" data-head="{escape(edge.head[1] or edge.head[0])}"'
    return (f'<g {_id(edge.id)}class="edge {edge.cls}{_state(sign)}" {ends}><path d="M{x:.0f} {y:.0f}C{curve}"/>'
            f"{_arrow(points[-2], points[-1])}{_edge_badge(edge, sign, points)}</g>")


def _edge_badge(edge: Edge, sign: str, points: Sequence[Point]) -> str:
    if not sign or edge.cls in ("walk", "direct"):
        return ""
    x, y = _middle(points[9:13]) if edge.cls == "parent" else (points[0][0] + 14, points[0][1])
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5"/>' + _text(x - 3.6, y + 4, sign, "bold")


def _middle(points: Sequence[Point]) -> Point:
    """The middle of one piece of a curve."""
    return tuple((p + 3 * q + 3 * r + s) / 8 for p, q, r, s in zip(*points))


def _arrow(tail: Point, tip: Point) -> str:
    if tail == tip:
        return ""
    dx, dy = tip[0] - tail[0], tip[1] - tail[1]
    length = (dx * dx + dy * dy) ** 0.5
    nx, ny = -dy / length * 3, dx / length * 3
    return (f'<path class="tip" d="M{tip[0]:.1f} {tip[1]:.1f}L{tail[0] + nx:.1f} {tail[1] + ny:.1f}'
            f'L{tail[0] - nx:.1f} {tail[1] - ny:.1f}Z"/>')


# Elements


def _rect(cls: str, x: float, y: float, wide: float, high: float, round_by: int = 3) -> str:
    rx = f' rx="{round_by}"' if round_by else ""
    return f'<rect class="{cls}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"{rx}/>'


def _text(x: float, y: float, text: str, cls: str = "") -> str:
    cls = f' class="{cls}"' if cls else ""
    return f'<text{cls} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _id(name: str) -> str:
    return f'id="{escape(name)}" '


def _state(sign: str) -> str:
    return f" {SIGNS[sign]}" if sign else ""
