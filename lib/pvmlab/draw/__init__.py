# SPDX-License-Identifier: MIT
"""Pictures of the kernel's memory: from a Snapshot, a Diff, Steps or an RmapWalk.

Adds: picture() and Picture. Scene (scene.py) chooses what to show; strips,
tables and frames (joined by translation), forest and walk make parts of it
(parts.py); layout.py places the parts of all steps once; svg.py and text.py
show one step.
Leaves out: stepping and hovering. For that a Picture has `frames`, one SVG
for each step with the same places and ids, and data-refs that parts.ref()
spells for the refs of any Change or Line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from ..diff import Line, Steps, steps
from ..errors import UsageError
from ..model import Page, RmapWalk, Snapshot
from . import layout, svg, text
from .forest import forest
from .parts import Panel, ref
from .scene import Scene
from .translation import translation
from .walk import walk as _walk_panel

__all__ = ["PANELS", "Picture", "picture", "ref"]

#: In the order in which they stand; "changes" is the list in words.
PANELS = ("changes", "spaces", "tables", "frames", "forest", "walk")
View = Snapshot | Steps | RmapWalk
#: A figure is scaled down to this part of its size, where its 12 px text is 8 px, and scrolls from there on.
LEGIBLE = 0.66


def picture(view: View, *, panels: Sequence[str] = PANELS, focus: object = (),
            walk: Page | RmapWalk | int | Sequence[RmapWalk | None] | None = None) -> Picture:
    """Return the picture of a Snapshot, a Diff, Steps or an RmapWalk.

    panels: which of PANELS; focus: what to show besides what changed: a task
    or its name, a Vma, an address, a Page, or several of these; walk: the frame
    (PFN or Page) whose reverse-map walk is drawn, or walks already done, one
    for all steps or one for each.
    """
    if unknown := [name for name in panels if name not in PANELS]:
        raise UsageError(f"there is no panel {unknown[0]!r}", f"a figure has {', '.join(PANELS)}")
    if isinstance(view, RmapWalk):
        return Picture(None, (_walk_panel((view,), lambda step, addr: f"{addr:#x}"),), ("walk",))
    if not isinstance(view, (Snapshot, Steps)):
        raise UsageError(f"a {type(view).__name__} cannot be drawn", "a picture shows what lab.look() returned",
                         "give a Snapshot, after - before, steps(…), or an RmapWalk")
    row = steps(view) if isinstance(view, Snapshot) else view
    asked = (focus,) if isinstance(focus, (str, int)) or not isinstance(focus, Iterable) \
        or isinstance(focus, tuple) and hasattr(focus, "_fields") else focus
    scene = Scene(row, asked)
    return Picture(row, tuple(_panels(scene, panels, _walks(row, walk))), tuple(panels))


def _panels(scene: Scene, names: Sequence[str], walks: Sequence[RmapWalk | None]):
    if {"spaces", "tables", "frames"} & set(names):
        yield translation(scene, tuple(names))
    if "forest" in names and (panel := forest(scene)).boxes:
        yield panel
    if "walk" in names and any(walks):
        yield _walk_panel(walks, lambda step, addr: scene.anon_vma_name(scene.key("anon_vma", step, addr)))


def _walks(row: Steps, walk: object) -> tuple[RmapWalk | None, ...]:
    """One walk (or None) for each step."""
    if walk is None:
        return ()
    if isinstance(walk, RmapWalk):
        return (*[None] * (len(row) - 1), walk)
    pfn = walk.pfn if isinstance(walk, Page) else walk
    if isinstance(pfn, int):
        return tuple(s.rmap(pfn) if pfn in s.pages else None for s in row.snapshots)
    if len(pfn) != len(row):
        raise UsageError(f"{len(pfn)} walks for {len(row)} steps", "each step needs a walk, or None",
                         "give one RmapWalk, or one for each snapshot")
    return tuple(pfn)


class Picture:
    """A figure, laid out once for all its steps.

    frames: SVG of each step, marks against the step before; svg() and text():
    the difference from the first step to the last, or one step.
    """

    def __init__(self, row: Steps | None, panels: tuple[Panel, ...], names: Sequence[str]) -> None:
        self.steps, self.panels, self._names = row, panels, names

    def __len__(self) -> int:
        return len(self.steps) if self.steps is not None else 1

    @cached_property
    def dot(self) -> str:
        """The DOT source: one digraph for each panel, with everything any step shows."""
        return layout.source(self.panels)

    @cached_property
    def _sheet(self) -> svg.Sheet:
        placed = layout.place(self.panels, self.dot)
        wide = svg.text_width(placed)
        listed = len(self) > 1 and "changes" in self._names
        most = max(listed, *(len(svg.folded(self._lines(old, step), wide)) for old, step in self._pairs()))
        return svg.Sheet(self.panels, placed, most)

    def _pairs(self) -> list[tuple[int | None, int]]:
        last = len(self) - 1
        return [(None, 0), *((i, i + 1) for i in range(last)), (0, last)]

    def _lines(self, old: int | None, step: int) -> tuple[Line, ...]:
        if self.steps is None or old is None or old == step or "changes" not in self._names:
            return ()
        diff = self.steps.whole if (old, step) == (0, len(self) - 1) else self.steps.diffs[step - 1]
        return diff.lines

    def _title(self, old: int | None, step: int) -> str:
        if self.steps is None:
            return "A reverse-map walk"
        labels = self.steps.labels()
        if old is None:
            return labels[step] if len(self) > 1 or self.steps.snapshots[0].label else "The memory of the processes"
        if (old, step) == (0, len(self) - 1):
            return " → ".join(labels)
        return f"{labels[old]} → {labels[step]}"

    def _which(self, step: int | None, marks: bool) -> tuple[int | None, int]:
        """(step to compare with, step to show)."""
        last = len(self) - 1
        if step is None:
            return (0 if marks and last else None), last
        if not -len(self) <= step <= last:
            raise UsageError(f"there is no step {step}", f"the picture has {len(self)} steps, counted from 0")
        step %= len(self)
        return (step - 1 if marks and step else None), step

    def _nothing(self, old: int | None, step: int) -> str:
        """What stands in the list of changes where there are none."""
        if len(self) == 1 or "changes" not in self._names or old is None and step:
            return ""
        return "nothing" if old is not None else "nothing yet: this is the first step"

    def svg(self, step: int | None = None, *, marks: bool = True) -> str:
        """Return SVG: of the whole difference, or of one step; without marks, as it plainly is then."""
        old, new = self._which(step, marks)
        return svg.draw(self._sheet, new, old, self._title(old, new), self._lines(old, new), self._nothing(old, new))

    def html(self, step: int | None = None) -> str:
        """Return svg() as part of a page: as wide as there is room, down to where its text is still legible."""
        least = round(self._sheet.width * LEGIBLE)
        return (f'<div style="overflow-x:auto"><div style="min-width:{least}px;max-width:{self._sheet.width}px">'
                f"{self.svg(step)}</div></div>")

    def text(self, step: int | None = None, *, marks: bool = True) -> str:
        """Return the same as svg() as plain text."""
        old, new = self._which(step, marks)
        return text.text(self.panels, new, old, self._title(old, new), self._lines(old, new),
                         self._nothing(old, new))

    @cached_property
    def frames(self) -> tuple[str, ...]:
        """SVG of each step, all with the same viewBox, places and ids."""
        return tuple(self.svg(i) for i in range(len(self)))

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Picture: {len(self)} steps, {', '.join(self._names)}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html(), "image/svg+xml": self.svg(), "text/plain": self.text()}
