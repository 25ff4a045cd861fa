# SPDX-License-Identifier: MIT
"""One run of one lesson: its questions, exercises and verdicts, and what was answered.

Adds: Lesson, the object that a notebook's first cell makes.
Leaves out: the machine (lab.py) and how each of these looks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Mapping

from ..errors import UsageError
from ..model import Snapshot
from . import exercises, progress, questions
from .cells import Asked, Reveal, given_of, kernel_of
from .exercise import Task
from .markup import frame
from .question import Question
from .verdict import Verdict
from .wire import Wire


class Lesson:
    """One run of a lesson. number: its notebook's, such as "05".

    review: the reviewer's fast path: answers stand open (also with
    PVMLAB_REVIEW=1 in the environment). What is answered is remembered in the
    learner's progress (progress.py).
    """

    def __init__(self, number: str, *, review: bool | None = None) -> None:
        self.number, self.token = number, secrets.token_hex(6)
        self.review = bool(os.environ.get("PVMLAB_REVIEW")) if review is None else review
        self._all = questions.read(number)
        self.questions: dict[str, Question] = {}    # those that were asked
        self.given: dict[str, object] = {}
        self.reveals: dict[str, Reveal] = {}
        self.tasks: dict[str, Task] = {}
        self.verdicts: list[Verdict] = []
        self._wire = Wire(self.token, self._heard) if _in_a_kernel() else None

    # --- predictions ---

    def predict(self, name: str) -> Asked:
        """Ask a question of this lesson (questions/), before the call that answers it."""
        if name not in self._all:
            raise UsageError(f"lesson {self.number} has no question {name!r}", f"there are "
                                                                               f"{', '.join(self._all) or 'none'}")
        self.questions[name] = self._all[name]
        return Asked(self.questions[name], self.token, self.review)

    def reveal(self, name: str, answer: Callable[..., object], *snapshots: Snapshot, show: object = ...) -> Reveal:
        """Let the kernel's state answer a question: answer(*snapshots) is one of its answers, or means one (seen).

        show: the figure beside it, a Picture or what picture() draws; by default
        the difference of the last two snapshots, or the only one. None: no figure.
        """
        if name not in self.questions:
            raise UsageError(f"there is no question {name!r} yet", "it was not asked",
                             "run the cell that asks it first")
        if not snapshots:
            raise UsageError(f"question {name!r}", "nobody was asked", "give the snapshots that decide")
        if show is ...:
            show = snapshots[-1] - snapshots[-2] if len(snapshots) > 1 else snapshots[0]
        made = Reveal(self.questions[name], self.token, answer(*snapshots), self.given.get(name),
                      kernel_of(snapshots), show, self.review)
        self.reveals[name] = made
        self._remember(name)
        return made

    def commit(self, name: str, given: object) -> None:
        """Answer a question from Python, as the page's form does. The first answer counts."""
        if name not in self.questions:
            raise UsageError(f"there is no question {name!r}", f"asked were {', '.join(self.questions) or 'none'}")
        self.given.setdefault(name, self.questions[name].understand(given))
        self._remember(name)

    def _heard(self, name: str, form: str) -> None:
        """The page's form was committed."""
        with contextlib.suppress(UsageError):
            question = self.questions.get(name)
            if question is not None:
                numbers = form if question.kind == "number" else [part for part in form.split(",") if part]
                self.commit(name, given_of(question, numbers))

    def _remember(self, name: str) -> None:
        """Note the result once both are known, the prediction and the answer."""
        if name in self.given and name in self.reveals:
            self.reveals[name].given = self.given[name]
            progress.note(self.number, name, "right" if self.reveals[name].told.right else "wrong")

    # --- exercises and verdicts ---

    def exercise(self, name: str, seed: int = 0) -> Task:
        """Set an exercise. seed: which variant; each is another task of the same kind."""
        self.tasks[name] = Task(exercises.find(name), seed, lambda result: progress.note(self.number, name, result))
        return self.tasks[name]

    def verdict(self, message: int | str, claim: str, *, holds: bool | None = None, open: str = "",
                sides: Mapping[str, Mapping[str, object]] | None = None,
                evidence: Mapping[str, object] | None = None, seen: Snapshot, show: object = None) -> Verdict:
        """Say what this lesson found about a message of the thread, computed from snapshots.

        message: its number, or "cover"; claim: in our words. One of: holds; open
        (what would have to be known); sides, of an argument: {side: evidence}.
        evidence: {what: value, as computed}; seen: a snapshot of the machine
        it came from; show: a figure.
        """
        made = Verdict(self.number, str(message), claim, holds, open, dict(sides or {}), dict(evidence or {}),
                       seen.kernel, show)
        self.verdicts.append(made)
        return made

    # --- showing itself ---

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The head of a lesson, with the reviewer's way in."""
        body = (f"<span>Lesson {self.number}. Predictions first: the kernel answers after you commit.</span>"
                '<button type="button" class="pvl-skip">For reviewers: open all answers and go to the first '
                'call</button>'
                '<span class="pvl-said" role="status"></span>')
        return {"text/html": frame("head", f"lesson {self.number}", body, "pvlHead"), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<Lesson {self.number}: {len(self.questions)} questions, {len(self.given)} answered>"


def _in_a_kernel() -> bool:
    """Whether a page may listen: IPython runs, as the kernel of one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
