# SPDX-License-Identifier: MIT
"""Tasks in the guest, driven from Python: real calls, real processes.

Adds: Guest (files, swap, starting tasks), Task (one method for each call a
lesson makes, and syscall() for the rest), Call (what runs while something else
runs) and expect(). Leaves out: the machine itself (a Port is handed in; see
wire.Port) and looking at memory from outside (see look).

    guest = Guest(port)
    server = guest.spawn("server")
    buf = server.mmap(pages=4)
    server.write(buf, b"hello")

Lengths are bytes (len=) or pages (pages=). Values that a system call takes
reach the kernel as they are, wrong ones too: len=-1 is 2**64 - 1 there. Only
what 64 bits cannot express is refused on this side.
"""

from __future__ import annotations

import signal as _signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, isfunction, signature
from typing import Any

from . import abi, calls
from .arguments import c_string, unsigned
from .errors import (ExpectationFailed, GuestError, ImageError, MachineTimeout,
                     PvmlabError, TaskFault, TaskGone, UsageError, errno_name)
from .meanings import errno_meaning
from .requests import (BUILDERS, Request, bounded, call_text,
                       clone_mapping_request, clone_request, madvise_request,
                       mmap_request, mprotect_request, mremap_request,
                       munmap_request, name_bytes, padded, read_request,
                       stamp_request, syscall_request, task_op, touch_request,
                       write_request)
from .wire import Port, Wire

#: The longest read() and write() of a task's memory, in bytes.
READ_MAX = 64 << 20
#: Where tasks run (see agent/init.c, run_on): CPU masks.
_HOME, _ELSEWHERE = 1, (1 << 64) - 2
#: Bytes that one frame of write_file() carries beside the path.
_FILE_CHUNK = 1 << 18
#: Seconds that a call which was given up on gets to come back before the next.
_SETTLE = 3.0
#: How PID 1's child ends when a task cannot even be started (agent/init.c).
_NOT_STARTED = {125: "there is no such cgroup directory, or it takes no tasks",
                126: "its output file cannot be written",
                127: "its program is missing or does not run"}


@dataclass(frozen=True, slots=True)
class Output:
    """What a program that ran in the guest wrote, and how it ended.

    status: exit code, or the negative number of the signal that killed it
    """

    status: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent's greeting: its ABI version and uname's kernel release."""

    abi: int
    release: str


# ---- how tasks end ------------------------------------------------------------

def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_text(status: int) -> str:
    """Say how a process ended; status as wait4() gives it, or -1: unknown."""
    if status < 0:
        return "it is gone"
    if status & 0x7F:
        return f"it was killed by {_signal_name(status & 0x7F)}"
    return f"it exited with code {status >> 8 & 0xFF}"


_FAULT_CODES = {(11, 1): "nothing is mapped there (SEGV_MAPERR)",
                (11, 2): "the mapping does not allow it (SEGV_ACCERR)",
                (11, 4): "the protection key forbids it (SEGV_PKUERR)",
                (11, 128): "it is no user address (SI_KERNEL)",
                (7, 2): "there is no page behind the mapping (BUS_ADRERR)",
                (7, 4): "the memory is poisoned (BUS_MCEERR_AR)"}


def _fault(text: str, reply: abi.Frame) -> TaskFault:
    signal, code, address = reply.args[:3]
    why = _FAULT_CODES.get((signal, code), f"si_code {code}")
    return TaskFault(text, signal, code, address,
                     f"{_signal_name(signal)} at {address:#x}: {why}")


# ---- calls -------------------------------------------------------------------

class Call:
    """An operation that a task is doing, or has done."""

    def __init__(self, task: Task, request: Request, seq: int) -> None:
        self.task, self.request, self.seq = task, request, seq
        self._kept = False                  # by a learner, who will wait for it
        self._reply: abi.Frame | None = None

    @property
    def text(self) -> str:
        """The call as text, such as "server: munmap(0x1000, 0)"."""
        return f"{self.task.name}: {self.request.text}"

    @property
    def done(self) -> bool:
        """Whether its reply has come. Does not let the machine run."""
        if self._reply is None:
            self._reply = self.task.guest.wire.take(self.seq)
        return self._reply is not None

    def wait(self, timeout: float | None = None) -> Any:
        """Let the machine run until the call is over; return its result.

        timeout: seconds (default: the machine's). Raises what the call would
        have raised, or MachineTimeout: then it goes on, wait() again.
        """
        if not self.done:
            with self.task.guest.port.running():
                self._await(timeout)
        return self._result()

    def interrupt(self) -> None:
        """End it early: a loop ends with its result so far, a blocking system
        call with EINTR (it gets a signal). Does not wait for the end."""
        if not self.done:
            self.task._control("PVM_INTERRUPT", "interrupt()", args=padded(self.seq))

    def stop(self, timeout: float | None = None) -> Any:
        """interrupt() it and return what wait() does."""
        self.interrupt()
        return self.wait(timeout)

    def _await(self, timeout: float | None = None) -> None:
        if self._reply is None:
            self._reply = self.task.guest.wait(self.seq, timeout, self.text)

    def _result(self) -> Any:
        return self.task._understand(self.request, self._reply)

    def __repr__(self) -> str:
        return f"<Call {self.text}: {'done' if self.done else 'running'}>"


def _says_how(cls: type) -> type:
    """Have every method of a class refuse arguments that do not fit with a UsageError that says which it takes."""
    for name, method in vars(cls).items():
        if isfunction(method) and not name.startswith("_"):
            setattr(cls, name, _guarded(method))
    return cls


def _guarded(method: Callable) -> Callable:
    takes = signature(method)

    @wraps(method)
    def call(self: Task, *args: Any, **named: Any) -> Any:
        try:
            return method(self, *args, **named)
        except TypeError:
            try:
                takes.bind(self, *args, **named)
            except TypeError as misfit:
                raise UsageError(self._say(f"{method.__name__}()"), str(misfit), _how(method, takes)) from None
            raise
    return call


def _how(method: Callable, takes: Signature) -> str:
    """"it is read(addr, len)": the types left out."""
    plain = [p.replace(annotation=Parameter.empty) for p in [*takes.parameters.values()][1:]]
    return f"it is {method.__name__}{Signature(plain)}"


@_says_how
class Task:
    """A process or thread in the guest that does what it is told.

    name, pid, tid as the guest's kernel has them; scratch: the address of the
    area in its memory where arguments are laid down.
    """

    def __init__(self, guest: Guest, name: str, slot: int, pid: int, tid: int,
                 scratch: int) -> None:
        self.guest, self.name, self.slot = guest, name, slot
        self.pid, self.tid, self.scratch = pid, tid, scratch
        self._end = ""                      # how it ended, once it has
        self._current: Call | None = None
        self._elsewhere = self._pinned = False

    # -- memory, by the task's own loads and stores --

    def read(self, addr: int, len: int) -> bytes:
        """Load `len` bytes by the task's own loads (they fault pages in).

        Raises TaskFault where a load gets SIGSEGV or SIGBUS, UsageError for a
        length that is negative or above READ_MAX.
        """
        bounded(len, READ_MAX, "bytes", self._say(call_text("read", addr, len)))
        step = int(abi.limits().PVM_SCRATCH)
        return b"".join(self._do(read_request(self, addr + at, min(step, len - at)))
                        for at in range(0, len, step))

    def write(self, addr: int, data: bytes) -> int:
        """Store bytes by the task's own stores; return how many.

        Raises TaskFault where a store gets SIGSEGV or SIGBUS; what lies before
        that byte is stored then.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(self._say("write()"), f"{data!r} is not bytes",
                             'pass bytes, such as b"hello"')
        data = bytes(data)
        bounded(len(data), READ_MAX, "bytes", self._say("write()"))
        step = int(abi.limits().PVM_SCRATCH)
        return sum(self._do(write_request(self, addr + at, data[at:at + step]))
                   for at in range(0, len(data), step))

    def touch(self, addr: int, pages: int = 1, write: bool = False) -> int:
        """Read one byte of each page, or (write=True) store it back unchanged.

        Returns the number of pages. Raises TaskFault.
        """
        return self._do(touch_request(self, addr, pages, write))

    def stamp(self, addr: int, pages: int = 1, *, first: int = 1,
              step: int = 1) -> int:
        """Store a number of 8 bytes at each page's start: first + i * step.

        With step=0 all pages get the same content (for KSM). Raises TaskFault.
        """
        return self._do(stamp_request(self, addr, pages, first=first, step=step))

    # -- memory, by system calls --

    def mmap(self, addr: int = 0, *, len: int | None = None,
             pages: int | None = None, prot: int | None = None,
             flags: int | None = None, fd: int = -1, offset: int = 0) -> int:
        """mmap(2) (mm/mmap.c, ksys_mmap_pgoff); return the address.

        By default readable, writable, private, and anonymous if fd is -1.
        """
        return self._do(mmap_request(self, addr, len=len, pages=pages, prot=prot,
                                     flags=flags, fd=fd, offset=offset))

    def munmap(self, addr: int, *, len: int | None = None,
               pages: int | None = None) -> int:
        """munmap(2) (mm/mmap.c, __vm_munmap)."""
        return self._do(munmap_request(self, addr, len=len, pages=pages))

    def mprotect(self, addr: int, prot: int, *, len: int | None = None,
                 pages: int | None = None) -> int:
        """mprotect(2) (mm/mprotect.c, do_mprotect_pkey)."""
        return self._do(mprotect_request(self, addr, prot, len=len, pages=pages))

    def madvise(self, addr: int, advice: int, *, len: int | None = None,
                pages: int | None = None) -> int:
        """madvise(2) (mm/madvise.c, do_madvise)."""
        return self._do(madvise_request(self, addr, advice, len=len, pages=pages))

    def mremap(self, addr: int, *, len: int | None = None, pages: int | None = None,
               new_len: int | None = None, new_pages: int | None = None,
               flags: int = calls.MREMAP_MAYMOVE, new_addr: int = 0) -> int:
        """mremap(2) (mm/mremap.c); return the new address.

        len/pages: the old length; without a new one it stays the same.
        """
        return self._do(mremap_request(
            self, addr, len=len, pages=pages, new_len=new_len, new_pages=new_pages,
            flags=flags, new_addr=new_addr))

    def process_vm_mmap(self, source: Task | int, src_addr: int, *,
                        len: int | None = None, pages: int | None = None,
                        dst_addr: int = 0, flags: int = 0) -> int:
        """Map a piece of `source`'s memory into this task; return its address.

        source: a Task or a process id; flags: calls.PVMMAP_*. Raises
        GuestError whose meaning is the contract's for that errno.
        """
        return self._do(clone_mapping_request(
            self, source, src_addr, len=len, pages=pages, dst_addr=dst_addr,
            flags=flags))

    def process_vm_readv(self, other: Task | int, remote_addr: int,
                         local_addr: int, len: int) -> int:
        """Copy bytes from another task's memory into this one's; return how
        many (mm/process_vm_access.c, process_vm_rw)."""
        return self._do(BUILDERS["process_vm_readv"](
            self, other, remote_addr, local_addr, len))

    def process_vm_writev(self, other: Task | int, remote_addr: int,
                          local_addr: int, len: int) -> int:
        """Copy bytes of this task's memory into another one's; return how
        many (mm/process_vm_access.c, process_vm_rw)."""
        return self._do(BUILDERS["process_vm_writev"](
            self, other, remote_addr, local_addr, len))

    def limit(self, resource: int, size: int) -> None:
        """prlimit64(2): set its own limit, soft and hard (kernel/sys.c, do_prlimit).

        resource: calls.RLIMIT_AS, calls.RLIMIT_DATA or any number; size: bytes, for these two.
        """
        self.syscall("prlimit64", 0, resource, calls.new("struct rlimit64 *", {"rlim_cur": size, "rlim_max": size}), 0)

    # -- files and anything else --

    def open(self, path: str, flags: int = 0, mode: int = 0o600) -> int:
        """open(2); return the descriptor. flags: os.O_*."""
        return self.syscall("open", path, flags, mode)

    def memfd(self, name: str, flags: int = 0) -> int:
        """memfd_create(2); return the descriptor."""
        return self.syscall("memfd_create", name, flags)

    def syscall(self, call: str | int, *args: Any) -> int:
        """Make any system call; return its result, 0 or above.

        call: a name or an x86-64 number. args: up to six of int, None (null),
        Task (its pid), str (a path), bytes, bytearray, cffi data: the last two
        are laid down in the task and read back after the call.
        Raises GuestError; UsageError for unknown names and types.
        """
        return self._do(syscall_request(self, call, *args))

    def start(self, operation: str | int, *args: Any, **named: Any) -> Call:
        """Begin an operation and return its Call at once.

        operation: a name in BUILDERS, with that method's arguments, or any
        system call, with its raw ones. When this returns, the task has it.
        It runs on another CPU than everything else, unless pin() said where.
        """
        build = BUILDERS.get(operation)
        request = build(self, *args, **named) if build else \
            syscall_request(self, operation, *args)
        with self.guest.port.running():
            call = self._begin(request, elsewhere=True)
            call._kept = True
            self.guest._request("PVM_PING", call.text)
        return call

    def pin(self, cpu: int | None) -> None:
        """Let it run on that CPU only, now and from here on; None undoes it.

        Without, calls run on CPU 0 and what start() begins on the others.
        """
        text = f"pin({cpu})"
        mask = _HOME if cpu is None else 1 << bounded(cpu, 63, "as CPU", self._say(text))
        reply = self._control("PVM_PLACE", text, args=padded(mask))
        self.guest._check(reply, self._say(text), "sched_setaffinity")
        self._pinned, self._elsewhere = cpu is not None, False

    # -- other tasks --

    def fork(self, name: str) -> Task:
        """fork(): a child with a copy of this memory; return it as a Task.

        Its end is this task's to wait for: until syscall("wait4", …) it stays
        a zombie.
        """
        return self._clone(name, "fork")

    def thread(self, name: str) -> Task:
        """Make a thread of this process; its stack lies in the task's bss, so
        no mapping is added. At most eight with vfork_child() together."""
        return self._clone(name, "thread")

    def vfork_child(self, name: str) -> Task:
        """Make a process that shares this memory, as vfork() does (CLONE_VM),
        but let this task go on meanwhile."""
        return self._clone(name, "vfork_child")

    def _clone(self, name: str, kind: str) -> Task:
        child = self.guest._task(name, self._do(clone_request(name, kind)))
        child._pinned = self._pinned        # the kernel lets it inherit that too
        return child

    # -- the end --

    def exit(self, code: int = 0) -> None:
        """Let the task exit; returns when it has. A thread exits alone."""
        text = f"exit({code})"
        bounded(code, 255, "as exit code", self._say(text))
        request = Request(task_op("PVM_EXIT"), text, "exit", code=code)
        with self.guest.port.running():
            call = self._begin(request)
            call._await()
        self._note_end(call._reply)

    def kill(self, sig: int = _signal.SIGKILL, *, wait: bool = True) -> None:
        """Send a signal; for SIGKILL, return when the task is dead.

        wait=False returns at once. Raises MachineTimeout if it does not die.
        """
        with self.guest.port.running():
            reply = self._control("PVM_KILL", f"kill({_signal_name(sig)})", code=sig)
            if sig == _signal.SIGKILL and wait and not self._end:
                self.join()
        self.guest._check(reply, self._say(f"kill({sig})"), "kill")

    def join(self, timeout: float | None = None) -> str:
        """Wait until the task is dead; return how it ended, as text."""
        if not self._end:
            reply = self._control("PVM_AWAIT", "join()", timeout=timeout)
            self._note_end(reply)
        return self._end

    @property
    def alive(self) -> bool:
        """Whether it lives; a zombie does not."""
        if self._end or self.guest.closed:
            return False
        self._control("PVM_STATUS", "alive")
        return not self._end

    # -- sending and understanding --

    def _say(self, text: str) -> str:
        return f"{self.name}: {text}"

    def _do(self, request: Request) -> Any:
        """One operation, from its start to its result."""
        with self.guest.port.running():
            call = self._begin(request)
            try:
                call._await()
            except MachineTimeout:
                self.guest.stuck = call.text
                raise
        return call._result()

    def _begin(self, request: Request, elsewhere: bool = False) -> Call:
        text = self._say(request.text)
        self._check_usable(text)
        self._settle_current(text)
        self._move(elsewhere, text)
        wire = self.guest.wire
        call = self._current = Call(self, request, wire.number())
        wire.post(call.seq, request.op, what=text, slot=self.slot,
                  code=request.code, want=request.want, args=request.args,
                  payload=request.payload)
        return call

    def _settle_current(self, text: str) -> None:
        """A task does one thing at a time. One that was given up on (Ctrl-C, a
        timeout) is waited for; its result is dropped."""
        current = self._current
        if current is None or current.done or not self.guest.wire.awaits(current.seq):
            return
        if current._kept:
            raise UsageError(text, f"{self.name} is still in {current.request.text}",
                             "wait() for that Call or stop() it, or use a thread")
        try:
            current._await(_SETTLE)
        except MachineTimeout as e:
            raise UsageError(text, f"{self.name} is still in {current.request.text}, which was given up on",
                             "use another task, or start afresh: lab = Lab(...)") from e

    def _move(self, elsewhere: bool, text: str) -> None:
        """Place it before its operation; on one CPU this fails, and may."""
        if self._pinned or elsewhere == self._elsewhere:
            return
        wire, mask = self.guest.wire, _ELSEWHERE if elsewhere else _HOME
        seq = wire.number()
        wire.post(seq, abi.enum("pvm_init_op").PVM_PLACE, what=text,
                  slot=self.slot, args=padded(mask))
        wire.forget(seq)
        self._elsewhere = elsewhere

    def _check_usable(self, text: str) -> None:
        self.guest._check_open(text)
        if self._end:
            raise TaskGone(text, self._end, "spawn another task")

    def _control(self, op: str, text: str, timeout: float | None = None,
                 **fields: Any) -> abi.Frame:
        """Something PID 1 does about this task, busy or not."""
        self._check_usable(self._say(text))
        with self.guest.port.running():
            reply = self.guest._request(op, self._say(text), timeout=timeout,
                                        slot=self.slot, **fields)
        self._note_end(reply)
        return reply

    def _note_end(self, reply: abi.Frame) -> None:
        status = abi.enum("pvm_status")
        if reply.status == status.PVM_DIED:
            self._end = end_text(reply.result)
        elif reply.status == status.PVM_NO_TASK:
            self._end = "it is gone"

    def _understand(self, request: Request, reply: abi.Frame) -> Any:
        """Turn a reply into the result, or into the error it stands for."""
        text, status = self._say(request.text), abi.enum("pvm_status")
        self._note_end(reply)
        if self._end:
            raise TaskGone(text, self._end, "spawn another task")
        if reply.status == status.PVM_FAULT:
            raise _fault(text, reply)
        if reply.status == status.PVM_BUSY:
            raise UsageError(text, "the task is still in another call",
                             "wait for it, or kill() the task")
        result = request.decode(reply)
        self.guest._check(reply, text, request.call, request.args)
        return result

    def __repr__(self) -> str:
        thread = f", thread {self.tid}" if self.tid != self.pid else ""
        state = self._end or ("its lab is closed" if self.guest.closed else "")
        if not state and self._current and not self._current.done:
            state = f"in {self._current.request.text}"
        return f"<Task {self.name}, pid {self.pid}{thread}{': ' if state else ''}{state}>"


class Guest:
    """The guest's agent: files, swap and tasks. One owner, over one port."""

    def __init__(self, port: Port, series: str = "v2") -> None:
        """Greet the agent behind `port`.

        series: the kernel's patch series, for what errnos mean. Raises
        MachineTimeout, MachineDied, or ImageError when the agent speaks
        another ABI than this library.
        """
        self.port, self.series, self.wire = port, series, Wire(port)
        self.closed = False
        self.stuck = ""                     # the call that last ran into its bound
        self.names: dict[int, str] = {}     # of the processes started so far, by pid
        self.hello = self._greet()

    def spawn(self, name: str, cgroup: str | None = None) -> Task:
        """Start a task; its memory is charged to `cgroup` from the beginning.

        name: up to 15 bytes; cgroup: a directory, "/sys/fs/cgroup/x".
        """
        text = f"spawn({name!r})"
        payload = name_bytes(name) + c_string(cgroup or "", text)
        with self.port.running():
            reply = self._request("PVM_SPAWN", text, payload=payload)
        self._check_started(reply, text)
        return self._task(name, reply)

    def run(self, program: str, *, output: str = "/tmp/output",
            timeout: float | None = None) -> Output:
        """Run a program of the guest's to its end; return what it wrote.

        output: the file that its standard output and error go to.
        """
        text = f"run({program!r})"
        payload = c_string(program, text) + c_string(output, text)
        with self.port.running():
            reply = self._request("PVM_RUN", text, timeout=timeout, payload=payload)
            self._check_started(reply, text)
            signal = reply.result & 0x7F
            return Output(-signal if signal else reply.result >> 8 & 0xFF,
                          self.read_file(output))

    def read_file(self, path: str, offset: int = 0,
                  length: int | None = None) -> bytes:
        """Return a file's bytes, to its end if no length is given.

        Procfs and sysfs too, at any offset (/proc/PID/pagemap).
        """
        text = call_text("read_file", path)
        name, chunk, found = c_string(path, text), int(abi.limits().PVM_CHUNK), b""
        left = READ_MAX if length is None else bounded(length, READ_MAX, "bytes", text)
        with self.port.running():
            while left > 0:
                piece = self._checked("PVM_READ_FILE", text, "read_file",
                                      want=min(chunk, left), payload=name,
                                      args=padded(unsigned(offset, text) + len(found)))
                found += piece.payload
                left -= len(piece.payload)
                if len(piece.payload) < min(chunk, left + len(piece.payload)):
                    break
        return found

    def write_file(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Write a file: a setting of procfs, sysfs or a cgroup, or a new one.

        mode: permissions of a new file. A setting goes in one write().
        """
        what = call_text("write_file", path, text)
        name = c_string(path, what)
        data = text.encode() if isinstance(text, str) else bytes(text)
        with self.port.running():
            for at in range(0, max(len(data), 1), _FILE_CHUNK):
                self._checked("PVM_WRITE_FILE", what, "write_file",
                              payload=name + data[at:at + _FILE_CHUNK],
                              args=padded(at, mode))

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory; a cgroup too."""
        text = call_text("mkdir", path)
        with self.port.running():
            self._checked("PVM_MKDIR", text, "mkdir", args=padded(mode),
                          payload=c_string(path, text))

    def zram_swap(self, bytes: int, device: str = "zram0") -> None:
        """Give a zram device that size, make it swap space, and use it.

        bytes: a multiple of the page size. Set comp_algorithm before, with
        write_file(). GuestError names the step that failed.
        """
        text = call_text("zram_swap", bytes)
        with self.port.running():
            reply = self._request("PVM_ZRAM_SWAP", text, payload=c_string(device, text),
                                  args=padded(unsigned(bytes, text)))
        step = reply.payload.decode(errors="replace")
        self._check(reply, f"{text}, at {step}", "zram_swap")

    def close(self) -> None:
        """Forget the agent: its tasks answer TaskGone from here on."""
        self.closed = True

    def _greet(self) -> Hello:
        with self.port.running():
            reply = self._request("PVM_HELLO", "greeting the agent")
        if reply.result != abi.limits().PVM_ABI:
            raise ImageError(
                "greeting the agent", f"it speaks ABI {reply.result}, the library "
                f"{int(abi.limits().PVM_ABI)}", "make image, to rebuild the agent")
        return Hello(reply.result, reply.payload.decode())

    def _request(self, op: str, text: str, timeout: float | None = None,
                 **fields: Any) -> abi.Frame:
        """One operation of PID 1; the machine is running already."""
        self._check_open(text)
        seq = self.wire.number()
        try:
            self.wire.post(seq, abi.enum("pvm_init_op")[op], what=text, **fields)
            return self.wait(seq, timeout, text)
        finally:
            self.wire.forget(seq)

    def wait(self, seq: int, timeout: float | None, what: str) -> abi.Frame:
        """Wait for a reply; once a call has hung, the others get less time and the error names it."""
        bound = _SETTLE if timeout is None and self.stuck else timeout
        try:
            return self.wire.wait(seq, bound, what=what)
        except MachineTimeout as e:
            if not self.stuck:
                raise
            raise MachineTimeout(what, f"no answer within {bound:g} s; the guest has been stuck since "
                                 f"\"{self.stuck}\"", "start afresh: lab = Lab(...)", console=e.console) from None

    def _checked(self, op: str, text: str, call: str, **fields: Any) -> abi.Frame:
        reply = self._request(op, text, **fields)
        self._check(reply, text, call)
        return reply

    def _check(self, reply: abi.Frame, text: str, call: str, args: tuple[int, ...] = ()) -> None:
        """Raise what a reply of a call stands for, if it is not its success."""
        if reply.status == abi.enum("pvm_status").PVM_BAD:
            raise ImageError(text, "the agent does not understand it",
                             "make image, so that agent and library match")
        if -4095 <= reply.result < 0:
            raise GuestError(-reply.result, text, errno_meaning(call, -reply.result, self.series, args))

    def _check_started(self, reply: abi.Frame, text: str) -> None:
        self._check(reply, text, "fork")
        code = reply.result >> 8 & 0xFF
        if reply.status != abi.enum("pvm_status").PVM_DIED:
            return
        if reply.result & 0x7F == 0 and code in _NOT_STARTED:
            raise UsageError(text, _NOT_STARTED[code], "look at the paths that were given")
        if reply.op == abi.enum("pvm_init_op").PVM_SPAWN:
            raise TaskGone(text, end_text(reply.result), "spawn another task")

    def _check_open(self, text: str) -> None:
        if self.closed:
            raise TaskGone(text, "its lab is closed", "make a new Lab")

    def _task(self, name: str, reply: abi.Frame) -> Task:
        pid, slot, scratch, _length, tid = reply.args[:5]
        if pid == tid:
            self.names[pid] = name
        return Task(self, name, slot, pid, tid, scratch)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"Linux {self.hello.release}"
        return f"<Guest {state}>"


# ---- failures as results -----------------------------------------------------

def errno_of(call: Callable[..., object], *args: Any, **named: Any) -> str:
    """Make a call that may fail; return its error's name, such as "EFAULT", or "" when it succeeded.

        errno_of(consumer.process_vm_mmap, server, buf, pages=4)
    """
    try:
        call(*args, **named)
    except GuestError as e:
        return errno_name(e.errno)
    return ""


class expect:
    """`with expect(errno.EFAULT) as failed:` – the error that has to come.

    Takes an errno (GuestError), or a signal.SIGSEGV or SIGBUS (TaskFault).
    The error is in `failed.error`; any other error goes through, and none at
    all raises ExpectationFailed.
    """

    def __init__(self, failure: int) -> None:
        self.failure = failure
        self.error: GuestError | TaskFault | None = None

    @property
    def wanted(self) -> str:
        """The name of what is expected, such as "EFAULT" or "SIGSEGV"."""
        if isinstance(self.failure, _signal.Signals):
            return self.failure.name
        return errno_name(self.failure)

    def __enter__(self) -> expect:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            raise ExpectationFailed(f"expected {self.wanted}", "no error came",
                                    "look at what the call did instead")
        if not self._matches(error):
            return False
        self.error = error.with_traceback(None)
        return True

    def _matches(self, error: BaseException) -> bool:
        if isinstance(self.failure, _signal.Signals):
            return isinstance(error, TaskFault) and error.signal == self.failure
        return isinstance(error, GuestError) and error.errno == self.failure

    def __repr__(self) -> str:
        if self.error is None:
            return f"<expect {self.wanted}: nothing has failed yet>"
        return f"as expected: {self.error}"
