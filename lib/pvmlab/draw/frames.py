# SPDX-License-Identifier: MIT
"""Frames of memory: who maps them, how often, to which anon_vma they belong.

Adds: frames with equal histories that the same runs of entries map, folded to
one box; an edge from each run.
Leaves out: frames that only folded VMAs map.
"""

from __future__ import annotations

from collections import defaultdict

from ..identity import Key
from ..model import Page
from .parts import Box, Edge, Opens, Row, Seen, fold, ref
from .scene import Scene
from .tables import Run, table_id

#: More boxes than this are folded to one.
MOST_FRAMES = 40


def frames(scene: Scene, runs: list[Run], hidden: list[Run] = []) -> tuple[list[Box], list[Edge], tuple[Box, ...]]:
    """Return a box for each group of equal frames, the edges from entries to them, and the fold of those left out.

    hidden: runs without a row; what only they map is in the fold
    """
    mapped: dict[Key, dict[str, list[bool]]] = defaultdict(dict)
    for run in runs:
        name = run.id
        for column in run.ptes:
            for step, pte in enumerate(column):
                if pte is not None and pte.present:
                    mapped[scene.key("page", step, pte.pfn)].setdefault(name, [False] * len(scene))[step] = True
    groups = _groups(scene, mapped)
    boxes = [_box(scene, keys) for keys in groups[:MOST_FRAMES]]
    tails = {run.id: table_id(run.mm, run.first.level, run.table) for run in runs}
    edges = [Edge(f"{box.id}-from-{run}", "maps", (tails[run], run), (box.id, ""), tuple(seen), _says(keys))
             for box, keys in zip(boxes, groups) for run, seen in mapped[keys[0]].items()]
    rest = [*(key for keys in groups[MOST_FRAMES:] for key in keys), *(_mapped_by(scene, hidden) - mapped.keys())]
    rest.sort()
    return boxes, edges, (fold("frames-more", f"… and {len(rest)} more frames", len(scene), _refs(rest),
                               _opens(rest)),) if rest else ()


def _mapped_by(scene: Scene, runs: list[Run]) -> set[Key]:
    return {scene.key("page", step, pte.pfn) for run in runs for column in run.ptes
            for step, pte in enumerate(column) if pte is not None and pte.present}


def _groups(scene: Scene, mapped: dict[Key, dict[str, list[bool]]]) -> list[list[Key]]:
    """Frames that read the same at every step and are mapped by the same runs, in PFN order."""
    groups: dict[tuple, list[Key]] = defaultdict(list)
    for key in sorted(mapped):
        facts = tuple(_facts(scene, key, step) for step in range(len(scene)))
        who = tuple((run, tuple(seen)) for run, seen in mapped[key].items())
        groups[facts, who].append(key)
    return list(groups.values())


def _says(keys: list[Key]) -> str:
    return name([k[0] for k in keys])


def _page(scene: Scene, key: Key, step: int) -> Page | None:
    page = scene.snapshots[step].pages.get(key[0])
    return page if page is not None and scene.key("page", step, key[0]) == key else None


def _facts(scene: Scene, key: Key, step: int) -> tuple | None:
    page = _page(scene, key, step)
    return page and (page.mapcount, page.refcount, page.exclusive, page.kind, page.flags, page.mapping, page.order)


def _box(scene: Scene, keys: list[Key]) -> Box:
    seen = tuple(_seen(scene, keys, step) for step in range(len(scene)))
    box = f"frames-{ref('page', keys[0])}"
    row = Row(f"{box}-row", "frame", seen, _refs(keys), opens=_opens(keys))
    return Box(box, "frame", (row,), rank="frames", chars=24, column="frames")


def _refs(keys: list[Key]) -> tuple[str, ...]:
    return tuple(ref("page", key) for key in keys)


def _opens(keys: list[Key]) -> Opens:
    return Opens("frames", tuple(key[0] for key in keys))


def _seen(scene: Scene, keys: list[Key], step: int) -> Seen | None:
    pages = [page for key in keys if (page := _page(scene, key, step)) is not None]
    if not pages:
        return None
    page = pages[0]
    each = "each " if len(pages) > 1 else ""
    lines = (name([p.pfn for p in pages]), f"{each}mapcount {page.mapcount}, refcount {page.refcount}",
             *_kind(scene, pages, step), *([f"huge, order {page.order}"] if page.order else []))
    flags = (*(["exclusive"] if page.exclusive else []), *(f for f in page.flags if f != "anon_exclusive"))
    return Seen(lines, {"mapcount": page.mapcount, "refcount": page.refcount, "": flags, "kind": page.kind,
                        "order": page.order})


def _kind(scene: Scene, pages: list[Page], step: int) -> tuple[str, ...]:
    first = min(pages, key=lambda page: page.index)
    if first.anon_vma is None:
        return (f"{first.kind} page",)
    owner = scene.anon_vma_name(scene.key("anon_vma", step, first.anon_vma))
    # While one entry maps all of a huge page, its first frame has the mark for all.
    state = "exclusive" if first.exclusive else "not exclusive" if first.pfn == first.head else "without a mark of its own"
    return f"of {owner}, {state}", f"index {first.index:#x}{'…' if len(pages) > 1 else ''}"


def name(pfns: list[int]) -> str:
    if len(pfns) == 1:
        return f"frame {pfns[0]:#x}"
    if pfns[-1] - pfns[0] == len(pfns) - 1:
        return f"{len(pfns)} frames {pfns[0]:#x}–{pfns[-1]:#x}"
    return f"{len(pfns)} frames from {pfns[0]:#x}"
