# SPDX-License-Identifier: MIT
"""System calls by name: their x86-64 numbers, and what is passed to them.

Adds: the table of numbers (arch/x86/entry/syscalls/syscall_64.tbl), the
constants that lessons pass, and the types and constants of uapi.h. Leaves out:
what their errnos mean (meanings) and wrappers with signatures (guest).
"""

from __future__ import annotations

import difflib
import functools
from types import MappingProxyType

from . import abi
from .errors import UsageError

PAGE_SIZE = 4096

#: Numbers of the calls that lessons and tests use.
NUMBERS = MappingProxyType({
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5,
    "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "ioctl": 16, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20,
    "pipe": 22, "sched_yield": 24, "mremap": 25, "msync": 26, "mincore": 27,
    "madvise": 28, "shmget": 29, "shmat": 30, "shmctl": 31, "dup": 32,
    "dup2": 33, "pause": 34, "nanosleep": 35, "getpid": 39, "clone": 56,
    "fork": 57, "vfork": 58, "execve": 59, "exit": 60, "wait4": 61,
    "kill": 62, "uname": 63, "shmdt": 67, "fcntl": 72, "truncate": 76,
    "ftruncate": 77, "mkdir": 83, "rmdir": 84, "unlink": 87,
    "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "ptrace": 101,
    "getuid": 102, "getgid": 104, "setuid": 105, "setgid": 106,
    "setpgid": 109, "getppid": 110, "setsid": 112, "setresuid": 117,
    "setresgid": 119, "getpgid": 121, "getsid": 124, "capget": 125,
    "capset": 126, "personality": 135, "mlock": 149, "munlock": 150,
    "mlockall": 151, "munlockall": 152, "prctl": 157, "arch_prctl": 158,
    "setrlimit": 160, "mount": 165, "umount2": 166, "swapon": 167,
    "swapoff": 168, "gettid": 186, "readahead": 187, "futex": 202,
    "sched_setaffinity": 203, "sched_getaffinity": 204, "io_setup": 206,
    "io_destroy": 207, "remap_file_pages": 216, "set_tid_address": 218,
    "fadvise64": 221, "exit_group": 231, "tgkill": 234, "mbind": 237,
    "set_mempolicy": 238, "get_mempolicy": 239, "waitid": 247,
    "migrate_pages": 256, "openat": 257, "ppoll": 271, "unshare": 272,
    "splice": 275, "tee": 276, "vmsplice": 278, "move_pages": 279,
    "fallocate": 285, "eventfd2": 290, "dup3": 292, "pipe2": 293,
    "preadv": 295, "pwritev": 296, "prlimit64": 302, "setns": 308,
    "getcpu": 309, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "seccomp": 317, "memfd_create": 319, "execveat": 322,
    "userfaultfd": 323, "membarrier": 324, "mlock2": 325,
    "copy_file_range": 326, "preadv2": 327, "pwritev2": 328,
    "pkey_mprotect": 329, "pkey_alloc": 330, "pkey_free": 331,
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "openat2": 437, "pidfd_getfd": 438,
    "process_madvise": 440, "memfd_secret": 447, "process_mrelease": 448,
    "set_mempolicy_home_node": 450, "cachestat": 451,
    "map_shadow_stack": 453, "mseal": 462,
    "process_vm_mmap": 548,
})

#: Calls after which the task's program would not be where the agent left it.
NOT_RAW = MappingProxyType({
    "fork": "task.fork(name)", "vfork": "task.vfork_child(name)",
    "clone": "task.fork(name), .thread(name) or .vfork_child(name)",
    "clone3": "task.fork(name), .thread(name) or .vfork_child(name)",
    "execve": "guest.run(program)", "execveat": "guest.run(program)",
    "rt_sigreturn": "nothing: it is the end of a signal handler",
})

# include/uapi/asm-generic/mman-common.h and mman.h
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE = 0x100, 0x2000, 0x4000
MAP_POPULATE, MAP_HUGETLB, MAP_FIXED_NOREPLACE = 0x8000, 0x40000, 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED = 0, 1, 2, 3
MADV_DONTNEED, MADV_FREE, MADV_REMOVE = 4, 8, 9
MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE, MADV_UNMERGEABLE = 10, 11, 12, 13
MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WIPEONFORK = 14, 15, 18
MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT = 19, 20, 21
MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 22, 23, 25

# include/uapi/asm-generic/resource.h
RLIMIT_DATA, RLIMIT_AS = 2, 9

# The call itself: include/uapi/linux/mman.h of the patched kernels
PVMMAP_FIXED, PVMMAP_FIXED_NOREPLACE, PVMMAP_MOVE = 0x1, 0x2, 0x4

# include/uapi/linux/sched.h
CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
CLONE_THREAD, CLONE_SYSVSEM = 0x10000, 0x40000


def number_of(call: str | int) -> int:
    """Return the number of a system call given by name (or by number).

    Raises UsageError for an unknown name (and names near ones), and for calls
    that would take the task from under the agent (see NOT_RAW).
    """
    if isinstance(call, int):
        name = name_of(call)
        number = call
    elif call in NUMBERS:
        name, number = call, NUMBERS[call]
    else:
        raise _unknown(call)
    if name in NOT_RAW:
        raise UsageError(f"syscall({name!r})", "a task cannot make this call raw "
                         "and stay under control", f"use {NOT_RAW[name]}")
    if not 0 <= number < 1 << 32:
        raise UsageError(f"syscall({number})", "a call's number has 32 bits",
                         "pass a name or a number of syscall_64.tbl")
    return number


def _unknown(call: object) -> UsageError:
    near = difflib.get_close_matches(str(call), NUMBERS, n=3)
    mend = f"did you mean {' or '.join(near)}?" if near else \
        "pass its number (arch/x86/entry/syscalls/syscall_64.tbl)"
    return UsageError(f"syscall({call!r})", "no call of that name is known", mend)


@functools.cache
def _names() -> dict[int, str]:
    return {number: name for name, number in NUMBERS.items()}


def name_of(number: int) -> str:
    """Return the name of a system call's number, or "syscall 999"."""
    return _names().get(number, f"syscall {number}")


@functools.cache
def constants() -> MappingProxyType[str, int]:
    """Return the constants of uapi.h, such as constants()["UFFDIO_API"]."""
    found: dict[str, int] = {}
    for name in ("uffd_constants", "io_uring_constants"):
        found |= abi.ffi().typeof(f"enum {name}").relements
    return MappingProxyType(found)


def new(ctype: str, *init):
    """Make a C value of uapi.h: new("struct iovec *", {"iov_len": 4096}).

    Returns cffi's owning cdata (ffi.new), ready to be an argument of
    Task.syscall(): it is laid down in the task and read back after the call.
    """
    return abi.ffi().new(ctype, *init)
