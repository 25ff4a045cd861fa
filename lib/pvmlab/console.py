# SPDX-License-Identifier: MIT
"""What a kernel prints when something is wrong with it.

Adds: telling its complaints from the rest of the console.
Leaves out: how the console is read (vm.py).
"""

from __future__ import annotations

import re

_COMPLAINT = re.compile(
    r"WARNING:|\bWARN at |\bBUG\b|\bOops\b|UBSAN:|general protection|Kernel panic|Call Trace|page_table_check"
    r"|Bad (rss-counter|page)|\bbad (pgd|p4d|pud|pmd|pte)\b|(Bad|Unused) swap (offset|file)|map_count \d+ vma iterator"
    r"|possible (recursive|circular) locking|inconsistent lock|non-static key|locking correctness|suspicious RCU"
    r"|blocked for more than|rcu: INFO:.*stall|LOCKUP|uprobe: .* failed|ref_ctr .* failed|stat_refresh: .* -\d")


def complaints(console: str) -> list[str]:
    """Return the lines in which a kernel says that something is wrong with it."""
    return [line for line in console.splitlines() if _COMPLAINT.search(line)]
