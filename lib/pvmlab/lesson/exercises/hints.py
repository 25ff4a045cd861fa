# SPDX-License-Identifier: MIT
"""An exercise about hints and the lowest address (notebook 09)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing


def _vary(random: Random) -> Variant:
    return {"pages": random.randint(2, 5), "floor": random.choice((4, 8, 16, 32)) * 4096}


def _row(seen: Snapshot, variant: Variant) -> Finding:
    """Two clones, the first at the floor, the second right above it."""
    size = variant["pages"] * 4096
    low = [v for v in seen.task("consumer").mm.vmas if v.vm_start < 0x40_0000]
    if not low:
        return missing("the consumer has nothing at a low address")
    if low[0].vm_start != variant["floor"]:
        return almost(f"its lowest mapping begins at {low[0].vm_start:#x}, not at {variant['floor']:#x}")
    if low[-1].vm_end != variant["floor"] + 2 * size:
        return almost(f"the mappings there end at {low[-1].vm_end:#x}; two clones of {variant['pages']} pages end at {variant['floor'] + 2 * size:#x}")
    frames = [seen.task("consumer").pte(variant["floor"] + n * size) for n in (0, 1)]
    if None in frames or frames[0].pfn != frames[1].pfn:
        return almost("both should be clones of the same pages")
    return correct("the floor stopped the first hint, and the second found its place above")


EXERCISES = {"near the floor": Exercise(
    text="Set the lowest address of the machine to `{floor}` (a file in `/proc/sys/vm`). Give the server {pages} pages and write to each. "
         "Then bring the consumer to **two** clones of these pages: one as low as a hint can get it, the other right above it. Only hints, no flags.",
    vary=_vary, check=_row,
    hints=("`lab.guest.write_file(path, text)` changes a setting, as in section 2.",
           "Any hint that is not 0 and lies below the floor lands *on* the floor. Until something is there.",
           "For the second, a hint that can be met exactly: the floor plus the length of the first."),
    solution="lab.guest.write_file(\"/proc/sys/vm/mmap_min_addr\", \"{floor}\")\n"
             "buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
             "low = consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr=1 * 4096)\n"
             "consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr=low + {pages} * 4096)",
    nearly="buf = server.mmap(pages={pages}); server.stamp(buf, {pages})\n"
           "low = consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr=1 * 4096)\n"
           "consumer.process_vm_mmap(server, buf, pages={pages}, dst_addr=low + {pages} * 4096)")}
