# SPDX-License-Identifier: MIT
"""The exercises of the course, a module for each subject.

Adds: find(). Leaves out: how an exercise is shown and checked (../exercise.py).
"""

from __future__ import annotations

from ...errors import UsageError
from ..exercise import Exercise
from . import clone, fork, handover, hints, huge, limits, merging, numbers, pages, pieces, rmap, server

#: Every exercise by its name.
ALL: dict[str, Exercise] = {name: exercise for module in (pages, fork, rmap, server, clone, numbers, merging, huge, hints,
                                                          limits, pieces, handover)
                            for name, exercise in module.EXERCISES.items()}


def find(name: str) -> Exercise:
    """Return the exercise of that name; UsageError with the names there are."""
    if name in ALL:
        return ALL[name]
    raise UsageError(f"there is no exercise {name!r}", f"there are {', '.join(ALL)}")
