# SPDX-License-Identifier: MIT
"""Pictures of the kernel's memory: from a Snapshot, a Diff, Steps or an RmapWalk.

Adds: picture() and Picture. Scene (scene.py) chooses what to show; scale,
strips, tables and frames (joined by translation), forest, walk and counters
make parts of it (parts.py); layout.py places the parts of all steps once;
svg.py and text.py show one step.
Leaves out: stepping, choosing and hovering (view.py). For that a Picture has
all its panels in the same places at every step, and data-refs that
parts.ref() spells for the refs of any Change or Line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from ..diff import Line, Steps, steps
from ..errors import UsageError
from ..model import Page, Place, RmapWalk, Snapshot
from . import layout, svg, text
from .concern import Concern
from .counters import counters
from .forest import forest
from .parts import Panel, ref
from .scale import scale
from .scene import Scene
from .translation import translation
from .walk import walk as _walk_panel

__all__ = ["PANELS", "USUAL", "Picture", "picture", "ref"]

#: In the order in which they stand; "changes" is the list in words; spaces, tables and frames share a panel.
PANELS = ("changes", "scale", "spaces", "tables", "frames", "forest", "walk", "counters")
#: Those that a figure shows when nothing else is asked for; the one that steps has the others to switch on.
USUAL = ("changes", "spaces", "tables", "frames", "forest", "walk")
View = Snapshot | Steps | RmapWalk
#: A plain figure lists all steps of a film, where they are not more than these.
LISTED = 16
#: A figure is scaled down to this part of its size, where its 12 px text is 10 px, and scrolls from there on.
LEGIBLE = 10 / 12


def picture(view: View, *, panels: Sequence[str] = USUAL, focus: object = (),
            walk: Page | RmapWalk | int | Sequence[RmapWalk | None] | None = None,
            notes: Sequence[str] = ()) -> Picture:
    """Return the picture of a Snapshot, a Diff, Steps or an RmapWalk.

    panels: which of PANELS it shows at first; focus: what to show besides what
    changed: a task or its name, a Vma, an address, a Page, or several of these.
    What has no frame and no anon_vma in common with it is folded then, and of
    the changes those that concern it come first;
    walk: the frame (PFN or Page) whose reverse-map walk is drawn, or walks
    already done, one for all steps or one for each; notes: for who presents
    it, one for each step. Raises UsageError for what is nowhere in the snapshots.
    """
    if unknown := [name for name in panels if name not in PANELS]:
        raise UsageError(f"there is no panel {unknown[0]!r}", f"a figure has {', '.join(PANELS)}")
    if isinstance(view, RmapWalk):
        panel = _walk_panel((view,), lambda step, addr: view.name or f"{addr:#x}", most=len(view.steps))
        return Picture(None, (panel,), ("walk",), notes, (view,))
    if not isinstance(view, (Snapshot, Steps)):
        raise UsageError(f"a {type(view).__name__} cannot be drawn", "a picture shows what lab.look() returned",
                         "give a Snapshot, after - before, steps(…), or an RmapWalk")
    row = steps(view) if isinstance(view, Snapshot) else view
    asked = (focus,) if isinstance(focus, (str, int)) or not isinstance(focus, Iterable) \
        or isinstance(focus, tuple) and hasattr(focus, "_fields") else focus
    walks = _walks(row, walk)
    scene = Scene(row, asked)
    return Picture(row, tuple(_panels(scene, walks)), tuple(panels), notes, walks, Concern(scene) if scene.asked else None)


def _panels(scene: Scene, walks: Sequence[RmapWalk | None]) -> Iterator[Panel]:
    made = [scale(scene), translation(scene), forest(scene)]
    if any(walks):
        made.append(_walk_panel(walks, lambda step, addr: scene.anon_vma_name(scene.key("anon_vma", step, addr)),
                                scene.key))
    return (panel for panel in (*made, counters(scene)) if panel.boxes)


def _walks(row: Steps, walk: object) -> tuple[RmapWalk | None, ...]:
    """One walk (or None) for each step."""
    if walk is None:
        return ()
    if isinstance(walk, RmapWalk):
        return (*[None] * (len(row) - 1), walk)
    pfn = walk.pfn if isinstance(walk, Page) else walk
    if isinstance(pfn, int):
        if not any(pfn in s.pages for s in row.snapshots):
            raise UsageError(f"walk={pfn:#x}: there is no such frame", "no entry of these processes ever maps it",
                             "take the PFN from an entry: snapshot.task(...).pte(addr).pfn")
        return tuple(s.rmap(pfn) if pfn in s.pages else None for s in row.snapshots)
    if len(pfn) != len(row):
        raise UsageError(f"{len(pfn)} walks for {len(row)} steps", "each step needs a walk, or None",
                         "give one RmapWalk, or one for each snapshot")
    return tuple(pfn)


class Picture:
    """A figure, laid out once for all its steps.

    steps: what it shows (None for a walk alone); panels: all that it has,
    names: those shown at first; notes: for who presents it; walks: one (or
    None) for each step, or nothing; frames: SVG of each step, marks against the
    step before; svg() and text(): the difference from the first step to the
    last, or one step.
    """

    def __init__(self, row: Steps | None, panels: tuple[Panel, ...], names: Sequence[str], notes: Sequence[str] = (),
                 walks: Sequence[RmapWalk | None] = (), concern: Concern | None = None) -> None:
        self.steps, self.panels, self.names = row, panels, tuple(names)
        self.notes, self.walks, self._concern = tuple(notes), tuple(walks), concern
        self._said: dict[tuple[int, int], tuple[Line, ...]] = {}
        if len(self.notes) > len(self):
            raise UsageError(f"{len(self.notes)} notes for {len(self)} steps", "there is one for each step",
                             "give as many notes as there are snapshots, or fewer")

    def __len__(self) -> int:
        return len(self.steps) if self.steps is not None else 1

    @cached_property
    def dot(self) -> str:
        """The DOT source: one digraph for each panel that dot lays out, with everything any step shows."""
        return layout.source(self.panels)

    @cached_property
    def placed(self) -> dict[str, layout.Placed]:
        """{panel's name: where its parts are}."""
        return layout.place(self.panels, self.dot)

    @cached_property
    def _sheet(self) -> svg.Sheet:
        wide = svg.text_width(self.placed)
        listed = len(self) > 1 and "changes" in self.names
        most = max(listed, *(len(svg.folded(self._listed(*stop), wide)) for stop in self.stops))
        where = max(len(svg.wrapped(self.strip(*stop), wide)) for stop in self.stops)
        return svg.Sheet(self.panels, self.placed, self.names, most, where)

    @property
    def stops(self) -> tuple[tuple[int | None, int], ...]:
        """(step compared with, step shown): each step, and from first to last where those are more than two."""
        last = len(self) - 1
        return (None, 0), *((i, i + 1) for i in range(last)), *([(0, last)] if last > 1 else [])

    def lines(self, old: int | None, step: int) -> tuple[Line, ...]:
        """What changed from one step to another, in words; with a focus, what does not concern it under a heading."""
        if self.steps is None or old is None or old == step:
            return ()
        if (old, step) not in self._said:
            diff = self.steps.diffs[step - 1] if step - old == 1 else self.steps.whole
            self._said[old, step] = self._concern.lines(diff) if self._concern else diff.lines
        return self._said[old, step]

    def _listed(self, old: int | None, step: int) -> tuple[Line, ...]:
        return self.lines(old, step) if "changes" in self.names else ()

    def title(self, old: int | None, step: int) -> str:
        """What one step, or the way from one to another, is called."""
        if self.steps is None:
            return "A reverse-map walk"
        labels = self.steps.labels()
        if old is None:
            return labels[step] if len(self) > 1 or self.steps.snapshots[0].label else "The memory of the processes"
        between = labels[1:-1] if len(labels) <= 5 else (f"… {len(labels) - 2} steps …",)
        return " → ".join((labels[0], *between, labels[-1])) if step - old > 1 else f"{labels[old]} → {labels[step]}"

    def _which(self, step: int | None, marks: bool) -> tuple[int | None, int]:
        """(step to compare with, step to show)."""
        last = len(self) - 1
        if step is None:
            return (0 if marks and last else None), last
        if not -len(self) <= step <= last:
            raise UsageError(f"there is no step {step}", f"the picture has {len(self)} steps, counted from 0")
        step %= len(self)
        return (step - 1 if marks and step else None), step

    def nothing(self, old: int | None, step: int) -> str:
        """What stands in the list of changes where there are none."""
        if len(self) == 1 or old is None and step:
            return ""
        return "nothing" if old is not None else "nothing yet: this is the first step"

    def _unlisted(self, old: int | None, step: int) -> str:
        return self.nothing(old, step) if "changes" in self.names else ""

    def svg(self, step: int | None = None, *, marks: bool = True) -> str:
        """Return SVG: of the whole difference, or of one step; without marks, as it plainly is then."""
        at = self._which(step, marks)
        return svg.draw(self._sheet, at[1], at[0], self.title(*at), self.strip(*at), self._listed(*at),
                        self._unlisted(*at))

    def html(self, step: int | None = None) -> str:
        """Return svg() as part of a page: as wide as there is room, down to where its text is still legible."""
        least = round(self._sheet.width * LEGIBLE)
        return (f'<div style="overflow-x:auto"><div style="min-width:{least}px;max-width:{self._sheet.width}px">'
                f"{self.svg(step)}</div></div>")

    def text(self, step: int | None = None, *, marks: bool = True) -> str:
        """Return the same as svg() as plain text."""
        at = self._which(step, marks)
        return self.told(*at)

    def told(self, old: int | None, step: int) -> str:
        """text() of one stop."""
        one = old is None or step - old == 1
        where = self.where(step) if one else (line for line, _ in self.strip(old, step))
        title = "\n".join((self.title(old, step), *where))
        return text.text(self._sheet.panels, step, old, title, self._listed(old, step), self._unlisted(old, step))

    def where(self, step: int) -> tuple[str, ...]:
        """Of a step inside a call: function, source line and patch; and which locks were held."""
        if self.steps is None:
            return ()
        snapshot = self.steps.snapshots[step]
        held = (f"locks held: {', '.join(snapshot.held)}",) if snapshot.held else ()
        return (*([_place(snapshot.place)] if snapshot.place else []), *held)

    def strip(self, old: int | None, step: int) -> tuple[tuple[str, bool], ...]:
        """(line, whether it is the step shown) of where() of every step of a film; of a long one, of that step."""
        if self.steps is None or not any(map(self.where, range(len(self)))):
            return ()
        if len(self) > LISTED:
            return tuple((line, False) for line in self.where(step))
        here = step if old is None or step - old == 1 else None
        return tuple(("; ".join((f"{i + 1}. {label}", *self.where(i))), i == here)
                     for i, label in enumerate(self.steps.labels()))

    @cached_property
    def frames(self) -> tuple[str, ...]:
        """SVG of each step, all with the same viewBox, places and ids."""
        return tuple(self.svg(i) for i in range(len(self)))

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Picture: {len(self)} steps, {', '.join(self.names)}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html(), "image/svg+xml": self.svg(), "text/plain": self.text()}


def _place(place: Place) -> str:
    line = f", {place.file}:{place.line}" if place.file else ""
    patch = f", touched by patch {place.patch} ({place.patch.subject})" if place.patch else ""
    return f"in {place.function}(){line}{patch}"
