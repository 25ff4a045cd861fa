# SPDX-License-Identifier: MIT
"""The README's picture, made the way a lesson makes its own.

Adds: the main path from boot to figure, in one function.
Leaves out: everything else.
"""

from __future__ import annotations

from .draw import Picture, picture
from .lab import Lab


def the_call() -> Picture:
    """Boot, arrange, look, act, look again: the figure of one process_vm_mmap()."""
    with Lab(kernel="v2") as lab:
        server, consumer = lab.tasks("server", "consumer")
        buf = server.mmap(pages=4)
        server.touch(buf, 4, write=True)
        before = lab.look("before")
        consumer.process_vm_mmap(server, buf, pages=4)
        after = lab.look("after process_vm_mmap()")
        return picture(after - before, walk=after.task("server").pte(buf).pfn)
