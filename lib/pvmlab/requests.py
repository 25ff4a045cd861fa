# SPDX-License-Identifier: MIT
"""What a task can be asked to do, as values: pure functions, no machine.

Adds: Request, and for every method of guest.Task that is one operation the
function that builds it; BUILDERS is their table, for Task.start(). Leaves out:
sending them. The `task` they take needs `name`, `pid` and `scratch` only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from . import abi, calls
from .arguments import Laid, c_string, lay_out, unsigned
from .errors import UsageError

#: The most pages that one touch() or stamp() visits.
TOUCH_MAX = 1 << 24
_SIGCHLD = 17
#: What clone() is told, by kind of child (kernel/fork.c, copy_process).
CLONE_FLAGS = {
    "fork": _SIGCHLD,
    "vfork_child": calls.CLONE_VM | _SIGCHLD,
    "thread": calls.CLONE_VM | calls.CLONE_FS | calls.CLONE_FILES |
    calls.CLONE_SIGHAND | calls.CLONE_THREAD | calls.CLONE_SYSVSEM,
}


class Asked(Protocol):
    """The task that a request is for, as far as it matters here."""

    name: str
    pid: int
    scratch: int


@dataclass(frozen=True, slots=True)
class Request:
    """One operation of a task, ready to be sent and to be understood.

    text: the call for messages, "munmap(0x1000, 0)"; call: the name to look an
    errno up by; decode: makes the result from the reply frame.
    """

    op: int
    text: str
    call: str
    code: int = 0
    want: int = 0
    args: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    payload: bytes = b""
    decode: Callable[[abi.Frame], Any] = lambda reply: reply.result


# ---- texts -------------------------------------------------------------------

#: Which arguments of a call are process or thread ids.
_PIDS = {
    "process_vm_mmap": (0,), "process_vm_readv": (0,), "process_vm_writev": (0,), "kill": (0,), "tgkill": (0, 1),
    "wait4": (0,), "waitid": (1,), "ptrace": (1,), "setpgid": (0, 1), "getpgid": (0,), "getsid": (0,),
    "pidfd_open": (0,), "prlimit64": (0,), "sched_setaffinity": (0,), "sched_getaffinity": (0,), "kcmp": (0, 1),
    "migrate_pages": (0,), "move_pages": (0,),
}


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return repr(value) if len(repr(value)) < 40 else type(value).__name__
    return str(int(value)) if abs(value) < calls.PAGE_SIZE else hex(value)


def call_text(name: str, *args: Any) -> str:
    """Return a call as text: addresses in hex, a task by its name, a pid that is only a number in decimal."""
    pids = _PIDS.get(name, ())
    shown = (arg.name if hasattr(arg, "pid") else str(arg) if i in pids else _number(arg) for i, arg in enumerate(args))
    return f"{name}({', '.join(shown)})"


# ---- checks of what the task itself does -------------------------------------

def length_of(len: int | None, pages: int | None, what: str) -> int:
    """Return a length for the kernel: as given, wrong or not, in 64 bits."""
    if (len is None) == (pages is None):
        raise UsageError(what, "it needs a length, once",
                         "pass len= (bytes) or pages=")
    given = unsigned(len if pages is None else pages, what)     # an int, or refused
    return given if pages is None else unsigned(pages * calls.PAGE_SIZE, what)


def address(value: int, what: str) -> int:
    """Return an address for the kernel: as given, wrong or not, in 64 bits; text is none."""
    if isinstance(value, str):
        raise UsageError(what, f"{value!r} is text, not an address",
                         "pass the int that mmap() returned; hex() is for looking at it")
    return unsigned(value, what)


def process(value: Asked | int, what: str) -> Asked | int:
    """Return what names a process: a Task or a pid."""
    if isinstance(value, int) or hasattr(value, "pid"):
        return value
    raise UsageError(what, f"{value!r} is no process", "pass the Task, or its pid")


def bounded(value: int, most: int, unit: str, what: str) -> int:
    """Return a number from 0 to `most`; raise UsageError for any other."""
    if not isinstance(value, int):
        raise UsageError(what, f"{value!r} is not a number of {unit}", "pass an int")
    if not 0 <= value <= most:
        raise UsageError(what, f"{value} {unit} is out of range",
                         f"pass 0 to {most} {unit}")
    return value


def name_bytes(name: str) -> bytes:
    """Return a task's name as the kernel keeps it: 15 bytes and a NUL."""
    if not isinstance(name, str) or not name:
        raise UsageError(f"a task named {name!r}", "a name is a text of 1 to 15 bytes")
    raw = c_string(name, f"a task named {name!r}")
    if len(raw) > abi.limits().PVM_NAME:
        raise UsageError(f"a task named {name!r}", "the kernel keeps 15 bytes of a "
                         "name (TASK_COMM_LEN)", "use a shorter name")
    return raw


def padded(*values: int) -> tuple[int, ...]:
    """Return values as the six args of a frame."""
    return values + (0,) * (abi.limits().PVM_ARGS - len(values))


# ---- requests: what a task can be asked, as pure functions -------------------

def task_op(name: str) -> int:
    """Return the number of an operation in enum pvm_task_op."""
    return abi.enum("pvm_task_op")[name]


def syscall_request(task: Asked, call: str | int, *args: Any) -> Request:
    """Build PVM_SYSCALL; see Task.syscall."""
    number = calls.number_of(call)
    name = calls.name_of(number)
    text = call_text(name, *args)
    laid = lay_out(args, task.scratch, text)
    return Request(task_op("PVM_SYSCALL"), text, name, code=number,
                   want=laid.want, args=laid.values, payload=laid.payload,
                   decode=_bringing_back(laid))


def _bringing_back(laid: Laid) -> Callable[[abi.Frame], int]:
    def decode(reply: abi.Frame) -> int:
        laid.bring_back(reply.payload)
        return reply.result
    return decode


def mmap_request(task: Asked, addr: int = 0, *, len: int | None = None,
                 pages: int | None = None, prot: int | None = None,
                 flags: int | None = None, fd: int = -1, offset: int = 0) -> Request:
    """Build mmap; see Task.mmap."""
    size = length_of(len, pages, "mmap")
    if prot is None:
        prot = calls.PROT_READ | calls.PROT_WRITE
    if flags is None:
        flags = calls.MAP_PRIVATE | (calls.MAP_ANONYMOUS if fd == -1 else 0)
    return syscall_request(task, "mmap", addr, size, prot, flags, fd, offset)


def munmap_request(task: Asked, addr: int, *, len: int | None = None,
                   pages: int | None = None) -> Request:
    """Build munmap; see Task.munmap."""
    return syscall_request(task, "munmap", address(addr, "munmap"), length_of(len, pages, "munmap"))


def mprotect_request(task: Asked, addr: int, prot: int, *, len: int | None = None,
                     pages: int | None = None) -> Request:
    """Build mprotect; see Task.mprotect."""
    return syscall_request(task, "mprotect", address(addr, "mprotect"),
                           length_of(len, pages, "mprotect"), prot)


def madvise_request(task: Asked, addr: int, advice: int, *, len: int | None = None,
                    pages: int | None = None) -> Request:
    """Build madvise; see Task.madvise."""
    return syscall_request(task, "madvise", address(addr, "madvise"),
                           length_of(len, pages, "madvise"), advice)


def mremap_request(task: Asked, addr: int, *, len: int | None = None,
                   pages: int | None = None, new_len: int | None = None,
                   new_pages: int | None = None,
                   flags: int = calls.MREMAP_MAYMOVE, new_addr: int = 0) -> Request:
    """Build mremap; see Task.mremap. Without a new length it stays the same."""
    old = length_of(len, pages, "mremap")
    same = new_len is None and new_pages is None
    new = old if same else length_of(new_len, new_pages, "mremap")
    return syscall_request(task, "mremap", addr, old, new, flags, new_addr)


def clone_mapping_request(task: Asked, source: Asked | int, src_addr: int, *,
                          len: int | None = None, pages: int | None = None,
                          dst_addr: int = 0, flags: int = 0) -> Request:
    """Build process_vm_mmap; see Task.process_vm_mmap."""
    what = "process_vm_mmap"
    return syscall_request(task, what, process(source, what), address(src_addr, what),
                           length_of(len, pages, what), address(dst_addr, what), flags)


def transfer_request(call: str) -> Callable[..., Request]:
    """Return a builder of process_vm_readv or process_vm_writev."""
    def build(task: Asked, other: Asked | int, remote_addr: int, local_addr: int,
              len: int) -> Request:
        parts = calls.new("struct iovec[2]", [
            {"iov_base": unsigned(addr, call), "iov_len": unsigned(len, call)}
            for addr in (local_addr, remote_addr)])
        laid = lay_out((other, parts, 1, 0, 1, 0), task.scratch, call)
        values = list(laid.values)
        values[3] = values[1] + abi.ffi().sizeof("struct iovec")
        return Request(task_op("PVM_SYSCALL"),
                       call_text(call, other, remote_addr, local_addr, len), call,
                       code=calls.NUMBERS[call], args=tuple(values),
                       payload=laid.payload)
    return build


def read_request(task: Asked, addr: int, len: int) -> Request:
    """Build PVM_LOAD of at most one scratch area."""
    text = call_text("read", addr, len)
    bounded(len, abi.limits().PVM_SCRATCH, "bytes", text)
    return Request(task_op("PVM_LOAD"), text, "read", want=len,
                   args=padded(unsigned(addr, text)),
                   decode=lambda reply: reply.payload)


def write_request(task: Asked, addr: int, data: bytes) -> Request:
    """Build PVM_STORE of at most one scratch area."""
    text = f"write({_number(addr)}, {len(data)} bytes)"
    bounded(len(data), abi.limits().PVM_SCRATCH, "bytes", text)
    return Request(task_op("PVM_STORE"), text, "write",
                   args=padded(unsigned(addr, text)), payload=bytes(data))


def touch_request(task: Asked, addr: int, pages: int = 1,
                  write: bool = False) -> Request:
    """Build PVM_TOUCH; see Task.touch."""
    kind = "PVM_TOUCH_WRITE" if write else "PVM_TOUCH_READ"
    return _touching(kind, call_text("touch", addr, pages), addr, pages)


def stamp_request(task: Asked, addr: int, pages: int = 1, *, first: int = 1,
                  step: int = 1) -> Request:
    """Build PVM_TOUCH with values; see Task.stamp."""
    text = call_text("stamp", addr, pages)
    return _touching("PVM_TOUCH_STAMP", text, addr, pages,
                     unsigned(first, text), unsigned(step, text))


def _touching(kind: str, text: str, addr: int, pages: int, *values: int) -> Request:
    bounded(pages, TOUCH_MAX, "pages", text)
    start = unsigned(addr, text)
    if start + pages * calls.PAGE_SIZE > 1 << 64:
        raise UsageError(text, "it goes beyond the last address",
                         "pass fewer pages")
    return Request(task_op("PVM_TOUCH"), text, "touch",
                   code=abi.enum("pvm_touch")[kind],
                   args=padded(start, pages, calls.PAGE_SIZE, *values))


def write_loop_request(task: Asked, addr: int, *, first: int = 0,
                       limit: int = 0) -> Request:
    """Build PVM_WRITE_LOOP: stores first, first + 1, … (8 bytes) to addr.

    It ends after `limit` stores (0: never), or when its Call is stopped; the
    result is the number of stores.
    """
    text = call_text("write_loop", addr)
    return Request(task_op("PVM_WRITE_LOOP"), text, "write_loop", args=padded(
        unsigned(addr, text), unsigned(first, text), unsigned(limit, text)))


def spin_request(task: Asked) -> Request:
    """Build PVM_SPIN: burns CPU until its Call is stopped."""
    return Request(task_op("PVM_SPIN"), "spin()", "spin")


def pause_request(task: Asked) -> Request:
    """Build PVM_PAUSE: sleeps until its Call is stopped."""
    return Request(task_op("PVM_PAUSE"), "pause()", "pause")


def clone_request(name: str, kind: str) -> Request:
    """Build PVM_CLONE; kind: one of CLONE_FLAGS. The result is the reply."""
    payload = name_bytes(name).ljust(abi.limits().PVM_NAME, b"\0")
    return Request(task_op("PVM_CLONE"), f"{kind}({name!r})", "clone",
                   code=CLONE_FLAGS[kind], payload=payload,
                   decode=lambda reply: reply)


#: What Task.start() knows beside the names of system calls.
BUILDERS: dict[str, Callable[..., Request]] = {
    "mmap": mmap_request, "munmap": munmap_request,
    "mprotect": mprotect_request, "madvise": madvise_request,
    "mremap": mremap_request, "process_vm_mmap": clone_mapping_request,
    "process_vm_readv": transfer_request("process_vm_readv"),
    "process_vm_writev": transfer_request("process_vm_writev"),
    "read": read_request, "write": write_request, "touch": touch_request,
    "stamp": stamp_request, "write_loop": write_loop_request,
    "spin": spin_request, "pause": pause_request, "syscall": syscall_request,
}


