# SPDX-License-Identifier: MIT
"""A question that is answered before the kernel answers it.

Adds: Question: what may be answered, and what each answer is told.
Leaves out: asking it (cells.py) and knowing the right answer, which only a
snapshot does.

Every option carries a text. For what turns out wrong it explains the
misconception behind it; for what turns out right it says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, combinations

from ..errors import UsageError

KINDS = ("choice", "number", "which")
#: More boxes than this are no question any more, and all their combinations stand in a saved page.
_MOST_BOXES = 6


@dataclass(frozen=True)
class Told:
    """What a reader is told: whether it was right, and the text (`code` and **bold** as in Markdown)."""

    right: bool
    text: str


@dataclass(frozen=True)
class Question:
    """One question of a lesson.

    name: of one word, unique in its lesson; kind: "choice", "number" or "which"
    (of these, none to all); options: {what may be answered: its text}. Of a
    number, None stands for all that are not named. seen: of a choice, which
    option a value means that was read from the machine; None stands for all
    other values. So no cell has to name the answer. Raises UsageError for a
    question that cannot be asked.
    """

    name: str
    text: str
    kind: str
    options: Mapping[object, str]
    seen: Mapping[str | None, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.seen.values()) <= set(self.options):
            raise UsageError(f"question {self.name!r}", "what is seen means an option that it does not have")
        least = 1 if self.kind == "number" else 2
        if len(self.options) < least or not all(self.options.values()):
            raise UsageError(f"question {self.name!r}", "each of its options needs a text, and it needs options")
        if self.kind == "which" and len(self.options) > _MOST_BOXES:
            raise UsageError(f"question {self.name!r}", f"it has more than {_MOST_BOXES} boxes", "ask two questions")

    def understand(self, given: object) -> object:
        """Return an answer as this question counts it; UsageError for what cannot be answered."""
        if self.kind == "which" and not isinstance(given, str) and isinstance(given, Iterable) \
                and set(given) <= set(self.options):
            return frozenset(given)
        if self.kind == "number" and isinstance(given, int):
            return int(given)
        if self.kind == "choice" and given in self.options:
            return given
        names = "a whole number" if self.kind == "number" else ", ".join(map(repr, self.options))
        raise UsageError(f"question {self.name!r}", f"{given!r} is none of its answers", f"it takes {names}")

    def means(self, seen: object) -> object:
        """Return the answer that a value read from the machine means; several values count together, in order."""
        key = ", ".join(map(str, seen)) if isinstance(seen, tuple) else str(seen)
        return self.seen.get(key, self.seen.get(None, seen)) if self.seen else seen

    def every(self) -> Iterator[object]:
        """Yield every answer that is told something of its own; of a number, None for all that are not named."""
        if self.kind == "which":
            boxes = list(self.options)
            yield from map(frozenset, chain.from_iterable(combinations(boxes, n) for n in range(len(boxes) + 1)))
        elif self.kind == "choice":
            yield from self.options
        else:
            yield from {*self.options, None}

    def told(self, given: object, answer: object) -> Told:
        """Return what `given` is told when the kernel's answer is `answer`."""
        right = given == answer
        wrong = "" if right else f"{self._of(given, answer)}\n\n"
        return Told(right, f"{wrong}{self.answered(answer, self._left_out(given, answer)[:1])}")

    def answered(self, answer: object, said: Collection = ()) -> str:
        """Return the kernel's answer and why, for whom did not predict; said: boxes that were explained before."""
        why = " ".join(self.options[box] for box in self.options if box in answer and box not in said) \
            if self.kind == "which" else self._text(answer)
        return f"Answer: **{self.name_of(answer)}**. {why}"

    def name_of(self, answer: object) -> str:
        """Return an answer in words."""
        if self.kind != "which":
            return str(answer)
        *most, last = [str(box) for box in self.options if box in answer] or ["none of these"]
        return f"{', '.join(most)} and {last}" if most else last

    def _of(self, given: object, answer: object) -> str:
        """What is said of a wrong answer: of a set, each box that was wrongly ticked, and the first that was left out."""
        if self.kind != "which":
            said = "" if given is None else f"You said “{self.name_of(given)}”. "
            return said + self._text(given)
        ticked = [f"{box}: {self.options[box]}" for box in self.options if box in given and box not in answer]
        missing = [f"Missing: {box}. {self.options[box]}" for box in self._left_out(given, answer)[:1]]
        return " ".join(ticked + missing)

    def _left_out(self, given: object, answer: object) -> list:
        """The boxes of a set that are right and were not ticked."""
        return [box for box in self.options if box in answer and box not in given] if self.kind == "which" else []

    def _text(self, answer: object) -> str:
        return self.options.get(answer) or self.options.get(None, "")
