# SPDX-License-Identifier: MIT
"""The figure that steps: a Picture, its changes in words, and what belongs together.

Adds: View, the widget; page(), the same figure as HTML that needs no kernel
and no network; bundle(), what a notebook gets.
Leaves out: drawing (draw/), and what happens in the browser: view/view.js and
view/view.css, which the widget and the page share.

A figure has one stop for each step, and one more for the whole difference
where there are more than two. Its drawings share one layout (Picture), with
the list of changes beside them instead of in them.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from html import escape
from pathlib import Path

import anywidget
import traitlets

from .diff import Line, Steps
from .draw import LEGIBLE, Picture, ref, svg
from .draw.parts import Box, Row, height
from .draw.tables import bits
from .model import Mm, Pte

_FILES = Path(__file__).parent / "view"
SCRIPT = (_FILES / "view.js").read_text()
STYLE = (_FILES / "view.css").read_text()
#: What a chosen part says of the lit parts, by their class, and how many it names.
_KINDS = {"vma": "VMAs", "pte": "entries", "frame": "frames", "anon_vma": "anon_vma"}
_MOST_NAMED = 4


class View(anywidget.AnyWidget):
    """A Picture as a widget. step: the stop it shows, counted from 0; set it to step from Python."""

    _esm = SCRIPT + "\nexport default { render };\n"
    _css = STYLE
    figure = traitlets.Dict().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, picture: Picture) -> None:
        made = figure(picture)
        super().__init__(figure=made, step=made["start"])
        self._static = _bundle(picture, made)

    def html(self) -> str:
        """Return the figure as a part of an HTML page, with its script inline."""
        return self._static["text/html"]

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return {**data, **self._static}, metadata


def page(picture: Picture) -> str:
    """Return a Picture as a part of an HTML page that steps with no kernel and no network."""
    return _page(picture, figure(picture))


def bundle(picture: Picture) -> dict[str, str]:
    """Return what a notebook that nobody sits at keeps: HTML that steps, SVG, text."""
    return _bundle(picture, figure(picture))


def _bundle(picture: Picture, made: dict) -> dict[str, str]:
    return {"text/html": _page(picture, made), "image/svg+xml": picture.svg(), "text/plain": picture.text()}


def _page(picture: Picture, made: dict) -> str:
    """The plain figure, which the script replaces: where no script may run, it stays."""
    name = f"pvmlab-{secrets.token_hex(6)}"
    plain = picture.html().replace(' id="', f' id="{name}-')
    data = json.dumps(made, ensure_ascii=False).replace("<", "\\u003c")
    return (f'<div class="pvmlab-view" id="{name}">{plain}<details><summary>the same as text</summary>'
            f"<pre>{escape(picture.text())}</pre></details></div><style>{STYLE}</style><script>(() => {{\n{SCRIPT}\n"
            f"for (const root of document.querySelectorAll('[id=\"{name}\"]:not(.pv-on)')) pvmlabView(root, {data});\n"
            "})();</script>")


# The figure as data


def figure(picture: Picture) -> dict:
    """Return what the script shows: the drawings, and for each stop its words.

    parts: (id, height in pixels) of every part that can be chosen; stops: for
    each the number of its drawing with marks and without, its lines, text,
    and by the part's number `kin` (numbers of the parts to light) and `says`
    """
    drawings: dict[str, int] = {}
    sheet = svg.Sheet(picture.panels, picture._sheet.placed, 0)
    parts = {row.id: i for i, (_, row) in enumerate(_parts(picture))}
    stops = [_stop(picture, sheet, old, new, drawings, parts) for old, new in _stops(len(picture))]
    return {"width": sheet.width, "least": round(sheet.width * LEGIBLE), "start": len(stops) - 1,
            "listed": len(picture) > 1 and any(stop["lines"] or stop["nothing"] for stop in stops),
            "parts": [(row.id, height(row, box)) for box, row in _parts(picture)],
            "svgs": list(drawings), "stops": stops}


def _stops(count: int) -> list[tuple[int | None, int]]:
    """(step compared with, step shown) of each stop."""
    return [(None, 0), *((i, i + 1) for i in range(count - 1)), *([(0, count - 1)] if count > 2 else [])]


def _stop(picture: Picture, sheet: svg.Sheet, old: int | None, new: int, drawings: dict[str, int],
          parts: dict[str, int]) -> dict:
    marked, plain = (_drawing(picture, sheet, since, new, drawings) for since in (old, None))
    belong = _Belonging(picture, old, new)
    lit = {name: belong.lit(name) for name in parts if name in belong.shown}
    return {"label": _label(picture, old, new), "marked": marked, "plain": plain, "nothing": picture._nothing(old, new),
            "lines": [_line(line, belong.named) for line in picture._lines(old, new)],
            "text": _text(picture, old, new),
            "kin": {parts[name]: [parts[other] for other in others] for name, others in lit.items()},
            "says": {parts[name]: belong.says(name, others) for name, others in lit.items()}}


def _label(picture: Picture, old: int | None, new: int) -> str:
    if picture.steps is None:
        return "the walk"
    labels = picture.steps.labels()
    return labels[new] if old is None or new - old == 1 else f"all: {labels[old]} → {labels[new]}"


def _text(picture: Picture, old: int | None, new: int) -> str:
    whole = old is not None and new - old > 1
    return picture.text() if whole else picture.text(new)


def _drawing(picture: Picture, sheet: svg.Sheet, old: int | None, new: int, drawings: dict[str, int]) -> int:
    """The number of a drawing. Its parts have no ids: a page may hold the figure twice."""
    made = svg.draw(sheet, new, old, picture._title(old, new), (), "").replace(' id="', ' data-part="')
    return drawings.setdefault(made, len(drawings))


def _line(line: Line, named: set[str]) -> dict:
    refs = dict.fromkeys(ref(*r) for r in line.refs)
    return {"sign": line.sign, "text": line.text, "refs": [r for r in refs if r in named]}


def _parts(picture: Picture) -> Iterator[tuple[Box, Row]]:
    """Every row that can be chosen: those that say what they show."""
    for panel in picture.panels:
        for box in panel.boxes:
            yield from ((box, row) for row in box.rows if row.refs)


# What belongs together


class _Belonging:
    """Which parts of a figure belong together at one stop: by what the snapshot says, not by what is drawn.

    Tied are: an entry and its VMA; an entry and its frame; a VMA and the frames
    that its entries name; a link of the anon_vma_chain, its VMA and its anon_vma.
    """

    def __init__(self, picture: Picture, old: int | None, new: int) -> None:
        self.steps, self.old, self.new = picture.steps, old, new
        self.shown = {row.id: (box, row) for box, row in _parts(picture) if self._at(box, row) is not None}
        self.refs = {name: self._refs(box, row) for name, (box, row) in self.shown.items()}
        self.named = {r for _, row in _parts(picture) for r in row.refs}

    def _at(self, box: Box, row: Row) -> int | None:
        """The step at which the figure shows a row here: the new one, or the old one if it is gone."""
        known = [self.new] if self.old is None or box.quiet else [self.new, self.old]
        return next((step for step in known if row.seen[step] is not None), None)

    def _refs(self, box: Box, row: Row) -> set[str]:
        """A visit of a walk knows its VMA's address only: which VMA that was, the step knows."""
        if row.cls != "visit" or self.steps is None:
            return set(row.refs)
        step = self._at(box, row)
        addrs = (int(r.removeprefix("vma-"), 16) for r in row.refs)
        return {ref("vma", self.steps.identity.key("vma", self.steps.at[step], addr)) for addr in addrs}

    @cached_property
    def _new_ties(self) -> dict[str, set[str]]:
        return _ties(self.steps, self.new, self.named)

    @cached_property
    def _old_ties(self) -> dict[str, set[str]]:
        return _ties(self.steps, self.old, self.named)

    def lit(self, name: str) -> list[str]:
        """The ids of what belongs to a part, itself included."""
        mine = self.refs[name]
        if self.steps is not None:
            ties = self._new_ties if self._at(*self.shown[name]) == self.new else self._old_ties
            mine = mine.union(*(ties.get(r, ()) for r in mine))
        return [other for other, refs in self.refs.items() if mine & refs]

    def says(self, name: str, lit: list[str]) -> str:
        """A part and what belongs to it, in words."""
        groups: dict[str, list[str]] = defaultdict(list)
        for other in lit:
            box, row = self.shown[other]
            kind = box.cls if row is box.header and box.cls == "anon_vma" else row.cls
            if other != name and kind in _KINDS:
                groups[kind].append(self._name(other))
        told = [f"{_KINDS[kind]}: {_several(names)}" for kind, names in groups.items()]
        return ". ".join([self._name(name) + self._more(name), *told])

    def _name(self, name: str) -> str:
        box, row = self.shown[name]
        step = self._at(box, row)
        first, head = row.seen[step].lines[0].strip(), box.header.seen[step]
        if row is box.header or row.cls == "visit" or head is None:
            return first
        return f"{first} {head.lines[1]}" if box.cls == "table" else f"{first} in {head.lines[0]}"

    def _more(self, name: str) -> str:
        """The other lines of a part; the bits of an entry by their meaning."""
        box, row = self.shown[name]
        step = self._at(box, row)
        if row.cls == "pte" and self.steps is not None:
            pte = _entry_at(_mms(self.steps, step), row.refs[0])
            return f" ({', '.join(f'{bit} {meaning}' for bit, meaning in bits(pte.raw))})" if pte else ""
        return f" ({'; '.join(line.strip() for line in row.seen[step].lines[1:])})" if row.seen[step].lines[1:] else ""


def _several(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return "; ".join(names[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _mms(row: Steps, step: int) -> dict[str, Mm]:
    """{what follows "mm-" in its ref: mm} of one step."""
    return {ref("mm", key).removeprefix("mm-"): mm for key, mm in row.identity.at("mm", row.at[step]).items()}


def _entry_at(mms: dict[str, Mm], name: str) -> Pte | None:
    """The entry that a ref names."""
    mm, addr, level = name.removeprefix("entry-").rsplit("-", 2)
    found = mms.get(mm)
    pte = found and found.entries.at(int(addr, 16))
    return pte if pte and pte.level == level else None


def _ties(row: Steps, step: int, named: set[str]) -> dict[str, set[str]]:
    """{ref: refs of what it is tied to} at one step, among the refs that the figure shows."""
    ties: dict[str, set[str]] = defaultdict(set)
    for names in (*_mappings(row, step, named), *_links(row, step)):
        for name in names & named:
            ties[name] |= names & named
    return ties


def _mappings(row: Steps, step: int, named: set[str]) -> Iterator[set[str]]:
    """What each shown entry ties together: itself, its VMA, the frame it names."""
    who, at, mms = row.identity, row.at[step], _mms(row, step)
    for name in named:
        if not name.startswith("entry-") or (pte := _entry_at(mms, name)) is None:
            continue
        mm = mms[name.removeprefix("entry-").rsplit("-", 2)[0]]
        tied = {name, *(ref("vma", who.key("vma", at, vma.addr)) for vma in mm.vmas if pte.addr in vma)}
        yield tied | ({ref("page", who.key("page", at, pte.pfn))} if pte.present else set())


def _links(row: Steps, step: int) -> Iterator[set[str]]:
    """What each anon_vma_chain ties together: itself, its VMA, its anon_vma."""
    for key in row.identity.links(row.at[step]):
        yield {ref("link", key), ref("vma", key[0]), ref("anon_vma", key[1])}
