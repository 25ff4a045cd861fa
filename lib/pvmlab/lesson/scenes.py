# SPDX-License-Identifier: MIT
"""What a lesson does in several calls, so that its cells stay short.

Adds: hand_over(), the way of a page server without the proposed call;
answer(), what a call gives, be it an address or an error; holders(), who
holds which mmap_lock.
Leaves out: what one call does (guest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from drgn import Object

from .. import calls
from ..errors import GuestError, errno_name
from ..guest import Task
from ..kernel import Kernel
from ..model import Snapshot

#: The low bits of a lock's owner are flags (kernel/locking/rwsem.c, RWSEM_OWNER_FLAGS_MASK).
_OWNER_FLAGS = 7


def hand_over(server: Task, consumer: Task, buf: int, dst: int, *, pages: int, chunk: int) -> Iterator[int]:
    """Copy `pages` pages from buf to dst with process_vm_writev(), `chunk` pages at a time.

    Yields the number of pages copied so far, each time before the server gives
    back what was copied (MADV_DONTNEED): the moment at which both have it.
    """
    for at in range(0, pages, chunk):
        n = min(chunk, pages - at)
        server.process_vm_writev(consumer, dst + at * calls.PAGE_SIZE, buf + at * calls.PAGE_SIZE, n * calls.PAGE_SIZE)
        yield at + n
        server.madvise(buf + at * calls.PAGE_SIZE, calls.MADV_DONTNEED, pages=n)


def answer(call: Callable[..., int], *args: Any, **named: Any) -> str:
    """Make a call that may fail; return the address it gives, in hex, or its error's name, such as "EINVAL"."""
    try:
        return hex(call(*args, **named))
    except GuestError as e:
        return errno_name(e.errno)


def holders(kernel: Kernel, seen: Snapshot) -> dict[str, str]:
    """Return who holds the mmap_lock of each process for writing: {whose lock: who has it, "nobody" if none}.

    kernel: lab.kernel, at the moment of the look. Source: struct rw_semaphore,
    owner (include/linux/rwsem.h).
    """
    names, found = {task.pid: task.name for task in seen.tasks}, {}
    for task in seen.tasks:
        sem = Object(kernel.prog, "struct mm_struct", address=task.mm.addr).mmap_lock
        owner = Object(kernel.prog, "struct task_struct *", value=sem.owner.counter.value_() & ~_OWNER_FLAGS & (1 << 64) - 1)
        found[f"mmap_lock of {task.name}"] = names.get(owner.tgid.value_(), "?") if kernel.rwsem(sem) == "write" else "nobody"
    return found
