# SPDX-License-Identifier: MIT
"""Processes of this computer, seen in /proc: has one ended, and waiting for what another does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def state(pid: int) -> str:
    """The letter of /proc/PID/stat: S, R, Z, … Raises FileNotFoundError where there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts as ended."""
    try:
        return state(pid) in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that another process does; fail the test when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)
