# SPDX-License-Identifier: MIT
"""A call as a row of snapshots: before, at each place inside it, after.

Adds: Film, the list that lab.film() fills and steps() shows.
Leaves out: stopping (stops.py) and looking (look.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .errors import GuestError
from .model import Place, Snapshot

#: Where process_vm_mmap() is worth a look; a kernel that lacks one of them is filmed at the others.
MAIN_STEPS = ("mmap_process_vm", "copy_vma", "anon_vma_clone", "clone_region", "move_region", "copy_page_range",
              "copy_pte_range", "copy_present_ptes", "copy_huge_pmd", "flush_tlb_mm_range", "merge_process_vm",
              "vma_merge_new_range")


class Film(list[Snapshot]):
    """The snapshots of one call, oldest first.

    `label`, `place` and `held` of each say where it was and what was locked.
    result: what the call gave; error: the GuestError it gave instead, or None;
    missed: how many places were come to when there was no room for a frame any more.
    """

    result: object = None
    error: GuestError | None = None
    missed = 0
    broken: Exception | None = None         # a frame could not be taken

    def run(self, call: Callable[[], object]) -> None:
        """Make the call and keep what it gives; one that the kernel refuses is filmed as well."""
        try:
            self.result = call()
        except GuestError as e:
            self.error = e

    def room(self, most: int) -> bool:
        """Whether one more frame fits; counts those that do not."""
        fits = len(self) <= most
        self.missed += not fits
        return fits

    def label(self, place: Place) -> str:
        """Name the next frame: the function, numbered from the second time on."""
        times = Counter(seen.place.function for seen in self if seen.place)[place.function]
        return place.function + (f" ({times + 1})" if times else "")

    def __repr__(self) -> str:
        return f"<Film of {len(self)} frames: {', '.join(seen.label for seen in self)}>"
