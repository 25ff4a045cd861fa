# SPDX-License-Identifier: MIT
"""Stop points: a CPU is held at a place in the kernel while the others run on.

Adds: QEMU's gdb stub attached to a running machine on first use, which CPUs
are held, what happens when one comes to a place, and Stop, the handle of one
held place.
Leaves out: where a place is (places.py), and what is looked at there (lab.py).

QEMU stops all CPUs together when one meets a breakpoint. A thread of ours then
asks who wanted it: the CPU is held and the others go on, or, if nobody did,
it is passed over the place and all go on. A CPU counts as having come to a
place when it is about to execute the instruction there, so nothing is lost
when two come together or when the machine is stopped at that very moment.

A held CPU holds whatever its task had locked, and answers no interrupt: what
waits for it waits, and PID 1, which passes on what tasks are told, lives on
CPU 0.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .errors import MachineDied, MachineTimeout, PvmlabError, UsageError
from .gdb import Gdb
from .model import Cpu, Place
from .vm import Machine

#: Seconds between two looks whether a place was reached or the machine has died.
_SLICE = 0.05
#: How often one instruction is tried; a repeated one (rep movs) takes more and is met again.
_STEPS = 8


@dataclass(frozen=True, eq=False)
class Point:
    """A place with what to do there: come(cpu) says whether the CPU is held."""

    place: Place
    come: Callable[[int], bool]


class Stops:
    """The stub of one machine: points, and the CPUs that are held."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.held: dict[int, Place] = {}
        self._points: list[Point] = []
        with machine.frozen():
            self.gdb = Gdb(_attach(machine))
        machine.go = self._go
        threading.Thread(target=self._watch, name="stops", daemon=True).start()

    @contextlib.contextmanager
    def at(self, points: Sequence[Point]) -> Iterator[None]:
        """Let these points be met inside the block; what they hold afterwards is their owner's to release."""
        self._change(self._points + list(points))
        try:
            yield
        finally:
            with contextlib.suppress(MachineDied):
                self._change([p for p in self._points if p not in points])

    def _change(self, points: list[Point]) -> None:
        old, new = _addresses(self._points), _addresses(points)
        with self.machine.frozen():
            for address in sorted(old - new):
                self.gdb.remove(address)
            for address in sorted(new - old):
                self.gdb.insert(address)
            self._points = points

    def release(self, cpu: int) -> None:
        """Let a held CPU go on, past the place it is held at."""
        with self.machine.frozen():
            if self.held.pop(cpu, None):
                self._pass(cpu)

    def registers(self) -> list[dict[str, int]]:
        """Return the registers of every CPU; the machine must be frozen."""
        return [self.gdb.registers(cpu) for cpu in range(self.machine.config.cpus)]

    def _go(self) -> None:
        """Let all CPUs run but those that are held. Called by the machine, which has its lock."""
        if not self.held:
            self.machine.qmp.post("cont")
            return
        self.machine.qmp.call("stop")       # one may be under way, and the stub listens to a stopped machine only
        free = [cpu for cpu in range(self.machine.config.cpus) if cpu not in self.held]
        if free:
            self.gdb.go(free)

    def _pass(self, cpu: int) -> None:
        """Bring a CPU over the breakpoint it stands at, if it does. Now and then QEMU says it stepped, and did not."""
        address = self.gdb.registers(cpu)["rip"]
        if address not in _addresses(self._points):
            return
        self.gdb.remove(address)
        for _ in range(_STEPS):
            self.gdb.step(cpu)
            if self.gdb.registers(cpu)["rip"] != address:
                break
        self.gdb.insert(address)

    def _watch(self) -> None:
        """Wait for the stub to say that a breakpoint was met, until the machine ends."""
        with contextlib.suppress(PvmlabError, OSError, ValueError):
            while True:
                select.select([self.gdb.sock], [], [])
                with self.machine._lock:
                    if self.gdb.stopped():
                        self._serve()

    def _serve(self) -> None:
        """Ask the owners of the places where CPUs stand; hold those CPUs or bring them past."""
        with self.machine.frozen():
            for cpu, registers in enumerate(self.registers()):
                here = [p for p in self._points if registers["rip"] in p.place.addresses]
                if cpu in self.held or not here:
                    continue
                wanted = [p for p in here if p.come(cpu)]
                if wanted:
                    self.held[cpu] = wanted[0].place
                else:
                    self._pass(cpu)


def _addresses(points: Sequence[Point]) -> set[int]:
    return {address for point in points for address in point.place.addresses}


def _attach(machine: Machine) -> socket.socket:
    """Have QEMU start its gdb stub on one end of a socket pair; return the other."""
    ours, theirs = socket.socketpair()
    with theirs:
        machine.qmp.give_fd(theirs.fileno(), "gdb")
        machine.qmp.call("chardev-add", id="gdb", backend={"type": "socket", "data": {
            "addr": {"type": "fd", "data": {"str": "gdb"}}, "server": False}})
        said = machine.qmp.call("human-monitor-command", **{"command-line": "gdbserver chardev:gdb"})
        if "ould not" in str(said):
            raise MachineDied("QEMU's gdb stub does not start", str(said).strip(), "start a new Lab")
    return ours


class Stop:
    """One place where a CPU is held when it comes by: what lab.stop_at() gives.

        with lab.stop_at("copy_page_range") as stop:
            call = consumer.start("process_vm_mmap", server, buf, pages=4)
            stop.wait()                 # the CPU is held; the others can be told things
            lab.look(inside=True)
            stop.go_on()

    Only every nth CPU that comes, and only with a task that `wanted` agrees
    to, is held; one at a time. Leaving the block lets it go.
    """

    def __init__(self, stops: Stops, place: Place, nth: int, wanted: Callable[[int], bool],
                 cpus: Callable[[], Sequence[Cpu]]) -> None:
        if nth < 1:
            raise UsageError(f"stop_at({place.function!r}, nth={nth})", "the first time is nth=1", "pass 1 or more")
        self._stops, self.place, self._wanted, self._cpus = stops, place, wanted, cpus
        self.cpu: int | None = None         # the CPU that is held
        self._left = nth
        self._came = threading.Event()
        self._error: BaseException | None = None

    @property
    def held(self) -> bool:
        """Whether a CPU is held here now."""
        return self.cpu is not None

    def wait(self, timeout: float | None = None) -> Stop:
        """Let the machine run until a CPU is held here.

        timeout: seconds (default: the machine's). Raises MachineTimeout when none comes.
        """
        machine = self._stops.machine
        bound = machine.timeout if timeout is None else timeout
        end = time.monotonic() + bound
        while not self.held:
            with machine.running():
                self._came.wait(min(_SLICE, max(0.0, end - time.monotonic())))
                machine.check()
                if self._error:
                    raise self._error
                if time.monotonic() > end and not self.held:
                    raise MachineTimeout(f"no CPU came to {self.place} within {bound:g} s",
                                         "the call may not go there, or it was over before the stop was set",
                                         "set the stop, then start() the call; or name another place")
        return self

    def go_on(self, nth: int = 1) -> None:
        """Let the held CPU go on; the nth that comes from now on is held next."""
        if self.cpu is None:
            raise UsageError(f"go_on() at {self.place}", "no CPU is held there", "wait() first")
        self._came.clear()
        self._left, cpu, self.cpu = nth, self.cpu, None
        self._stops.release(cpu)

    def stack(self) -> tuple[Place, ...]:
        """Return the kernel stack of the held CPU, innermost place first. Raises UsageError when none is held."""
        if self.cpu is None:
            raise UsageError(f"stack() at {self.place}", "no CPU is held there", "wait() first")
        return self._cpus()[self.cpu].stack

    def _come(self, cpu: int) -> bool:
        """A CPU stands at the place. Called in the watching thread, with the machine frozen."""
        try:
            if self.held or not self._wanted(cpu):
                return False
        except Exception as e:              # raised where somebody waits
            self._error = e
            self._came.set()
            return False
        self._left -= 1
        if self._left:
            return False
        self.cpu = cpu
        self._came.set()
        return True

    def __enter__(self) -> Stop:
        self._block = contextlib.ExitStack()
        self._block.enter_context(self._stops.at([Point(self.place, self._come)]))
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(MachineDied):
            self._block.close()
            if self.held:
                self.go_on()

    def __repr__(self) -> str:
        state = f"CPU {self.cpu} is held" if self.held else "waiting for a CPU"
        return f"<Stop at {self.place}: {state}>"
