# SPDX-License-Identifier: MIT
"""What an errno means for the very call that got it.

Adds: errno_meaning(). Where the arguments alone are reason enough, it names
that reason ("len is 0"); otherwise it lists what the errno stands for in this
call, the likeliest first. Leaves out: what the kernel's state would tell.
"""

from __future__ import annotations

import errno as _e
from collections.abc import Callable, Sequence

from . import calls
from .errors import errno_text

#: arch/x86/include/asm/page_64_types.h, with four levels.
_TASK_SIZE = (1 << 47) - calls.PAGE_SIZE

_PVMMAP_V2 = {
    _e.EPERM: "dst_addr is lower than the caller may map (vm.mmap_min_addr)",
    _e.ESRCH: "there is no such process, or it has no memory (a zombie)",
    _e.ENOMEM: "a limit was met: RLIMIT_AS or RLIMIT_DATA, overcommit, the number of mappings; or an unmap (of a "
               "sealed mapping, of half a hugetlb page) or a copy failed half way: v2 says ENOMEM for all of them",
    _e.EACCES: "the caller may not attach to that process with ptrace (process_vm_readv() says EPERM for the same)",
    _e.EFAULT: "nothing is mapped at src_addr, or the range leaves the one mapping it begins in; or that mapping is "
               "hugetlb, may not be expanded, or maps a device (VM_HUGETLB, VM_DONTEXPAND, VM_PFNMAP, VM_IO)",
    _e.EEXIST: "FIXED_NOREPLACE was asked for and something is mapped there",
    _e.EINVAL: "the pid is a kernel thread's",
    524: "the source is registered with userfaultfd (524 is ENOTSUPP, which the kernel should have kept to itself)",
}

_PVMMAP_V3 = {
    _e.EPERM: "the caller may not attach to that process with ptrace; or the destination is sealed, or lower than the "
              "caller may map (vm.mmap_min_addr); or a sealed mapping was to be moved",
    _e.ESRCH: "there is no such process, or it has no memory (a zombie), or that is being taken from it",
    _e.EINTR: "a signal came while pages that KSM has merged were un-merged (nothing was mapped); or a fatal one, while "
              "the call waited for a lock",
    _e.ENOMEM: "a limit was met: RLIMIT_AS or RLIMIT_DATA, overcommit, the number of mappings; or there was no memory. "
               "What was at dst_addr is still there",
    _e.EACCES: "the source is writable and executable, and the caller has forsworn that (PR_SET_MDWE)",
    _e.EFAULT: "nothing is mapped at src_addr, or the range leaves the one mapping it begins in; or that mapping is "
               "not for others: hugetlb, a device or the kernel's own, memfd_secret, MADV_DONTFORK, MADV_WIPEONFORK, "
               "MAP_DROPPABLE",
    _e.EBUSY: "the rule in force (vm.process_vm_mmap_rule) forbids it; or a page that was to be moved is pinned; or it is "
               "the stack of a process in the middle of execve()",
    _e.EEXIST: "FIXED_NOREPLACE was asked for and something is mapped there",
    _e.EINVAL: "source and destination are one address space (a thread's and a vfork child's are the caller's own); or "
               "the pid is a kernel thread's, the source has a protection key, half of a hugetlb page is at dst_addr, "
               "or a file or shared memory was to be moved",
    _e.EOPNOTSUPP: "the source is registered with userfaultfd",
}

_NO_ATTACH = {
    _e.EPERM: "the caller may not attach to that task with ptrace",
    _e.ESRCH: "there is no such task",
    _e.EFAULT: "the local or the remote range is not mapped for that access",
}

#: What an errno means for a given call, if its arguments are not to blame. process_vm_mmap differs by series.
_MEANINGS = {
    "process_vm_mmap/v2": _PVMMAP_V2,
    "process_vm_mmap/v3": _PVMMAP_V3,
    "mmap": {
        _e.ENOMEM: "no room: the address space, RLIMIT_AS, overcommit or the number of mappings is at its limit",
        _e.EEXIST: "MAP_FIXED_NOREPLACE was asked for and something is mapped there",
        _e.EINVAL: "flags or offset make no sense",
        _e.EBADF: "fd is not an open file, and MAP_ANONYMOUS is not set",
    },
    "munmap": {_e.EINVAL: "the range leaves the address space"},
    "mprotect": {
        _e.ENOMEM: "part of the range is not mapped",
        _e.EACCES: "the mapping does not allow that protection",
        _e.EINVAL: "prot makes no sense",
    },
    "mremap": {
        _e.ENOMEM: "no room to grow in place, or a limit was met",
        _e.EFAULT: "the old range is not mapped, leaves its mapping, or that mapping may not be moved",
        _e.EINVAL: "old and new overlap, flags make no sense, or that mapping cannot change its size",
    },
    "madvise": {
        _e.ENOMEM: "part of the range is not mapped",
        _e.EINVAL: "unknown advice, or advice that this mapping cannot take",
    },
    "sched_setaffinity": {_e.EINVAL: "this machine has no such CPU"},
    "process_vm_readv": _NO_ATTACH,
    "process_vm_writev": _NO_ATTACH,
}


# ---- the arguments' own faults -----------------------------------------------

def _signed(pid: int) -> int:
    """A pid as the kernel takes it: the low 32 bits, with a sign."""
    return (pid & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


def _pvmmap_fault(series: str, pid: int, src: int, len: int, dst: int, flags: int, *_: int) -> str:
    """What is wrong with the arguments whatever is mapped (process_vm_mmap() in mm/process_vm_access.c)."""
    known = calls.PVMMAP_FIXED | calls.PVMMAP_FIXED_NOREPLACE | (calls.PVMMAP_MOVE if series == "v3" else 0)
    faults = (
        (flags & ~known, f"flags {flags & ~known:#x} are unknown"),
        (len == 0, "len is 0"),
        (len > (1 << 64) - calls.PAGE_SIZE, "len wraps to 0 when it is rounded up to a page"),
        (len > _TASK_SIZE, "len is more than an address space has"),
        (src < calls.PAGE_SIZE, "src_addr rounds down to 0"),
        (dst + len > _TASK_SIZE, "dst_addr is too high for len"),
        (_signed(pid) <= 0, f"the pid is {_signed(pid)}, and has to be positive"),
    )
    return next((text for wrong, text in faults if wrong), "")


def _range_fault(series: str, addr: int, len: int, *_: int) -> str:
    return "addr is not page aligned" if addr % calls.PAGE_SIZE else "len is 0" if len == 0 else ""


def _addr_fault(series: str, addr: int, *_: int) -> str:
    """Where a length of 0 is allowed."""
    return _range_fault(series, addr, 1)


def _mmap_fault(series: str, addr: int, len: int, prot: int, flags: int, fd: int, offset: int) -> str:
    fixed = flags & (calls.MAP_FIXED | calls.MAP_FIXED_NOREPLACE)
    return _range_fault(series, addr if fixed else 0, len) or \
        ("offset is not page aligned" if offset % calls.PAGE_SIZE else "")


def _mremap_fault(series: str, addr: int, old: int, new: int, *_: int) -> str:
    return _range_fault(series, addr, 1) or ("the new length is 0" if new == 0 else "")


#: For each call what makes its arguments alone a reason for EINVAL.
_FAULTS: dict[str, Callable[..., str]] = {
    "process_vm_mmap": _pvmmap_fault, "mmap": _mmap_fault, "munmap": _range_fault, "mprotect": _addr_fault,
    "madvise": _addr_fault, "mremap": _mremap_fault,
}


def errno_meaning(call: str, errno: int, series: str = "v2", args: Sequence[int] = ()) -> str:
    """Say what `errno` means for this call, on kernels of this patch series.

    call: a name; errno: positive; series: "base", "v2" or "v3"; args: the call's six
    arguments, as the kernel gets them, if they are known. Falls back to the C
    library's sentence, and for ENOSYS to what a missing call means here.
    """
    if errno == _e.ENOSYS:
        return "this kernel does not have the call"
    if errno == _e.EINVAL and len(args) == 6 and call in _FAULTS and (fault := _FAULTS[call](series, *args)):
        return fault
    known = _MEANINGS.get(f"{call}/{series}") or _MEANINGS.get(call, {})
    return known.get(errno) or errno_text(errno)
