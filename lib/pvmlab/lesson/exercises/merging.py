# SPDX-License-Identifier: MIT
"""An exercise about clones that touch and stay apart (notebook 07)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot, Vma
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    pages = random.randint(2, 4)
    return {"pages": pages, "all": 2 * pages, "place": 0x5000_0000_0000 + random.randrange(1, 99) * 0x100_0000}


def _apart(seen: Snapshot, variant: Variant) -> Finding:
    """Two VMAs that touch, with one anon_vma, equal flags, and offsets that do not continue each other."""
    first = seen.task("consumer").mm.vma(variant["place"])
    second = seen.task("consumer").mm.vma(variant["place"] + variant["pages"] * 4096)
    if first is None or second is None:
        return missing(f"the consumer needs mappings from {variant['place']:#x} on, {variant['all']} pages in all")
    if first.id == second.id:
        return almost("it is one VMA: one call makes one, and two clones merge where their page offsets continue each other")
    return _judged(first, second)


def _judged(first: Vma, second: Vma) -> Finding:
    if first.vm_end != second.vm_start:
        return almost("there is a gap between them")
    if first.anon_vma is None or second.anon_vma is None or first.anon_vma.addr != second.anon_vma.addr:
        return almost("they have not the same `anon_vma`, so that alone keeps them apart; it should be their offsets")
    if first.flags != second.flags:
        return almost("their flags differ, so that alone keeps them apart; it should be their offsets")
    return correct("same flags, same `anon_vma`, no gap, and two VMAs: only their page offsets keep them apart")


EXERCISES = {"apart": Exercise(
    text="The server has {pages} pages or more that it wrote to. Bring the consumer into this state: two VMAs of {pages} pages each, the first at `{place:#x}`, the second "
         "right behind it. They have the same flags and the same `anon_vma`, and yet they are **two**.",
    vary=_vary, check=_apart,
    hints=("Two VMAs merge when flags, `anon_vma` *and* page offsets fit. Which of the three is left to you?",
           "A clone's offset is its source's. Which source pages may stand behind which?",
           "Nothing says that the second clone must be of *other* pages than the first."),
    solution="buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
             "consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr={place:#x})\n"
             "consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr={place:#x} + {pages} * 4096)",
    nearly="buf = server.mmap(pages={all}); server.stamp(buf, {all})\n"
           "consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr={place:#x})\n"
           "consumer.process_vm_mmap(server, buf + {pages} * 4096, pages={pages}, dst_addr={place:#x} + {pages} * 4096)")}
