# SPDX-License-Identifier: MIT
"""A pristine machine for each test that asks for one, listened to until its end.

Adds: `lab`, which fails a test whose kernel complained or miscounted, on each
kernel that the test names; `server` and `consumer`, the two tasks of most
tests, and `proc`, the guest's own view of its memory. Leaves out: what is
tested.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from drgn import Object
from hypothesis import settings

from pvmlab import Lab
from pvmlab.console import complaints
from pvmlab.errors import PvmlabError
from pvmlab.guest import Guest, Task
from pvmlab.model import Mm, Snapshot

PAGE = 4096
#: pytest --hypothesis-profile=long: other programs each time, and many more of them (test_spec.py).
settings.register_profile("long", derandomize=False, database=None)


def pytest_configure(config):
    config.addinivalue_line("markers", "kernels(*names): the kernels a test runs on, one after the other; v2 alone "
                            "where a test has no such mark. A test's own mark counts, not its module's.")
    config.addinivalue_line("markers", "miscounts(*names): the kernels whose counters are wrong after this test; "
                            "that they are is then asserted, and on the others that they are right.")


def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("kernels")
    if mark and "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", mark.args)


@pytest.fixture
def kernel():
    """The name of the kernel under test."""
    return "v2"


@contextlib.contextmanager
def _listened_to(kernel: str = "v2", **machine: object) -> Iterator[Lab]:
    with Lab(kernel=kernel, **machine) as lab:
        lab.guest.write_file("/proc/sys/kernel/printk", "8")    # "quiet" would keep warnings off the console
        yield lab
        with contextlib.suppress(PvmlabError):      # a test can have killed the machine, or all that is in it
            _end_all(lab)
            lab.run_for(20)
        console = lab.machine.console_text()
    assert not complaints(console), console


def _end_all(lab: Lab) -> None:
    """End every process of a machine: the kernel says then what it finds left of them."""
    last = lab.task("last")
    last.syscall("kill", -1, signal.SIGKILL)
    last.kill()


@pytest.fixture
def new_lab():
    """Makes a machine, for a `with` block whose end fails if its kernel complained: new_lab(kernel="v3", cpus=1)."""
    return _listened_to


@pytest.fixture
def lab(request, kernel):
    with _listened_to(kernel) as lab:
        committed = Proc(lab.guest).committed()
        yield lab
        seen = lab.look()
        wrong = [*miscounts(seen), *locks_left(lab, seen), *charge_left(lab, committed)]
        mark = request.node.get_closest_marker("miscounts")
        expected = mark is not None and kernel in mark.args
        assert bool(wrong) == expected, wrong or "every counter is right, though the test says that one will be wrong"


# --- accounts ---------------------------------------------------------------------------------------------------------

def miscounts(seen: Snapshot) -> list[str]:
    """Where the counters of an mm are not those of what it holds."""
    return [f"{name} of mm {mm.addr:#x} is {mm.counters[name]}, and it holds {right}"
            for mm in seen.mms for name, right in _held(mm).items() if mm.counters[name] != right]


def _held(mm: Mm) -> dict[str, int]:
    """What an mm has to count (vm_stat_account(), mmap_region() and mm_inc_nr_ptes(): a huge page lays one by)."""
    tables = sum(table.level != "pgd" for table in mm.tables) + sum(
        pte.level == "pmd" and "HUGETLB" not in mm.vma(pte.addr).flags for pte in mm.entries)
    return {"total_vm": sum(vma.pages for vma in mm.vmas), "map_count": len(mm.vmas), "pgtables_bytes": tables * PAGE,
            "locked_vm": sum(vma.pages for vma in mm.vmas if "LOCKED" in vma.flags)}


def locks_left(lab: Lab, seen: Snapshot) -> list[str]:
    """Where an mm counts as locked for writing that is not: mm_lock_seq is even then (include/linux/mmap_lock.h)."""
    odd = (mm for mm in seen.mms
           if Object(lab.kernel.prog, "struct mm_struct", address=mm.addr).mm_lock_seq.sequence.value_() % 2)
    return [f"mm_lock_seq of mm {mm.addr:#x} is odd, and nobody holds the lock" for mm in odd]


def charge_left(lab: Lab, before: int) -> Iterator[str]:
    """End every process of a machine, and say if Committed_AS is not what it was when there were none."""
    lab.guest.write_file("/proc/sys/vm/overcommit_memory", "0")     # or there may be no room for another
    _end_all(lab)
    for _ in range(100):    # some files are released by work queues
        left = Proc(lab.guest).committed() - before
        if not left:
            return
        lab.run_for(5)
    yield f"Committed_AS is {left:+} pages with all processes gone"


@pytest.fixture
def server(lab):
    return lab.task("server")


@pytest.fixture
def consumer(server):
    return server.guest.spawn("consumer")


def thread_named(lab: Lab, name: str) -> int:
    """The pid of a thread of the kernel's own."""
    pids = (pid for pid in range(2, 100) if lab.guest.read_file(f"/proc/{pid}/comm") == f"{name}\n".encode())
    return next(pids)


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
