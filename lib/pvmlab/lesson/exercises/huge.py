# SPDX-License-Identifier: MIT
"""An exercise about huge pages that are copied whole, or not (notebook 08)."""

from __future__ import annotations

from random import Random

from ...model import Snapshot
from ..exercise import Exercise, Finding, Variant, almost, correct, missing

_HUGE, _PLACE = 2 << 20, 0x10_0000_0000
_ORDINAL = {0: "first", 1: "second"}


def _vary(random: Random) -> Variant:
    whole = random.randint(0, 1)
    return {"whole": whole, "pieces": 1 - whole, "off": random.randint(1, 500), "which": _ORDINAL[whole],
            "other": _ORDINAL[1 - whole], "there": _PLACE + 8 * _HUGE}


def _whole_and_pieces(seen: Snapshot, variant: Variant) -> Finding:
    """One huge page is mapped by one entry in both processes, the other by small ones in both."""
    whole, pieces = (_PLACE + variant[which] * _HUGE for which in ("whole", "pieces"))
    server, consumer = seen.task("server"), seen.task("consumer")
    given = {pfn for e in server.mm.entries.between(_PLACE, _PLACE + 2 * _HUGE) for pfn in range(e.pfn, e.pfn + e.size // 4096)}
    ours = [e for e in consumer.mm.entries if e.pfn in given]       # wherever it put them
    if not ours:
        return missing("the consumer has none of the server's pages yet")
    kept, split = server.pte(whole), server.pte(pieces)
    if kept.level != "pmd":
        return almost(f"the server's {variant['which']} huge page was split; start again with the lines above")
    if [e.addr - whole for e in ours if e.pfn == kept.pfn and e.level == "pmd"] == []:
        return almost(f"the consumer has no huge entry for the server's {variant['which']} huge page")
    if split.level != "pte":
        return almost(f"the server's {variant['other']} huge page is still mapped by one entry")
    small = {e.pfn for e in ours if e.level == "pte"}
    if len(small & {e.pfn for e in server.mm.entries.between(pieces, pieces + _HUGE)}) != 512:
        return almost(f"the consumer has only {len(small)} of the 512 small pages")
    return correct("one went over by one entry, the other by 512, and the server's mappings followed")


EXERCISES = {"one whole, one in pieces": Exercise(
    text="The server has two huge pages, side by side. Bring the consumer to both of them so that the **{which}** is mapped by *one* entry in both processes, and the "
         "**{other}** by 512 small ones in both.",
    vary=_vary, check=_whole_and_pieces,
    hints=("Two calls, one for each huge page. The server's `{which}` one begins at `huge + {whole} * (2 << 20)`.",
           "Whether a huge page goes over whole depends on where it goes. `PVMMAP_FIXED` lets you say where.",
           "For the one in pieces: any address that is a multiple of 4096, but not of 2 MiB."),
    solution="consumer.process_vm_mmap(server, huge + {whole} * (2 << 20), len=2 << 20, dst_addr={there:#x}, flags=calls.PVMMAP_FIXED)\n"
             "consumer.process_vm_mmap(server, huge + {pieces} * (2 << 20), len=2 << 20, dst_addr={there:#x} + (4 << 20) + {off} * 4096, "
             "flags=calls.PVMMAP_FIXED)",
    nearly="consumer.process_vm_mmap(server, huge, len=4 << 20, dst_addr={there:#x}, flags=calls.PVMMAP_FIXED)")}
