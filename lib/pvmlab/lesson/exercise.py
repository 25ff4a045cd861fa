# SPDX-License-Identifier: MIT
"""An exercise: the learner writes calls, and the machine's state is checked.

Adds: Exercise (a kind of task, with variants), Task (one variant, as it stands
in a notebook) and Finding (what a check says).
Leaves out: the exercises themselves (exercises/).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from ..errors import UsageError
from ..model import Snapshot
from .markup import frame, inline, paragraphs, plain

Variant = Mapping[str, int]
_SIGNS = {"missing": "○", "almost": "◐", "correct": "✓"}


@dataclass(frozen=True)
class Finding:
    """What a check says: "missing", "almost" or "correct", and why."""

    state: str
    reason: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.state}: {plain(self.reason)}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        body = f'<p role="status"><strong>{_SIGNS[self.state]} {self.state}</strong>: {inline(self.reason)}</p>'
        return {"text/html": frame("finding", f"the check says {self.state}", body), "text/plain": str(self)}


def missing(reason: str) -> Finding:
    return Finding("missing", reason)


def almost(reason: str) -> Finding:
    return Finding("almost", reason)


def correct(reason: str) -> Finding:
    return Finding("correct", reason)


@dataclass(frozen=True)
class Exercise:
    """A kind of task.

    vary: makes a variant, {name: number}, from a generator; text, hints,
    solution, nearly: with the variant's numbers as {name}. solution and nearly
    are what a learner might write below the notebook's own lines: one that is
    correct, one that is almost. check: judges a snapshot.
    """

    text: str
    vary: Callable[[random.Random], Variant]
    check: Callable[[Snapshot, Variant], Finding]
    hints: tuple[str, str, str]
    solution: str
    nearly: str


class Task:
    """One variant of an exercise. told: called with "almost" or "correct"."""

    def __init__(self, exercise: Exercise, seed: int, told: Callable[[str], None]) -> None:
        self.exercise, self.seed, self._told = exercise, seed, told
        self.variant = dict(exercise.vary(random.Random(seed)))

    def check(self, seen: Snapshot) -> Finding:
        """Judge what lab.look() saw."""
        if not isinstance(seen, Snapshot):
            raise UsageError("check() got something else than a snapshot", "it judges what lab.look() returns",
                             "write task.check(lab.look())")
        found = self.exercise.check(seen, self.variant)
        if found.state != "missing":
            self._told(found.state)
        return found

    def again(self, seed: int | None = None) -> Task:
        """Set another variant; each seed gives its own."""
        self.seed = random.randrange(1, 1000) if seed is None else seed
        self.variant = dict(self.exercise.vary(random.Random(self.seed)))
        return self

    @property
    def solution(self) -> str:
        return self.exercise.solution.format(**self.variant)

    @property
    def nearly(self) -> str:
        return self.exercise.nearly.format(**self.variant)

    def html(self) -> str:
        """Return the task, its hints and its solution, all but the task folded."""
        hints = "".join(f"<details><summary>Hint {n}</summary>{paragraphs(hint.format(**self.variant))}</details>"
                        for n, hint in enumerate(self.exercise.hints, 1))
        body = (f"<p><strong>Exercise</strong> (variant "
                f"{self.seed})</p>{paragraphs(self.exercise.text.format(**self.variant))}"
                f"{hints}<details><summary>One solution</summary><pre>{escape(self.solution)}</pre></details>")
        return frame("exercise", f"exercise, variant {self.seed}", body)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        text = plain(self.exercise.text.format(**self.variant))
        return {"text/html": self.html(), "text/plain": f"Exercise (variant {self.seed}): {text}"}
