# SPDX-License-Identifier: MIT
"""The frames between the library and the guest's agent, from abi.h.

Adds: the one parse of the agent's declarations and of uapi.h, the enums that
come out of it, and Frame, which encodes and decodes. Leaves out: any socket
(see wire) and what the operations mean (see guest).
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import cffi

from .errors import SetupError

_ABI = Path("vm-image/agent/abi.h")


def find_root() -> Path:
    """Return the project's directory: $PVMLAB_ROOT, or upward from here.

    Raises SetupError where no directory above the package has the agent.
    """
    given = os.environ.get("PVMLAB_ROOT")
    here = Path(__file__).resolve()
    for root in [Path(given)] if given else here.parents:
        if (root / _ABI).is_file():
            return root
    raise SetupError(
        f"cannot find {_ABI}",
        f"it is not in {given}" if given else f"it is in no directory above {here}",
        "set PVMLAB_ROOT to the project's directory")


def _declarations(text: str) -> str:
    """Drop the lines for the C compiler only, which cffi does not parse."""
    return "\n".join("" if line.startswith("#") else line
                     for line in text.splitlines())


@functools.cache
def ffi() -> cffi.FFI:
    """Return the cffi declarations of abi.h and uapi.h (parsed once)."""
    both = cffi.FFI()
    both.cdef(_declarations((find_root() / _ABI).read_text()))
    both.cdef(_declarations(Path(__file__).with_name("uapi.h").read_text()))
    return both


@functools.cache
def enum(name: str) -> type[IntEnum]:
    """Return a C enum as an IntEnum; enum("pvm_status").PVM_OK is 0."""
    return IntEnum(name, ffi().typeof(f"enum {name}").relements)


@functools.cache
def limits() -> type[IntEnum]:
    """Return enum pvm_limits: PVM_SCRATCH, PVM_CHUNK (bytes), and so on."""
    return enum("pvm_limits")


@functools.cache
def header_len() -> int:
    """Return sizeof(struct pvm_frame) in bytes, without its payload."""
    return ffi().sizeof("struct pvm_frame")


class BadFrame(ValueError):
    """The bytes are not a frame: the two ends do not speak the same ABI."""


@dataclass(frozen=True, slots=True)
class Frame:
    """struct pvm_frame with its payload; the fields are documented in abi.h.

    args: six unsigned 64-bit numbers; result: signed 64 bits.
    """

    seq: int
    op: int
    slot: int = 0
    status: int = 0
    code: int = 0
    want: int = 0
    result: int = 0
    args: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return header and payload as they go over the wire."""
        raw = ffi().new("struct pvm_frame *", {
            "magic": int(limits().PVM_MAGIC), "seq": self.seq, "slot": self.slot,
            "op": self.op, "status": self.status, "code": self.code,
            "payload_len": len(self.payload), "want": self.want,
            "result": self.result, "args": self.args})
        return bytes(ffi().buffer(raw)) + self.payload


def decode(data: bytes) -> tuple[Frame, int] | None:
    """Return the first frame in `data` and its length, or None if incomplete.

    Raises BadFrame where the bytes do not begin with a frame.
    """
    size = header_len()
    if len(data) < size:
        return None
    raw = ffi().from_buffer("struct pvm_frame *", data, require_writable=False)
    if raw.magic != limits().PVM_MAGIC or raw.payload_len > limits().PVM_CHUNK:
        raise BadFrame(f"no frame begins with {data[:16].hex()}")
    end = size + raw.payload_len
    if len(data) < end:
        return None
    return Frame(raw.seq, raw.op, raw.slot, raw.status, raw.code, raw.want,
                 raw.result, tuple(raw.args), data[size:end]), end
