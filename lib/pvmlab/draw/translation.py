# SPDX-License-Identifier: MIT
"""Address translation: address spaces, page tables and frames, joined left to right.

Adds: the columns, any of which can be hidden: spaces, path (pgd, pud, pmd),
entries, frames.
Leaves out: what is inside them (strips, tables, frames).
"""

from __future__ import annotations

from collections.abc import Iterator

from . import frames, strips, tables
from .parts import Box, Edge, Opens, Panel, even, fold, ref
from .scene import Scene

#: The columns that belong to each name a caller may ask for; entries stand between the VMAs and the frames anyway.
COLUMNS = {"spaces": {"spaces"}, "tables": {"path", "entries"}, "frames": {"entries", "frames"}}
TITLES = {"spaces": "address spaces", "tables": "page tables", "frames": "frames"}


def translation(scene: Scene) -> Panel:
    """Return the panel of all columns."""
    runs = [run for mm, lives in scene.focus.items() for run in tables.runs(scene, mm, lives)]
    shown = tables.most(runs)
    path = tables.path(scene, shown)
    upper, edges = tables.upper(scene, shown, path)
    drawn = {run.id for run in shown}
    more, arrows, hidden = frames.frames(scene, shown, [run for run in runs if run.id not in drawn])
    leaves = tables.leaf_boxes(scene, shown, runs, path)
    boxes = [*(strips.strip(scene, mm) for mm in scene.focus), *upper, *leaves, *more]
    ends = {(box.id, row.id) for box in boxes for row in box.rows} | {(box.id, "") for box in boxes}
    edges = [edge for edge in (*edges, *_direct(scene, shown), *arrows) if edge.head in ends and edge.tail in ends]
    return Panel("translation", title(TITLES), "What a process may touch (VMAs), how the processor finds it (one index "
                 "for each level of table), and the memory itself (mapcount: entries that map a frame).",
                 even(boxes), tuple(edges), _notes(shown), (*hidden, *_folds(scene, shown, runs)))


def title(names: object) -> str:
    """Name the panel after the columns it shows: "Address spaces → frames"."""
    joined = " → ".join(text for name, text in TITLES.items() if name in names)
    return joined[:1].upper() + joined[1:]


def _direct(scene: Scene, runs: list[tables.Run]) -> list[Edge]:
    """Edges from a VMA to its entries, for when the tables on the way are hidden."""
    return [Edge(f"{run.id}-from-{ref('vma', vma)}", "direct", (f"spaces-{ref('mm', run.mm)}", f"spaces-{ref('vma', vma)}"),
                 (tables.table_id(run.mm, run.first.level, run.table), run.id), tuple(v == vma for v in run.vmas),
                 "entries") for run in runs for vma in dict.fromkeys(filter(None, run.vmas))]


def _folds(scene: Scene, runs: list[tables.Run], every: list[tables.Run]) -> Iterator[Box]:
    """What is left out: processes, and entries of VMAs that are shown."""
    others = tuple(mm for mm, life in scene.mms.items() if mm not in scene.focus and life.seen[-1])
    if others:
        names = ", ".join(map(scene.mm_name, others[:8])) + (", …" if len(others) > 8 else "")
        text = f"… and {len(others)} other process{'' if len(others) == 1 else 'es'}, not shown: {names}"
        theirs = tuple(ref("vma", life.key) for mm in others for life in scene.folded.get(mm, ()))
        yield fold("spaces-more", text, len(scene), theirs, Opens("mms", others))
    drawn = {run.id for run in runs}
    if hidden := [run for run in every if run.id not in drawn]:
        tables_left = len({(r.mm, r.table) for r in every} - {(r.mm, r.table) for r in runs})
        where = f", in {tables_left} more tables" if tables_left else ""
        text = f"… and {sum(len(run.ptes) for run in hidden)} more entries of the shown VMAs{where}"
        yield fold("tables-more", text, len(scene), tables.entry_refs(hidden),
                   Opens("entries", tuple(tables.ranges(hidden))))


def _notes(runs: list[tables.Run]) -> tuple[str, ...]:
    bits = " · ".join(f"{name} {meaning}" for name, meaning in _bits(runs))
    return (f"entry bits: {bits}",) if bits else ()


def _bits(runs: list[tables.Run]) -> list[tuple[str, str]]:
    """(name, meaning) of every bit that is set in a shown entry."""
    raws = {tables.bits(pte.raw) for run in runs for column in run.ptes for pte in column if pte}
    return list(dict.fromkeys(bit for raw in sorted(raws, key=len, reverse=True) for bit in raw))
