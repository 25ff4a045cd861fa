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

import sys as _sys

from . import calls
from .diff import Diff, steps
from .draw import picture
from .errors import GuestError, PvmlabError, TaskGone
from .guest import errno_of, expect
from .lab import Lab
from .model import Snapshot

__all__ = ["Diff", "GuestError", "Lab", "PvmlabError", "Snapshot", "TaskGone", "calls", "errno_of", "expect", "picture",
           "steps"]

if (_shell := getattr(_sys.modules.get("IPython"), "get_ipython", lambda: None)()) is not None:
    from .widgets import show_in_notebooks
    show_in_notebooks(_shell)
