# SPDX-License-Identifier: MIT
"""Python values laid down as a system call's arguments in a task's memory.

Integers travel as they are. What a call takes by address lies in the task's
scratch area, whose address is known: first the values that the kernel may
change (cffi data, bytearrays), which come back with the reply, then the
constant ones (str, bytes). Pure functions: no machine is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import abi
from .errors import UsageError

_ALIGN = 16     # enough for any struct of uapi.h


@dataclass(frozen=True, slots=True)
class Laid:
    """Arguments ready to be sent.

    values: six unsigned 64-bit numbers; payload: what goes into the scratch
    area; want: bytes of it that come back; back: (offset, where to put it).
    """

    values: tuple[int, ...]
    payload: bytes
    want: int
    back: tuple[tuple[int, Any], ...] = field(default=(), repr=False)

    def bring_back(self, scratch: bytes) -> None:
        """Put what the kernel wrote into the caller's objects."""
        for offset, view in self.back:
            view[:] = scratch[offset:offset + len(view)]


def unsigned(value: int, what: str) -> int:
    """Return an integer as 64 unsigned bits; -1 is 2**64 - 1.

    Raises UsageError for what 64 bits cannot express, or is no integer.
    """
    if not hasattr(value, "__index__"):
        raise UsageError(what, f"{value!r} is {type(value).__name__}, not an integer",
                         "pass an int")
    number = value.__index__()
    if not -(1 << 63) <= number < 1 << 64:
        raise UsageError(what, f"{number:#x} does not fit in 64 bits",
                         "pass a value from -2**63 to 2**64 - 1")
    return number & 0xFFFF_FFFF_FFFF_FFFF


def lay_out(args: Sequence[Any], scratch: int, what: str) -> Laid:
    """Lay down up to six arguments for a task whose scratch begins there.

    args: int, None (a null pointer), str (a NUL-terminated path), bytes,
    bytearray, cffi data, or an object with a `pid`.
    Raises UsageError for other types, too many, or too much.
    """
    if len(args) > abi.limits().PVM_ARGS:
        raise UsageError(what, f"{len(args)} arguments", "a system call takes six")
    area = _Area(scratch, what)
    writable = [area.place_writable(arg) for arg in args]
    want = len(area.payload)
    values = [area.place_constant(arg) if at is None else at
              for arg, at in zip(args, writable)]
    area.check_room()
    values += [0] * (abi.limits().PVM_ARGS - len(values))
    return Laid(tuple(values), bytes(area.payload), want, tuple(area.back))


class _Area:
    """The scratch area as it fills up."""

    def __init__(self, base: int, what: str) -> None:
        self.base, self.what = base, what
        self.payload = bytearray()
        self.back: list[tuple[int, Any]] = []
        self.places: dict[int, int] = {}

    def place_writable(self, arg: Any) -> int | None:
        view = _memory_of(arg, self.what)
        if view is None:
            return None
        if id(arg) not in self.places:      # the same object twice: one place
            self.places[id(arg)] = self._add(bytes(view))
            self.back.append((self.places[id(arg)] - self.base, view))
        return self.places[id(arg)]

    def place_constant(self, arg: Any) -> int:
        if isinstance(arg, str):
            return self._add(c_string(arg, self.what))
        if isinstance(arg, bytes):
            return self._add(arg)
        if arg is None or _is_null(arg):
            return 0
        if isinstance(arg, abi.ffi().CData):
            return unsigned(int(arg), self.what)
        return unsigned(getattr(arg, "pid", arg), self.what)

    def _add(self, data: bytes) -> int:
        self.payload += bytes(-len(self.payload) % _ALIGN)
        offset = len(self.payload)
        self.payload += data
        return self.base + offset

    def check_room(self) -> None:
        room = int(abi.limits().PVM_SCRATCH)
        if len(self.payload) > room:
            raise UsageError(
                self.what, f"its data is {len(self.payload)} bytes long and a task "
                f"takes {room} with a call",
                "put the data into the task's memory with write(), pass its address")


def c_string(text: str, what: str) -> bytes:
    """Return text as UTF-8 with its NUL; UsageError if it has one inside."""
    if "\0" in text:
        raise UsageError(what, f"{text!r} has a NUL inside",
                         "pass bytes if the NUL is meant")
    return text.encode() + b"\0"


def _is_null(arg: Any) -> bool:
    ffi = abi.ffi()
    return isinstance(arg, ffi.CData) and ffi.typeof(arg).kind == "pointer" \
        and arg == ffi.NULL


def _memory_of(arg: Any, what: str) -> Any:
    """Return a writable view of what lies behind an argument, or None."""
    ffi = abi.ffi()
    if isinstance(arg, bytearray):
        return memoryview(arg)
    if not isinstance(arg, ffi.CData) or _is_null(arg):
        return None
    ctype = ffi.typeof(arg)
    if ctype.kind in ("struct", "union"):
        return ffi.buffer(ffi.addressof(arg))
    if ctype.kind == "array":
        return ffi.buffer(arg)
    if ctype.kind == "primitive":
        return None
    if ctype.kind == "pointer" and ctype.item.kind not in ("void", "function"):
        return ffi.buffer(arg)
    raise UsageError(what, f"{ctype.cname} has no size to lay down",
                     "pass a struct, an array or an integer address")
