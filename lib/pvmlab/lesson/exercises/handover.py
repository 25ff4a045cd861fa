# SPDX-License-Identifier: MIT
"""An exercise about a whole handover (notebook 12)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    pages = random.randint(3, 6)
    return {"pages": pages, "own": random.randrange(pages), "place": 0x5300_0000_0000 + random.randrange(1, 99) * 0x100_0000}


def _take_over(seen: Snapshot, variant: Variant) -> Finding:
    """The server is gone, the consumer has its frames, and may write to one of them.

    Whether that one was copied cannot be told from what is left: so both ways
    are right, and the reason says what makes the difference.
    """
    consumer = seen.task("consumer")
    clone = consumer.mm.vma(variant["place"])
    if clone is None:
        return missing(f"the consumer has nothing at {variant['place']:#x}")
    entries = [consumer.pte(variant["place"] + n * 4096) for n in range(variant["pages"])]
    if None in entries:
        return missing("not every page there has a frame")
    if any(task.name == "server" for task in seen.tasks):
        return almost("the server is still there")
    writable = [n for n, entry in enumerate(entries) if entry.writable]
    if writable != [variant["own"]]:
        return almost(f"writable now: {'pages ' + ', '.join(map(str, writable)) if writable else 'no page'}; it should be page {variant['own']} alone. "
                      "When was it written to?")
    if clone.anon_vma is None or len(seen.anon_vma(clone.anon_vma.addr).tree) != 1:
        return almost("somebody else still hangs in the clone's `anon_vma`")
    return correct(f"the pages have a new owner, and the old one is gone. If you wrote to page {variant['own']} while both lived, it was copied, and the server's went with it. If the "
                   "server had exited by then, no page was copied at all: the consumer was alone with the frame, and only got `RW` back (lesson 02)")


EXERCISES = {"take over": Exercise(
    text="A whole handover. Give the server {pages} pages and write to each; let the consumer clone them to `{place:#x}`; then the server exits. In the end all pages are the "
         "consumer's alone, its entry of page {own} is writable, and the entries of the others are **not** (yet).",
    vary=_vary, check=_take_over,
    hints=("`server.exit()` ends a process.", "After the call every entry is read-only. What makes one writable again?",
           "Let the consumer write to page {own} only. Before or after the server exits, that is up to you. What is the difference? Think of lesson 02; the check tells."),
    solution="buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
             "dst = consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr={place:#x})\n"
             "consumer.write(dst + {own} * 4096, b\"mine\")\nserver.exit()",
    nearly="buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
           "dst = consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr={place:#x})\nserver.exit()")}
