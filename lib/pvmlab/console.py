# SPDX-License-Identifier: MIT
"""What a kernel prints when something is wrong with it.

Adds: telling its complaints from the rest of the console.
Leaves out: how the console is read (vm.py).
"""

from __future__ import annotations

import re

_COMPLAINT = re.compile(r"WARNING:|\bBUG\b|\bOops\b|Bad (rss-counter|page)|possible (recursive|circular) locking"
                        r"|inconsistent lock|suspicious RCU|general protection|Kernel panic|Call Trace"
                        r"|blocked for more than|page_table_check|stat_refresh: .* -\d")


def complaints(console: str) -> list[str]:
    """Return the lines in which a kernel says that something is wrong with it."""
    return [line for line in console.splitlines() if _COMPLAINT.search(line)]
