# SPDX-License-Identifier: MIT
"""QEMU's gdb stub, over a socket that nobody else has.

Adds: the few packets of gdb's remote protocol that stopping takes:
registers, breakpoints, one instruction, and letting some CPUs run while the
others are held. CPUs are numbered from 0 here, from 1 on the wire.
Leaves out: when to send them (stops.py). The stub takes a byte that comes
while the CPUs run as a request to stop them, so every method here is for a
machine that stands still.

Protocol: gdb's manual, "Remote Serial Protocol"; QEMU's gdbstub.c (7.2) needs
no acknowledgement, so none are sent.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable

from .errors import MachineDied, MachineTimeout

#: Seconds the stub may take for one answer; it takes microseconds.
_BOUND = 10.0
_PACKET = re.compile(rb"\$([^#]*)#..", re.S)
#: The head of QEMU's answer to "g" on x86-64 (its gdb-xml/i386-64bit.xml): sixteen registers and rip in 64 bits,
#: flags and six selectors in 32, bases and control registers in 64.
_LAYOUT = struct.Struct("<17Q7I8Q")
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
             "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "k_gs_base", "cr0",
             "cr2", "cr3", "cr4", "cr8")


class Gdb:
    """The stub's other end. Raises MachineDied when QEMU is gone, MachineTimeout when it does not answer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._received = sock, b""
        sock.setblocking(False)
        self._ask("qSupported:multiprocess+;vContSupported+")

    def registers(self, cpu: int) -> dict[str, int]:
        """Return the registers of a CPU by name."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        raw = bytes.fromhex(self._ask("g"))
        return dict(zip(REGISTERS, _LAYOUT.unpack_from(raw)))

    def insert(self, address: int) -> None:
        """Have every CPU stop before it executes the instruction at a kernel address."""
        self._ask(f"Z0,{address:x},1", "OK")

    def remove(self, address: int) -> None:
        """Undo insert()."""
        self._ask(f"z0,{address:x},1", "OK")

    def step(self, cpu: int) -> None:
        """Execute one instruction of one CPU, without interrupts; the others stand still."""
        self._send(f"vCont;s:p1.{cpu + 1:x}")
        while not self._packet("one instruction").startswith("T05"):
            pass

    def go(self, cpus: Iterable[int]) -> None:
        """Let these CPUs run and no others; they stop together.

        Returns when QEMU has the request, so that a stop on another channel comes after it. Nothing behind that
        answer is taken: what the CPUs meet from here on is there for who waits at the socket.
        """
        self._send("vCont;" + ";".join(f"c:p1.{cpu + 1:x}" for cpu in cpus))
        self._until(lambda: self._received.endswith(b"+"), "vCont", 1)
        self._received = self._received[:-1]

    def stopped(self) -> bool:
        """Take what has come unasked; return whether the CPUs met a breakpoint (T05), and not only a stop."""
        with contextlib.suppress(BlockingIOError):
            self._receive()
        met = False
        while (packet := self._next()) is not None:
            met |= packet.startswith("T05")
        return met

    def _ask(self, command: str, wanted: str = "") -> str:
        self._send(command)
        while (reply := self._packet(command)).startswith("T"):
            pass                                    # of a stop that came before
        if wanted and reply != wanted:
            raise MachineDied(f"QEMU's gdb stub refuses {command!r}", f"it says {reply!r}", "start a new Lab")
        return reply

    def _send(self, command: str) -> None:
        data = command.encode()
        try:
            self.sock.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))
        except OSError as e:
            raise MachineDied("QEMU's gdb stub is gone", str(e), "start a new Lab") from e

    def _packet(self, what: str) -> str:
        """Wait for the next packet."""
        self._until(lambda: _PACKET.search(self._received), what)
        return self._next()

    def _until(self, come: Callable[[], object], what: str, most: int = 1 << 16) -> None:
        """Receive until something has come, at most so many bytes at once."""
        end = time.monotonic() + _BOUND
        while not come():
            if not select.select([self.sock], [], [], max(0.0, end - time.monotonic()))[0]:
                raise MachineTimeout("QEMU's gdb stub", f"no answer to {what!r} within {_BOUND:g} s", "start a new Lab")
            self._receive(most)

    def _receive(self, most: int = 1 << 16) -> None:
        data = self.sock.recv(most)
        if not data:
            raise MachineDied("QEMU's gdb stub is gone", "it closed its socket", "start a new Lab")
        self._received += data

    def _next(self) -> str | None:
        """Cut the first whole packet off what was received, with the acknowledgement before it."""
        found = _PACKET.search(self._received)
        if found is None:
            return None
        self._received = self._received[found.end():]
        return found[1].decode(errors="replace")
