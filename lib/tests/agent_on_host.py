# SPDX-License-Identifier: MIT
"""The guest's agent as an ordinary process on this computer, without a VM.

Adds: building it into a directory and a Port to it, for the tests of guest.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

from pvmlab.abi import find_root
from pvmlab.errors import MachineDied


def build(out: Path) -> str:
    """Build init and task into `out`; return why not, or "" on success."""
    if not shutil.which("gcc") or not shutil.which("make"):
        return "needs gcc and make"
    made = subprocess.run(
        ["make", "-C", find_root() / "vm-image/agent", f"OUT={out}", "CC=gcc"],
        capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ""


class HostPort:
    """wire.Port over a socket pair to an agent process."""

    timeout = 10.0

    def __init__(self, out: Path) -> None:
        self.sock, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [out / "init", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()])
        self.depth = 0

    @contextlib.contextmanager
    def running(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def check(self) -> None:
        if self.process.poll() is not None:
            raise MachineDied("the agent is gone", f"status {self.process.returncode}")

    def close(self) -> None:
        self.sock.close()
        self.process.wait(5)
