# SPDX-License-Identifier: MIT
"""Exercises about process_vm_mmap() itself (notebooks 05 and 18)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary_consumers(random: Random) -> Variant:
    pages = random.randint(3, 8)
    return {"pages": pages, "own": random.randrange(pages)}


def _two_consumers(seen: Snapshot, variant: Variant) -> Finding:
    """Every page of the server's in three processes, but one that each has for itself."""
    mm = seen.task("server").mm
    source = next(v for v in mm.vmas if not v.name and v.pages == variant["pages"])
    counts = [seen.page(e.pfn).mapcount for e in mm.entries.between(source.vm_start, source.vm_end)]
    wanted = [1 if page == variant["own"] else 3 for page in range(variant["pages"])]
    clones = [v for who in ("one", "other") for v in seen.task(who).mm.vmas if source.anon_vma in _anon_vmas(seen, v)]
    if counts == wanted and sum(v.pages for v in clones) == 2 * variant["pages"]:
        return correct("every page is in three processes, and of the one that was written each has its own")
    if not clones:
        return missing("neither of the two consumers has a mapping of the server's memory")
    page = next((i for i, (has, want) in enumerate(zip(counts, wanted)) if has != want), None)
    if page is None:
        return almost("the consumers do not have all pages between them")
    return almost(f"the server's frame of page {page} has mapcount {counts[page]}; it should be {wanted[page]}")


def _anon_vmas(seen: Snapshot, vma) -> list:
    return [seen.anon_vma(link.anon_vma) for link in vma.chain]


def _vary_often(random: Random) -> Variant:
    times = random.randint(4, 8)        # the lesson itself brings it there twice, and three times
    return {"times": times, "calls": times - 1}


def _how_often(seen: Snapshot, variant: Variant) -> Finding:
    """One frame in A so many times, and in nobody else."""
    times: dict[int, int] = {}
    for pte in seen.task("A").mm.entries:
        if pte.present and pte.addr >> 32 and (vma := seen.task("A").mm.vma(pte.addr)) and not vma.name:
            times[pte.pfn] = times.get(pte.pfn, 0) + 1
    pfn, most = max(times.items(), key=lambda item: item[1], default=(None, 0))
    if most < 2:
        return missing("no frame is in A more than once")
    others = seen.page(pfn).mapcount - most
    if most != variant["times"]:
        return almost(f"a frame is in A {most} times; it should be {variant['times']}")
    if others:
        return almost(f"it is in A {most} times, and somebody else still has it (mapcount {most + others})")
    return correct("the page is in A so often, and whoever it came from is not needed for it")


EXERCISES = {
    "two consumers": Exercise(
        text="The server has {pages} pages, all written. Let **one** and **other** both map all of them, and bring it "
             "about that each of the three has "
             "page {own} in a frame of its own, while all other pages lie in **one** frame for all three.",
        vary=_vary_consumers, check=_two_consumers,
        hints=("Two calls, one for each consumer. `one.process_vm_mmap(server, buf, pages=…)` returns where the clone "
               "lies.",
               "Who writes to a shared page gets a copy. Three processes, three frames: how many have to write?",
               "Both consumers write to their page {own}; it lies at dst + {own} * 4096. The server keeps the old "
               "frame."),
        solution="for task in (one, other):\n    dst = task.process_vm_mmap(server, buf, pages={pages})\n"
                 "    task.write(dst + {own} * 4096, b\"mine\")",
        nearly="for task in (one, other):\n    dst = task.process_vm_mmap(server, buf, pages={pages})"),
    "how often": Exercise(
        text="Bring one page into `A` **{times} times**: one frame, {times} addresses of `A`. At the end nobody else "
             "maps it.",
        vary=_vary_often, check=_how_often,
        hints=("The page has to come back from somebody else: from a child.",
               "Each `A.process_vm_mmap(B, buf, pages=1)` is one time more. {calls} of them, and the one that A had.",
               "And at last: B may exit."),
        solution="buf = A.mmap(pages=1)\nA.write(buf, b\"page\")\nB = A.fork(\"B\")\n"
                 "for i in range({calls}):\n    A.process_vm_mmap(B, buf, pages=1)\nB.exit()",
        nearly="buf = A.mmap(pages=1)\nA.write(buf, b\"page\")\nB = A.fork(\"B\")\n"
               "for i in range({calls}):\n    A.process_vm_mmap(B, buf, pages=1)")}
