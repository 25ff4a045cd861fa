# SPDX-License-Identifier: MIT
"""What a cell of a lesson shows: a question, and what the kernel answered.

Adds: Asked and Reveal, as HTML and as text.
Leaves out: remembering what was answered (lesson.py), the page's part of it
(lesson.js).

A page shows an answer only to whom has committed to a prediction: the
question tells the page, and the page opens the answer, which lies folded in
the output of a later cell. So a notebook that is run through reveals nothing,
and a saved page asks first as well, with no kernel and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import cached_property
from html import escape

from ..draw import Picture, picture
from ..errors import UsageError
from ..model import Snapshot
from ..view import page
from .markup import frame, inline, paragraphs, plain
from .question import Question, Told

_INPUT = {"choice": "radio", "which": "checkbox"}
_HOW = {"choice": "Choose one.", "which": "Tick each one that fits; none and all are possible.", "number": "A whole number."}


class Asked:
    """A question as it stands in a notebook. token: of its lesson's run; open: a reviewer need not answer."""

    def __init__(self, question: Question, token: str, open: bool = False) -> None:
        self.question, self.token, self.open = question, token, open

    def html(self) -> str:
        """Return a form: native inputs, so that keys and screen readers work as everywhere."""
        q = self.question
        body = (f'<form><fieldset><legend>Predict: {inline(q.text)}</legend><p class="pvl-how">{_HOW[q.kind]}</p>'
                f'{self._inputs()}<button type="submit">Commit to this</button></fieldset>'
                f'<p class="pvl-said" role="status"></p></form>')
        data = {"token": self.token, "name": q.name, "kind": q.kind, "open": self.open}
        return frame("ask", f"a prediction: {plain(q.text)}", body, "pvlAsk", data)

    def _inputs(self) -> str:
        if self.question.kind == "number":
            return '<label>my number <input type="number" name="given" required step="1"></label>'
        kind = _INPUT[self.question.kind]
        need = " required" if kind == "radio" else ""
        return "".join(f'<label><input type="{kind}" name="given" value="{i}"{need}> '
                       f'<span>{inline(str(option))}</span></label>'
                       for i, option in enumerate(self.question.options))

    def text(self) -> str:
        options = [f"  {option}" for option in self.question.options if option is not None]
        named = [] if self.question.kind == "number" else [plain(o) for o in options]
        return "\n".join([f"Predict: {plain(self.question.text)} {_HOW[self.question.kind]}", *named,
                          f"lesson.commit({self.question.name!r}, …)"])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}


class Reveal:
    """The kernel's answer to a question, folded until the reader has committed.

    answer: what the snapshots said; given: what the reader had said, None if
    nothing yet; show: the figure that goes with it, None for none. Raises
    UsageError when the answer is none the question knows.
    """

    def __init__(self, question: Question, token: str, answer: object, given: object, kernel: str, show: object,
                 open: bool = False) -> None:
        self.question, self.token, self.given, self.kernel, self.show = question, token, given, kernel, show
        self.open, self.answer = open, question.understand(question.means(answer))

    @property
    def told(self) -> Told | None:
        """What the reader is told, None before the reader has committed."""
        return None if self.given is None else self.question.told(self.given, self.answer)

    @cached_property
    def _figure(self) -> Picture | None:
        return self.show if self.show is None or isinstance(self.show, Picture) else picture(self.show)

    @property
    def source(self) -> str:
        """Who answered, and when."""
        return f"Answered by Linux {self.kernel}, {date.today():%-d %B %Y}."

    def html(self) -> str:
        """Return the answer to every prediction, folded: the page knows which was made."""
        wait = "Commit to your prediction above, and the answer opens here. (Open it without one.)"
        body = (f'<details{" open" if self.open else ""}><summary>{wait}</summary><div class="pvl-told" role="status">'
                f"{paragraphs(self.question.answered(self.answer))}</div>"
                f'<p class="pvl-source">{escape(self.source)}</p>'
                f"{page(self._figure) if self._figure else ''}</details>"
                '<button type="button" class="pvl-next">next call ↓</button>')
        data = {"token": self.token, "name": self.question.name, "told": self._table(),
                "given": None if self.given is None else self._key(self.given)}
        return frame("reveal", f"the answer to: {plain(self.question.text)}", body, "pvlReveal", data)

    def _table(self) -> dict[str, list]:
        """{what the form gives: [right, HTML]}; "" stands for a number that is not named."""
        told = {self._key(given): self.question.told(given, self.answer) for given in (*self.question.every(),
                                                                                       self.answer)}
        return {key: [each.right, paragraphs(each.text)] for key, each in told.items()}

    def _key(self, given: object) -> str:
        """An answer as the form gives it: numbers of options, or a number."""
        if self.question.kind == "number":
            return "" if given is None else str(given)
        places = {option: str(i) for i, option in enumerate(self.question.options)}
        return ",".join(places[o] for o in places if o in given) if self.question.kind == "which" else places[given]

    def text(self) -> str:
        if self.told is None and not self.open:
            return f"Predict first: lesson.commit({self.question.name!r}, …), then run this cell again."
        said = self.told.text if self.told else self.question.answered(self.answer)
        figure = f"\n\n{self._figure.text()}" if self._figure else ""
        sign = "" if self.told is None else "As you said. " if self.told.right else "The kernel does something else. "
        return f"{sign}{plain(said)}\n{self.source}{figure}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}


def given_of(question: Question, form: object) -> object:
    """Return what a form gave as an answer: numbers of options, or a number. Raises UsageError for nonsense."""
    try:
        if question.kind == "number":
            return int(form)
        chosen = [list(question.options)[int(i)] for i in form]
    except (ValueError, IndexError, TypeError) as e:
        raise UsageError(f"question {question.name!r}", f"the page sent {form!r}") from e
    return question.understand(frozenset(chosen) if question.kind == "which" else chosen[0])


def changed(probes: Mapping[str, Callable[[Snapshot], object]]) -> Callable[[Snapshot, Snapshot], frozenset[str]]:
    """Return the answer to "which of these change?": the names whose probe gives another value after than before."""
    return lambda before, after: frozenset(name for name, probe in probes.items() if probe(before) != probe(after))


def kernel_of(snapshots: tuple[Snapshot, ...]) -> str:
    """Return the release of the kernel that was looked at."""
    return snapshots[-1].kernel
