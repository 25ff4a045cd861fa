# SPDX-License-Identifier: MIT
"""The one exception family of pvmlab.

Every error says what failed, why, and the command or change that mends it.
Left out on purpose: one class for each cause. A caller tells apart the call
the guest's kernel refused (GuestError), a process that is no more (TaskGone),
a machine that is no more or too slow (MachineDied, MachineTimeout), parts of
the installation (ImageError, SetupError) and its own mistake (UsageError).
"""

from __future__ import annotations

import errno as _errno
import os as _os

#: Errno values that the kernel keeps to itself (include/linux/errno.h) and
#: that leak out of a defective call: errno.errorcode does not know them.
KERNEL_INTERNAL_ERRNOS = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    524: "ENOTSUPP",
}


def errno_name(number: int) -> str:
    """Return the name of an errno, such as "EFAULT" for 14.

    Knows the kernel-internal ones too (include/linux/errno.h); an errno
    without a name comes back as "errno 999".
    """
    name = KERNEL_INTERNAL_ERRNOS.get(number)
    return name or _errno.errorcode.get(number, f"errno {number}")


def errno_text(number: int) -> str:
    """Return the C library's sentence for an errno ("Bad address" for 14)."""
    if number in KERNEL_INTERNAL_ERRNOS:
        return "an errno that the kernel should have kept to itself"
    return _os.strerror(number)


class PvmlabError(Exception):
    """Something failed: `what` failed, `why` it did, and what will `mend` it.

    The message reads "what: why. → mend"; the parts stay as attributes.
    """

    def __init__(self, what: str, why: str = "", mend: str = "") -> None:
        self.what, self.why, self.mend = what, why, mend
        super().__init__(_sentence(what, why, mend))


def _sentence(what: str, why: str, mend: str) -> str:
    text = f"{what}: {why}" if why else what
    if not mend:
        return text
    stop = "" if text.endswith((".", "!", "?")) else "."
    return f"{text}{stop} → {mend}"


class GuestError(PvmlabError):
    """The guest's kernel refused a call. Often this is the lesson's content.

    errno:   positive number, as the kernel returned it
    call:    the call as text, such as "consumer: munmap(0x1000, 0)"
    meaning: what this errno means for this very call
    """

    def __init__(self, errno: int, call: str, meaning: str = "",
                 mend: str = "") -> None:
        self.errno, self.call = errno, call
        self.meaning = meaning or errno_text(errno)
        super().__init__(f"{call} → {errno_name(errno)}", self.meaning, mend)

    @property
    def name(self) -> str:
        """The errno's name, such as "EFAULT"."""
        return errno_name(self.errno)


class TaskFault(PvmlabError):
    """A task's own load or store got a signal (a fault the kernel refused).

    signal:  SIGSEGV (11) or SIGBUS (7)
    code:    si_code, such as SEGV_MAPERR (1) or BUS_MCEERR_AR (4)
    address: si_addr, the byte the task could not reach
    """

    def __init__(self, call: str, signal: int, code: int, address: int,
                 why: str, mend: str = "") -> None:
        self.call, self.signal, self.code = call, signal, code
        self.address = address
        super().__init__(call, why, mend)


class TaskGone(PvmlabError):
    """The process or thread that was asked is no more, or its lab is closed."""


class _MachineError(PvmlabError):
    """Something about the machine, told with what its kernel said last.

    console: the last lines the guest's kernel printed, perhaps empty;
    where: what its CPUs were at, as lines of text, or "" where that is not known
    """

    where = ""

    def __init__(self, what: str, why: str = "", mend: str = "", *,
                 console: str = "") -> None:
        super().__init__(what, why, mend)
        self.console = console

    def __str__(self) -> str:
        text = super().__str__()
        if self.where:
            text += f"\n--- what the CPUs are at ---\n{self.where}"
        if not self.console:
            return text
        return f"{text}\n--- the console's last lines ---\n{self.console.rstrip()}"


class MachineDied(_MachineError):
    """The virtual machine is no more: it panicked, was killed or shut down."""


class MachineTimeout(_MachineError):
    """The virtual machine did not answer within a bound (it may still live)."""


class ImageError(PvmlabError):
    """A kernel, initramfs or debug information file is missing or does not fit."""


class SetupError(PvmlabError):
    """This computer lacks something: a program, a package, room, permission."""


class UsageError(PvmlabError, ValueError):
    """The request makes no sense, and nothing was sent or changed."""


class ExpectationFailed(PvmlabError, AssertionError):
    """`with expect(...)` saw no error where one had to come."""
