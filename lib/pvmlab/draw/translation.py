# SPDX-License-Identifier: MIT
"""Address translation: address spaces, page tables and frames, joined left to right.

Leaves out: what is inside the three columns (strips, tables, frames).
"""

from __future__ import annotations

from . import frames, strips, tables
from .parts import Box, Edge, Panel, even, ref
from .scene import Scene

_TITLES = {"spaces": "address spaces", "tables": "page tables", "frames": "frames"}
_CAPTIONS = {"spaces": "VMAs: what a process may touch",
             "tables": "tables: how the processor finds it, one index for each level",
             "frames": "frames: the memory itself (mapcount: entries that map it)"}


def translation(scene: Scene, wanted: tuple[str, ...]) -> Panel:
    """Return the panel with those of "spaces", "tables" and "frames" that are wanted."""
    named = [name for name in _TITLES if name in wanted]
    runs = [run for lives in scene.focus.values() for life in lives for run in tables.runs(scene, life)]
    shown = tables.most(runs)
    boxes = [strips.strip(scene, mm) for mm in scene.focus] if "spaces" in wanted else []
    edges: list[Edge] = []
    hidden: tuple[str, ...] = ()
    path = tables.path(scene, shown) if "tables" in wanted else {}
    if path:
        upper, edges = tables.upper(scene, shown, path)
        boxes += upper
    if "tables" in wanted or "frames" in wanted:
        boxes += tables.leaf_boxes(scene, shown, runs, path)
    if "frames" in wanted:
        more, arrows, hidden = frames.frames(scene, shown)
        boxes, edges = boxes + more, edges + arrows
    if not path:
        edges += _straight(scene, shown)
    edges = _between(boxes, edges)
    title = " → ".join(_TITLES[name] for name in named)
    return Panel("translation", title[0].upper() + title[1:], "; ".join(_CAPTIONS[name] for name in named) + ".",
                 even(boxes), tuple(edges), (*hidden, *_notes(scene, shown, runs)))


def _straight(scene: Scene, runs: list[tables.Run]) -> list[Edge]:
    """Edges from a VMA to its entries, when the tables on the way are not shown."""
    return [Edge(f"{run.id}-from", "walk", (f"spaces-{ref('mm', run.mm)}", f"spaces-{ref('vma', run.vma)}"),
                 (tables.table_id(run.mm, run.first.level, run.table), run.id),
                 tuple(any(column[i] for column in run.ptes) for i in range(len(scene))), "entries") for run in runs]


def _between(boxes: list[Box], edges: list[Edge]) -> list[Edge]:
    """Keep the edges whose two ends are shown."""
    rows = {(box.id, row.id) for box in boxes for row in box.rows} | {(box.id, "") for box in boxes}
    return [edge for edge in edges if edge.head in rows and edge.tail in rows]


def _notes(scene: Scene, runs: list[tables.Run], every: list[tables.Run]) -> list[str]:
    notes = []
    others = [scene.mm_name(mm) for mm in scene.mms if mm not in scene.focus]
    if others:
        names = ", ".join(others[:8]) + (", …" if len(others) > 8 else "")
        notes.append(f"… and {len(others)} other process{'' if len(others) == 1 else 'es'}, not shown: {names}")
    if len(runs) < len(every):
        hidden = len({(r.mm, r.table) for r in every} - {(r.mm, r.table) for r in runs})
        entries = sum(len(r.ptes) for r in every) - sum(len(r.ptes) for r in runs)
        where = f", in {hidden} more tables" if hidden else ""
        notes.append(f"… and {entries} more entries of the shown VMAs{where}")
    if bits := _bits(runs):
        notes.append("entry bits: " + " · ".join(f"{name} {meaning}" for name, meaning in bits))
    return notes


def _bits(runs: list[tables.Run]) -> list[tuple[str, str]]:
    """(name, meaning) of every bit that is set in a shown entry."""
    raws = {tables.bits(pte.raw) for run in runs for column in run.ptes for pte in column if pte}
    return list(dict.fromkeys(bit for raw in sorted(raws, key=len, reverse=True) for bit in raw))
