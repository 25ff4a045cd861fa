# SPDX-License-Identifier: MIT
"""The machine: one QEMU process, started in tens of milliseconds.

Adds: the command line (one function a group of flags, each with its reason),
the cold boot, the saved machine and its restore, stopping when nobody calls,
and the end.
Leaves out: talking to the agent (guest.py) and reading the RAM (memory.py).

Nothing of a machine has a name in a file system. RAM and console are memfds,
the channels are socket pairs, and the kernel kills QEMU when the process that
started it ends. So there is no run directory to fill, to damage or to sweep,
and a small /dev/shm does not matter.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import mmap
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache as _once
from pathlib import Path

from . import image as _image
from .errors import ImageError, MachineDied, MachineTimeout, SetupError, UsageError
from .qmp import Qmp

MIB = 1 << 20
#: Seconds a machine may take until its agent answers, cold and from a saved one.
BOOT_LIMIT, RESTORE_LIMIT = 60.0, 10.0
#: The name of the port the agent listens on (vm-image/agent/init.c).
PORT = "org.pvmlab.agent"
#: Seconds a machine goes on after a call: stopping costs as much as a call, and calls come in rows.
LINGER = 0.005
QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Config:
    """What a machine is made of.

    kernel: a bundled one's name; cpus: 1 to 4; ram: MiB, 64 to 2048;
    icount: one CPU whose instructions QEMU counts; append: words added to the
    kernel's command line.
    """

    kernel: str = "v2"
    cpus: int = 2
    ram: int = 128
    icount: bool = False
    append: str = ""

    def __post_init__(self) -> None:
        if self.icount and self.cpus != 1:
            raise UsageError(f"icount with {self.cpus} CPUs", "QEMU counts instructions on one CPU only",
                             "Lab(icount=True, cpus=1)")
        if not (isinstance(self.cpus, int) and 1 <= self.cpus <= 4):
            raise UsageError(f"cpus={self.cpus!r}", "the kernel is built for 1 to 4", "Lab(cpus=2)")
        if not (isinstance(self.ram, int) and 64 <= self.ram <= 2048):
            raise UsageError(f"ram={self.ram!r}", "it is in MiB, from 64 to 2048", "Lab(ram=128)")


# --- the command line -------------------------------------------------------------------------------------------------

def _board(config: Config) -> list[str]:
    """microvm: no PCI, no ACPI. PIT, PIC and RTC because emulated CPUs cannot calibrate their TSC without."""
    return ["-M", "microvm,pit=on,pic=on,rtc=on,acpi=off,x-option-roms=off,isa-serial=on,memory-backend=ram",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]


def _cpu(config: Config) -> list[str]:
    """A named model, never `max`: that one has 5-level paging, and differs between QEMUs."""
    return ["-cpu", "Skylake-Server-v1", "-smp", str(config.cpus)]


def _accel(config: Config, accel: str) -> list[str]:
    """A small translation buffer keeps a stopped machine at tens of MB."""
    if accel == "kvm":
        return ["-accel", "kvm"]
    count = ["-icount", "shift=3,sleep=off"] if config.icount else []
    thread = "single" if config.icount else "multi"
    return ["-accel", f"tcg,tb-size=32,thread={thread}", *count]


def _ram(config: Config, fd: int) -> list[str]:
    """The guest's memory is a file we share: what the kernel writes, we can read."""
    return ["-m", f"{config.ram}M",
            "-object", f"memory-backend-file,id=ram,size={config.ram}M,mem-path=/proc/self/fd/{fd},share=on"]


def _channels(console: int, agent: int) -> list[str]:
    """The console goes to a file, the agent's port to a socket; no network, no folder of the host's."""
    return ["-chardev", f"file,id=console,path=/proc/self/fd/{console},append=on", "-serial", "chardev:console",
            "-device", "virtio-serial-device,max_ports=2",
            "-chardev", f"socket,id=agent,fd={agent}", "-device", f"virtserialport,chardev=agent,name={PORT}"]


def _kernel(config: Config, img: _image.Image) -> list[str]:
    """Direct boot of the ELF kernel by PVH: no decompression in the guest."""
    return ["-kernel", str(img.vmlinux), "-initrd", str(img.initramfs), "-append", command_line(config)]


def command_line(config: Config) -> str:
    """Return the kernel's command line: quick, and with the stamps that tell a frame from its successor.

    loglevel: what is no warning is not printed, what is one must be seen.

    tsc_early_khz: an emulated TSC cannot be calibrated, and without one the
    stamps tick in milliseconds. Any number near the truth will do: nothing here
    is measured in the guest's time. With icount the TSC ticks at 1 GHz.
    reboot=t: a panic ends QEMU at once, without asking a keyboard controller
    that is not there for ten seconds and more.
    nolapic_timer: its calibration takes 0.2 s and fails now and then, so that
    one machine would tick by it and the next would not; the PIT always does.
    """
    stamps = "" if config.icount else "page_owner=on slub_debug=U,vm_area_struct,anon_vma,mm_struct,task_struct"
    words = ["console=ttyS0 loglevel=5 panic=-1 reboot=t nokaslr nopti mitigations=off no_timer_check nolapic_timer irqaffinity=0",
             f"tsc=reliable tsc_early_khz={1000000 if config.icount else 2500000} lpj=2500000 random.trust_cpu=on",
             "rcupdate.rcu_expedited=1", stamps, config.append]
    return " ".join(w for w in words if w)


# --- one machine ------------------------------------------------------------------------------------------------------

class Machine:
    """A running QEMU with its RAM, console and agent port.

    sock:    stream socket to the agent (vm-image/agent/abi.h)
    ram:     read-only view of the guest's physical memory, byte 0 at physical address 0
    timeout: seconds a call into the guest may take unless it says otherwise

    A machine stands still except inside `with machine.running():`.
    """

    timeout = 20.0

    def __init__(self, config: Config, accel: str, img: _image.Image, *, saved: Path | None = None) -> None:
        self.config, self.image, self.accel = config, img, accel
        self._lock = threading.RLock()
        self._users, self._idle_since = 0, 0.0      # blocks of running() entered; when the last was left
        self._still = True                          # the CPUs were told to stop, or never told to go
        self._stopping: concurrent.futures.Future | None = None
        self._frozen = 0                            # blocks of frozen() entered
        self._dead = ""
        #: How the CPUs are let run, and what a call that is not answered should hear; stops.py has its own of both.
        self.go: Callable[[], object] = lambda: self.qmp.post("cont")
        self.whereabouts: Callable[[], str] = str
        with contextlib.ExitStack() as undo:
            self._ram_fd = _memfd("pvmlab-ram", config.ram * MIB, undo)
            self._console_fd = _memfd("pvmlab-console", 0, undo)
            log = _memfd("pvmlab-qemu", 0, undo)
            self.sock, theirs = socket.socketpair()
            undo.callback(self.sock.close)
            undo.callback(theirs.close)
            argv = [QEMU, *_board(config), *_cpu(config), *_accel(config, accel), *_ram(config, self._ram_fd),
                    *_channels(self._console_fd, theirs.fileno())]
            fds = [self._ram_fd, self._console_fd, theirs.fileno()]
            if saved:
                state = os.open(saved / "state", os.O_RDONLY)
                undo.callback(os.close, state)
                argv += ["-incoming", "defer"]
                fds.append(state)
            else:
                argv += [*_kernel(config, img), "-S"]
            self._log_fd = log
            self.qmp = _spawn(argv, fds, log, undo)
            if saved:  # while QEMU starts
                _copy_sparse(saved / "ram", self._ram_fd)
            _greet(self.qmp, log)
            # The state of a saved machine leaves out the RAM, which is a file already.
            self.qmp.call("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
            if saved:
                self.qmp.call("migrate-incoming", uri=f"fd:{state}")
            self.ram = mmap.mmap(self._ram_fd, config.ram * MIB, prot=mmap.PROT_READ)
            self._undo = undo.pop_all()
        theirs.close()

    @classmethod
    def boot(cls, config: Config, accel: str, img: _image.Image) -> Machine:
        """Start a machine from nothing. It stands still before its first instruction."""
        return cls(config, accel, img)

    @classmethod
    def restore(cls, config: Config, accel: str, img: _image.Image, saved: Path) -> Machine:
        """Start a machine where a saved one was. Raises MachineDied or MachineTimeout when it does not fit."""
        machine = cls(config, accel, img, saved=saved)
        try:
            machine.qmp.wait_event(lambda e: e["event"] == "RESUME", RESTORE_LIMIT)
            machine._stop()
        except BaseException:
            machine.close()
            raise
        return machine

    def save(self, directory: Path) -> None:
        """Write RAM and device state to a directory; the machine cannot run afterwards.

        The state is taken from a running machine, so that a restored one runs
        at once. RAM is not in it (x-ignore-shared): that file is copied.
        """
        with self.running(), open(directory / "state", "wb") as state:
            self.qmp.give_fd(state.fileno(), "state")
            self.qmp.call("migrate", uri="fd:state")
            self._wait_migrated()
        _save_sparse(self._ram_fd, directory / "ram")

    def _wait_migrated(self) -> None:
        end = time.monotonic() + RESTORE_LIMIT
        while (status := self.qmp.call("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > end:
                raise MachineTimeout("the booted machine could not be saved", f"QEMU says {status}")
            time.sleep(0.002)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the guest's CPUs run inside the block; soon after it they stand still again."""
        self.check()
        with self._lock:
            self._users += 1
            if self._still:
                self._still = False
                self.go()
                self.qmp.every(LINGER, self._stop_if_idle)
        try:
            yield
        except MachineTimeout as e:
            e.console = e.console or self.console()
            e.where = e.where or self.whereabouts()
            raise
        except MachineDied:
            self._explain_end()
            raise
        finally:
            with self._lock:
                self._users -= 1
                self._idle_since = time.monotonic()

    def _stop_if_idle(self) -> bool:
        """Stop the CPUs when nobody has called for a while; return whether to look again.

        Runs in the channel's thread, which must never wait for the lock.
        """
        if not self._lock.acquire(blocking=False):
            return True
        try:
            if self._dead or self._still:
                return False
            if self._users or time.monotonic() - self._idle_since < LINGER:
                return True
            self._stop()
            return False
        finally:
            self._lock.release()

    def _stop(self) -> None:
        self._still = True
        self._stopping = self.qmp.post("stop")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the CPUs stand still inside the block, even inside running(); then they go on if they were to."""
        with self._lock:
            self.check()
            self.qmp.call("stop")
            self._frozen += 1
            try:
                yield
            finally:
                self._frozen -= 1
                if not (self._still or self._frozen or self._dead):
                    self.go()

    def settle(self) -> None:
        """Wait until the CPUs stand still; inside running() they go on. Raises MachineDied or MachineTimeout."""
        with self._lock:
            if not (self._still or self._users or self._dead):
                self._stop()
            pending = self._stopping if self._still else None
        if pending is None:
            return
        try:
            pending.result(5.0)
        except concurrent.futures.TimeoutError as e:
            raise MachineTimeout("the machine does not stop", console=self.console()) from e
        except Exception as e:
            self.check()
            raise MachineDied("the machine does not stop", str(e), "start a new Lab", console=self.console()) from e

    @property
    def state(self) -> str:
        """"running", "standing still" or why it is no more, in words."""
        if self._dead:
            return f"closed: {self._dead}"
        if self.qmp.process.poll() is not None:
            return "dead"
        return "running" if self._users else "standing still"

    def run_for(self, ms: float) -> None:
        """Let the guest run for so many milliseconds of the host's time."""
        with self.running():
            end = time.monotonic() + ms / 1000
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
                self.check()

    def check(self) -> None:
        """Raise MachineDied, with the console's last lines, if QEMU has ended."""
        if self._dead:
            raise MachineDied("this machine is closed", self._dead, "start a new Lab: Lab(...)")
        code = self.qmp.process.poll()
        if code is None:
            return
        console, panic = self.console(), self._panic()
        why = "the guest's kernel panicked" if panic else f"QEMU ended with status {code}: {self._qemu_says()}"
        self.close(why)
        raise MachineDied("the virtual machine died", why, "start a new Lab: Lab(...)", console=panic or console)

    def _explain_end(self) -> None:
        """Its channel closes a little before the process has ended: then say what check() says."""
        if not self._dead:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.qmp.process.wait(2.0)
            self.check()

    def console(self, lines: int = 15) -> str:
        """Return the last lines the guest's kernel printed."""
        return "\n".join(self.console_text().splitlines()[-lines:])

    def console_text(self) -> str:
        """Return all that the guest's kernel printed since this machine started."""
        if self._dead:
            return self._last_console
        size = os.fstat(self._console_fd).st_size
        return os.pread(self._console_fd, size, 0).decode(errors="replace").replace("\r", "")

    def _panic(self) -> str:
        """The console from its last "Kernel panic" on: the reason stands there, a stack and registers below."""
        lines = self.console_text().splitlines()
        first = max((i for i, line in enumerate(lines) if "Kernel panic" in line), default=len(lines))
        return "\n".join(lines[first:first + 15])

    def _qemu_says(self) -> str:
        text = os.pread(self._log_fd, 4096, 0).decode(errors="replace")
        said = [line for line in text.splitlines() if "doesn't support requested feature" not in line]
        return said[-1] if said else "no message"

    def close(self, why: str = "it was closed") -> None:
        """End QEMU and give everything back. Closing twice is harmless."""
        with self._lock:
            if self._dead:
                return
            self._last_console = self.console_text()
            self._dead = why
        self._undo.close()
        with contextlib.suppress(BufferError):  # somebody still looks at the RAM: the view keeps it
            self.ram.close()


def _spawn(argv: list[str], fds: list[int], log: int, undo: contextlib.ExitStack) -> Qmp:
    """Start QEMU. Raises SetupError when it is not there."""
    if shutil.which(QEMU) is None:
        raise SetupError(f"{QEMU} is not installed", "the lab's machine is a QEMU process",
                         "apt-get install qemu-system-x86, or `make lab`")
    try:
        qmp = Qmp(argv, fds, log)
    except OSError as e:
        raise SetupError("cannot start QEMU", str(e), "apt-get install qemu-system-x86 util-linux") from e
    undo.callback(qmp.close)
    return qmp


def _greet(qmp: Qmp, log: int) -> None:
    """Wait for QEMU's greeting. Raises MachineDied with its own words when it refuses its command line."""
    try:
        qmp.connect(RESTORE_LIMIT)
    except (MachineDied, MachineTimeout) as e:
        said = os.pread(log, 4096, 0).decode(errors="replace").strip().splitlines()
        raise MachineDied("QEMU did not start", said[-1] if said else str(e), "python -m pvmlab doctor") from e


# --- files without names ----------------------------------------------------------------------------------------------

def _memfd(name: str, size: int, undo: contextlib.ExitStack) -> int:
    """Make a file that lives in memory and nowhere else; refused when the memory is not there."""
    available = available_memory()
    if size > available:
        raise SetupError(f"a machine with {size // MIB} MiB does not fit", f"{available // MIB} MiB are free here",
                         "close other labs, or ask for less: Lab(ram=64)")
    fd = os.memfd_create(name)
    undo.callback(os.close, fd)
    os.ftruncate(fd, size)
    return fd


def available_memory() -> int:
    """Bytes that can be had: the computer's, or what the container's limit leaves."""
    with open("/proc/meminfo") as f:
        free = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        cached = next(int(line.split()[1]) for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
                      if line.startswith("inactive_file "))
        free = min(free, limit - used + cached)
    return free


_PAGE = 4096
_ZEROS = bytes(_PAGE)


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the parts of a file that hold data."""
    end, at = os.fstat(fd).st_size, 0
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at - start


def _copy_extents(source: int, target: int) -> None:
    for offset, length in _extents(source):
        os.lseek(target, offset, os.SEEK_SET)
        while length:
            done = os.sendfile(target, source, offset, length)
            if not done:
                raise MachineDied("the saved machine is cut short", f"no data at {offset}")
            offset, length = offset + done, length - done


def _copy_sparse(path: Path, target: int) -> None:
    with open(path, "rb") as f:
        if os.fstat(f.fileno()).st_size != os.fstat(target).st_size:
            raise MachineDied("the saved machine is damaged", f"{path} has another size")
        _copy_extents(f.fileno(), target)


def _save_sparse(source: int, path: Path) -> None:
    """Copy a file and leave out pages full of zeros: a hole reads the same and costs nothing to restore."""
    with open(path, "wb") as f:
        os.ftruncate(f.fileno(), os.fstat(source).st_size)
        for offset, length in _extents(source):
            for at in range(offset, offset + length, _PAGE):
                if (page := os.pread(source, _PAGE, at)) != _ZEROS:
                    os.pwrite(f.fileno(), page, at)


# --- from nothing to a machine whose agent answers ---------------------------------------------------------------------

def machine(config: Config, greet, rest=lambda machine: None) -> Machine:
    """Return a pristine machine: restored when one was saved, else booted (and saved for the next time).

    greet(machine): returns when the machine's agent answers, raises otherwise;
    called on each machine tried, last on the one returned. rest(machine):
    returns when a booted one is done with what it does later on its own, so
    that a saved one never does it. Raises UsageError, ImageError, SetupError
    (no QEMU, no memory), MachineDied or MachineTimeout.
    """
    img = _image.image(config.kernel)
    accel = acceleration(config, img, greet)
    home = _home(config, accel, img)
    _image.sweep(home.parent)
    with contextlib.suppress(MachineDied, MachineTimeout, ImageError, FileNotFoundError):
        if home.exists():
            return restored(config, accel, img, home, greet)
    shutil.rmtree(home, ignore_errors=True)
    try:
        _make_saved(config, accel, img, greet, rest, home)
        return restored(config, accel, img, home, greet)
    except (OSError, MachineDied, MachineTimeout, ImageError, SetupError):
        # No room for a saved machine, or it will not load: a booted one serves as well, only later.
        shutil.rmtree(home, ignore_errors=True)
        return booted(config, accel, img, greet)


def restored(config: Config, accel: str, img: _image.Image, saved: Path, greet) -> Machine:
    """Restore a saved machine. A damaged one may load and then not answer: it gets less time than others."""
    with contextlib.suppress(PermissionError):
        os.utime(saved)  # still in use: see image.sweep()
        os.utime(saved.parent)
    again = Machine.restore(config, accel, img, saved)
    try:
        again.timeout = RESTORE_LIMIT
        greet(again)
        again.timeout = Machine.timeout
    except BaseException:
        again.close()
        raise
    return again


def booted(config: Config, accel: str, img: _image.Image, greet) -> Machine:
    """Boot a machine and wait for its agent."""
    fresh = Machine.boot(config, accel, img)
    try:
        fresh.timeout = BOOT_LIMIT
        greet(fresh)
        fresh.timeout = Machine.timeout
    except BaseException:
        fresh.close()
        raise
    return fresh


def _make_saved(config: Config, accel: str, img: _image.Image, greet, rest, home: Path) -> None:
    part = home.with_name(f".{home.name}.{os.getpid()}.{threading.get_ident()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    try:
        _need_room(part, 64 * MIB)
        fresh = booted(config, accel, img, greet)
        try:
            rest(fresh)
            fresh.save(part)
        finally:
            fresh.close()
        with contextlib.suppress(OSError):  # somebody else was quicker: theirs is as good
            os.rename(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _need_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path).free
    if free < size:
        raise SetupError(f"no room for a saved machine in {path.parent}", f"{free // MIB} MiB are free",
                         "make room, or set PVMLAB_CACHE to another directory")


def _home(config: Config, accel: str, img: _image.Image) -> Path:
    """Where a machine like this is saved: another QEMU, command line or image is another machine."""
    flags = [*_board(config), *_cpu(config), *_accel(config, accel), *_ram(config, 0), command_line(config)]
    key = json.dumps([qemu_version(), flags, img.digest, host_cpu()])
    return _image.cache() / "machines" / hashlib.sha256(key.encode()).hexdigest()[:24]


@_once
def host_cpu() -> str:
    with open("/proc/cpuinfo") as f:
        return next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "")


@_once
def qemu_version() -> str:
    """Return QEMU's version line. Raises SetupError when there is no QEMU."""
    try:
        done = subprocess.run([QEMU, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        raise SetupError(f"{QEMU} does not run", str(e), "apt-get install qemu-system-x86, or `make lab`") from e
    return done.stdout.splitlines()[0]


# --- acceleration: probed, never assumed --------------------------------------------------------------------------------

def acceleration(config: Config, img: _image.Image, greet) -> str:
    """Return "kvm" where it really runs a guest, else "tcg"; remembered for this computer and image.

    /dev/kvm may open, accept a VM and never run an instruction. PVMLAB_ACCEL
    overrides the probe.
    """
    chosen = os.environ.get("PVMLAB_ACCEL", "")
    if chosen not in ("", "tcg", "kvm"):
        raise UsageError(f"PVMLAB_ACCEL={chosen!r}", "it is tcg or kvm", "unset PVMLAB_ACCEL to have it probed")
    if chosen or config.icount or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return chosen if chosen and not config.icount else "tcg"
    memory = _image.cache() / f"accel-{hashlib.sha256((qemu_version() + host_cpu()).encode()).hexdigest()[:16]}"
    if not memory.exists():
        _image.write_whole(memory, _probe(config, img, greet).encode())
    return "kvm" if memory.read_text() == "kvm" else "tcg"


def _probe(config: Config, img: _image.Image, greet) -> str:
    try:
        probe = Machine.boot(config, "kvm", img)
    except (MachineDied, MachineTimeout, SetupError):
        return "tcg"
    try:
        probe.timeout = 3.0
        greet(probe)
        return "kvm"
    except (MachineDied, MachineTimeout):
        return "tcg"
    finally:
        probe.close()
