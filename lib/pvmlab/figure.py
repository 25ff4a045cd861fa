# SPDX-License-Identifier: MIT
"""A Picture as data for the browser: what view/view.js shows.

Adds: for each stop (each step, and the whole difference) the drawings of the
panels, the changes in words, and for every part what belongs to it, what is
known of it and how that is said; the steps of the reverse-map walk; what is
folded, for the browser to list. What two stops have in common is sent once.
Leaves out: drawing, belonging and details (draw/), widgets and pages (view.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

from .draw import LEGIBLE, PANELS, Picture, ref, svg
from .draw.belonging import Belonging, parts
from .draw.details import Details
from .draw.inventory import Inventory, Once
from .draw.layout import BAR, CLOSE
from .draw.parts import Box, Panel, Row
from .draw.walk import REST, hits_in, said, visit_id
from .draw.why import why
from .identity import Key
from .model import RmapWalk, Vma

#: What a chosen part says of the lit parts, by their class, and how many it names.
_KINDS = {"vma": "VMAs", "pte": "entries", "frame": "frames", "anon_vma": "anon_vma"}
_MOST_NAMED = 4
_NAMES = re.compile(r' (id|data-tail|data-head|data-refs)="([^"]*)"')


def figure(picture: Picture) -> dict:
    """Return what the script shows.

    panels: name, title, caption, folds, notes, size of each, and the columns that
    can be hidden; open: those shown at first; parts: ids of all rows, a row is its
    number; words, pieces, lists: texts, pieces of SVG and lists of numbers, each
    once; stops: see _Maker.stop(); inventory, opens, ways: see _Maker.unfolded();
    start: the stop to open at, of a film its first, for the last ones are after
    the call
    """
    rows = [row.id for panel in picture.panels for box in (*panel.boxes, *panel.folds) for row in box.rows]
    numbers = {name: i for i, name in enumerate(rows)}
    made = _Maker(picture, numbers)
    stops = [made.stop(i, old, new) for i, (old, new) in enumerate(picture.stops)]
    panels = [_panel(picture, panel, numbers) for panel in picture.panels]
    unfolded = made.unfolded()  # before words and lists are listed
    return {**unfolded, "name": _slug(picture), "least": LEGIBLE, "close": CLOSE,
            "start": 0 if _filmed(picture) else len(stops) - 1,
            "listed": len(picture) > 1, "open": [name for name in PANELS if name in picture.names],
            "panels": panels, "parts": list(numbers), "words": list(made.words),
            "pieces": list(made.pieces), "lists": list(made.lists), "stops": stops}


def _filmed(picture: Picture) -> bool:
    return picture.steps is not None and any(seen.place for seen in picture.steps.snapshots)


def _slug(picture: Picture) -> str:
    """A name for links, made of the steps' labels: the same in every run of a notebook."""
    labels = picture.steps.labels() if picture.steps is not None else ("walk",)
    return re.sub(r"[^a-z0-9]+", "-", "-".join(labels).lower()).strip("-")[:60] or "figure"


def _panel(picture: Picture, panel: Panel, numbers: dict[str, int]) -> dict:
    at = picture.placed[panel.name]
    return {"name": panel.name, "title": panel.title, "caption": panel.caption, "notes": panel.notes,
            "folds": [[numbers[box.header.id], *box.header.seen[0].lines] for box in panel.folds],
            "width": round(at.width) + 2, "height": round(at.height) + 2,
            "columns": {name: [round(x) for x in ends] for name, ends in at.columns.items()},
            "most": BAR * panel.most if 0 < panel.most < len(panel.boxes) else 0, "count": len(panel.boxes)}


class _Maker:
    """Makes the stops, with what they have in common."""

    def __init__(self, picture: Picture, numbers: dict[str, int]) -> None:
        self.picture, self.numbers = picture, numbers
        self.words, self.pieces, self.lists = Once(), Once(), Once()
        self.heads = {box.id: numbers[box.header.id] for panel in picture.panels for box in panel.boxes}

    def unfolded(self) -> dict:
        """inventory: what the snapshots hold; opens: by part what is listed of it; ways: by entries the way to them."""
        if self.picture.steps is None:
            return {}
        made = Inventory(self.picture.steps, self.picture.panels, self.numbers, self.words, self.lists)
        belong, every = Belonging(self.picture.panels, None, None, 0), [*parts(self.picture.panels)]
        return {"inventory": made.data(),
                "opens": {self.numbers[row.id]: made.opens(row.opens) for _, row in every if row.opens},
                "ways": {self.numbers[row.id]: [self.numbers[name] for name in belong.way(box)]
                         for box, row in every if row.cls == "pte"}}

    def stop(self, i: int, old: int | None, new: int) -> dict:
        """One stop: its words, drawings with marks and without, and by part what belongs to it and is known of it.

        at, was: the step shown and the one it is compared with; gone: parts shown as of that one. Of the text each
        line, of a part what belongs to it and the words of its details are lists.
        """
        picture, belong = self.picture, Belonging(self.picture.panels, self.picture.steps, old, new)
        told = _Told(picture, belong, new)
        rows = {name: belong.lit(name) for name in belong.shown}
        gone = [self.numbers[name] for name, (_, _, at) in belong.shown.items() if at != new]
        text = tuple(map(self.words, picture.told(old, new).split("\n")))
        return {"at": new, "was": old, "gone": gone, "label": self._label(old, new),
                "title": picture.title(old, new), "where": picture.where(new), "nothing": picture.nothing(old, new),
                "lines": [{"sign": line.sign, "text": line.text, "places": [self.numbers[name] for name in places]}
                          for line, places in belong.lines(picture.lines(old, new))],
                "text": self.lists(text), "note": _note(picture, i),
                "marked": self._drawings(old, new), "plain": self._drawings(None, new),
                "kin": {self.numbers[name]: self.lists(tuple(self.numbers[other] for other in lit))
                        for name, lit in rows.items()},
                "says": {self.numbers[name]: self.words(told.says(name, lit)) for name, lit in rows.items()},
                "details": {self.numbers[name]: self.lists(tuple(self.words(term) for detail in told.details(name)
                                                                 for term in detail)) for name in rows},
                "walk": [[[self.numbers[name] for name in lit], self.words(text), item]
                         for lit, text, item in told.walk()]}

    def _label(self, old: int | None, new: int) -> str:
        if self.picture.steps is None:
            return "the walk"
        labels = self.picture.steps.labels()
        return labels[new] if old is None or new - old == 1 else f"all: {labels[old]} → {labels[new]}"

    def _drawings(self, old: int | None, new: int) -> dict[str, list[int]]:
        """{panel: numbers of the pieces of its drawing}."""
        return {panel.name: [self.pieces(_NAMES.sub(self._numbered, piece)) for piece in
                             svg.pieces(panel, self.picture.placed[panel.name], new, old)]
                for panel in self.picture.panels if panel.shown(new, old)}

    def _numbered(self, match: re.Match) -> str:
        """Numbers instead of ids: a page may hold the figure twice, and they are short."""
        what, name = match.groups()
        number = self.numbers.get(name, self.heads.get(name) if what != "id" else None)
        return "" if number is None else f' data-{"part" if what == "id" else what[5:]}="{number}"'


def _note(picture: Picture, i: int) -> str:
    return picture.notes[i] if i < len(picture.notes) else ""


# Words


class _Told:
    """A stop's parts in words."""

    def __init__(self, picture: Picture, belong: Belonging, new: int) -> None:
        self.picture, self.belong, self.new = picture, belong, new

    def says(self, name: str, lit: list[str]) -> str:
        """A part and what belongs to it, in words."""
        groups: dict[str, list[str]] = defaultdict(list)
        for other in lit:
            box, row, _ = self.belong.shown.get(other, (None, None, 0))
            kind = row and (box.cls if row is box.header and box.cls == "anon_vma" else row.cls)
            if other != name and kind in _KINDS and not other.startswith("scale-"):
                groups[kind].append(self._name(other))
        told = [f"{_KINDS[kind]}: {_several(names)}" for kind, names in groups.items()]
        return ". ".join([self._name(name) + self._more(name), *told])

    def _name(self, name: str) -> str:
        box, row, step = self.belong.shown[name]
        first, head = row.seen[step].lines[0].strip(), box.header.seen[step]
        if box.cls in ("upper", "table"):
            return self._of_table(box, row, first, step)
        return first if row is box.header or row.cls == "visit" or head is None else f"{first} in {head.lines[0]}"

    def _of_table(self, box: Box, row: Row, first: str, step: int) -> str:
        """A row of a table with the process whose table it is, which its head need not say."""
        owner = f"of {self._mm_names[box.header.refs[0]]}"
        head = box.header.seen[step]
        return f"{first} {owner}" if row is box.header or head is None or row.cls == "pte" else \
            f"{first} in the {head.lines[0]} {owner}"

    @cached_property
    def _mm_names(self) -> dict[str, str]:
        return {ref("mm", key): name for key, name in self.picture.steps.identity.mm_names.items()}

    def _more(self, name: str) -> str:
        """The other lines of a part."""
        _, row, step = self.belong.shown[name]
        rest = [line.strip(" ()") for line in row.seen[step].lines[1:]]
        return f" ({'; '.join(rest)})" if rest else ""

    def details(self, name: str) -> list[tuple[str, str]]:
        """(term, words) of all that is known of a part."""
        box, row, step = self.belong.shown[name]
        return self._details(step).of(box, row) if self.picture.steps is not None else []

    @cached_property
    def _known(self) -> dict[int, Details]:
        return {}

    def _details(self, step: int) -> Details:
        if step not in self._known:
            self._known[step] = Details(self.picture.steps, step, self.belong.mapped, self._walk_at(step))
        return self._known[step]

    def _walk_at(self, step: int) -> RmapWalk | None:
        return self.picture.walks[step] if self.picture.walks else None

    # The walk, step by step

    def walk(self) -> Iterator[tuple[list[str], str, int | None]]:
        """(parts to light, words, item of the list) of each step of the reverse-map walk: frame, anon_vma, each visit,
        the end. The item: of a visit without a row, which of those that its line lists."""
        walk = self._walk_at(self.new)
        if walk is None:
            return
        rows = {name: row for name, (_, row, step) in self.belong.shown.items() if step == self.new}
        line = self._first_line
        page = [*self._same(rows, "walk-page-row")]
        yield (page, f"The walk begins at {line('walk-page-row')}: its mapping names "
               f"{line('walk-start-row')}, and its index says where in a VMA it lies.", None)
        start = [*self._same(rows, "walk-start-row")]
        yield start, f"{line('walk-start-row')}: {len(walk.steps)} VMAs in the tree reach over this index.", None
        hits, folded = [], 0
        for i, visit in enumerate(walk.steps):
            vma = self._key("vma", visit.vma)
            name = visit_id(vma, visit.address)
            item, folded = (None, folded) if name in rows else (folded, folded + 1)
            lit = [name if name in rows else REST, *self._showing(rows, {ref("vma", vma)}),
                   *self._between(rows, vma, start), *self._entry(rows, vma, visit.address),
                   *(page[1:] if visit.hit else ())]
            hits += lit[:1] if visit.hit else []
            yield lit, f"Visit {said(visit, i)}: {visit.why}.", item
        alarms = [row.id for panel in self.picture.panels for box in panel.boxes for row in box.rows
                  if row.cls == "alarm" and row.seen[self.new]]
        vmas = [self._key("vma", visit.vma) for name in walk.twice for visit in hits_in(walk, name)]
        theirs = [part for vma in vmas for part in (*self._showing(rows, {ref("vma", vma)}),
                                                    *self._between(rows, vma, start))]
        twice = " ".join(why(self.picture.steps, self.new, walk, name) for name in walk.twice)
        missed = " ".join(f"Not found: {name} at {addr:#x}." for name, addr in walk.missed)
        yield [*dict.fromkeys(("walk-start-row", *hits, *alarms, *theirs))], " ".join(
            filter(None, (f"The walk ends: {len(walk.steps)} visited, {len(walk.hits)} hits.", twice, missed))), None

    def _key(self, kind: str, place: int) -> Key:
        """The key of what lies at a kernel address at this step."""
        steps = self.picture.steps
        return steps.identity.key(kind, steps.at[self.new], place) if steps is not None else (place,)

    def _first_line(self, name: str) -> str:
        row = next(row for panel in self.picture.panels for box in panel.boxes for row in box.rows if row.id == name)
        return row.seen[self.new].lines[0].strip()

    def _same(self, rows: dict, name: str) -> Iterator[str]:
        """A part and all that show the same thing."""
        yield name
        yield from (other for other in self._showing(rows, rows[name].refs if name in rows else ()) if other != name)

    @staticmethod
    def _showing(rows: dict, refs: Iterable[str]) -> Iterator[str]:
        """The parts outside of the walk that show something."""
        refs = set(refs)
        yield from (name for name, row in rows.items() if not refs.isdisjoint(row.refs)
                    and row.cls in ("vma", "frame", "head", "fold") and not name.startswith("walk-"))

    @staticmethod
    def _between(rows: dict, vma: Key, start: list[str]) -> Iterator[str]:
        """The two places of the anon_vma_chain that led from the anon_vma to a visited VMA."""
        owners = [r for other in start if other in rows for r in rows[other].refs if r.startswith("anon_vma-")]
        links = {f"link-{ref('vma', vma).removeprefix('vma-')}-{owner.removeprefix('anon_vma-')}" for owner in owners}
        yield from (other for other, row in rows.items() if row.cls == "link" and not links.isdisjoint(row.refs))

    def _entry(self, rows: dict, key: Key, address: int | None) -> Iterator[str]:
        """The run of entries that holds the address looked at, and the way there."""
        vma = self._vma(key)
        if address is None or vma is None:
            return
        mm = self._key("mm", vma.mm)
        wanted = {ref("entry", (mm, address & -size, level)) for level, size in (("pte", 1 << 12), ("pmd", 1 << 21))}
        for other, row in rows.items():
            if row.cls == "pte" and not wanted.isdisjoint(row.refs):
                yield from (other, *self.belong.path(other))

    def _vma(self, key: Key) -> Vma | None:
        steps = self.picture.steps
        return steps.identity.at("vma", steps.at[self.new]).get(key) if steps is not None else None


def _several(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return "; ".join(names[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
