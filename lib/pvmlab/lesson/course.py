# SPDX-License-Identifier: MIT
"""The map of the course: its notebooks, how long they take, how far one has come.

Adds: course(), read from the notebooks themselves, so that it cannot go stale.
Leaves out: keeping the progress (progress.py).

Each notebook's own metadata say its part, question and minutes:
{"pvmlab": {"part": "I · The ground", "question": "…", "minutes": 20}}.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from ..image import root
from . import progress
from .markup import frame


@dataclass(frozen=True)
class Page:
    """One notebook of the course. predictions, exercises: their names, in order."""

    file: str
    title: str
    part: str
    question: str
    minutes: int
    predictions: tuple[str, ...]
    exercises: tuple[str, ...]

    @property
    def number(self) -> str:
        return self.file.removesuffix(".ipynb").partition("-")[0]

    def done(self, notes: dict[str, dict[str, str]]) -> str:
        """How far one has come, in words."""
        results = {name: note["result"] for name, note in notes.items()}
        made = [results[name] for name in self.predictions if name in results]
        told = [f"{len(made)} of {len(self.predictions)} predictions, {made.count('right')} "
                f"right"] if self.predictions else []
        told += [f"exercise “{name}” {results[name]}" for name in self.exercises if name in results]
        return "; ".join(told) if results else (f"{len(self.predictions)} predictions" if self.predictions else "")


def pages(folder: Path | None = None) -> tuple[Page, ...]:
    """Return the notebooks of a folder (default: notebooks/) that say what they are: in order, the template last."""
    return tuple(page for path in sorted((folder or root() / "notebooks").glob("*.ipynb"))
                 if (page := _page(path)).part)


def _page(path: Path) -> Page:
    book = json.loads(path.read_text())
    about = book["metadata"].get("pvmlab", {})
    first = "".join(book["cells"][0]["source"]).splitlines()[0].lstrip("# ")
    code = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code")
    return Page(path.name, first, about.get("part", ""), about.get("question", ""), about.get("minutes", 0),
                _names("predict", code), _names("exercise", code))


def _names(call: str, code: str) -> tuple[str, ...]:
    return tuple(re.findall(rf'lesson\.{call}\(\s*"([^"]+)"', code))


class Course:
    """The map, as a table. notes: what progress.read() found."""

    def __init__(self, pages: tuple[Page, ...], notes: dict[str, dict]) -> None:
        self.pages, self.notes = pages, notes

    def reset(self) -> None:
        """Forget all progress, here and in the file."""
        progress.reset()
        self.notes = {}

    def html(self, progress: bool = True) -> str:
        """Return the table; progress: with how far one has come."""
        head = "<tr><th scope=col>notebook</th><th scope=col>question</th><th scope=col>minutes</th>" \
            f"{'<th scope=col>you</th>' if progress else ''}</tr>"
        rows = [f'<tr><th scope=rowgroup colspan={3 + progress}>{escape(part)}</th></tr>'
                + "".join(self._row(page, progress) for page in of)
                for part, of in groupby(self.pages, lambda page: page.part)]
        return f"<table>{head}{''.join(rows)}</table>"

    def _row(self, page: Page, progress: bool) -> str:
        mine = f"<td>{escape(page.done(self.notes.get(page.number, {})))}</td>" if progress else ""
        return (f'<tr><td><a href="{escape(page.file)}">{escape(page.title)}</a></td><td>{escape(page.question)}</td>'
                f"<td>{page.minutes}</td>{mine}</tr>")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        lines = [f"{p.file}: {p.question} ({p.minutes} min) {p.done(self.notes.get(p.number, {}))}" for p in self.pages]
        return {"text/html": frame("course", "the course", self.html()), "text/plain": "\n".join(lines)}


def course() -> Course:
    """Return the map of the course with the learner's progress. course().reset() forgets it."""
    return Course(pages(), progress.read())
