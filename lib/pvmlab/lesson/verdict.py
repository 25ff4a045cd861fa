# SPDX-License-Identifier: MIT
"""What a lesson found about a message of the thread.

Adds: Verdict, for the notebook and as data for the page of `make review`.
Leaves out: collecting them (publish.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from html import escape

from ..draw import Picture, picture
from ..errors import UsageError
from ..view import page
from .markup import frame, inline, plain

#: How a verdict travels in a notebook's outputs.
MIME = "application/vnd.pvmlab.verdict+json"
#: The verdicts that no snapshot gives: what a reader is to make of each.
_MEANS = {"a matter of judgement": "something counts on each side, and a kernel cannot weigh it",
          "open": "it cannot be said yet, for the reason below"}
#: Who wrote each message of the thread, and when in 2019.
THREAD = {"cover": ("Kirill Tkhai", "20 May")} | {
    str(n): (who, day) for who, day, numbers in (
        ("Andy Lutomirski", "21 May", (1, 5)), ("Kirill Tkhai", "21 May", (2, 3, 6, 8)), ("Jann Horn", "21 May", (4,
                                                                                                                  7)),
        ("Kirill Tkhai", "22 May", (9,)), ("Kirill A. Shutemov", "22 May", (10,)), ("Kirill Tkhai", "23 May", (11,)),
        ("Andy Lutomirski", "23 May", (12,)), ("Kirill Tkhai", "24 May", (13, 14, 16)),
        ("Kirill A. Shutemov", "24 May", (15,)), ("Kirill A. Shutemov", "27 May", (17,)), ("Kirill Tkhai", "28 May",
                                                                                           (18,)),
        ("Kirill A. Shutemov", "28 May", (19,)), ("Kirill Tkhai", "29 May", (20,)), ("Kirill Tkhai", "3 June", (21,
                                                                                                                22)),
        ("Kirill A. Shutemov", "3 June", (23,)), ("Kirill Tkhai", "4 June", (24,))) for n in numbers}


@dataclass(frozen=True)
class Verdict:
    """Lesson.verdict() says what its parts are. Raises UsageError where it says nothing, or two things."""

    lesson: str
    message: str
    claim: str
    holds: bool | None
    open: str
    sides: Mapping[str, Mapping[str, object]]
    evidence: Mapping[str, object]
    kernel: str
    show: object = None

    def __post_init__(self) -> None:
        what = f"verdict on message {self.message}"
        if self.message not in THREAD:
            raise UsageError(what, "the thread has no such message", 'give 1 to 24, or "cover"')
        if (self.holds is not None) + bool(self.open) + bool(self.sides) != 1:
            raise UsageError(what, "it needs one of holds=, open= and sides=")
        if not self.evidence and not self.sides:
            raise UsageError(what, "it has no evidence", "give evidence={what: a value computed from snapshots}")

    @property
    def verdict(self) -> str:
        """"holds", "does not hold", "open" or "a matter of judgement"."""
        if self.holds is not None:
            return "holds" if self.holds else "does not hold"
        return "open" if self.open else "a matter of judgement"

    @property
    def means(self) -> str:
        """What the verdict says, where one word does not say it."""
        return _MEANS.get(self.verdict, "")

    @property
    def who(self) -> str:
        """The message, by whom and when."""
        name, day = THREAD[self.message]
        return f"{'Cover letter' if self.message == 'cover' else f'Message {self.message}'}, {name}, {day} 2019"

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) of all evidence."""
        given = [(f"{side}: {what}", value) for side, of in self.sides.items() for what, value in of.items()]
        more = [("open", self.open)] if self.open else []
        return [(what, str(value)) for what, value in (*self.evidence.items(), *given, *more)]

    def data(self) -> dict[str, object]:
        """Return it as plain data, the figure as HTML."""
        figure = self.show if self.show is None or isinstance(self.show, Picture) else picture(self.show)
        return {"lesson": self.lesson, "message": self.message, "who": self.who, "claim": self.claim,
                "verdict": self.verdict, "means": self.means, "evidence": self.rows(), "kernel": self.kernel,
                "date": date.today().isoformat(), "figure": page(figure) if figure else ""}

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        made = self.data()
        rows = "".join(f"<tr><th scope=row>{inline(what)}</th><td>{escape(value)}</td></tr>" for what,
                       value in self.rows())
        whose, means = "Verdict" if self.means else "The kernel's verdict", f": {self.means}" if self.means else ""
        body = (f"<p>{escape(self.who)}: {inline(self.claim)}</p><p>{whose}: <strong>{self.verdict}</strong>{means}</p>"
                f"<table>{rows}</table>{made['figure']}<p class=pvl-source>Linux {escape(self.kernel)}</p>")
        text = [f"{self.who}: {plain(self.claim)}", f"verdict: {self.verdict}{means}", *(f"  {a}: {b}" for a,
                                                                                  b in self.rows())]
        return {"text/html": frame("verdict", f"verdict on {self.who}", body), "text/plain": "\n".join(text),
                MIME: made}
