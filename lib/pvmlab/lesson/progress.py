# SPDX-License-Identifier: MIT
"""How far a learner has come, in one small file outside the notebooks.

Adds: noting what was predicted and solved, reading it, forgetting it.
Leaves out: showing it (course.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path



def path() -> Path:
    """Return progress.json in PVMLAB_STATE, else XDG_STATE_HOME/pvmlab, else ~/.local/state/pvmlab."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(os.environ.get("PVMLAB_STATE") or Path(base) / "pvmlab") / "progress.json"


def read() -> dict[str, dict[str, dict[str, str]]]:
    """Return {lesson: {name: {"result": …, "when": ISO date}}}; {} where nothing can be read.

    Results: "right" and "wrong" of predictions, "almost" and "correct" of exercises.
    """
    try:
        found = json.loads(path().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def note(lesson: str, name: str, result: str) -> None:
    """Remember a result. A first prediction counts: a second one, made with the answer known, changes nothing.

    A lesson goes on where nothing can be written.
    """
    with contextlib.suppress(OSError), _alone():
        found = read()
        mine = found.setdefault(lesson, {})
        known = mine.get(name, {}).get("result")
        if known in ("right", "wrong", "correct"):
            return
        mine[name] = {"result": result, "when": date.today().isoformat()}
        fresh = path().with_suffix(".new")
        fresh.write_text(json.dumps(found, indent=1) + "\n")
        fresh.replace(path())


def reset() -> None:
    """Forget everything."""
    path().unlink(missing_ok=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Several notebooks may be open: one of them at a time."""
    path().parent.mkdir(parents=True, exist_ok=True)
    with open(path().with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
