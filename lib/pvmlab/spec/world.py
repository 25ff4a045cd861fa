# SPDX-License-Identifier: MIT
"""Tasks to play with: the lab's names for what the other files do.

Adds: World and Task, errors as the lab raises them.
Leaves out: the rules.
"""

from __future__ import annotations

import errno as _errno
import signal

from .. import calls
from ..errors import GuestError, TaskFault, TaskGone, UsageError
from ..meanings import errno_meaning
from ..model import PAGE_SIZE, Snapshot
from . import mmap as _mmap
from .describe import describe
from .fork import dup_mmap, exit_mmap
from .look import Look
from .memory import fault_in
from .mm_types import ACCESS, VM, Frame, Mm
from .process_vm_mmap import process_vm_mmap
from .rule import RULES
from .vma import munmap

#: Where the kernel puts the first mapping of a task whose addresses are not randomised.
MMAP_BASE = 0x7FFFF7FF8000
_ANONYMOUS = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS
_MMAP_FLAGS = _ANONYMOUS | calls.MAP_FIXED | calls.MAP_FIXED_NOREPLACE | calls.MAP_NORESERVE


class World:
    """Tasks and their memory under one series' rules.

    series: "v2" or "v3", for what process_vm_mmap() does. Raises UsageError for another.
    """

    def __init__(self, series: str = "v2") -> None:
        if series not in ("v2", "v3"):
            raise UsageError(f"a world of series {series!r}", "there is no such series", '"v2" or "v3"')
        self.series, self._rule, self._look = series, "any", Look()
        self.live: dict[str, Task] = {}

    def task(self, name: str, mmap_base: int = MMAP_BASE) -> Task:
        """Start a process with no memory but what it will map; new mappings go below mmap_base."""
        return self._start(name, Mm(mmap_base))

    def tasks(self, *names: str) -> tuple[Task, ...]:
        """Start several processes, in this order."""
        return tuple(self.task(name) for name in names)

    def rule(self, name: str | None = None) -> str:
        """Set the rule that says which mappings process_vm_mmap() takes; return the one in force.

        Raises UsageError for a name that is not in RULES, and in a world of v2, which has no rules.
        """
        if self.series == "v2" or name not in (None, *RULES):
            raise UsageError(f"rule({name!r})", "there is no such rule",
                             f"a world of v3, and one of {', '.join(RULES)}")
        self._rule = name or self._rule
        return self._rule

    def look(self, label: str = "") -> Snapshot:
        """Return what look() at a machine in this state would see of this memory."""
        return self._look({task.name: task.mm for task in self.live.values()}, label)

    def describe(self) -> str:
        """Return the state as text (see describe())."""
        return describe(self.look())

    def _start(self, name: str, mm: Mm) -> Task:
        if name in self.live:
            raise UsageError(f"a second task named {name!r}", "names tell the tasks of a world apart")
        self.live[name] = task = Task(self, name, mm)
        return task


class Task:
    """A process of the model; methods, arguments and errors are those of the lab's Task."""

    def __init__(self, world: World, name: str, mm: Mm) -> None:
        self.world, self.name, self._mm = world, name, mm

    @property
    def mm(self) -> Mm:
        """Its address space; TaskGone after its end."""
        if not self.alive:
            raise TaskGone(self.name, "it was killed by SIGKILL", "start another task")
        return self._mm

    @property
    def alive(self) -> bool:
        return self.world.live.get(self.name) is self

    # -- memory, by the task's own loads and stores --

    def read(self, addr: int, len: int) -> bytes:
        """Load bytes. Raises TaskFault where nothing readable is mapped."""
        pieces = _pieces(addr, len)
        return b"".join(bytes(self._page(at, write=False).data[at % PAGE_SIZE:][:n]) for at, n in pieces)

    def write(self, addr: int, data: bytes) -> int:
        """Store bytes; return how many. What lies before a TaskFault is stored."""
        for at, n in _pieces(addr, len(data)):
            frame = self._page(at, write=True)
            frame.data[at % PAGE_SIZE:at % PAGE_SIZE + n] = data[at - addr:at - addr + n]
        return len(data)

    def touch(self, addr: int, pages: int = 1, write: bool = False) -> int:
        """Read one byte of each page, or (write=True) store it back unchanged; return the number of pages."""
        for i in range(pages):
            byte = self.read(addr + i * PAGE_SIZE, 1)
            if write:
                self.write(addr + i * PAGE_SIZE, byte)
        return pages

    def stamp(self, addr: int, pages: int = 1, *, first: int = 1, step: int = 1) -> int:
        """Store a number of 8 bytes at each page's start: first + i * step."""
        for i in range(pages):
            self.write(addr + i * PAGE_SIZE, (first + i * step).to_bytes(8, "little"))
        return pages

    def _page(self, addr: int, write: bool) -> Frame:
        """access_error(), arch/x86/mm/fault.c: a store needs VM_WRITE, a load any permission."""
        vma = self.mm.at(addr)
        if vma and vma.vm_flags & (VM.WRITE if write else ACCESS):
            return fault_in(vma, addr & -PAGE_SIZE, write)
        why = "the mapping does not allow it (SEGV_ACCERR)" if vma else "nothing is mapped there (SEGV_MAPERR)"
        raise TaskFault(f"{self.name}: {'store' if write else 'load'}", signal.SIGSEGV, 2 if vma else 1, addr,
                        f"SIGSEGV at {addr:#x}: {why}")

    # -- memory, by system calls --

    def mmap(self, addr: int = 0, *, len: int | None = None, pages: int | None = None,
             prot: int = calls.PROT_READ | calls.PROT_WRITE, flags: int = _ANONYMOUS) -> int:
        """mmap(2) of private anonymous memory; return the address."""
        if flags & _ANONYMOUS != _ANONYMOUS or flags & ~_MMAP_FLAGS:
            raise UsageError("mmap()", "the specification is about private anonymous memory", "see it on the kernel")
        if flags & (calls.MAP_FIXED | calls.MAP_FIXED_NOREPLACE) and addr % PAGE_SIZE:
            self._failed("mmap", _errno.EINVAL)
        return self._result("mmap", _mmap.map_anonymous(self.mm, addr, _length(len, pages), _known(prot), flags))

    def munmap(self, addr: int, *, len: int | None = None, pages: int | None = None) -> int:
        """munmap(2)."""
        size = _length(len, pages)
        if addr % PAGE_SIZE or size <= 0:
            self._failed("munmap", _errno.EINVAL)
        munmap(self.mm, addr, addr + _mmap.page_align(size))
        return 0

    def mprotect(self, addr: int, prot: int, *, len: int | None = None, pages: int | None = None) -> int:
        """mprotect(2)."""
        if addr % PAGE_SIZE:
            self._failed("mprotect", _errno.EINVAL)
        return self._result("mprotect", -_mmap.mprotect(self.mm, addr, _length(len, pages), _known(prot)))

    def madvise(self, addr: int, advice: int, *, len: int | None = None, pages: int | None = None) -> int:
        """madvise(2): MADV_DONTNEED, and what forks do."""
        if advice != calls.MADV_DONTNEED and advice not in _mmap.ADVICE:
            raise UsageError(f"madvise({advice})", "the specification does not have that advice", "see it on the kernel")
        if addr % PAGE_SIZE:
            self._failed("madvise", _errno.EINVAL)
        return self._result("madvise", -_mmap.madvise(self.mm, addr, _length(len, pages), advice))

    def process_vm_mmap(self, source: Task, src_addr: int, *, len: int | None = None, pages: int | None = None,
                        dst_addr: int = 0, flags: int = 0) -> int:
        """Map a piece of `source`'s memory into this task, or (PVMMAP_MOVE) move it here; return its address."""
        if not source.alive:
            self._failed("process_vm_mmap", _errno.ESRCH)
        return self._result("process_vm_mmap", process_vm_mmap(
            self.world.series, self.world._rule, self.mm, source.mm, src_addr, _length(len, pages), dst_addr, flags))

    # -- processes --

    def fork(self, name: str) -> Task:
        """fork(2); return the child."""
        return self.world._start(name, dup_mmap(self.mm, self.world.series))

    def kill(self) -> None:
        """End it, as exit(2) would. Killing twice is harmless."""
        if self.alive:
            exit_mmap(self.mm)
            del self.world.live[self.name]

    def _result(self, call: str, result: int) -> int:
        return result if result >= 0 else self._failed(call, -result)

    def _failed(self, call: str, errno: int) -> None:
        raise GuestError(errno, f"{self.name}: {call}()", errno_meaning(call, errno, self.world.series))

    def __repr__(self) -> str:
        return f"<Task {self.name} of a specification{'' if self.alive else ': it was killed'}>"


def _length(len: int | None, pages: int | None) -> int:
    """One of the two, in bytes."""
    if (len is None) == (pages is None):
        raise UsageError("a length", "it is given in bytes or in pages, one of them", "len=8192, or pages=2")
    return len if pages is None else pages * PAGE_SIZE


def _known(prot: int) -> int:
    """Refuse PROT_EXEC alone: the kernel gives it a protection key, which is not modelled."""
    if prot & ~int(ACCESS) or prot == calls.PROT_EXEC:
        raise UsageError(f"prot={prot}", "the specification knows PROT_READ, PROT_WRITE, and PROT_EXEC beside one of them")
    return prot


def _pieces(addr: int, length: int) -> list[tuple[int, int]]:
    """(address, bytes) of each page's share of a range."""
    ends = [*range(addr + PAGE_SIZE - addr % PAGE_SIZE, addr + length, PAGE_SIZE), addr + length]
    return [(start, end - start) for start, end in zip([addr, *ends], ends) if end > start]
