# SPDX-License-Identifier: MIT
"""The questions of the course, one file of prose for each lesson: NUMBER.toml.

Adds: read(). They do not stand in the notebooks, for there one would read the
explanations before the question. An entry:

    [name]
    ask = "…?"
    [name.choice]           # or .number, or .which
    "an answer" = "its text"
    other = "…"             # of a number: all that are not named
    [name.seen]             # of a choice, where what a cell reads is no answer by itself
    "a value" = "the answer it means"
    other = "…"             # all values that are not named
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from ...errors import UsageError
from ..question import KINDS, Question


def read(lesson: str) -> dict[str, Question]:
    """Return {name: Question} of a lesson, in order; {} for one without questions. Raises UsageError for a bad file."""
    path = Path(__file__).parent / f"{lesson}.toml"
    if not path.exists():
        return {}
    return {name: _question(f"{path.name}: {name}", name, entry) for name,
            entry in tomllib.loads(path.read_text()).items()}


def _question(where: str, name: str, entry: Mapping[str, object]) -> Question:
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1 or "ask" not in entry:
        raise UsageError(where, f"it needs ask, and one of {', '.join(KINDS)}")
    options = entry[kinds[0]]
    if kinds[0] == "number":
        options = {None if key == "other" else int(key): text for key, text in options.items()}
    seen = {None if key == "other" else key: means for key, means in entry.get("seen", {}).items()}
    return Question(name, entry["ask"], kinds[0], options, seen)
