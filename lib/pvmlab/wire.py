# SPDX-License-Identifier: MIT
"""Frames over a machine's socket: numbered, bounded, and safe to interrupt.

Adds: sequence numbers, replies kept by number until they are asked for, waits
in the caller's thread with a bound, and a stream that stays in step when
KeyboardInterrupt lands anywhere. Leaves out: what the frames mean.

How it stays in step: Python runs signal handlers between bytecodes, so a byte
count that send() has returned could be lost before it is stored. Here each
system call and the storing of its result are one call into C (list.extend over
map), and everything that follows from it can be done again without harm.
"""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from . import abi
from .abi import Frame
from .errors import ImageError, MachineDied, MachineTimeout

_SLICE = 0.2        # seconds between two looks at whether the machine lives
_RECV = 1 << 17     # bytes


class Port(Protocol):
    """What a machine offers to those who talk to its agent."""

    sock: socket.socket     #: stream to the agent
    timeout: float          #: seconds that a call may take by default

    def running(self) -> AbstractContextManager:
        """Let the machine run inside; may be nested."""

    def check(self) -> None:
        """Raise MachineDied if the machine is no more."""


@dataclass(slots=True)
class _Outgoing:
    data: bytes = b""
    sent: list[int] = field(default_factory=list)   # what each send() took

    def rest(self) -> memoryview:
        return memoryview(self.data)[sum(self.sent):]


class Wire:
    """One stream of frames. Any thread may use it; one lock guards its state."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self._lock = threading.RLock()
        self._outgoing = _Outgoing()
        self._received: list[bytes] = []
        self._awaited: set[int] = set()
        self._replies: dict[int, Frame] = {}
        # Anywhere, so that what an earlier owner of the agent left unanswered
        # is no answer to us.
        self._last_seq = secrets.randbits(32) % 0xFFFFFFFF

    def number(self) -> int:
        """Return a seq for a frame to be posted: 1 to 2**32 - 1, in turn."""
        with self._lock:
            self._last_seq = self._last_seq % 0xFFFFFFFF + 1
            return self._last_seq

    def post(self, seq: int, op: int, *, what: str, **fields) -> None:
        """Send a frame whose reply wait(seq) will hand out.

        fields: those of Frame; what: the call as text, for errors.
        Raises MachineDied, or MachineTimeout when it cannot be sent.
        """
        with self._lock:
            self._flush(what)           # the rest of an interrupted one
            data = Frame(seq, int(op), **fields).encode()
            self._awaited.add(seq)
            self._outgoing = _Outgoing(data)
            self._flush(what)

    def awaits(self, seq: int) -> bool:
        """Whether a frame of that seq was posted and its reply not taken."""
        return seq in self._awaited

    def wait(self, seq: int, timeout: float | None = None, *, what: str) -> Frame:
        """Wait for the reply to `seq`, at most `timeout` seconds.

        Raises MachineDied, MachineTimeout. The reply stays awaited then, so
        that another wait() can have it; forget() drops it.
        """
        bound = self.port.timeout if timeout is None else timeout
        deadline = time.monotonic() + bound
        while (reply := self.take(seq)) is None:
            self._await_input(deadline, bound, what)
        return reply

    def take(self, seq: int) -> Frame | None:
        """Return the reply to `seq` if it has come, without waiting."""
        with self._lock:
            if seq not in self._replies:
                self._receive()
            reply = self._replies.get(seq)
            if reply is not None:
                self.forget(seq)
            return reply

    def forget(self, seq: int) -> None:
        """Drop the reply to `seq`, now or when it comes."""
        with self._lock:
            self._awaited.discard(seq)
            self._replies.pop(seq, None)

    # ---- the socket ------------------------------------------------------

    def _flush(self, what: str) -> None:
        deadline = time.monotonic() + self.port.timeout
        out = self._outgoing
        while rest := out.rest():
            try:
                out.sent.extend(map(self.port.sock.send, (rest,),
                                    (socket.MSG_DONTWAIT,)))
            except BlockingIOError:
                self._poll(select.POLLOUT, deadline, self.port.timeout, what)
            except OSError as error:
                self._broken(error)

    def _receive(self) -> None:
        """Take what has arrived, without waiting."""
        try:
            self._received.extend(map(self.port.sock.recv, (_RECV,),
                                      (socket.MSG_DONTWAIT,)))
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(error)
        if not self._received[-1]:
            self._broken("the other end of the connection is closed")
        self._sort()

    def _sort(self) -> None:
        data, at = b"".join(self._received), 0
        while decoded := self._decode(data[at:] if at else data):
            frame, length = decoded
            at += length
            if frame.seq in self._awaited:
                self._replies[frame.seq] = frame
        self._received[:] = [data[at:]] if at < len(data) else []

    def _decode(self, data: bytes) -> tuple[Frame, int] | None:
        try:
            return abi.decode(data)
        except abi.BadFrame as error:
            raise ImageError("the agent's reply makes no sense", str(error),
                             "make image, so that agent and library match") from None

    def _await_input(self, deadline: float, bound: float, what: str) -> None:
        self._poll(select.POLLIN, deadline, bound, what)

    def _poll(self, event: int, deadline: float, bound: float, what: str) -> None:
        """Wait one slice; look whether the machine lives if nothing came."""
        left = deadline - time.monotonic()
        poller = select.poll()
        poller.register(self.port.sock, event)
        if poller.poll(max(0.0, min(_SLICE, left)) * 1000):
            return
        self.port.check()
        if left <= 0:
            raise MachineTimeout(
                what, f"no answer within {bound:g} s",
                "the guest's kernel may hang in it: lab.console() may say why; lab = Lab(...) starts afresh")

    def _broken(self, why: object) -> None:
        self.port.check()
        raise MachineDied("the machine does not answer any more", str(why),
                          "make a new Lab")
