# SPDX-License-Identifier: MIT
"""How what was seen shows itself in a notebook: as a figure that steps.

Adds: for a Snapshot, a Diff, Steps, an RmapWalk or a Picture that ends a
cell, the figure instead of the repr.
Leaves out: drawing (draw/) and the figure itself (view.py).

Where somebody sits at the notebook, the figure is a widget. Where nobody
does, as in nbconvert, it is HTML that steps by itself: a widget would leave
the saved page with a figure that must be fetched from the network.
"""

from __future__ import annotations

from .diff import Diff, Steps
from .draw import Picture, picture
from .model import RmapWalk, Snapshot
from .view import View, bundle


def show_in_notebooks(shell: object) -> None:
    """Tell an IPython shell to show what was seen as figures (IPython's mimebundle formatter)."""
    def show(seen: Snapshot | Steps | RmapWalk | Picture, include=None, exclude=None):
        made = seen if isinstance(seen, Picture) else picture(seen)
        return View(made)._repr_mimebundle_() if _attended(shell) else bundle(made)

    formatter = shell.display_formatter.mimebundle_formatter
    for kind in (Snapshot, Diff, Steps, RmapWalk, Picture):
        formatter.for_type(kind, show)


def _attended(shell: object) -> bool:
    """Whether somebody could answer a question: `allow_stdin` of the request that runs the cell."""
    request = getattr(shell, "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))
