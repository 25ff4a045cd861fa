# SPDX-License-Identifier: MIT
"""An exercise about which ranges can be taken in one call (notebook 11)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    pages = random.randint(6, 9)
    return {"pages": pages, "hole": random.randint(1, pages - 3), "left": pages - 1,
            "place": 0x5100_0000_0000 + random.randrange(1, 99) * 0x100_0000}


def _what_is_left(seen: Snapshot, variant: Variant) -> Finding:
    """The consumer has all of the server's pages but the hole, each as far from the first as it is in the server."""
    server, consumer = seen.task("server"), seen.task("consumer")
    near = next((v for v in server.mm.vmas if not v.name and v.pages == variant["hole"] and v.anon_vma), None)
    if near is None:
        return missing(f"the server has no mapping that ends before page {variant['hole']}: is the page given back?")
    for n in range(variant["pages"]):
        theirs, ours = server.pte(near.vm_start + n * 4096), consumer.pte(variant["place"] + n * 4096)
        if n == variant["hole"]:
            if theirs is not None:
                return almost(f"the server's page {n} is still there")
            continue
        if theirs is None:
            return almost(f"the server's page {n} has no frame: write to each page first")
        if ours is None or ours.pfn != theirs.pfn:
            return almost(f"page {n} of the server is not at {variant['place'] + n * 4096:#x} in the consumer")
    return correct("two pieces, two calls, and each page lies where it lay")


EXERCISES = {"what is left": Exercise(
    text="Give the server {pages} pages, write to each, and let it give back page {hole} (counted from 0). Then bring the consumer to the other {left} of them, so that they "
         "lie as in the server: the first at `{place:#x}`, and the hole where it is.",
    vary=_vary, check=_what_is_left,
    hints=("With a hole in it, the mapping is two VMAs. How many calls does that take?",
           "`server.munmap(buf + {hole} * 4096, pages=1)` makes the hole. The first piece has {hole} pages.",
           "The second piece begins one page behind the hole, in the server and in the consumer alike."),
    solution="buf = server.mmap(pages={pages}); server.stamp(buf, {pages}); server.munmap(buf + {hole} * 4096, pages=1)\n"
             "consumer.process_vm_mmap(server, buf, pages={hole}, dst_addr={place:#x})\n"
             "consumer.process_vm_mmap(server, buf + ({hole} + 1) * 4096, pages={pages} - {hole} - 1, dst_addr={place:#x} + ({hole} + 1) * 4096)",
    nearly="buf = server.mmap(pages={pages}); server.stamp(buf, {pages}); server.munmap(buf + {hole} * 4096, pages=1)\n"
           "consumer.process_vm_mmap(server, buf, pages={hole}, dst_addr={place:#x})")}
