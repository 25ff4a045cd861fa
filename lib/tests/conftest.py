# SPDX-License-Identifier: MIT
"""A pristine machine for each test that asks for one, listened to until its end.

Adds: `lab`, which fails a test whose kernel complained, `server` and
`consumer`, the two tasks of most tests, and `proc`, the guest's own view of
its memory. Leaves out: what is tested.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pvmlab import Lab
from pvmlab.guest import Guest, Task

PAGE = 4096
_COMPLAINT = re.compile(r"WARNING:|\bBUG\b|\bOops\b|Bad (rss-counter|page)|possible (recursive|circular) locking"
                        r"|inconsistent lock|suspicious RCU|general protection|Kernel panic|Call Trace")


def complaints(console: str) -> list[str]:
    """Return the lines in which a kernel says that something is wrong with it."""
    return [line for line in console.splitlines() if _COMPLAINT.search(line)]


@contextlib.contextmanager
def _listened_to() -> Iterator[Lab]:
    with Lab(kernel="v2") as lab:
        lab.guest.write_file("/proc/sys/kernel/printk", "8")    # "quiet" would keep warnings off the console
        yield lab
        console = lab.machine.console_text()
    assert not complaints(console), console


@pytest.fixture
def new_lab():
    """Makes a machine, for a `with` block whose end fails if its kernel complained."""
    return _listened_to


@pytest.fixture
def lab(new_lab):
    with new_lab() as lab:
        yield lab


@pytest.fixture
def server(lab):
    return lab.task("server")


@pytest.fixture
def consumer(server):
    return server.guest.spawn("consumer")


class Pagemap(NamedTuple):
    """One word of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst)."""

    word: int

    @property
    def present(self) -> bool:
        return bool(self.word >> 63 & 1)

    @property
    def pfn(self) -> int | None:
        return self.word & (1 << 55) - 1 if self.present else None

    @property
    def swap(self) -> tuple[int, int] | None:
        """(type, offset) of a swap entry."""
        return (self.word & 31, self.word >> 5 & (1 << 50) - 1) if self.word >> 62 & 1 else None

    @property
    def exclusive(self) -> bool:
        return bool(self.word >> 56 & 1)


class Proc:
    """What the guest's kernel itself says in /proc."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def _word(self, path: str, index: int) -> int:
        return int.from_bytes(self.guest.read_file(path, index * 8, 8), "little")

    def pagemap(self, task: Task, addr: int) -> Pagemap:
        return Pagemap(self._word(f"/proc/{task.pid}/pagemap", addr // PAGE))

    def kpagecount(self, pfn: int) -> int:
        return self._word("/proc/kpagecount", pfn)

    def committed(self) -> int:
        """Committed_AS, in pages."""
        text = self.guest.read_file("/proc/meminfo").decode()
        return int(re.search(r"Committed_AS: +(\d+) kB", text)[1]) * 1024 // PAGE

    def maps(self, task: Task) -> list[tuple[int, int, str, str]]:
        """(start, end, permissions, name) of each mapping."""
        text = self.guest.read_file(f"/proc/{task.pid}/maps").decode()
        return [_mapping(line) for line in text.splitlines()]

    def smaps(self, task: Task, addr: int) -> dict[str, int]:
        """The kB of each line of one mapping: "Rss", "SwapPss", …"""
        text = self.guest.read_file(f"/proc/{task.pid}/smaps").decode()
        _, *parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.M)
        [part] = [p for p in parts if (at := _mapping(p.splitlines()[0]))[0] <= addr < at[1]]
        return {name: int(kb) for name, kb in re.findall(r"^(\w+): +(\d+) kB$", part, re.M)}


def _mapping(line: str) -> tuple[int, int, str, str]:
    place, permissions, _, _, _, *name = line.split(maxsplit=5)
    start, end = (int(x, 16) for x in place.split("-"))
    return start, end, permissions, "".join(name)


@pytest.fixture
def proc(lab):
    return Proc(lab.guest)
