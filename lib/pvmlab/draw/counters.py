# SPDX-License-Identifier: MIT
"""Counters: those of each shown mm, and what the whole machine counted.

Leaves out: counters that are zero at every step, and the machine's that never move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..identity import Key
from .parts import Box, Opens, Panel, Row, Seen, ref
from .scene import Scene

#: More rows than this in one box: the rest is one line.
MOST_ROWS = 14


def counters(scene: Scene) -> Panel:
    """Return the panel of the counters of the shown mms and of the machine."""
    boxes = [_mm(scene, mm) for mm in scene.focus]
    machine = [snapshot.counters for snapshot in scene.snapshots]
    moved = [name for name in _names(machine) if len({seen.get(name, 0) for seen in machine}) > 1]
    if moved:
        boxes.append(_box("counters-machine", ("the whole machine", "only what moved"), machine, moved,
                          [True] * len(scene), lambda name: ref("counter", (name,))))
    return Panel("counters", "Counters", "In pages, but map_count (VMAs) and pgtables_bytes. The machine's are "
                 "everybody's, and some are counted in batches.", tuple(boxes), how="row")


def _mm(scene: Scene, mm: Key) -> Box:
    seen = [thing.counters if thing else {} for thing in scene.mms[mm].seen]
    names = [name for name in _names(seen) if any(each.get(name) for each in seen)]
    return _box(f"counters-{ref('mm', mm)}", (scene.mm_name(mm), "struct mm_struct"), seen, names,
                [thing is not None for thing in scene.mms[mm].seen], lambda name: ref("mm", mm))


def _names(seen: Sequence[Mapping[str, int]]) -> list[str]:
    return list(dict.fromkeys(name for each in seen for name in each))


def _box(name: str, head: tuple[str, ...], seen: Sequence[Mapping[str, int]], names: list[str], there: Sequence[bool],
         ref_of) -> Box:
    """One row for each counter, those that moved first."""
    names = sorted(names, key=lambda n: len({each.get(n, 0) for each, t in zip(seen, there) if t}) == 1)
    wide = max(map(len, names), default=0)
    rows = [Row(f"{name}-head", "head", tuple(Seen(head) if t else None for t in there))]
    rows += [Row(f"{name}-{n}", "counter", tuple(
        Seen((f"{n:<{wide}} {each.get(n, 0):>8}",), {"": f"{each.get(n, 0)}"}) if t else None
        for each, t in zip(seen, there)), (ref_of(n),), inline=True) for n in names[:MOST_ROWS]]
    if len(names) > MOST_ROWS:
        more = Seen((f"… and {len(names) - MOST_ROWS} more",))
        lines = tuple(tuple(f"{n} {each.get(n, 0)}" for n in names[MOST_ROWS:]) for each in seen)
        rows.append(Row(f"{name}-more", "fold", tuple(more if t else None for t in there),
                        tuple(dict.fromkeys(map(ref_of, names[MOST_ROWS:]))), opens=Opens("lines", lines)))
    return Box(name, "counters", tuple(rows))
