# SPDX-License-Identifier: MIT
"""How what was seen shows itself in a notebook: as a figure with a text form.

Adds: for a Snapshot, a Diff, Steps or an RmapWalk that ends a cell, the
picture instead of the repr.
Leaves out: drawing (draw/). The interactive figure takes this seat when it comes.
"""

from __future__ import annotations

from .diff import Diff, Steps
from .draw import picture
from .model import RmapWalk, Snapshot


def show_in_notebooks(shell: object) -> None:
    """Tell an IPython shell to show what was seen as figures (IPython's mimebundle formatter)."""
    formatter = shell.display_formatter.mimebundle_formatter
    for seen in (Snapshot, Diff, Steps, RmapWalk):
        formatter.for_type(seen, _figure)


def _figure(seen: Snapshot | Steps | RmapWalk, include=None, exclude=None) -> dict[str, str]:
    return picture(seen)._repr_mimebundle_(include=include, exclude=exclude)
