# SPDX-License-Identifier: MIT
"""An exercise about what counts against RLIMIT_AS (notebook 10)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing

_PLACE = 0x5000_0000_0000


def _vary(random: Random) -> Variant:
    old, clone = random.randint(6, 9), random.randint(4, 6)
    return {"old": old, "clone": clone, "spare": random.randint(2, clone - 1), "place": _PLACE + random.randrange(1, 99) * 0x100_0000}


def _to_the_last_page(seen: Snapshot, variant: Variant) -> Finding:
    """The clone lies over the old mapping's end, so that the two together are `spare` pages longer than the old one was."""
    old = seen.task("consumer").mm.vma(variant["place"])
    if old is None:
        return missing(f"the consumer has nothing at {variant['place']:#x}")
    clone = seen.task("consumer").mm.vma(old.vm_end)
    if clone is None or clone.anon_vma is None:
        return missing(f"there is one mapping of {old.pages} pages, and no clone behind it")
    if clone.pages != variant["clone"]:
        return almost(f"the clone has {clone.pages} pages, not {variant['clone']}")
    grown = old.pages + clone.pages - variant["old"]
    if grown != variant["spare"]:
        return almost(f"the address space has grown by {grown} pages; {variant['spare']} are to spare")
    if not any(v.anon_vma and v.anon_vma.addr == clone.anon_vma.addr for v in seen.task("server").mm.vmas):
        return almost("the pages behind the old mapping are not the server's")
    return correct(f"{variant['clone']} pages more were mapped, and the address space is {grown} larger: exactly what was to spare")


EXERCISES = {"to the last page": Exercise(
    text="Give the consumer a mapping of {old} pages at `{place:#x}`, and allow its address space to grow by exactly {spare} pages from there on (`consumer.limit(…)`). "
         "Then let it clone {clone} pages of the server's, so that the limit is used up **to the last page**: the clone begins inside the old mapping and ends behind it.",
    vary=_vary, check=_to_the_last_page,
    hints=("Of the {clone} pages, {spare} may be new. The others have to replace some.",
           "The clone must end {spare} pages behind the end of the old mapping. Where does it begin?",
           "It begins `({old} + {spare} - {clone})` pages behind `{place:#x}`, and replacing takes a flag."),
    solution="buf = server.mmap(pages={clone}); server.stamp(buf, {clone})\n"
             "old = consumer.mmap({place:#x}, pages={old})\n"
             "pages = lab.look().task(\"consumer\").mm.counters[\"total_vm\"] + {spare}\n"
             "consumer.limit(calls.RLIMIT_AS, pages * 4096)\n"
             "consumer.process_vm_mmap(server, buf, pages={clone}, dst_addr=old + ({old} + {spare} - {clone}) * 4096, flags=calls.PVMMAP_FIXED)",
    nearly="buf = server.mmap(pages={clone}); server.stamp(buf, {clone})\n"
           "old = consumer.mmap({place:#x}, pages={old})\n"
           "consumer.process_vm_mmap(server, buf, pages={clone}, dst_addr=old + {old} * 4096)")}
