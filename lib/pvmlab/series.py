# SPDX-License-Identifier: MIT
"""The patch files of kernel-patches/, read.

Adds: PatchFile and its Hunks, by series and number.
Leaves out: applying them (vm-image/build), which lines they touched
(patches.py), showing them (lesson/patches.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import UsageError
from .image import root
from .model import Patch

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)$")
_SUBJECT = re.compile(r"^Subject: \[.*? (\d+)/(\d+)\] (.*(?:\n .*)*)", re.M)


@dataclass(frozen=True)
class Hunk:
    """One hunk. at: the function git names behind the @@; before, start: its first line's number before and after
    the patch; lines: as they stand, each with its sign."""

    file: str
    at: str
    before: int
    start: int
    lines: tuple[str, ...]

    @property
    def grows(self) -> int:
        """How many lines longer it makes the file."""
        return sum({"+": 1, "-": -1}.get(line[0], 0) for line in self.lines)

    def piece(self, first: int, last: int | None = None) -> Hunk:
        """Return lines[first:last] as a hunk of its own."""
        skipped = self.lines[:first]
        return Hunk(self.file, self.at, self.before + sum(line[0] != "+" for line in skipped),
                    self.start + sum(line[0] != "-" for line in skipped), self.lines[first:last])


@dataclass(frozen=True)
class PatchFile:
    """One patch file: which patch, the paragraphs of its message, its hunks."""

    patch: Patch
    message: tuple[str, ...]
    hunks: tuple[Hunk, ...]

    @property
    def name(self) -> str:
        return f"{self.patch.series} patch {self.patch.number}"

    @property
    def subject(self) -> str:
        return self.patch.subject


@cache
def patches(series: str) -> tuple[PatchFile, ...]:
    """Return a series in order, without its cover letter; () for one that is not there."""
    files = sorted((root() / "kernel-patches" / series).glob("0*.patch"))
    return tuple(_parse(series, path) for path in files if not path.name.startswith("0000"))


def read(series: str, number: int) -> PatchFile:
    """Return one patch of a series; UsageError where there is none."""
    there = {found.patch.number: found for found in patches(series)}
    if number not in there:
        raise UsageError(f"patch({series!r}, {number})", f"there is none in kernel-patches/{series}",
                         f"there are {min(there)} to {max(there)}" if there else "the series are v2 and v3")
    return there[number]


def subjects(series: str) -> dict[int, str]:
    """Return {number: subject} of a series, without the subsystem's name in front."""
    return {found.patch.number: found.patch.subject.removeprefix("mm: ") for found in patches(series)}


def _parse(series: str, path: Path) -> PatchFile:
    text = path.read_text(errors="replace")
    head, _, diff = text.partition("\n---\n")
    number, count, subject = _SUBJECT.search(head).groups()
    message = head.partition("\n\n")[2].strip("\n").split("\n\n")
    return PatchFile(Patch(series, int(number), int(count), " ".join(subject.split())), tuple(message), tuple(hunks(diff)))


def hunks(diff: str) -> Iterator[Hunk]:
    """Yield the hunks of all files in a diff as git writes it; a hunk's head says how many lines belong to it."""
    parts = re.split(r"^diff --git a/\S+ b/(\S+)\n", diff, flags=re.M)
    for file, part in zip(parts[1::2], parts[2::2], strict=True):
        lines = iter(part.splitlines())
        for line in lines:
            if head := _HUNK.match(line):
                old, new = int(head[2] or 1), int(head[4] or 1)
                yield Hunk(file, head[5], int(head[1]) + (not old), int(head[3]), tuple(_body(lines, old, new)))


def _body(lines: Iterator[str], old: int, new: int) -> Iterator[str]:
    while old or new:
        line = next(lines) or " "
        old, new = old - (line[0] != "+"), new - (line[0] != "-")
        yield line
