# SPDX-License-Identifier: MIT
"""A reverse-map walk: page → anon_vma → each VMA it visits, hit or miss.

Leaves out: doing the walk (rmap.py); it draws what an RmapWalk says. Of many
visits the first have a row; a line stands for the others.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from ..identity import Key
from ..model import RmapStep, RmapWalk
from .parts import Box, Edge, Opens, Panel, Row, Seen, ref

_FROM = {"anon": "anon_vma", "ksm": "KSM's stable node", "file": "the file's i_mmap", "none": "nothing"}
#: More visits than this are folded; id of the line that stands for them.
MOST_VISITS, REST = 12, "walk-visits-more"
#: Who knows what lies at a kernel address at one of the steps: (kind, step, address) → its key.
KeyOf = Callable[[str, int, int], Key]


def walk(walks: Sequence[RmapWalk | None], name_of: Callable[[int, int], str],
         key_of: KeyOf = lambda kind, step, place: (place,), most: int = MOST_VISITS) -> Panel:
    """Return the panel of one walk seen at several steps; `name_of(step, address)` names the start.

    most: more visits are folded
    """
    pfn = next(w.pfn for w in walks if w is not None)
    steps = range(len(walks))
    page = Row("walk-page-row", "head", tuple(w and Seen((f"frame {pfn:#x}",)) for w in walks),
               _refs("page", (key_of("page", i, pfn) for i in steps if walks[i])), opens=Opens("frames", (pfn,)))
    start = Row("walk-start-row", "head", tuple(w and Seen((_start(w, name_of(i, w.start)), _count(w)))
                                                for i, w in enumerate(walks)),
                _refs("anon_vma", (key_of("anon_vma", i, w.start) for i, w in enumerate(walks)
                                   if w and w.via == "anon")))
    turns = [_visited(w, i, key_of) if w is not None else {} for i, w in enumerate(walks)]
    order = sorted(dict.fromkeys(key for visited in turns for key in visited),
                   key=lambda key: max(visited.get(key, 0) for visited in turns))
    shown = len(order) if len(order) <= most + 1 else most     # a line that stands for one other is no shorter
    visits = [_visit(walks, turns, key) for key in order[:shown]]
    visits += [_rest(walks, turns, order[shown:])] if order[shown:] else []
    visits += [_alarm(walks, "twice", _twice), _alarm(walks, "missed", _missed)]
    rows = [_title(walks), *(row for row in visits if any(row.seen))]
    quiet = None in walks  # some step has nothing to compare with
    boxes = (Box("walk-page", "frame", (page,), quiet=quiet), Box("walk-start", "anon_vma", (start,), quiet=quiet),
             Box("walk-visits", "walk", tuple(rows), chars=40, quiet=quiet))
    there = tuple(w is not None for w in walks)
    edges = (Edge("walk-1", "walk", _end("page-row"), _end("start-row"), there, "mapping"),
             Edge("walk-2", "walk", _end("start-row"), _end("visits-head"), there, "visits"))
    return Panel("walk", "Reverse-map walk", "How the kernel finds every entry that maps a frame, without "
                 "looking at all page tables.", boxes, edges, rankdir="TB")


def _refs(kind: str, keys: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ref(kind, key) for key in keys))


def _end(row: str) -> tuple[str, str]:
    return f"walk-{row.split('-')[0]}", f"walk-{row}"


def _start(w: RmapWalk, name: str) -> str:
    return f"{_FROM[w.via]}{' ' + name if w.via == 'anon' else ''}"


def _count(w: RmapWalk) -> str:
    return f"{_many(len(w.steps), 'VMA')} visited, {_many(len(w.hits), 'hit')}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _title(walks: Sequence[RmapWalk | None]) -> Row:
    return Row("walk-visits-head", "head", tuple(w and Seen(("VMAs in the order of the walk",)) for w in walks))


def _visited(w: RmapWalk, step: int, key_of: KeyOf) -> dict[tuple[Key, int | None], int]:
    """Which VMA was visited at which address, and as the how manieth."""
    return {(key_of("vma", step, visit.vma), visit.address): i for i, visit in enumerate(w.steps)}


def _visit(walks: Sequence[RmapWalk | None], turns: Sequence[dict], key: tuple[Key, int | None]) -> Row:
    """One VMA's row: the same in every step, whatever its turn."""
    seen = tuple(_step(w.steps[visited[key]], visited[key]) if key in visited else None
                 for w, visited in zip(walks, turns))
    return Row(visit_id(*key), "visit", seen, (ref("vma", key[0]),), opens=Opens("vma", (key[0],)))


def visit_id(vma: Key, address: int | None) -> str:
    """Id of the row of a visit, where it has one."""
    return f"walk-visit-{ref('vma', vma).removeprefix('vma-')}-{'outside' if address is None else f'{address:x}'}"


def _rest(walks: Sequence[RmapWalk | None], turns: Sequence[dict], rest: Sequence[tuple[Key, int | None]]) -> Row:
    """The line for the visits that have no row; its list has them in the order of the walk."""
    theirs = [sorted((visited[key], key[0]) for key in rest if key in visited) for visited in turns]
    seen = tuple(_counted([w.steps[turn] for turn, _ in found]) if found else None for w, found in zip(walks, theirs))
    lines = tuple(tuple((f"{said(w.steps[turn], turn)}: {w.steps[turn].why}", vma) for turn, vma in found)
                  for w, found in zip(walks, theirs))
    return Row(REST, "fold", seen, _refs("vma", (key[0] for key in rest)), opens=Opens("visits", lines))


def _counted(visits: Sequence[RmapStep]) -> Seen:
    hits = sum(visit.hit for visit in visits)
    return Seen((f"… and {_many(len(visits), 'more visit')}",
                 f"   {_many(hits, 'hit')}, {len(visits) - hits} miss{'' if len(visits) - hits == 1 else 'es'}"),
                {"visits": len(visits), "hits": hits})


def _step(step: RmapStep, i: int) -> Seen:
    return Seen((said(step, i), *_wrapped(step.why)), {"": said(step, i).partition(" ")[2][2:]})


def said(step: RmapStep, i: int) -> str:
    """A visit in short: "3. ● HIT: A at 0x7f3a1c200000"."""
    where = f" at {step.address:#x}" if step.address is not None else ""
    verdict = "● HIT" if step.hit else "○ miss"
    return f"{i + 1}. {verdict}: {'/'.join(step.tasks) or 'nobody'}{where}"


def _wrapped(text: str, chars: int = 44) -> list[str]:
    return [f"   {line}" for line in textwrap.wrap(text, chars)]


def _alarm(walks: Sequence[RmapWalk | None], name: str, says: Callable[[RmapWalk], tuple[str, ...]]) -> Row:
    seen = tuple(Seen(lines, {"": " ".join(lines)}) if w is not None and (lines := says(w)) else None for w in walks)
    return Row(f"walk-{name}", "alarm", seen)


def _twice(w: RmapWalk) -> tuple[str, ...]:
    return tuple(line for name in w.twice for line in (
        f"‼ the page is mapped {_often(len(hits_in(w, name)))} in {name}:",
        f"   at {' and '.join(f'{step.address:#x}' for step in hits_in(w, name))}"))


def _often(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def hits_in(w: RmapWalk, name: str) -> list[RmapStep]:
    """The hits of a walk in one process, in the order of the walk."""
    return [step for step in w.hits if "/".join(step.tasks) == name]


def _missed(w: RmapWalk) -> tuple[str, ...]:
    return tuple(f"‼ not found, yet mapped: {name} at {addr:#x}" for name, addr in w.missed)
