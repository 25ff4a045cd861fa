# SPDX-License-Identifier: MIT
"""An exercise with calls by their bare numbers (notebook 06)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing

_PLACE = 0x5000_0000_0000


def _vary(random: Random) -> Variant:
    pages = random.randint(3, 7)
    return {"pages": pages, "skip": random.randint(1, pages - 2), "place": _PLACE + random.randrange(1, 99) * 0x100_0000}


def _clone_by_number(seen: Snapshot, variant: Variant) -> Finding:
    """The consumer has all but the first pages of the server's mapping, at a given place."""
    wanted = variant["pages"] - variant["skip"]
    sources = [v for v in seen.task("server").mm.vmas if not v.name and v.pages == variant["pages"]]
    clone = seen.task("consumer").mm.vma(variant["place"])
    if not sources:
        return missing(f"the server has no mapping of {variant['pages']} pages")
    if clone is None:
        return missing(f"the consumer has nothing at {variant['place']:#x}")
    first = sources[-1].vm_start + variant["skip"] * 4096
    theirs, ours = seen.task("server").pte(first), seen.task("consumer").pte(variant["place"])
    if ours is None or theirs is None:
        return almost("the mapping is there, but it has no frames to share: were the server's pages ever written?")
    if ours.pfn != theirs.pfn:
        return almost(f"the first page there is not the server's page {variant['skip']}")
    if clone.pages != wanted:
        return almost(f"it has {clone.pages} pages instead of {wanted}; the third argument is a length in **bytes**")
    return correct("the right pages at the right place, and no name was needed")


EXERCISES = {"bare numbers": Exercise(
    text="Give the server a mapping of {pages} pages and write to each. Then let the consumer clone **all but the first {skip}** of them to exactly "
         "the address `{place:#x}`, with `consumer.syscall(548, …)` and five numbers.",
    vary=_vary, check=_clone_by_number,
    hints=("The arguments are: pid, source address, length in bytes, destination address, flags.",
           "The source address of page n is `buf + n * 4096`. A destination that must be met exactly needs a flag; its value stands in section 5.",
           "`PVMMAP_FIXED` is 1. What is the length in bytes of what is left?"),
    solution="buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
             "consumer.syscall(548, server.pid, buf + {skip} * 4096, ({pages} - {skip}) * 4096, {place:#x}, 1)",
    nearly="buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
           "consumer.syscall(548, server.pid, buf + {skip} * 4096, {pages} - {skip}, {place:#x}, 1)")}
