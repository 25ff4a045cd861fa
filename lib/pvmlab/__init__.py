# SPDX-License-Identifier: MIT
"""Run a kernel review: process_vm_mmap() on a real patched kernel, seen from its own memory.

    from pvmlab import Lab
    lab = Lab(kernel="v2")
    server, consumer = lab.tasks("server", "consumer")
    buf = server.mmap(pages=4); server.write(buf, b"hello")
    before = lab.look()
    dst = consumer.process_vm_mmap(server, buf, pages=4)
    after = lab.look()
    after - before
"""

from .calls import *  # noqa: F403  the kernel's constants: PROT_READ, MAP_PRIVATE, PVMMAP_FIXED, …
from .diff import Diff, steps
from .errors import GuestError, PvmlabError
from .guest import expect
from .lab import Lab
from .model import Snapshot

__all__ = ["Diff", "GuestError", "Lab", "PvmlabError", "Snapshot", "expect", "steps"]
