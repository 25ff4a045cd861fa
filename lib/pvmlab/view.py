# SPDX-License-Identifier: MIT
"""The figure that steps, as a widget and as a page.

Adds: View, the widget; page(), the same figure as HTML that needs no kernel
and no network; bundle(), what a notebook gets; the style in light and dark.
Leaves out: what the figure shows and says (figure.py), drawing (draw/), and
what happens in the browser: view/view.js, view/unfold.js and view/view.css, which
the widget and the page share.
"""

from __future__ import annotations

import json
import secrets
from html import escape
from pathlib import Path

import anywidget
import traitlets

from .draw import Picture, svg
from .figure import figure

_FILES = Path(__file__).parent / "view"
SCRIPT = (_FILES / "unfold.js").read_text() + "\n" + (_FILES / "view.js").read_text()
STYLE = (svg.rules(svg.LIGHT, ".pvmlab-view") + "\n" + svg.rules(svg.DARK, ".pvmlab-view.pv-dark") + "\n"
         + (_FILES / "view.css").read_text())


class View(anywidget.AnyWidget):
    """A Picture as a widget. step: the stop it shows, counted from 0; set it to step from Python."""

    _esm = SCRIPT + "\nexport default { render };\n"
    _css = STYLE
    figure = traitlets.Dict().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(self, picture: Picture) -> None:
        made = figure(picture)
        super().__init__(figure=made, step=made["start"])
        self._static = _bundle(picture, made)

    def html(self) -> str:
        """Return the figure as a part of an HTML page, with its script inline."""
        return self._static["text/html"]

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return {**data, **self._static}, metadata


def page(picture: Picture) -> str:
    """Return a Picture as a part of an HTML page that steps with no kernel and no network."""
    return _page(picture, figure(picture))


def bundle(picture: Picture) -> dict[str, str]:
    """Return what a notebook that nobody sits at keeps: HTML that steps, SVG, text."""
    return _bundle(picture, figure(picture))


def _bundle(picture: Picture, made: dict) -> dict[str, str]:
    return {"text/html": _page(picture, made), "image/svg+xml": picture.svg(), "text/plain": picture.text()}


def _page(picture: Picture, made: dict) -> str:
    """The plain figure, which the script replaces: where no script may run, and in print, it stays."""
    name = f"pvmlab-{secrets.token_hex(6)}"
    plain = picture.html().replace(' id="', f' id="{name}-')
    data = json.dumps(made, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (f'<div class="pvmlab-view" id="{name}">{plain}<details><summary>the same as text</summary>'
            f"<pre>{escape(picture.text())}</pre></details></div><style>{STYLE}</style><script>(() => {{\n{SCRIPT}\n"
            f"for (const root of document.querySelectorAll('[id=\"{name}\"]:not(.pv-on)')) pvmlabView(root, {data});\n"
            "})();</script>")
