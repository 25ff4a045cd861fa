# SPDX-License-Identifier: MIT
"""Address spaces: one strip of VMAs for each mm, in address order, gaps folded.

Leaves out: VMAs that scene.py folded; they are one line at the end.
"""

from __future__ import annotations

from collections import Counter

from ..identity import Key, Life
from ..model import Vma
from .parts import Box, Opens, Row, Seen, ref
from .scene import Scene


def strip(scene: Scene, mm: Key) -> Box:
    """Return the strip of one mm."""
    rows = [_header(scene, mm)]
    last: Life | None = None
    for life in scene.focus.get(mm, ()):
        rows += [_gap(scene, last, life)] if last is not None and _apart(last, life) else []
        rows.append(_vma(scene, life))
        last = life
    rows += [_others(scene, mm)] if scene.folded.get(mm) else []
    return Box(f"spaces-{ref('mm', mm)}", "mm", tuple(rows), rank="spaces", column="spaces")


def _header(scene: Scene, mm: Key) -> Row:
    seen = []
    for step, thing in enumerate(scene.mms[mm].seen):
        if thing is None:
            seen.append(None)
            continue
        users = [t for s in (scene.snapshots[step],) for t in (*s.tasks, *s.others) if t.mm.addr == thing.addr]
        names = ", ".join(f"{t.name} (pid {t.pid})" for t in users)
        locked = f", mmap_lock held: {thing.locked}" if thing.locked else ""
        seen.append(Seen((names or "an mm nobody uses", f"mm: {len(thing.vmas)} VMAs{locked}"),
                         {"mmap_lock": thing.locked or "free"}))
    return Row(f"spaces-head-{ref('mm', mm)}", "head", tuple(seen), (ref("mm", mm),), opens=Opens("mm", (mm,)))


def _vma(scene: Scene, life: Life) -> Row:
    seen = tuple(None if vma is None else Seen(_lines(scene, vma, step), _facts(scene, vma, step))
                 for step, vma in enumerate(life.seen))
    return Row(f"spaces-{ref('vma', life.key)}", "vma", seen, (ref("vma", life.key),), opens=Opens("vma", (life.key,)))


def _lines(scene: Scene, vma: Vma, step: int) -> tuple[str, ...]:
    name = vma.name or "anonymous"
    name = name if len(name) <= 18 else "…" + name[-17:]
    count = f"{vma.pages} page{'' if vma.pages == 1 else 's'}"
    own = f"anon_vma {_own(scene, vma, step)}" if vma.anon_vma else "no anon_vma"
    return f"{vma.vm_start:#x}–{vma.vm_end:#x}", f"{vma.prot} {count}, {name}", own


def _own(scene: Scene, vma: Vma, step: int) -> str:
    return scene.anon_vma_name(scene.key("anon_vma", step, vma.anon_vma.addr)) if vma.anon_vma else "none"


def _facts(scene: Scene, vma: Vma, step: int) -> dict[str, object]:
    return {"pages": vma.pages, "": vma.flags, "vm_pgoff": hex(vma.vm_pgoff), "anon_vma": _own(scene, vma, step),
            "start": hex(vma.vm_start)}


def _apart(low: Life, high: Life) -> bool:
    return _ends(low)[1] < _ends(high)[0]


def _ends(life: Life) -> tuple[int, int]:
    return min(v.vm_start for v in life.seen if v), max(v.vm_end for v in life.seen if v)


def _gap(scene: Scene, low: Life, high: Life) -> Row:
    size = _ends(high)[0] - _ends(low)[1]
    seen = tuple(Seen((f"⋯ {bytes_of(size)} further up",)) if low.seen[i] and high.seen[i] else None
                 for i in range(len(scene)))
    return Row(f"spaces-gap-{ref('vma', high.key)}", "gap", seen)


def bytes_of(size: int) -> str:
    """"16 KiB", "39.6 GiB"."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if size >> shift:
            many = size / (1 << shift)
            return f"{many:.0f} {unit}" if many >= 100 else f"{many:.3g} {unit}"
    return f"{size >> 10} KiB"


def _others(scene: Scene, mm: Key) -> Row:
    lives = scene.folded[mm]
    changed = _changed_inside(scene, mm)
    seen = tuple(None if thing is None else Seen(_fold(scene, [v for v in lives if v.seen[step]], changed))
                 for step, thing in enumerate(scene.mms[mm].seen))
    return Row(f"spaces-others-{ref('mm', mm)}", "fold", seen, tuple(ref("vma", v.key) for v in lives),
               opens=Opens("vmas", tuple(v.key for v in lives)))


def _fold(scene: Scene, lives: list[Life], changed: int) -> tuple[str, ...]:
    kinds = Counter(scene.special_name(v) or "memory" for v in lives)
    names = [kind if count == 1 else f"{kind} ×{count}" for kind, count in kinds.items()]
    names = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    note = (f"  {changed} of their entries changed",) if changed else ()
    return (f"… and {len(lives)} other{'' if len(lives) == 1 else 's'}", f"  ({names})", *note)


def _changed_inside(scene: Scene, mm: Key) -> int:
    """How many entries changed in VMAs that are folded, in an mm that is there all the time."""
    if len(scene) < 2 or None in scene.mms[mm].seen:
        return 0
    ranges = [(v.vm_start, v.vm_end) for life in scene.folded[mm] for v in life.seen if v]
    spots = {c.id for d in scene.steps.diffs for c in d.of("entry") if c.id[0] == mm}
    return sum(any(start <= addr < end for start, end in ranges) for _, addr, _ in spots)
