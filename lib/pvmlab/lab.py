# SPDX-License-Identifier: MIT
"""The lab: one machine, its tasks, and looking at both.

Adds: Lab, the one object a lesson starts from, which ties machine, guest and
readers together and ends them together.
Leaves out: how each of them works.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType

from . import places, stack, vm
from .errors import GuestError, MachineTimeout, UsageError
from .film import MAIN_STEPS, Film
from .guest import Call, Guest, Task
from .identity import anon_vma_names
from .image import Image
from .kernel import Kernel
from .look import anon_vma_lock, look
from .memory import Memory
from .model import Cpu, Hang, Place, Sleeper, Snapshot
from .stops import Point, Stop, Stops

#: How often look() lets the machine run on because a lock was held, and for how many milliseconds.
_TRIES, _A_LITTLE = 50, 2
#: How often hang() has to see a call in the same place: spinning or asleep, or just in the kernel; how many
#: milliseconds apart; and how many functions, from the outermost, are that place: the innermost go in and out.
_LOOKS, _MANY_LOOKS, _BETWEEN, _OUTER = 3, 20, 50, 5
#: The same for the guest's clock, which it chooses a second after its boot.
_CLOCK_TRIES, _A_WHILE = 100, 50
#: The rules of messages 16, 18 and 20, and UFFDIO_MOVE's, by the names that the kernel of v3 has for them.
RULES = ("any", "single-chain", "foreign-root", "never-forked", "exclusive")
_RULE = "/proc/sys/vm/process_vm_mmap_rule"


class Lab:
    """A pristine booted machine with a patched kernel.

    kernel: "v2", "v3" or "base" (no patch), or one built on demand such as "v3-debug"
    (vm-image/build kernel v3-debug); cpus: 1 to 4; ram: MiB; icount: one CPU with QEMU's
    instruction counting. Raises UsageError for what cannot be, SetupError when
    this computer lacks something, ImageError when the image is missing or
    damaged, MachineDied or MachineTimeout when the machine does not come up.

    The machine runs only while a task is told to do something. It ends with
    close(), with the `with` block, when the Lab is forgotten, when the cell
    that made it is run again, and with the process.
    """

    def __init__(self, kernel: str = "v2", *, cpus: int | None = None, ram: int = 128, icount: bool = False,
                 append: str = "") -> None:
        cpus = (1 if icount else 2) if cpus is None else cpus
        self.config = vm.Config(kernel, cpus, ram, icount, append)
        _close_predecessors(self)
        greeted: list[Guest] = []       # of the machines that were tried; the last one is ours
        series = kernel.partition("-")[0]
        self.machine = vm.machine(self.config, lambda machine: greeted.append(Guest(machine, series=series)),
                                  lambda machine: _rest(greeted[-1]))
        self._finish = weakref.finalize(self, self.machine.close, "its Lab is gone")
        try:
            self.guest = greeted[-1]
            self._memory = Memory(self.machine.ram)
            self._anon_vma_names: dict[tuple[int, int], str] = {}
            where = weakref.WeakMethod(self._whereabouts)
            self.machine.whereabouts = lambda: (where() or str)()
        except BaseException:
            self.close()
            raise

    # --- tasks ---

    def task(self, name: str, cgroup: str | None = None) -> Task:
        """Start one process in the guest and return the hand that moves it."""
        return self.guest.spawn(name, cgroup)

    def tasks(self, *names: str) -> tuple[Task, ...]:
        """Start several processes, in this order."""
        if not names:
            raise UsageError("tasks() without a name", "each process needs one", 'lab.tasks("server", "consumer")')
        return tuple(self.task(name) for name in names)

    # --- looking ---

    @property
    def kernel(self) -> Kernel:
        """The kernel's structures for probes of one's own: lab.kernel.prog["init_mm"]."""
        with self._reading() as kernel:
            return kernel

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Kernel]:
        """The readers, pointed at this machine, which stands still; labs of one image share them in turn."""
        self.machine.settle()
        self.machine.check()
        with self._reading_now() as kernel:
            yield kernel

    @contextlib.contextmanager
    def _reading_now(self) -> Iterator[Kernel]:
        """The same for whoever has the machine frozen already."""
        kernel = _kernel(self.machine.image, vm.command_line(self.config), self._memory)
        with kernel.lock:
            yield kernel.at(self._memory)

    def look(self, label: str = "", *, inside: bool = False) -> Snapshot:
        """Read the kernel's state from its memory, with the machine standing still.

        A stop can land in the middle of an update: while a lock is held, the
        machine runs on a little and stops again. inside=True takes what is
        there; Snapshot.held says what was locked. Raises MachineTimeout when a
        lock stays held (a call that sleeps with it, or a deadlock).
        """
        for _ in range(_TRIES):
            with self._reading() as kernel:
                seen, now = look(kernel, self.guest.names, label, inside=inside), kernel.jiffies
            if inside or not (seen.held or _just_born(seen, now)):
                return self._named(seen)
            self.run_for(_A_LITTLE)
        seen = self._named(seen)
        if seen.held:
            raise MachineTimeout("the machine does not come to rest", f"held: {', '.join(seen.held)}",
                                 "look(inside=True) shows it as it is", console=self.machine.console())
        return seen

    def _named(self, seen: Snapshot) -> Snapshot:
        """The same, with what the lab calls each anon_vma: in every figure what it was called in the first."""
        keys = {addr: (addr, found.born) for addr, found in seen.anon_vmas.items() if found.born}
        names = anon_vma_names(seen, keys, self._anon_vma_names)
        self._anon_vma_names |= names
        called = {anon_vma_lock(at): anon_vma_lock(at, names[key]) for at, key in keys.items()}
        return dataclasses.replace(seen, anon_vma_names=MappingProxyType(names),
                                   held=tuple(called.get(lock, lock) for lock in seen.held))

    # --- stopping inside a call ---

    @functools.cached_property
    def _stops(self) -> Stops:
        return Stops(self.machine)

    def stop_at(self, place: str, *, nth: int = 1, task: Task | None = None) -> Stop:
        """Hold the CPU that comes to a place in the kernel, the nth time; the others run on.

        place: a function's name, "function:line" or "function: text" (places.py);
        task: count only when this process or thread comes. Raises UsageError for a place that is not there.
        Begin the call with start(): it then runs on another CPU than the agent, which has to stay free to pass on
        what the other tasks are told.

            with lab.stop_at("copy_page_range") as stop:
                call = consumer.start("process_vm_mmap", server, buf, pages=4)
                stop.wait()
                lab.look(inside=True)
                stop.go_on()
        """
        [found] = places.find(self.machine.image, place)
        _rest(self.guest)
        return Stop(self._stops, found, nth, lambda cpu: task is None or self._tid(cpu) == task.tid, self.cpus)

    def film(self, call: Callable[[], object], at: Sequence[str] | None = None, *, most: int = 60) -> Film:
        """Take a look at each place that a call comes to, and one before and after: the frames for steps().

        call: makes the call, such as lambda: consumer.process_vm_mmap(server, buf, pages=4).
        at: places as for stop_at(); None: the main steps of process_vm_mmap(). Only what tasks of this lab do
        is filmed, `most` frames of it. Raises UsageError for a place that is not there.

            film = lab.film(lambda: consumer.process_vm_mmap(server, buf, pages=4), at=["copy_vma", "copy_pte_range"])
            steps(*film)
        """
        found = places.find(self.machine.image, *at or MAIN_STEPS, lacking=at is None)
        _rest(self.guest)
        film = Film([self.look("before")])
        with self._stops.at([Point(place, functools.partial(self._shoot, film, place, most)) for place in found]):
            film.run(call)
        if film.broken:
            raise film.broken
        film.append(self.look("after"))
        return film

    def _shoot(self, film: Film, place: Place, most: int, cpu: int) -> bool:
        """A CPU stands at a place: take a frame if a task of ours runs on it. Never holds it."""
        try:
            with self._reading_now() as kernel:
                if kernel.current(cpu).tgid.value_() in self.guest.names and film.room(most):
                    film.append(self._named(look(kernel, self.guest.names, film.label(place), place, inside=True)))
        except Exception as e:      # this is the watching thread; film() raises it
            film.broken = e
        return False

    def cpus(self) -> tuple[Cpu, ...]:
        """Return what each CPU is at: task, registers, and its unwound stack when it is in the kernel."""
        with self.machine.frozen(), self._reading_now() as kernel:
            seen = look(kernel, self.guest.names, inside=True)
            return self._cpus(kernel, seen)

    def _cpus(self, kernel: Kernel, seen: Snapshot) -> tuple[Cpu, ...]:
        stops = self._stops
        return tuple(stack.cpu(kernel, seen, self.config.kernel, number, registers, stops.held.get(number))
                     for number, registers in enumerate(stops.registers()))

    def stack(self, task: Task) -> tuple[Place, ...]:
        """Return where a task is in the kernel, innermost place first; () in user mode, or when it is no more."""
        running = next((cpu.stack for cpu in self.cpus() if cpu.tid == task.tid), None)
        if running is not None:
            return running
        with self._reading() as kernel:
            return stack.of_task(kernel, self.config.kernel, task.tid)

    def read_frame(self, pfn: int, len: int = 4096) -> bytes:
        """Return the first bytes of a page frame as they are now, read from outside: no task touches it."""
        self.machine.settle()
        return self._memory.read(pfn << 12, len)

    def hang(self, call: Call, bound: float | None = None) -> Hang | None:
        """Let the machine run until a call ends (None) or is found to hang.

        It hangs when it is seen in the same place several times in a row: a
        few times when it spins on a lock or sleeps unwakeable, many times when
        it is merely in the kernel. bound: seconds (default: the machine's);
        after that MachineTimeout is raised: neither ended nor found stuck.
        """
        end, before, times = time.monotonic() + (bound or self.machine.timeout), None, 0
        while not call.done:
            self.run_for(_BETWEEN)
            found = self._stuck(call)
            where = found and [place.function for place in found.stuck.stack[-_OUTER:]]
            before, times = where, times + 1 if where and where == before else 0
            if times > (_LOOKS if found and (isinstance(found.stuck, Sleeper) or found.stuck.spins) else _MANY_LOOKS):
                self.guest.stuck = call.text
                return found
            if time.monotonic() > end:
                raise MachineTimeout(f"{call.text} neither ended nor hangs", "it is not in one place all the time",
                                     "call.wait() with a longer bound", console=self.console())
        return None

    def _stuck(self, call: Call) -> Hang | None:
        """Look where a call is: None while it may just be working."""
        with self.machine.frozen(), self._reading_now() as kernel:
            seen = look(kernel, self.guest.names, call.text, inside=True)
            cpus, tid = self._cpus(kernel, seen), call.task.tid
            here = next((cpu for cpu in cpus if cpu.tid == tid and cpu.mode == "kernel"), None)
            found = here or stack.sleeper(kernel, seen, self.config.kernel, tid)
            return Hang(call.text, found, cpus, self._named(seen)) if found else None

    def _whereabouts(self) -> str:
        """What the CPUs are at, for the error of a call that was not answered; "" if that cannot be seen."""
        with contextlib.suppress(Exception):
            return "\n".join(str(cpu) for cpu in self.cpus() if cpu.mode != "idle")
        return ""

    def _tid(self, cpu: int) -> int:
        with self._reading_now() as kernel:
            return kernel.current(cpu).pid.value_()

    # --- the machine's settings, by name ---

    def swap(self, size: int) -> None:
        """Give the guest a swap area of `size` bytes on zram (compressed memory)."""
        self.guest.zram_swap(size)

    def memory_max(self, cgroup: str, size: int | None) -> str:
        """Make a cgroup with a memory limit in bytes (None: no limit); return its directory for task(cgroup=)."""
        path = f"/sys/fs/cgroup/{cgroup}"
        self.guest.write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
        with _but(errno.EEXIST):
            self.guest.mkdir(path)
        self.guest.write_file(f"{path}/memory.max", "max" if size is None else str(size))
        return path

    def reclaim(self, cgroup: str, size: int = 1 << 30) -> None:
        """Have the kernel push out up to `size` bytes of a cgroup's memory, to swap where there is any.

        Source: memory_reclaim(), mm/memcontrol.c. It says EAGAIN when there was
        less to be had; that is no failure here.
        """
        with _but(errno.EAGAIN):
            self.guest.write_file(f"{cgroup}/memory.reclaim", str(size))

    def thp(self, when: str) -> None:
        """Set when anonymous memory gets huge pages: "always", "madvise" (as it starts) or "never"."""
        self.guest.write_file("/sys/kernel/mm/transparent_hugepage/enabled", when)

    def ksm(self, run: bool, pages_to_scan: int = 10000, sleep_ms: int = 0) -> None:
        """Start or stop KSM's scanner."""
        base = "/sys/kernel/mm/ksm"
        self.guest.write_file(f"{base}/pages_to_scan", str(pages_to_scan))
        self.guest.write_file(f"{base}/sleep_millisecs", str(sleep_ms))
        self.guest.write_file(f"{base}/run", "1" if run else "0")

    def rule(self, name: str | None = None) -> str:
        """Set the rule that says which mappings process_vm_mmap() takes; return the one in force.

        name: one of RULES, or None to leave it as it is. Raises UsageError for
        another name, and where the kernel has no rules (base, v2). A call that the
        rule forbids gets EBUSY. Source: mm/process_vm_rule.c of series v3.
        """
        if name is not None and name not in RULES:
            raise UsageError(f"rule({name!r})", "there is no such rule", f"the rules are {', '.join(RULES)}")
        if self.guest.series != "v3":
            raise UsageError("rule()", f"the kernel of {self.guest.series} has no rules", 'use Lab(kernel="v3")')
        if name is not None:
            self.guest.write_file(_RULE, name)
        return self.guest.read_file(_RULE).decode().strip()

    # --- the machine itself ---

    def run_for(self, ms: float) -> None:
        """Let the guest run for so many milliseconds of the host's time."""
        self.machine.run_for(ms)

    def console(self, lines: int = 15) -> str:
        """Return the last lines the guest's kernel printed."""
        return self.machine.console(lines)

    def close(self) -> None:
        """End the machine; its tasks say so from here on. Closing twice is harmless."""
        if hasattr(self, "guest"):
            self.guest.close()
        self.machine.close("it was closed")
        self._finish()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = self.machine.state
        return f"<Lab {self.config.kernel}: {self.config.cpus} CPUs, {self.config.ram} MiB, {self.machine.accel}, {state}>"


def _rest(guest: Guest) -> None:
    """Let the guest run until it has taken its last clock, about a second after its boot.

    For that it stops every CPU (stop_machine(), kernel/time/timekeeping.c), and would wait for one that is held by us.
    """
    for _ in range(_CLOCK_TRIES):
        if guest.read_file("/sys/devices/system/clocksource/clocksource0/current_clocksource") == b"tsc\n":
            return
        guest.port.run_for(_A_WHILE)


def _just_born(seen: Snapshot, now: int) -> bool:
    """Whether something got its stamp in this very jiffy, so that its successor could get the same one."""
    stamps = [x.born for mm in seen.mms for x in (mm, *mm.vmas)] + [av.born for av in seen.anon_vmas.values()]
    return max(stamps, default=0) & (1 << 32) - 1 >= now & (1 << 32) - 1 > 0


@contextlib.contextmanager
def _but(harmless: int) -> Iterator[None]:
    """Let one errno pass."""
    try:
        yield
    except GuestError as e:
        if e.errno != harmless:
            raise


_kernels: dict[tuple[str, str], Kernel] = {}
_loading = threading.Lock()


def _kernel(image: Image, command_line: str, memory: Memory) -> Kernel:
    """Return the readers of an image; its debug information is loaded once in a process."""
    with _loading:
        key = (image.digest, command_line)
        if key not in _kernels:
            _kernels[key] = Kernel(image.debug, image.symbols, memory)
        return _kernels[key]


# --- one cell, one machine --------------------------------------------------------------------------------------------

_made_by_cell: dict[str, tuple[int, list[weakref.ref]]] = {}


def _close_predecessors(lab: Lab) -> None:
    """Close the labs that an earlier run of the same notebook cell made, and note this one."""
    cell = _cell()
    if cell is None:
        return
    name, run = cell
    earlier_run, labs = _made_by_cell.get(name, (run, []))
    if earlier_run != run:
        for ref in labs:
            if (old := ref()) is not None and hasattr(old, "_finish"):
                old.close()
        labs = []
    _made_by_cell[name] = (run, [*labs, weakref.ref(lab)])


def _cell() -> tuple[str, int] | None:
    """Return the running notebook cell's id (its text, where it has none) and how often anything ran.

    None outside a notebook.
    """
    try:
        shell = get_ipython()  # type: ignore[name-defined]
        source = shell.user_ns["In"][-1]
    except (NameError, KeyError, IndexError, AttributeError):
        return None
    metadata = getattr(shell, "get_parent", dict)().get("metadata", {})
    return metadata.get("cellId", source), shell.execution_count
