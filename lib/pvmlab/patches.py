# SPDX-License-Identifier: MIT
"""Which patch of ours put or touched a line of the patched kernel.

Adds: the hunks of kernel-patches/, applied in order to nothing but line
numbers: for each line of the result that a hunk shows, its text and the last
patch that wrote it.
Leaves out: reading the files (series.py), and the kernel's source: what no hunk
shows is not known here.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator
from functools import cache

from . import series
from .image import patch_series
from .model import Patch
from .series import Hunk, PatchFile


class Touched:
    """The lines of one file that hunks show: text, and the patch that wrote them or None for the base's."""

    def __init__(self) -> None:
        self._numbers: list[int] = []                               # sorted
        self._lines: list[tuple[str, Patch | None]] = []            # beside them
        #: Lines after which a patch took something away, with that patch.
        self.cuts: list[tuple[int, Patch]] = []

    def apply(self, first: int, hunk: Hunk, patch: Patch) -> None:
        """Apply one hunk, whose first line is number `first` now."""
        known = dict(zip(self._numbers, self._lines))
        before, shift = first, hunk.grows
        new: dict[int, tuple[str, Patch | None]] = {}
        at, cuts = first, []
        for line in hunk.lines:
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
    """Return {path in the kernel's source: Touched} of a kernel's series."""
    files: dict[str, Touched] = {}
    for name in patch_series(kernel):
        for found in series.patches(name):
            _apply(found, files)
    return files


def _apply(found: PatchFile, files: dict[str, Touched]) -> None:
    """A hunk's first line is given before the patch; earlier hunks of the file moved it."""
    shift: Counter[str] = Counter()
    for hunk in found.hunks:
        files.setdefault(hunk.file, Touched()).apply(hunk.before + shift[hunk.file], hunk, found.patch)
        shift[hunk.file] += hunk.grows
