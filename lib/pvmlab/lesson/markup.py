# SPDX-License-Identifier: MIT
"""Pieces of a lesson as HTML that needs no kernel and no network.

Adds: the few words of Markdown that texts of a lesson use, and a frame with
style and script inline (lesson.css, lesson.js).
Leaves out: what stands in the frame.
"""

from __future__ import annotations

import json
import re
import secrets
from html import escape
from pathlib import Path

_FILES = Path(__file__).parent
SCRIPT, STYLE = (_FILES / "lesson.js").read_text(), (_FILES / "lesson.css").read_text()


def inline(text: str) -> str:
    """Return `code`, **bold** and *stressed* as HTML, everything else escaped."""
    made = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    made = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", made)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*", r"<em>\1</em>", made)


def paragraphs(text: str) -> str:
    """Return text as HTML paragraphs; empty lines part them."""
    return "".join(f"<p>{inline(' '.join(part.split()))}</p>" for part in text.split("\n\n") if part.strip())


def plain(text: str) -> str:
    """Return text without the marks."""
    return re.sub(r"\*\*(.+?)\*\*|`([^`]+)`|(?<![\w*])\*([^*\s][^*]*)\*", lambda m: m[1] or m[2] or m[3], text)


def frame(kind: str, label: str, body: str, action: str = "pvlOn", data: object = None) -> str:
    """Return a part of a page.

    kind: its class; label: its name for a screen reader; action: the function of
    lesson.js that gets the element and `data`; pvlOn lets it keep its keys.
    """
    name = f"pvl-{secrets.token_hex(6)}"
    given = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    mine = f"document.querySelectorAll('[id=\"{name}\"]:not(.pvl-on)')"
    script = f"{SCRIPT}\nfor (const root of {mine}) {action}(root, {given});"
    return (f'<div class="pvl pvl-{kind}" id="{name}" role="group" aria-label="{escape(label)}">'
            f'{body}</div><style>{STYLE}</style><script>(() => {{\n{script}\n}})();</script>')
