# SPDX-License-Identifier: MIT
"""How what was seen shows itself in a notebook: as a figure that steps.

Adds: for a Snapshot, a Diff, Steps, an RmapWalk or a Picture that ends a
cell, the figure instead of the repr.
Leaves out: drawing (draw/) and the figure itself (view.py).

The figure is HTML that steps by itself, so that a notebook opened again
without its kernel still has it. View(picture) is the same figure as a widget,
for whom Python is to turn the steps.
"""

from __future__ import annotations

from .diff import Diff, Steps
from .draw import Picture, picture
from .model import RmapWalk, Snapshot
from .view import bundle


def show_in_notebooks(shell: object) -> None:
    """Tell an IPython shell to show what was seen as figures (IPython's mimebundle formatter)."""
    def show(seen: Snapshot | Steps | RmapWalk | Picture, include=None, exclude=None) -> dict[str, str]:
        return bundle(seen if isinstance(seen, Picture) else picture(seen))

    formatter = shell.display_formatter.mimebundle_formatter
    for kind in (Snapshot, Diff, Steps, RmapWalk, Picture):
        formatter.for_type(kind, show)
