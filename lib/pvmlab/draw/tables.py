# SPDX-License-Identifier: MIT
"""Page tables: the path pgd → pud → pmd → pte to the entries of the shown VMAs.

Adds: runs of entries that were equal at every step, folded to one row; one
box for each page of a page table on the way to them.
Leaves out: entries of folded VMAs, and tables that lead only there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from .. import entry as _entry
from ..identity import Key, Life
from ..model import PAGE_SHIFT, PAGE_SIZE, Pte, Table
from .parts import Box, Edge, Opens, Row, Seen, ref
from .scene import Scene

#: More runs than this in one VMA and table: runs whose frames do not follow each other are folded too.
MANY_RUNS = 6
#: More rows than this in one box: the rest is one line.
MOST_ROWS = 12
#: More tables with entries than this in one process: the rest is a note.
MOST_TABLES = 4
_LEVELS = ("pgd", "pud", "pmd", "pte")


@dataclass(frozen=True)
class Run:
    """Entries side by side that read the same at every step.

    mm: its key; vmas: the key of the VMA they lie in at each step, None where
    they are not there; table: physical address of the table page (at the last
    step that has it); ptes: for each entry, what was seen of it at each step.
    """

    mm: Key
    vmas: tuple[Key | None, ...]
    table: int
    ptes: tuple[tuple[Pte | None, ...], ...]

    @property
    def first(self) -> Pte:
        return next(p for p in self.ptes[0] if p)

    @property
    def last(self) -> Pte:
        return next(p for p in self.ptes[-1] if p)

    @property
    def id(self) -> str:
        return f"tables-{ref('entry', (self.mm, self.first.addr, self.first.level))}"


def runs(scene: Scene, mm: Key, lives: list[Life]) -> list[Run]:
    """Return the runs of entries in some VMAs of one mm, in address order.

    An entry is one part of the figure at every step, whatever VMA it lies in:
    a VMA that is split or merged takes its entries along.
    """
    found: dict[tuple[int, str], list] = defaultdict(lambda: [(None, None)] * len(scene))
    for life in lives:
        for step, vma in enumerate(life.seen):
            for pte in scene.mm_at(vma.mm, step).entries.between(vma.vm_start, vma.vm_end) if vma else ():
                found[pte.addr, pte.level][step] = (life.key, pte)
    split = [tuple(zip(*found[at])) for at in sorted(found)]
    return [Run(mm, vmas, _table_of(run[-1]), tuple(run)) for vmas, group in groupby(split, lambda both: both[0])
            for run in _tight_or_loose(scene, [column for _, column in group])]


def _tight_or_loose(scene: Scene, columns: list[tuple]) -> list[list[tuple]]:
    tight = _fold(scene, columns, follow=True)
    return tight if len(tight) <= MANY_RUNS else _fold(scene, columns, follow=False)


def _fold(scene: Scene, columns: list[tuple], follow: bool) -> list[list[tuple]]:
    """Fold neighbours with equal histories; `follow`: their frames must count up or down too, in one direction."""
    folded: list[list[tuple]] = []
    said, way = None, 0
    for column in columns:
        says = _history(scene, column)
        ways = _ways(folded[-1][-1], column, follow) if folded and says == said else ()
        if way in ways or ways and len(folded[-1]) == 1:
            way = way if way in ways else ways[0]
            folded[-1].append(column)
        else:
            folded.append([column])
            way = 0
        said = says
    return folded


def _history(scene: Scene, column: tuple[Pte | None, ...]) -> tuple:
    return tuple(pte and (pte.level, flags(pte.raw), pte.swap and pte.swap.kind, _page(scene, step, pte))
                 for step, pte in enumerate(column))


def _page(scene: Scene, step: int, pte: Pte) -> tuple | None:
    page = scene.snapshots[step].pages.get(pte.pfn) if pte.present else None
    return page and (page.mapcount, page.refcount, page.exclusive, page.kind)


def _ways(left: tuple, right: tuple, follow: bool) -> tuple[int, ...]:
    """In which directions the frames of two neighbours count (1 up, -1 down); () if they cannot be one run."""
    ways = (1, -1)
    for a, b in zip(left, right):
        if a and b and (a.addr + a.size != b.addr or a.phys >> PAGE_SHIFT != b.phys >> PAGE_SHIFT):
            return ()
        if follow and a and b and a.present:
            apart, pages = b.pfn - a.pfn, a.size >> PAGE_SHIFT
            ways = ways if len(ways) == 1 and apart == ways[0] * pages else tuple(w for w in ways if apart == w * pages)
    return ways


def _table_of(column: tuple) -> int:
    return next(p for p in reversed(column) if p).phys & ~0xFFF


@lru_cache(maxsize=4096)
def _explain(raw: int) -> tuple[tuple[str, str], ...]:
    return _entry.explain(raw)


def bits(raw: int) -> tuple[tuple[str, str], ...]:
    """entry.explain(), remembered without the frame bits (which have no names)."""
    return _explain(raw & ~0x000FFFFFFFFFF000) if raw & 1 else _entry.explain(raw)


def flags(raw: int) -> tuple[str, ...]:
    """Names of the bits of an entry."""
    return tuple(name for name, _ in bits(raw))


def most(found: list[Run]) -> list[Run]:
    """Leave out what is past MOST_TABLES of a process or MOST_ROWS of a table; changed runs stay first."""
    kept: dict[Key, dict[int, list[Run]]] = defaultdict(dict)
    for run in sorted(found, key=_unchanged):
        tables = kept[run.mm]
        if run.table in tables or len(tables) < MOST_TABLES:
            tables.setdefault(run.table, []).append(run)
    shown = {run.id for tables in kept.values() for group in tables.values() for run in group[:MOST_ROWS]}
    return [run for run in found if run.id in shown]


def leaf_boxes(scene: Scene, shown: list[Run], every: list[Run], names: Mapping = {}) -> list[Box]:
    """Return one box for each table page that holds shown entries, with a row for each run.

    names: {(mm, physical address): {index: table below}} of what the same page
    names besides, when a huge entry stands among names of tables.
    """
    groups: dict[tuple[Key, int, str], list[Run]] = defaultdict(list)
    for run in shown:
        groups[run.mm, run.table, run.first.level].append(run)
    drawn, hidden = {run.id for run in shown}, defaultdict(list)
    for run in every:
        if run.id not in drawn:
            hidden[run.mm, run.table].append(run)
    return [_leaf_box(scene, key, group, hidden[key[:2]], names.get(key[:2], {})) for key, group in groups.items()]


def _leaf_box(scene: Scene, key: tuple[Key, int, str], group: list[Run], hidden: list[Run], below: dict) -> Box:
    mm, phys, level = key
    name, rows = table_id(mm, level, phys), [_row(scene, run) for run in group]
    there = [any(row.seen[step] for row in rows) or seen for step, seen in enumerate(_there(scene, mm, phys))]
    head = tuple(Seen((f"{level} table at {phys:#x}", f"of {scene.mm_name(mm)}")) if t else None for t in there)
    rows.insert(0, Row(f"{name}-head", "head", head, _table_refs(scene, mm, phys)))
    rows += _index_rows(scene, mm, name, below, " names a table")
    if rest := sum(len(run.ptes) for run in hidden):
        more, left = Seen((f"… and {rest} more entries",)), Opens("entries", tuple(ranges(hidden)))
        rows.append(Row(f"{name}-more", "fold", tuple(more if t else None for t in there), entry_refs(hidden),
                        opens=left))
    return Box(name, "table", tuple(rows), rank="entries" if level == "pte" else "", chars=24,
               column="entries")


def _table_refs(scene: Scene, mm: Key, phys: int) -> tuple[str, ...]:
    """Those of the mm and of what the page was used for."""
    was = dict.fromkeys(t for t in scene.tables.get(mm, {}).get(phys, ()) if t)
    return ref("mm", mm), *(ref("table", (mm, t.level, t.phys, t.start)) for t in was)


def table_id(mm: Key, level: str, phys: int) -> str:
    """Id of the box of a table page."""
    return f"tables-{ref('table', (mm, level, phys))}"


def _unchanged(run: Run) -> bool:
    return len(set(run.ptes[0])) == 1


def _row(scene: Scene, run: Run) -> Row:
    seen = tuple(_seen(scene, run, step) for step in range(len(scene)))
    return Row(run.id, "pte", seen, entry_refs([run]), opens=Opens("entries", tuple(ranges([run]))))


def entry_refs(found: list[Run]) -> tuple[str, ...]:
    """The refs of all entries of some runs."""
    return tuple(f"{mm}-{addr:x}-{run.first.level}" for run in found for mm in (f"entry-{ref('mm', run.mm)[3:]}",)
                 for addr in range(run.first.addr, run.last.addr + 1, run.first.size))


def ranges(found: list[Run]) -> Iterator[tuple[Key, int, int]]:
    """(mm's key, from, to) of some runs, those side by side joined."""
    last = None
    for run in sorted(found, key=lambda run: (run.mm, run.first.addr)):
        if last and (last[0], last[2]) == (run.mm, run.first.addr):
            last = last[0], last[1], run.last.addr + run.last.size
            continue
        yield from [last] if last else []
        last = run.mm, run.first.addr, run.last.addr + run.last.size
    yield from [last] if last else []


def _seen(scene: Scene, run: Run, step: int) -> Seen | None:
    ptes = [column[step] for column in run.ptes if column[step]]
    if not ptes:
        return None
    first, count = ptes[0], len(ptes)
    names = flags(first.raw)
    span = f"[{_entry.indices(first.addr)[first.level]}] {first.addr:#x}" + (f" ×{count}" if count > 1 else "")
    if not first.present:
        return Seen((span, f"{first.swap.kind} entry, area {first.swap.type}", *_slots(ptes), " ".join(names)),
                    {"": f"{first.swap.kind} entry" + (f" ({' '.join(names)})" if names else "")})
    facts = {"": names, "frame": f"{first.pfn:#x}" if count == 1 else _frames(ptes)}
    note = () if count == 1 else (f"same flags, {_order(ptes)} frames",)
    return Seen((span, " ".join(names), *note), facts)


def _slots(ptes: list[Pte]) -> tuple[str, ...]:
    return (f"offset {ptes[0].swap.offset}" + (f" (×{len(ptes)})" if len(ptes) > 1 else ""),)


def _frames(ptes: list[Pte]) -> str:
    return f"{ptes[0].pfn:#x}–{ptes[-1].pfn:#x}"


def _order(ptes: list[Pte]) -> str:
    """"consecutive", "descending" or "scattered": how the frames of a run follow each other."""
    apart = {(b.pfn - a.pfn) * PAGE_SIZE // a.size for a, b in zip(ptes, ptes[1:])}
    return {1: "consecutive", -1: "descending"}.get(next(iter(apart)), "scattered") if len(apart) == 1 else "scattered"


# The way to them


def path(scene: Scene, found: list[Run]) -> dict[tuple[Key, int], dict[int, tuple]]:
    """Return {(mm, table page): {index: (level, page) of the table it names}} on the way to the runs."""
    made: dict[tuple[Key, int], dict[int, tuple]] = defaultdict(dict)
    for mm, table in dict.fromkeys((r.mm, r.table) for r in found):
        _climb(scene, mm, table, made)
    return made


def upper(scene: Scene, found: list[Run], made: dict) -> tuple[list[Box], list[Edge]]:
    """Return the tables of path() that hold no runs, with one row for each entry used, and all edges."""
    leaves = {(r.mm, r.table) for r in found}
    order = sorted(made, key=lambda at: _LEVELS.index(_table(scene, *at).level))
    boxes = [_table_box(scene, mm, phys, made[mm, phys]) for mm, phys in order if (mm, phys) not in leaves]
    edges = [_down(scene, mm, phys, index, child) for (mm, phys), rows in made.items()
             for index, child in sorted(rows.items())]
    tops = [_from_mm(scene, mm, phys) for mm, phys in made if _table(scene, mm, phys).level == "pgd"]
    return boxes, edges + tops


def _climb(scene: Scene, mm: Key, phys: int, made: dict) -> None:
    """Follow Table.parent from a table up to the pgd; note each entry on the way."""
    table = _table(scene, mm, phys)
    while table is not None and table.parent:
        above, index = table.parent & ~0xFFF, table.parent >> 3 & 511
        made[mm, above][index] = (table.level, table.phys)
        table = _table(scene, mm, above)


def _table(scene: Scene, mm: Key, phys: int) -> Table | None:
    return next((t for t in scene.tables.get(mm, {}).get(phys, ()) if t), None)


def _there(scene: Scene, mm: Key, phys: int) -> tuple[bool, ...]:
    return tuple(t is not None for t in scene.tables.get(mm, {}).get(phys, [None] * len(scene)))


def _table_box(scene: Scene, mm: Key, phys: int, rows: dict[int, tuple]) -> Box:
    level, there = _table(scene, mm, phys).level, _there(scene, mm, phys)
    name = table_id(mm, level, phys)
    says = (level, f"of {scene.mm_name(mm)}") if level == "pgd" else (level,)     # where no panel of VMAs says it
    head = Row(f"{name}-head", "head", tuple(Seen(says) if t else None for t in there), _table_refs(scene, mm, phys))
    return Box(name, "upper", (head, *_index_rows(scene, mm, name, rows)), chars=5, column="path")


def _index_rows(scene: Scene, mm: Key, name: str, rows: dict[int, tuple], says: str = "") -> list[Row]:
    def seen(index: int, table: int) -> tuple[Seen | None, ...]:
        return tuple(Seen((f"[{index}]{says}",)) if there else None for there in _there(scene, mm, table))
    return [Row(f"{name}-{i}", "index", seen(i, child[1]), _table_refs(scene, mm, child[1])[1:])
            for i, child in sorted(rows.items())]


def _down(scene: Scene, mm: Key, phys: int, index: int, child: tuple) -> Edge:
    level = _table(scene, mm, phys).level
    tail = table_id(mm, level, phys)
    lower, lower_phys = child
    return Edge(f"{tail}-{index}-down", "walk", (tail, f"{tail}-{index}"), (table_id(mm, lower, lower_phys), ""),
                _there(scene, mm, lower_phys),
                f"{lower} table at {lower_phys:#x}")


def _from_mm(scene: Scene, mm: Key, phys: int) -> Edge:
    tail, head = f"spaces-{ref('mm', mm)}", table_id(mm, "pgd", phys)
    return Edge(f"{head}-from", "walk", (tail, f"spaces-head-{ref('mm', mm)}"), (head, ""),
                _there(scene, mm, phys), f"pgd of {scene.mm_name(mm)}")
