# SPDX-License-Identifier: MIT
"""Where the CPUs and the sleeping tasks are in the kernel's code.

Adds: stacks, unwound by drgn from a CPU's registers or a task's saved ones
with the tables the kernel carries for itself (ORC), inlined functions and
source lines included where the debug information has them.
Leaves out: getting the registers (gdb.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drgn import Object

from .kernel import Kernel
from .model import Place
from .patches import touched

#: Members of struct pt_regs (arch/x86/include/asm/ptrace.h) and what gdb calls the same register.
_PT_REGS = {"ax": "rax", "bx": "rbx", "cx": "rcx", "dx": "rdx", "si": "rsi", "di": "rdi", "bp": "rbp", "sp": "rsp",
            "ip": "rip", "flags": "eflags", "cs": "cs", "ss": "ss", **{f"r{i}": f"r{i}" for i in range(8, 16)}}


def of_registers(kernel: Kernel, registers: Mapping[str, int], series: str) -> tuple[Place, ...]:
    """Return the stack of a CPU, innermost place first; () when it is in user mode."""
    if registers["cs"] & 3:
        return ()
    values = {member: registers[name] for member, name in _PT_REGS.items()}
    return tuple(_places(kernel, Object(kernel.prog, "struct pt_regs", value=values), series))


def of_task(kernel: Kernel, task: Object, series: str) -> tuple[Place, ...]:
    """Return the kernel stack of a task that runs on no CPU (from the registers that schedule() saved)."""
    return tuple(_places(kernel, task, series))


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
