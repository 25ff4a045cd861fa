# SPDX-License-Identifier: MIT
"""Exercises about the reverse map (notebook 03)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ...rmap import walk
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    visits = random.randint(3, 6)
    return {"visits": visits, "hits": random.randint(1, visits - 1), "children": visits - 1}


def _visits(seen: Snapshot, variant: Variant) -> Finding:
    """A walk for A's page that makes so many visits and has so many hits."""
    at = next((v.vm_start for v in seen.task("A").mm.vmas if not v.name and v.anon_vma and v.pages == 1), None)
    pte = seen.task("A").pte(at) if at else None
    if pte is None or not pte.present:
        return missing("A has no mapping of one page that it has written to")
    found = walk(seen, pte.pfn)
    visits, hits = len(found.steps), len(found.hits)
    if visits == 1:
        return missing("the walk visits A only")
    if (visits, hits) == (variant["visits"], variant["hits"]):
        return correct("a tree says where a page may be: these visits were in vain, and that is fine")
    return almost(f"the walk for A's page makes {visits} visits and has {hits} hits")


EXERCISES = {"visits": Exercise(
    text="`A` has one mapping of **one** page and has written to it. Bring things about so that a reverse-map walk "
         "for A's frame makes "
         "**{visits}** visits and has **{hits}** hits.",
    vary=_vary, check=_visits,
    hints=("A visit is a VMA in the tree of A's anon_vma. What puts another one there?",
           "Each descendant of A is one visit more. It is a hit as long as it still shares the frame.",
           "{children} children make {visits} visits. A child that writes to the page gets a frame of its own, and "
           "its visit is in vain from then on."),
    solution="buf = A.mmap(pages=1)\nA.write(buf, b\"page\")\nchildren = [A.fork(f\"child{{i}}\") for i in "
             "range({children})]\n"
             "for child in children[{hits} - 1:]:\n    child.write(buf, b\"mine\")",
    nearly="buf = A.mmap(pages=1)\nA.write(buf, b\"page\")\nchildren = [A.fork(f\"child{{i}}\") for i in "
           "range({children})]")}
