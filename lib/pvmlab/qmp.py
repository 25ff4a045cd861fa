# SPDX-License-Identifier: MIT
"""QEMU's control channel, callable from ordinary code.

Adds: a thread of its own for qemu.qmp, which is asyncio while a notebook
already runs a loop; starting QEMU from that same thread, so that the kernel
ends QEMU when the thread's process ends, however it ends.
Leaves out: what to say on the channel (vm.py).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.error import QMPError

from .errors import MachineDied, MachineTimeout

# It reports each lost connection as an error; ours are lost on purpose, and we raise what matters.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Qmp:
    """One QEMU process and its QMP connection.

    argv: the command line, to which the control channel is added; pass_fds:
    descriptors it inherits; log: descriptor its own messages go to.
    """

    def __init__(self, argv: Sequence[str], pass_fds: Sequence[int], log: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient()
        self._events = EventListener(names=("RESUME", "STOP", "MIGRATION"))
        self._client.register_listener(self._events)
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        ours, theirs = socket.socketpair()
        try:
            channel = ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
            self.process = self._in_thread(lambda: _spawn([*argv, *channel], [*pass_fds, theirs.fileno()], log))
        except BaseException:
            ours.close()
            self._end_thread()
            raise
        finally:
            theirs.close()
        self._ours = ours

    def connect(self, timeout: float) -> None:
        """Wait for QEMU's greeting. Raises MachineDied when it exits instead."""
        self._ours.setblocking(False)
        self._wait(self._client.connect(self._ours), timeout, "QEMU's greeting")

    def call(self, command: str, timeout: float = 5.0, **arguments: object) -> object:
        """Run one QMP command and return its answer.

        Raises MachineDied when QEMU is gone, MachineTimeout after `timeout` seconds.
        """
        return self._wait(self._client.execute(command, arguments or None), timeout, command)

    def post(self, command: str) -> concurrent.futures.Future:
        """Send a QMP command without waiting; the future has its answer."""
        return asyncio.run_coroutine_threadsafe(self._client.execute(command), self._loop)

    def every(self, seconds: float, look: Callable[[], bool]) -> None:
        """Call `look` in this thread again and again, until it returns False."""
        def again() -> None:
            if look():
                self._loop.call_later(seconds, again)
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, again)

    def give_fd(self, fd: int, name: str) -> None:
        """Hand a descriptor to QEMU under a name (getfd)."""
        async def give() -> None:
            self._client.send_fd_scm(fd)
            await self._client.execute("getfd", {"fdname": name})
        self._wait(give(), 5.0, "getfd")

    def wait_event(self, wanted: Callable[[dict], bool], timeout: float) -> None:
        """Wait until an event comes of which `wanted` is true. Raises MachineDied when QEMU ends instead."""
        async def wait() -> None:
            while not wanted(await self._next_event()):
                pass
        self._wait(wait(), timeout, "an event of QEMU's")

    async def _next_event(self) -> dict:
        event = asyncio.ensure_future(self._events.get())
        try:
            while not (await asyncio.wait({event}, timeout=0.05))[0]:
                if self.process.poll() is not None:
                    raise EOFError("QEMU has ended")
            return event.result()
        finally:
            event.cancel()

    def close(self) -> None:
        """End QEMU and the thread."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(MachineDied, MachineTimeout):
            self._wait(self._client.disconnect(), 2.0, "disconnect")
        self._end_thread()
        self._ours.close()

    def _wait(self, coroutine, timeout: float, what: str) -> object:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError as e:
            future.cancel()
            raise MachineTimeout(f"QEMU did not answer {what!r} within {timeout} s") from e
        except (QMPError, EOFError, OSError) as e:
            raise MachineDied(f"QEMU failed at {what!r}", str(e) or type(e).__name__) from e

    def _in_thread(self, function: Callable) -> object:
        async def run() -> object:
            return function()
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def _spawn(argv: Sequence[str], pass_fds: Sequence[int], log: int) -> subprocess.Popen:
    """Start QEMU so that it dies with the thread that called (prctl(2), PR_SET_PDEATHSIG).

    One malloc arena serves all of its threads: a stopped machine is a megabyte smaller.
    """
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], pass_fds=pass_fds, stdin=subprocess.DEVNULL,
                            stdout=log, stderr=log, start_new_session=True,
                            env={**os.environ, "MALLOC_ARENA_MAX": "1"})
