# SPDX-License-Identifier: MIT
"""Places for the parts of a figure, by Graphviz.

Adds: the DOT source of the panels, one run of dot for all of them, and the
places it gives; tables level with what names them. A panel is laid out with
everything that any step shows, so that nothing moves from step to step.
Leaves out: drawing (svg.py). Bars have their places already (scale.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from html import escape

import graphviz

from ..errors import PvmlabError, SetupError
from .parts import Box, Edge, Panel, height, width

#: Columns whose boxes keep the order in which they were given.
IN_ORDER = ("spaces", "entries", "forest-vmas", "forest-trees")
#: Height of a bar with its marks; between boxes in a row; between columns where those between them are hidden.
BAR, GAP, CLOSE = 46, 18, 64
#: Boxes in a row that do not fit into this width begin another.
WIDEST = 1060
_POINTS = 72  # Graphviz counts node sizes in inches of 72 points; a point is a pixel here
_BRACKET = 16
Point = tuple[float, float]


@dataclass(frozen=True)
class Placed:
    """Where a panel's parts are, in pixels, y downwards.

    boxes: {id: upper left corner}; edges: {id: Bézier points, first the tail};
    columns: {name: (left, right)} of those that can be hidden
    """

    width: float
    height: float
    boxes: dict[str, Point]
    edges: dict[str, tuple[Point, ...]]
    columns: dict[str, tuple[float, float]] = field(default_factory=dict)

    def shifts(self, shown: set[str]) -> tuple[dict[str, float], float]:
        """Return ({column: how far it goes left}, the width) when only these columns are shown."""
        order = sorted((name for name in self.columns if name in shown), key=lambda name: self.columns[name])
        if not order:
            return {}, self.width
        shifts = {order[0]: self.columns[order[0]][0]}
        for left, right in zip(order, order[1:]):
            hidden = any(name not in shown and self.columns[left] < self.columns[name] < self.columns[right]
                         for name in self.columns)
            apart = self.columns[right][0] - self.columns[left][1]
            shifts[right] = shifts[left] + (max(apart - CLOSE, 0) if hidden else 0)
        return shifts, self.columns[order[-1]][1] - shifts[order[-1]]


def dot(panels: Iterable[Panel]) -> str:
    """Return the DOT source: one digraph for each panel that dot places."""
    return "\n".join(_graph(panel).source for panel in panels if _graphed(panel))


def _graphed(panel: Panel) -> bool:
    return panel.how == "graph" and bool(panel.boxes)


def _graph(panel: Panel) -> graphviz.Digraph:
    graph = graphviz.Digraph(panel.name, graph_attr={
        "rankdir": panel.rankdir, "nodesep": "0.22", "ranksep": str(panel.ranksep), "label": panel.title,
        "id": panel.name, "margin": "0", "pad": "0", "outputorder": "edgesfirst"},
        node_attr={"shape": "box", "margin": "0", "fontname": "DejaVu Sans Mono", "fontsize": "12"},
        edge_attr={"arrowsize": "0.6"})
    ranks: dict[str, list[Box]] = {}
    for box in panel.boxes:
        ranks.setdefault(box.rank, []).append(box)
    for rank, boxes in ranks.items():
        with graph.subgraph() as same:
            if rank:
                same.attr(rank="same")
            for box in boxes:
                _node(same, box)
            for upper, lower in zip(boxes, boxes[1:]) if rank in IN_ORDER else ():
                same.edge(upper.id, lower.id, style="invis")
    crowded = len(ranks.get("frames", ())) > 2
    for edge in panel.edges:
        if edge.cls != "direct":
            _edge(graph, edge, "3" if crowded else "2")
    return graph


def _node(graph: graphviz.Digraph, box: Box) -> None:
    wide, heights = width(box), [height(row, box) for row in box.rows]
    cells = "".join(f'<TR><TD PORT="p{i}" FIXEDSIZE="TRUE" WIDTH="{wide}" HEIGHT="{h}">{_text(row)}</TD></TR>'
                    for i, (row, h) in enumerate(zip(box.rows, heights)))
    label = f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">{cells}</TABLE>>'
    graph.node(box.id, label, id=box.id, **{"class": box.cls}, fixedsize="true",
               width=f"{wide / _POINTS:.4f}", height=f"{sum(heights) / _POINTS:.4f}")


def _text(row) -> str:
    seen = next(s for s in reversed(row.seen) if s is not None) if any(row.seen) else None
    return "<BR/>".join(escape(line) for line in seen.lines) if seen and seen.lines else " "


def _edge(graph: graphviz.Digraph, edge: Edge, far: str) -> None:
    style = {"parent": {"style": "dashed", "constraint": "false"}, "walk": {"weight": "8"}, "maps": {"minlen": far},
             "link": {"arrowhead": "none"}}.get(edge.cls, {})
    graph.edge(edge.tail[0], edge.head[0], id=edge.id, **{"class": edge.cls}, **style,
               tailport=edge.tail[1], headport=edge.head[1])


def _with_ports(panel: Panel) -> Panel:
    """Turn row ids into the short port names of the DOT label."""
    ports = {(box.id, row.id): f"p{i}" for box in panel.boxes for i, row in enumerate(box.rows)}

    def port(end: tuple[str, str], side: str) -> tuple[str, str]:
        return end[0], f"{ports[end]}:{side}" if end[1] else side
    edges = []
    for edge in panel.edges:
        sides = ("e", "e") if edge.cls == "parent" else ("e", "w") if panel.rankdir == "LR" else ("s", "n")
        edges.append(edge._replace(tail=port(edge.tail, sides[0]), head=port(edge.head, sides[1])))
    return replace(panel, edges=tuple(edges))


def source(panels: Iterable[Panel]) -> str:
    """Return what dot is given."""
    return dot([_with_ports(panel) for panel in panels if _graphed(panel)])


def place(panels: Iterable[Panel], text: str) -> dict[str, Placed]:
    """Run dot once over the source of all panels and read the places it gives; the other panels need none."""
    found = {}
    graphs = iter(_documents(_run(text)) if text else [])
    for panel in panels:
        if panel.boxes:
            found[panel.name] = {"graph": lambda: _placed(next(graphs), panel), "row": lambda: _in_rows(panel),
                                 "bars": lambda: _bars(panel)}[panel.how]()
    return found


def _bars(panel: Panel) -> Placed:
    wide = max((span.x1 for seen in panel.spans.values() for span in seen if span), default=0)
    return Placed(wide + 2, BAR * len(panel.boxes), {box.id: (0, BAR * i) for i, box in enumerate(panel.boxes)}, {})


def _in_rows(panel: Panel) -> Placed:
    """Boxes side by side, in as many rows as it takes."""
    x, y, high, widest, boxes = 0.0, 0.0, 0.0, 0.0, {}
    for box in panel.boxes:
        if x and x + width(box) > WIDEST:
            x, y, high = 0.0, y + high + GAP, 0.0
        boxes[box.id] = (x, y)
        x, high = x + width(box) + GAP, max(high, _tall(box))
        widest = max(widest, x - GAP)
    return Placed(widest, y + high, boxes, {})


def _tall(box: Box) -> float:
    return sum(height(row, box) for row in box.rows)


def _run(text: str) -> str:
    try:
        return graphviz.pipe_string("dot", "json0", text, encoding="utf-8", quiet=True)
    except graphviz.ExecutableNotFound:
        raise SetupError("no figure could be laid out", "the program dot (Graphviz) is not installed",
                         "sudo apt-get install -y graphviz") from None
    except graphviz.CalledProcessError as failed:
        raise PvmlabError("no figure could be laid out", f"dot failed: {str(failed.stderr)[:300]}",
                          "report it with the picture's .dot") from failed


def _documents(text: str) -> list[dict]:
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        graph, at = decoder.raw_decode(text, at)
        found.append(graph)
        at = len(text) if not text[at:].strip() else text.index("{", at)
    return found


def _placed(graph: dict, panel: Panel) -> Placed:
    _, _, right, top = (float(v) for v in graph["bb"].split(","))
    sizes = {box.id: (width(box), _tall(box)) for box in panel.boxes}
    boxes = {}
    for node in graph.get("objects", ()):
        if "pos" in node:
            x, y = (float(v) for v in node["pos"].split(","))
            w, h = sizes[node["name"]]
            boxes[node["name"]] = (x - w / 2, top - y - h / 2)
    edges = {edge["id"]: _points(edge["pos"], top) for edge in graph.get("edges", ()) if "pos" in edge and "id" in edge}
    columns = _columns(panel, boxes)
    if columns:
        _level(panel, boxes, edges)
        shifts = Placed(0, 0, {}, {}, columns).shifts(columns.keys() - {"path"})[0]
        edges |= _direct(panel, boxes, shifts.get("entries", 0) - shifts.get("spaces", 0))
    edges |= _links(panel, boxes)
    brackets = _brackets(panel, boxes, edges)
    low = max([y + sizes[name][1] for name, (_, y) in boxes.items()], default=0)
    return Placed(right + brackets, max(low, 0), boxes, edges, columns)


def _columns(panel: Panel, boxes: dict[str, Point]) -> dict[str, tuple[float, float]]:
    """How far each column reaches; a path ends where the entries begin."""
    found: dict[str, tuple[float, float]] = {}
    for box in panel.boxes:
        if box.column and box.id in boxes:
            x, (left, right) = boxes[box.id][0], found.get(box.column, (1e9, 0))
            found[box.column] = min(left, x), max(right, x + width(box))
    return found


# Lines of our own: tables level with what names them


def _level(panel: Panel, boxes: dict[str, Point], edges: dict[str, tuple[Point, ...]]) -> None:
    """Put each table of the path level with the box that names it, one under the other, and draw the way anew."""
    by_id = {box.id: box for box in panel.boxes}
    steps = [edge for edge in panel.edges if edge.cls == "walk" and edge.id in edges]
    columns: dict[float, list[Edge]] = {}
    for edge in steps:
        if by_id[edge.head[0]].column == "path":
            columns.setdefault(round(boxes[edge.head[0]][0]), []).append(edge)
    for x in sorted(columns):
        low = -1e9
        for edge in sorted(columns[x], key=lambda e: (boxes[e.tail[0]][1], _port(by_id, boxes, e.tail)[1])):
            left, _ = boxes[edge.head[0]]
            top = max(boxes[edge.tail[0]][1], low + GAP, 0)
            boxes[edge.head[0]] = (left, top)
            low = top + _tall(by_id[edge.head[0]])
    for edge in steps:
        edges[edge.id] = _flow(_port(by_id, boxes, edge.tail), by_id[edge.head[0]], boxes[edge.head[0]])


def _port(by_id: dict[str, Box], boxes: dict[str, Point], end: tuple[str, str]) -> Point:
    """The middle of a row's right side."""
    box, (x, y) = by_id[end[0]], boxes[end[0]]
    for row in box.rows:
        if row.id == end[1]:
            return x + width(box), y + height(row, box) / 2
        y += height(row, box)
    return x + width(box), y


def _flow(tail: Point, box: Box, corner: Point) -> tuple[Point, ...]:
    """A line to a box's left side: straight if the box is level with its tail."""
    x, top = corner
    y = min(max(tail[1], top + 10), top + _tall(box) - 6)
    return _curve(tail, (x, y))


def _curve(tail: Point, head: Point) -> tuple[Point, ...]:
    middle, end = (tail[0] + head[0]) / 2, (head[0] - 6, head[1])
    return tail, (middle, tail[1]), (middle, head[1]), end, head


def _links(panel: Panel, boxes: dict[str, Point]) -> dict[str, tuple[Point, ...]]:
    """Lines of the anon_vma_chains, from row to row, without arrows."""
    by_id, found = {box.id: box for box in panel.boxes}, {}
    for edge in panel.edges:
        if edge.cls == "link" and {edge.tail[0], edge.head[0]} <= boxes.keys():
            tail, (x, y) = _port(by_id, boxes, edge.tail), _port(by_id, boxes, edge.head)
            head = x - width(by_id[edge.head[0]]), y
            middle = (tail[0] + head[0]) / 2
            found[edge.id] = tail, (middle, tail[1]), (middle, y), head, head
    return found


def _direct(panel: Panel, boxes: dict[str, Point], shift: float) -> dict[str, tuple[Point, ...]]:
    """Lines from VMAs to their entries, as they are when the path is hidden and the entries are moved to the left."""
    by_id, found = {box.id: box for box in panel.boxes}, {}
    for edge in panel.edges:
        if edge.cls == "direct" and {edge.tail[0], edge.head[0]} <= boxes.keys():
            x, y = _port(by_id, boxes, edge.head)
            x -= width(by_id[edge.head[0]]) + shift
            found[edge.id] = _curve(_port(by_id, boxes, edge.tail), (x, y))
    return found


# Parents


def _brackets(panel: Panel, boxes: dict[str, Point], edges: dict[str, tuple[Point, ...]]) -> float:
    """Route edges to parents as brackets right of their column; return the room they take."""
    parents = [edge for edge in panel.edges if edge.cls == "parent" and {edge.tail[0], edge.head[0]} <= boxes.keys()]
    wide = {box.id: width(box) for box in panel.boxes}
    lanes: list[list[tuple[float, float]]] = []
    for edge in parents:
        (x0, y0), (x1, y1) = ((boxes[end][0] + wide[end], boxes[end][1] + 12) for end in (edge.tail[0], edge.head[0]))
        lane = _lane(lanes, min(y0, y1), max(y0, y1) + 8)
        x, down = max(x0, x1) + _BRACKET * (lane + 1), 6 * (y1 > y0) - 6 * (y1 <= y0)
        corners = [(x0, y0 + 8), (x, y0 + 8), (x, y0 + 8 + down), (x, (y0 + y1) / 2), (x, y1 - down), (x, y1),
                   (x1 + 7, y1)]
        edges[edge.id] = (*_straight(corners), (x1, y1))
    return _BRACKET * (len(lanes) + 1) if parents else 0


def _lane(lanes: list[list[tuple[float, float]]], top: float, bottom: float) -> int:
    """The first lane in which nothing stands between two heights; it is taken. A line of forks needs two in all."""
    free = next((i for i, lane in enumerate(lanes) if all(bottom < a or b < top for a, b in lane)), len(lanes))
    lanes += [[]] if free == len(lanes) else []
    lanes[free].append((top, bottom))
    return free


def _straight(corners: list[Point]) -> Iterable[Point]:
    """Bézier points of straight lines from corner to corner."""
    yield corners[0]
    for a, b in zip(corners, corners[1:]):
        yield from (a, b, b)


def _points(pos: str, top: float) -> tuple[Point, ...]:
    """Bézier points from tail to head, then the tip of the arrow (the last point again without one)."""
    curve, tip, backwards = [], None, False
    for word in pos.split():
        *kind, x, y = word.split(",")
        point = (float(x), top - float(y))
        if kind:
            tip, backwards = point, kind == ["s"]  # "s": dot ran the edge from head to tail
        else:
            curve.append(point)
    curve = curve[::-1] if backwards else curve
    return (*curve, tip or curve[-1])
