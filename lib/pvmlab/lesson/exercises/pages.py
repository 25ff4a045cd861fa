# SPDX-License-Identifier: MIT
"""Exercises about pages, VMAs and frames (notebook 01)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot, Vma
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    pages = random.randint(5, 9)
    written, read = random.sample(range(pages), 2)
    return {"pages": pages, "written": written, "read": read}


def _sparse(seen: Snapshot, variant: Variant) -> Finding:
    """One page of a mapping written, one only read, the others never touched."""
    found = [v for v in seen.task("server").mm.vmas if not v.name and v.pages == variant["pages"]]
    if not found:
        return missing(f"the server has no mapping of {variant['pages']} pages")
    kinds = _kinds(seen, found[-1])
    wanted = {variant["written"]: "anon", variant["read"]: "zero"}
    if kinds == wanted:
        return correct("one page has a frame of its own, one names the zero page, and the others are still a promise")
    if not kinds:
        return missing("the mapping is there, and none of its pages has an entry")
    page = min(p for p in kinds.keys() | wanted if kinds.get(p) != wanted.get(p))
    return almost(f"page {page} {_KINDS[kinds.get(page)]}; it should be one that {_KINDS[wanted.get(page)]}")


_KINDS = {"anon": "has a frame of its own", "zero": "names the zero page", None: "has no entry"}


def _kinds(seen: Snapshot, vma: Vma) -> dict[int, str]:
    """{page of the mapping: kind of its frame}."""
    entries = seen.task("server").mm.entries.between(vma.vm_start, vma.vm_end)
    return {(e.addr - vma.vm_start) >> 12: seen.page(e.pfn).kind for e in entries}


EXERCISES = {"sparse": Exercise(
    text="Bring the server into this state: **one** mapping of {pages} pages. Its page {written} has a frame of its "
         "own, "
         "its page {read} has an entry that names the zero page, and no other page has an entry. (Pages are counted "
         "from 0.)",
    vary=_vary, check=_sparse,
    hints=("Three calls are enough: one that promises, one that writes, one that reads.",
           "`server.mmap(pages=…)` returns the address of page 0. Page n begins n · 4096 bytes behind it.",
           "`server.write(buf + {written} * 4096, b\"x\")` takes a frame. What does a read of a page that nobody "
           "wrote take?"),
    solution="buf = server.mmap(pages={pages})\nserver.write(buf + {written} * 4096, b\"x\")\n"
             "server.read(buf + {read} * 4096, 1)",
    nearly="buf = server.mmap(pages={pages})\nserver.write(buf + {written} * 4096, b\"x\")\n"
           "server.write(buf + {read} * 4096, b\"x\")")}
