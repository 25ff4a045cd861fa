# SPDX-License-Identifier: MIT
"""What a page tells Python while a kernel is there.

Adds: Wire, a widget that shows nothing and hears what was committed.
Leaves out: what is done with it (lesson.py). A page without a kernel works
the same, except that nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets


class Wire(anywidget.AnyWidget):
    """Calls heard(name, given) for each commitment in the page that bears this token."""

    _esm = (Path(__file__).parent / "wire.js").read_text()
    token = traitlets.Unicode().tag(sync=True)

    def __init__(self, token: str, heard: Callable[[str, str], None]) -> None:
        super().__init__(token=token)
        self.on_msg(lambda widget, said, buffers: heard(said["name"], said["given"]))
