# SPDX-License-Identifier: MIT
"""Exercises about fork() and copy on write (notebook 02)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    pages = random.randint(2, 5)
    shared, own = random.sample(range(pages), 2)
    return {"pages": pages, "shared": shared, "own": own, "processes": random.randint(2, 4)}


def _family(seen: Snapshot, variant: Variant) -> Finding:
    """One page in a single frame for the whole family, another in a frame for each."""
    at = next((v.vm_start for v in seen.task("A").mm.vmas if not v.name and v.pages == variant["pages"]), None)
    if at is None:
        return missing(f"A has no mapping of {variant['pages']} pages")
    if len(seen.tasks) == 1:
        return missing("A has its mapping, and is alone")
    if len(seen.tasks) != variant["processes"]:
        return almost(f"there are {len(seen.tasks)} processes; it should be {variant['processes']}")
    shared, own = (_frames(seen, at + variant[which] * 4096) for which in ("shared", "own"))
    if None in shared or None in own:
        return almost("one of the two pages has no frame in some process: write to it before the fork")
    if len(shared) != 1:
        return almost(f"page {variant['shared']} lies in {len(shared)} frames; it should be one")
    if len(own) != variant["processes"]:
        return almost(f"page {variant['own']} lies in {len(own)} frames for {variant['processes']} processes")
    return correct("one page is shared by all, and of the other each process has its own")


def _frames(seen: Snapshot, addr: int) -> set[int | None]:
    """The frames that a page has in all processes; None where one has no entry."""
    return {pte.pfn if (pte := task.pte(addr)) else None for task in seen.tasks}


EXERCISES = {"family": Exercise(
    text="Make a family of {processes} processes: `A` and its descendants. `A` has one mapping of {pages} pages. Its "
         "page {shared} lies in "
         "**one** frame for the whole family. Its page {own} lies in as many frames as there are processes. (Pages "
         "are counted from 0.)",
    vary=_vary, check=_family,
    hints=("What is there before `A.fork(\"B\")` is shared after it, until somebody writes.",
           "`A.touch(buf, {pages}, write=True)` gives all pages a frame. Each child is a task of its own: `B = "
           "A.fork(\"B\")`.",
           "How many processes have to write to page {own}, so that each has its own? Not all: who is left over keeps "
           "the old frame."),
    solution="buf = A.mmap(pages={pages})\nA.touch(buf, {pages}, write=True)\n"
             "for i in range(1, {processes}):\n    A.fork(f\"child{{i}}\").write(buf + {own} * 4096, b\"mine\")",
    nearly="buf = A.mmap(pages={pages})\nA.touch(buf, {pages}, write=True)\n"
           "for i in range(1, {processes}):\n    A.fork(f\"child{{i}}\")")}
