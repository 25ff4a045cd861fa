# SPDX-License-Identifier: MIT
"""What a lesson does in several calls, so that its cells stay short.

Adds: hand_over(), the way of a page server without the proposed call;
answer(), what a call gives, be it an address or an error.
Leaves out: what one call does (guest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .. import calls
from ..errors import GuestError, errno_name
from ..guest import Task


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
