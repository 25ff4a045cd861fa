# SPDX-License-Identifier: MIT
"""Which patch of ours put or touched a line of the patched kernel.

Adds: the hunks of kernel-patches/, applied in order to nothing but line
numbers: for each line of the result that a hunk shows, its text and the last
patch that wrote it.
Leaves out: the kernel's source; what no hunk shows is not known here.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .image import root
from .model import Patch

#: A kernel's series, one on top of another (vm-image/build has the same).
SERIES = {"v2": ("v2",), "v3": ("v2", "v3")}
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_SUBJECT = re.compile(r"^Subject: \[.*? (\d+)/(\d+)\] (.*(?:\n .*)*)", re.M)


class Touched:
    """The lines of one file that hunks show: text, and the patch that wrote them or None for the base's."""

    def __init__(self) -> None:
        self._numbers: list[int] = []                               # sorted
        self._lines: list[tuple[str, Patch | None]] = []            # beside them
        #: Lines after which a patch took something away, with that patch.
        self.cuts: list[tuple[int, Patch]] = []

    def apply(self, first: int, hunk: list[str], patch: Patch) -> None:
        """Apply one hunk: `first` is its first line's number before, its lines begin with " ", "-" or "+"."""
        known = dict(zip(self._numbers, self._lines))
        before, shift = first, sum({"+": 1, "-": -1}.get(line[:1], 0) for line in hunk)
        new: dict[int, tuple[str, Patch | None]] = {}
        at, cuts = first, []
        for line in hunk:
            if line[:1] == "+":
                new[at], at = (line[1:], patch), at + 1
            elif line[:1] == "-":
                before += 1
                cuts.append((at, patch))
            else:
                new[at], at, before = (line[1:], known.get(before, ("", None))[1]), at + 1, before + 1
        moved = {(n if n < first else n + shift): x for n, x in known.items() if not first <= n < before}
        self.cuts = [(n if n < first else n + shift, p) for n, p in self.cuts] + cuts
        kept = dict(sorted((moved | new).items()))
        self._numbers, self._lines = list(kept), list(kept.values())

    def text(self, number: int) -> str:
        """Return a line's text; "" where no hunk shows it."""
        i = bisect.bisect_left(self._numbers, number)
        return self._lines[i][0] if i < len(self._numbers) and self._numbers[i] == number else ""

    def between(self, first: int, last: int) -> Iterator[tuple[int, str, Patch | None]]:
        """Yield (number, text, patch) of the lines known from `first` to `last`."""
        for i in range(bisect.bisect_left(self._numbers, first), bisect.bisect_right(self._numbers, last)):
            yield self._numbers[i], *self._lines[i]

    def patch(self, first: int, last: int) -> Patch | None:
        """Return the latest patch that wrote or cut a line in this range, None where the base is untouched."""
        wrote = [p for _, _, p in self.between(first, last) if p] + [p for n, p in self.cuts if first < n <= last]
        return max(wrote, key=lambda p: (p.series, p.number), default=None)


@cache
def touched(kernel: str) -> dict[str, Touched]:
    """Return {path in the kernel's source: Touched} of a bundled kernel's series."""
    files: dict[str, Touched] = {}
    for series in SERIES.get(kernel, ()):
        for path in sorted((root() / "kernel-patches" / series).glob("0*.patch")):
            _apply(path, series, files)
    return files


def _apply(path: Path, series: str, files: dict[str, Touched]) -> None:
    text = path.read_text(errors="replace")
    number, count, subject = _SUBJECT.search(text).groups()
    patch = Patch(series, int(number), int(count), " ".join(subject.split()))
    for name, diff in _diffs(text):
        shift = 0
        for first, hunk in _hunks(diff):
            # A hunk's first line is given before the patch; earlier hunks of the file moved it.
            files.setdefault(name, Touched()).apply(first + shift, hunk, patch)
            shift += sum({"+": 1, "-": -1}.get(line[:1], 0) for line in hunk)


def _diffs(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (path, lines) of each file's part."""
    parts = re.split(r"^diff --git a/\S+ b/(\S+)\n", text, flags=re.M)
    for name, part in zip(parts[1::2], parts[2::2]):
        yield name, part.splitlines()


def _hunks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line before, lines) of each hunk; its head says how many lines belong to it."""
    at = 0
    while at < len(lines):
        head = _HUNK.match(lines[at])
        at += 1
        if not head:
            continue
        old, new, hunk = int(head[2] or 1), int(head[4] or 1), []
        while old or new:
            line = lines[at]
            old, new = old - (line[:1] != "+"), new - (line[:1] != "-")
            hunk.append(line)
            at += 1
        yield int(head[1]) + (not int(head[2] or 1)), hunk
