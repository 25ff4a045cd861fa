# SPDX-License-Identifier: MIT
"""Address spaces to scale: a bar for each process, as long as its VMAs, with the gaps between them folded.

Adds: a ruler for each mm, from addresses to places on the bar, the same for
all steps; how much of each VMA has entries.
Leaves out: nothing. Every process and every VMA has its place here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from .. import entry as _entry
from ..identity import Key, Life
from ..model import PAGE_SHIFT, Mm, Vma
from .parts import CHAR, Box, Opens, Panel, Row, Seen, Span, ref
from .scene import Scene
from .strips import bytes_of

#: Pixels of all bars together with their names, of a name, of a folded gap, of a VMA at least, of a page at most.
WIDE, NAME, GAP, LEAST, MOST = 1060, 150, 74, 12, 16
#: More bars than this are folded.
MOST_BARS = 8


class _Ruler:
    """Places on a bar for the addresses of one mm: pages to scale where some step has a VMA, gaps all alike."""

    def __init__(self, vmas: list[Vma]) -> None:
        self.ends = sorted({end for vma in vmas for end in (vma.vm_start, vma.vm_end)})
        covered = _covered(vmas)
        self.pieces = [(a, b, _within(covered, a)) for a, b in zip(self.ends, self.ends[1:])]
        self.gaps = [(a, b) for a, b, mapped in self.pieces if not mapped]
        self.places: list[float] = []

    def unit(self) -> float:
        """Pixels a page may have, so that the bar fits."""
        sizes = [(b - a) >> PAGE_SHIFT for a, b, mapped in self.pieces if mapped]
        room, unit = WIDE - NAME - GAP * len(self.gaps), MOST
        for _ in range(8):  # what is widened to LEAST takes room from the others
            large = [size for size in sizes if size * unit > LEAST]
            left = room - LEAST * (len(sizes) - len(large))
            unit = min(unit, max(left, 40) / max(sum(large), 1))
        return unit

    def fit(self, unit: float) -> None:
        """Give every end of a VMA its place."""
        x, self.places = float(NAME), [float(NAME)]
        for a, b, mapped in self.pieces:
            x += max(LEAST, ((b - a) >> PAGE_SHIFT) * unit) if mapped else GAP
            self.places.append(x)

    def place(self, addr: int) -> float:
        """The place of an address in a VMA."""
        i = min(max(bisect_right(self.ends, addr) - 1, 0), len(self.ends) - 1)
        if self.ends[i] == addr or i + 1 == len(self.ends):
            return self.places[i]
        a, b = self.ends[i], self.ends[i + 1]
        return self.places[i] + (self.places[i + 1] - self.places[i]) * (addr - a) / (b - a)


def _covered(vmas: list[Vma]) -> list[tuple[int, int]]:
    """The ranges that some VMA covers, merged, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((vma.vm_start, vma.vm_end) for vma in vmas):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _within(ranges: list[tuple[int, int]], addr: int) -> bool:
    i = bisect_right(ranges, (addr, 1 << 64)) - 1
    return i >= 0 and addr < ranges[i][1]


def scale(scene: Scene) -> Panel:
    """Return the panel of all address spaces; those the figure is about come first."""
    lives: dict[Key, list[Life]] = {}
    for life in scene.vmas.values():
        lives.setdefault(scene.mm_of(life), []).append(life)
    order = [mm for mm in (*scene.focus, *(mm for mm in scene.mms if mm not in scene.focus)) if mm in lives]
    rulers = {mm: _Ruler([vma for life in lives[mm] for vma in life.seen if vma]) for mm in order}
    unit = min((ruler.unit() for ruler in rulers.values()), default=1.0)
    spans: dict[str, tuple[Span | None, ...]] = {}
    boxes = []
    for mm in order:
        rulers[mm].fit(unit)
        boxes.append(_bar(scene, mm, sorted(lives[mm], key=_lowest), rulers[mm], spans))
    return Panel("scale", "Address spaces, to scale", "Every VMA of every process, as wide as it has pages (a narrow "
                 "one is widened, so that it can be seen). ⋯ folded: nothing is mapped there. Filled at the foot: pages "
                 "with a present entry; hollow: swapped out.", tuple(boxes), how="bars", most=MOST_BARS,
                 spans=spans)


def _lowest(life: Life) -> tuple[int, int]:
    return min(vma.vm_start for vma in life.seen if vma), life.key[0]


def _bar(scene: Scene, mm: Key, lives: list[Life], ruler: _Ruler, spans: dict) -> Box:
    seen = tuple(thing and Seen((scene.mm_name(mm), f"{sum(v.pages for v in thing.vmas)} pages"))
                 for thing in scene.mms[mm].seen)
    name = ref("mm", mm)
    head = Row(f"scale-head-{name}", "head", seen, (name,), opens=Opens("mm", (mm,)))
    there = [thing is not None for thing in scene.mms[mm].seen]
    pieces = [_gap(f"scale-gap-{name}-{low:x}", low, high, ruler, there) for low, high in ruler.gaps]
    pieces += [_piece(scene, life, ruler) for life in lives]
    pieces.sort(key=lambda piece: next(span.x0 for span in piece[1] if span))
    spans |= {row.id: at for row, at in pieces}
    return Box(f"scale-{name}", "bar", (head, *(row for row, _ in pieces)))


def _gap(name: str, low: int, high: int, ruler: _Ruler, there: list[bool]) -> tuple[Row, tuple[Span | None, ...]]:
    size = f"⋯ {bytes_of(high - low)}"
    at = Span(ruler.place(low), ruler.place(low) + GAP, (), size)
    return Row(name, "gap", tuple(Seen((size,)) if t else None for t in there)), tuple(at if t else None for t in there)


def _piece(scene: Scene, life: Life, ruler: _Ruler) -> tuple[Row, tuple[Span | None, ...]]:
    seen = tuple(vma and Seen((_says(scene, life, vma),), _facts(vma)) for vma in life.seen)
    return Row(f"scale-{ref('vma', life.key)}", "vma", seen, (ref("vma", life.key),),
               opens=Opens("vma", (life.key,))), tuple(
        vma and _span(scene, life, vma, step, ruler) for step, vma in enumerate(life.seen))


def _label(scene: Scene, life: Life, vma: Vma) -> str:
    return f"{scene.special_name(life) or vma.prot} {bytes_of(vma.vm_end - vma.vm_start)}"


def _says(scene: Scene, life: Life, vma: Vma) -> str:
    prot = f"{vma.prot} " if scene.special(life) else ""
    pages = f"{vma.pages} page{'' if vma.pages == 1 else 's'}"
    return f"{vma.vm_start:#x} {prot}{_label(scene, life, vma)}, {pages}" + (f", {vma.name}" if vma.name else "")


def _facts(vma: Vma) -> dict[str, object]:
    return {"start": hex(vma.vm_start), "pages": vma.pages, "": vma.flags}


def _span(scene: Scene, life: Life, vma: Vma, step: int, ruler: _Ruler) -> Span:
    x0, x1 = ruler.place(vma.vm_start), ruler.place(vma.vm_end)
    most, full = int((x1 - x0 - 6) / CHAR), _label(scene, life, vma)
    label = next((label for label in (full, full.split()[0]) if len(label) <= most), "")
    return Span(round(x0, 1), round(x1, 1), tuple(_filled(scene.mm_at(vma.mm, step), vma, ruler)), label)


def _filled(mm: Mm, vma: Vma, ruler: _Ruler) -> Iterator[tuple[float, float, str]]:
    """Stretches of entries, those nearer than a pixel joined."""
    rows, last = mm.entries.rows(), None
    for i in range(bisect_left(rows, (vma.vm_start,)), len(rows)):
        addr, raw, _, level = rows[i]
        if addr >= vma.vm_end:
            break
        kind = "present" if _entry.is_present(raw) else "absent"
        end = min(addr + _entry.LEVEL_SIZE[level], vma.vm_end)
        if last and last[2] == kind and (addr == last[3] or ruler.place(addr) - ruler.place(last[3]) < 1):
            last[3] = end
            continue
        if last:
            yield _stretch(last, ruler)
        last = [addr, 0, kind, end]
    if last:
        yield _stretch(last, ruler)


def _stretch(found: list, ruler: _Ruler) -> tuple[float, float, str]:
    start, _, kind, end = found
    x0 = ruler.place(start)
    return round(x0, 1), round(max(ruler.place(end), x0 + 1.5), 1), kind
