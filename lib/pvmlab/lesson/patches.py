# SPDX-License-Identifier: MIT
"""A piece of one of our patches, read from the patch file itself.

Adds: patch(), which shows a function's part of a patch in colour, what did
not change folded, and beside it what the patch's own message says of it.
Leaves out: reading the files (../series.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from html import escape
from itertools import groupby, takewhile
from textwrap import dedent

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import CLexer

from ..errors import UsageError
from ..series import Hunk, PatchFile, read
from .markup import frame, paragraphs

#: Unchanged lines in a row that are still shown; of a longer row, so many at each end.
_MOST_PLAIN, _ENDS = 5, 2
#: How a paragraph of a message begins whose columns mean something; items of a list are indented less.
_TABLE = re.compile(" {4}")
_CLASS = {"+": " add", "-": " del", " ": ""}


class Excerpt:
    """A piece of a patch as it stands in a notebook."""

    def __init__(self, patch: PatchFile, pieces: Sequence[Hunk], said: Sequence[str]) -> None:
        self.patch, self.pieces, self.said = patch, tuple(pieces), tuple(said)

    @cached_property
    def _code(self) -> str:
        return "".join(f"<pre><span class=l><strong>{escape(piece.file)}</strong>, line {piece.start}</span></pre>"
                       f"{''.join(_folded(_coloured(piece.lines)))}" for piece in self.pieces)

    def html(self) -> str:
        """Return the code and the message's own words: above it, or beside it where there is room (lesson.css)."""
        whole = "\n\n".join(self.patch.message)
        wide = "" if self.said and not any(map(_TABLE.match, self.said)) else " pvl-wide"
        said = f'<div class=pvl-said>{"".join(map(_as_it_stands, self.said))}</div>' if self.said else ""
        body = (f"<p><strong>{escape(self.patch.name)}</strong>: {escape(self.patch.subject)}</p>"
                f'<div class="pvl-sides{wide}">{said}'
                f'<div class=pvl-code tabindex=0 role=region aria-label="the code">{self._code}</div></div>'
                f"<details><summary>The whole message</summary><pre>{escape(whole)}</pre></details>")
        return frame("patch", f"{self.patch.name}: {self.patch.subject}", body)

    def text(self) -> str:
        code = "\n\n".join(f"{p.file}, line {p.start}\n" + "\n".join(p.lines) for p in self.pieces)
        return "\n\n".join((f"{self.patch.name}: {self.patch.subject}", code, *self.said))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}


def patch(series: str, number: int, *, function: str | None = None, file: str | None = None,
          between: tuple[str, str] | None = None, about: str | Sequence[str] | None = ()) -> Excerpt:
    """Return a piece of a patch, with what its message says of it.

    function: the C function whose changes to show (mm/memory.c has
    copy_pmd_range()); file: only of this file; between: only from the line with the
    one text to the line with the other; about: words that the wanted
    paragraphs of the message contain, by default the function's name, and the
    first paragraph where no one has it, None for the code alone; one that ends in a
    colon brings the table or list that it announces. Raises UsageError when the patch does not change
    that function, has no such lines, or its message no such paragraph.
    """
    whole = read(series, number)
    hunks = [h for h in whole.hunks if file is None or h.file == file]
    pieces = [p for h in hunks for p in _of_function(h, function)] if function else hunks
    if not pieces:
        raise UsageError(f"{whole.name} does not change {function or file}",
                         f"it changes {', '.join(dict.fromkeys(h.file for h in whole.hunks))}")
    if between:
        pieces = [cut for piece in pieces if (cut := _between(piece, *between))]
        if not pieces:
            raise UsageError(f"{whole.name} has no lines from {between[0]!r} to {between[1]!r}", "it was changed, or never had")
    return Excerpt(whole, pieces, () if about is None else _paragraphs(whole, (about,) if isinstance(about, str) else about, function))


def _between(piece: Hunk, first: str, last: str) -> Hunk | None:
    """The lines of a piece from the first that has one text to the next that has the other."""
    start = next((i for i, line in enumerate(piece.lines) if first in line), None)
    if start is None:
        return None
    end = next((i for i in range(start, len(piece.lines)) if last in piece.lines[i]), None)
    return None if end is None else piece.piece(start, end + 1)


def _paragraphs(whole: PatchFile, about: Sequence[str], function: str | None) -> list[str]:
    """The paragraphs that have these words, in their order, each to its end; each of the words must be somewhere."""
    flat = [part.rstrip() if _TABLE.match(part) else " ".join(part.split()) for part in whole.message]
    for words in about:
        if not any(words in part for part in flat):
            raise UsageError(f"the message of {whole.name} does not say {words!r}", "it was changed, or never did")
    wanted = about or ((f"{function}()",) if function else ())
    first = {i for i, part in enumerate(flat) if any(words in part for words in wanted)} or {0}
    return [flat[i] for i in sorted({i for at in first for i in range(at, _end(flat, at))})]


def _end(parts: Sequence[str], at: int) -> int:
    """Where part `at` has said all it says: a colon announces a list, or one part more."""
    rest = parts[at + 1:] if parts[at].endswith(":") else ()
    items = list(takewhile(lambda part: part.startswith("- "), rest))
    return at + 1 + (len(items) or min(1, len(rest)))


def _as_it_stands(part: str) -> str:
    """A paragraph as HTML; a table keeps its columns."""
    return f"<pre>{escape(dedent(part))}</pre>" if _TABLE.match(part) else paragraphs(part)


def _of_function(hunk: Hunk, function: str) -> Iterator[Hunk]:
    """The lines of a hunk that belong to a function: from its head, or the hunk's begin, to its closing brace."""
    named = re.compile(rf"[ +-](?:[A-Za-z].*)?\b{function}[(,]")
    begun = re.search(rf"\b{function}[(,]", hunk.at) is not None
    start = 0 if begun else None
    for i, line in enumerate(hunk.lines):
        if start is None and named.match(line) and _defined(hunk.lines[i:]):
            start = _head(hunk.lines, i)
        if start is not None and line[:2] in (" }", "+}"):
            yield hunk.piece(start, i + 1)
            start = None
    if start is not None:
        yield hunk.piece(start)


def _defined(lines: Sequence[str]) -> bool:
    """Whether these lines begin a function, and not its declaration: a brace comes before a semicolon."""
    ends = (line.rstrip()[-1:] for line in lines)
    return next((end for end in ends if end in (";", "{")), "") == "{"


def _head(lines: Sequence[str], i: int) -> int:
    """Where a function begins whose name stands in line i: its return type and comment may stand above."""
    while i and lines[i - 1].strip("+- \t") and lines[i - 1][1:2] != "}":
        i -= 1
    return i


def _coloured(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(sign, HTML) of each line."""
    code = "\n".join(line[1:] for line in lines)
    made = highlight(code, CLexer(stripnl=False), HtmlFormatter(nowrap=True)).split("\n")
    for line, html in zip(lines, made):
        yield line[0], f'<span class="l{_CLASS.get(line[0], "")}">{line[0]} {html or " "}</span>'


def _folded(lines: Iterator[tuple[str, str]]) -> Iterator[str]:
    """Long runs of unchanged lines fold; what stands around a change stays."""
    for plain, run in groupby(lines, lambda line: line[0] == " "):
        html = [made for _, made in run]
        if plain and len(html) > _MOST_PLAIN:
            middle = html[_ENDS:-_ENDS]
            yield f"<pre>{''.join(html[:_ENDS])}</pre><details><summary>{len(middle)} unchanged lines</summary>"
            yield f"<pre>{''.join(middle)}</pre></details><pre>{''.join(html[-_ENDS:])}</pre>"
        else:
            yield f"<pre>{''.join(html)}</pre>"
