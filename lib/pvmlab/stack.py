# SPDX-License-Identifier: MIT
"""Where the CPUs and the sleeping tasks are in the kernel's code, and which lock they wait for.

Adds: stacks, unwound by drgn from a CPU's registers or a task's saved ones
with the tables the kernel carries for itself (ORC), inlined functions and
source lines included where the debug information has them; and the lock, where
it is one that a Snapshot knows: page tables' spinlocks and mmap locks.
Leaves out: getting the registers (gdb.py), and when to look (lab.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.pid import find_task

from .kernel import Kernel
from .model import Cpu, Mm, Place, Sleeper, Snapshot
from .patches import touched

#: Members of struct pt_regs (arch/x86/include/asm/ptrace.h) and what gdb calls the same register.
_PT_REGS = {"ax": "rax", "bx": "rbx", "cx": "rcx", "dx": "rdx", "si": "rsi", "di": "rdi", "bp": "rbp", "sp": "rsp",
            "ip": "rip", "flags": "eflags", "cs": "cs", "ss": "ss", **{f"r{i}": f"r{i}" for i in range(8, 16)}}
#: include/linux/sched.h: TASK_UNINTERRUPTIBLE, in task->__state.
_UNINTERRUPTIBLE = 2


def cpu(kernel: Kernel, seen: Snapshot, series: str, number: int, registers: Mapping[str, int],
        held: Place | None = None) -> Cpu:
    """Return what a CPU is at.

    seen: a look(inside=True) of the same moment; series: names the patches;
    held: the place of a stop that holds it.
    """
    task = kernel.current(number)
    stack = () if registers["cs"] & 3 else tuple(_places(kernel, _pt_regs(kernel, registers), series))
    pid = task.pid.value_()
    mode = "idle" if pid == 0 else "kernel" if stack else "user"
    frozen = MappingProxyType(dict(registers))
    found = Cpu(number, _name(seen, task), task.tgid.value_(), pid, mode, frozen, stack, held)
    return replace(found, waits=_spinlock(kernel, seen, registers)) if found.spins else found


def of_task(kernel: Kernel, series: str, tid: int) -> tuple[Place, ...]:
    """Return the kernel stack of a task that runs on no CPU; () for one that does, or is no more."""
    task = find_task(kernel.prog, tid)
    if not task or any(kernel.current(cpu) == task for cpu in kernel.cpus()):
        return ()
    return tuple(_places(kernel, task, series))


def sleeper(kernel: Kernel, seen: Snapshot, series: str, tid: int) -> Sleeper | None:
    """Return where a task sleeps that no signal but a fatal one wakes; None for any other."""
    task = find_task(kernel.prog, tid)
    if not task or not task.member_("__state").value_() & _UNINTERRUPTIBLE:
        return None
    return Sleeper(_name(seen, task), tid, tuple(_places(kernel, task, series)), _mmap_lock(kernel, seen, task))


def _name(seen: Snapshot, task: Object) -> str:
    """The lab's name of the task's process, or what the kernel calls the task."""
    pid = task.tgid.value_()
    known = (t.name for t in (*seen.tasks, *seen.others) if t.pid == pid)
    return next(known, "") or task.comm.string_().decode(errors="replace")


def _pt_regs(kernel: Kernel, registers: Mapping[str, int]) -> Object:
    return Object(kernel.prog, "struct pt_regs", value={member: registers[name] for member, name in _PT_REGS.items()})


def _places(kernel: Kernel, thread: Object, series: str) -> Iterator[Place]:
    for frame in kernel.prog.stack_trace(thread):
        if frame.pc < 1 << 47:                      # the call came from user mode: not the kernel's any more
            return
        yield _place(frame, series)


def _place(frame, series: str) -> Place:
    """A frame as a Place. A return address belongs to the line of the call before it: drgn sees to that."""
    try:
        file, line, _ = frame.source()
    except LookupError:
        return Place(frame.name or hex(frame.pc), addresses=(frame.pc,))
    file = file.removeprefix("./")
    shown = touched(series).get(file)
    return Place(frame.name, file, line, shown.patch(line, line) if shown else None, (frame.pc,))


# --- which lock -------------------------------------------------------------------------------------------------------

def _spinlock(kernel: Kernel, seen: Snapshot, registers: Mapping[str, int]) -> str:
    """Name the held page-table lock whose address a register of a spinning CPU has."""
    values = set(registers.values())
    for mm in seen.mms:
        for table in mm.tables:
            address = kernel.table_lock(table.phys)
            if address in values and kernel.spinlock(address):
                return f"the lock of {_users(seen, mm)}'s {table.level} table for {table.start:#x}"
        if mm.addr + kernel.mm_table_lock in values:
            return f"page_table_lock of {_users(seen, mm)}"
    return ""


def _mmap_lock(kernel: Kernel, seen: Snapshot, task: Object) -> str:
    """Name the mmap_lock that a task waits for and who holds it for writing (kernel/locking/rwsem.c)."""
    for mm in seen.mms:
        sem = Object(kernel.prog, "struct mm_struct", address=mm.addr).mmap_lock
        waiters = list_for_each_entry("struct rwsem_waiter", sem.wait_list.address_of_(), "list")
        if any(waiter.task == task for waiter in waiters):
            return f"mmap_lock of {_users(seen, mm)}{_owner(kernel, seen, sem)}"
    return ""


def _owner(kernel: Kernel, seen: Snapshot, sem: Object) -> str:
    if kernel.rwsem(sem) != "write":
        return ", held for reading"
    owner = Object(kernel.prog, "struct task_struct *", value=sem.owner.counter.value_() & ((1 << 64) - 8))
    return f", held for writing by {_name(seen, owner)}"


def _users(seen: Snapshot, mm: Mm) -> str:
    return "/".join(seen.users(mm.addr))
