# SPDX-License-Identifier: MIT
"""Exercises about handing memory over (notebook 04)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    return {"pages": 16 * random.randint(10, 24)}


def _handed_over(seen: Snapshot, variant: Variant) -> Finding:
    """The consumer has all pages, the server none."""
    names = {task.name for task in seen.tasks}
    if gone := {"server", "consumer"} - names:
        return missing(f"{' and '.join(sorted(gone))} did not survive: the limit was met, and the kernel killed it")
    has = {who: _frames(seen, who, variant["pages"]) for who in ("server", "consumer")}
    if not has["consumer"]:
        return missing("the consumer has no frame of it yet")
    if has["consumer"] < variant["pages"]:
        return almost(f"the consumer has {has['consumer']} of {variant['pages']} pages")
    if has["server"]:
        return almost(f"the consumer has all pages, and the server still has {has['server']} frames of its own")
    return correct("everything was handed over, and the two never needed much more than one of them")


def _frames(seen: Snapshot, who: str, pages: int) -> int:
    """Frames in mappings of up to that length; the program's own variables lie below 4 GiB and do not count."""
    task = seen.task(who)
    vmas = [v for v in task.mm.vmas if not v.name and v.vm_start >> 32 and v.pages <= pages]
    return sum(len(task.mm.entries.between(v.vm_start, v.vm_end)) for v in vmas)


EXERCISES = {"narrow": Exercise(
    text="The server holds {pages} pages. Both processes together may use hardly more than that, and there is no "
         "swap. Hand all pages over: at "
         "the end the consumer has {pages} frames with the server's data, the server has none of them, and both are "
         "alive.",
    vary=_vary, check=_handed_over,
    hints=("All at once needs twice the memory. The kernel would kill one of the two.",
           "Copy a few pages with `process_vm_writev()`, let the server give those back, go on with the next.",
           "`server.madvise(addr, calls.MADV_DONTNEED, pages=n)` gives frames back and keeps the promise. "
           "`hand_over()` of section 3 does both "
           "in a loop. (There is a way with a single call, too. It is this course's subject.)"),
    solution="dst = consumer.mmap(pages={pages})\n"
             "for done in hand_over(server, consumer, buf, dst, pages={pages}, chunk=16):\n    pass",
    nearly="dst = consumer.mmap(pages={pages})\nserver.process_vm_writev(consumer, dst, buf, 16 * 4096)")}
