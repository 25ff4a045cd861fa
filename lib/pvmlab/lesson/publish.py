# SPDX-License-Identifier: MIT
"""The course as pages: every notebook run, and all its verdicts on one page.

Adds: site(), the executed notebooks as HTML whose figures step and whose
questions ask, with no kernel and no network; review(), the page for a design
review: message, claim, verdict, evidence, figure.
Leaves out: what the outputs are made of (cells.py, verdict.py, view.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from html import escape
from pathlib import Path

import nbclient
import nbformat
from nbconvert import HTMLExporter
from traitlets.config import Config

from ..errors import PvmlabError
from ..image import manifest, root
from .course import Course, Page, pages
from .markup import STYLE, inline
from .verdict import MIME

_SECONDS_A_CELL = 120
#: What the kernel is told and says is encrypted; else it warns that it is not.
_PRIVATE = Config({"KernelManager": {"transport_encryption": "auto"}})
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: nbconvert cuts what does not fit in a cell.
_LONG_LINES = ".jp-InputArea-editor .highlight pre { overflow-x: auto }"
#: nbconvert's page would fetch these: none of our pages needs them.
_NOT_FETCHED = ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url", "mermaid_layout_elk_js_url")
_HEAD = ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
         'content="width=device-width">'
         "<title>{title}</title><style>:root {{ color-scheme: light dark }} body {{ font: 15px/1.55 system-ui, "
         "sans-serif; "
         "max-width: 78em; margin: 2em auto; padding: 0 1.5em }}\n{style}</style></head><body>")


def site(folder: Path, say: Callable[[str], None] = print) -> Path:
    """Run every notebook and write the course as pages; return the index. Raises PvmlabError where a notebook fails."""
    folder.mkdir(parents=True, exist_ok=True)
    books = dict(_run_all(say))
    for page, book in books.items():
        (folder / _page_name(page.file)).write_text(_as_page(book, page))
    (folder / "review.html").write_text(_review_page(books))
    index = folder / "index.html"
    index.write_text(_index_page(tuple(books)))
    return index


def review(file: Path, say: Callable[[str], None] = print) -> Path:
    """Run every notebook and write the page of their verdicts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_review_page(dict(_run_all(say))))
    return file


# --- running ----------------------------------------------------------------------------------------------------------

def _run_all(say: Callable[[str], None]) -> Iterator[tuple[Page, nbformat.NotebookNode]]:
    for page in pages():
        say(f"running {page.file}")
        yield page, run(root() / "notebooks" / page.file)


def run(path: Path) -> nbformat.NotebookNode:
    """Return a notebook, run from top to bottom. Raises PvmlabError with the cell that failed."""
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(book, timeout=_SECONDS_A_CELL, kernel_name="python3", config=_PRIVATE,
                                     resources={"metadata": {"path": str(path.parent)}})
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as e:
        raise PvmlabError(f"{path.name} failed", _COLOURS.sub("", str(e))[-2000:],
                          "`git diff notebooks` shows what was changed in them, `git checkout notebooks` brings them "
                          "back as they came") from e
    book.metadata.pop("widgets", None)      # a page has no kernel to hear them
    return book


# --- pages ------------------------------------------------------------------------------------------------------------

def _page_name(file: str) -> str:
    return file.removesuffix(".ipynb") + ".html"


def _as_page(book: nbformat.NotebookNode, page: Page) -> str:
    exporter = HTMLExporter(**dict.fromkeys(_NOT_FETCHED, ""))
    source, _ = exporter.from_notebook_node(book, {"metadata": {"name": page.title}})
    return _linked(source.replace("</head>", f"<style>{_LONG_LINES}</style></head>", 1))


def _linked(html: str) -> str:
    """Links between notebooks become links between pages."""
    return re.sub(r'href="([\w-]+)\.ipynb"', r'href="\1.html"', html)


def _index_page(all_pages: tuple[Page, ...]) -> str:
    table = _linked(Course(all_pages, {}).html(progress=False))
    return (_HEAD.format(title="The review you can run", style=STYLE)
            + f'<h1>The review you can run</h1><p>A course on Linux’s process_vm_mmap() proposal of May 2019, as it '
              f'ran on {_kernels()}, '
              f"{date.today():%-d %B %Y}. The figures step and the questions ask, without a kernel behind them.</p>"
              f'<div class="pvl pvl-course">{table}</div><p><a href="review.html">The review: all verdicts on one '
              f'page</a></p></body></html>')


def _kernels() -> str:
    return " and ".join(f"Linux {about['release']}" for about in manifest()["kernels"].values())


def _verdicts(books: dict[Page, nbformat.NotebookNode]) -> list[dict]:
    """All verdicts in the order of the thread."""
    found = [output["data"][MIME] for book in books.values() for cell in book.cells if cell.cell_type == "code"
             for output in cell.outputs if MIME in output.get("data", {})]
    return sorted(found, key=lambda made: (0 if made["message"] == "cover" else int(made["message"]), made["lesson"]))


def _review_page(books: dict[Page, nbformat.NotebookNode]) -> str:
    files = {page.number: _page_name(page.file) for page in books}
    found = _verdicts(books)
    rows = "".join(f'<tr><td><a href="#v{i}">{escape(v["who"])}</a></td><td>{inline(v["claim"])}</td>'
                   f"<td><strong>{v['verdict']}</strong></td></tr>" for i, v in enumerate(found))
    parts = "".join(_one_verdict(i, v, files) for i, v in enumerate(found))
    return (_HEAD.format(title="The review, verdict by verdict", style=STYLE)
            + f"<h1>The review, verdict by verdict</h1><p>{len(found)} claims of the thread, each put to a running "
              f"kernel, "
              f"{date.today():%-d %B %Y}. Every verdict and every piece of evidence was computed from the kernel’s "
              f"memory.</p>"
              f'<div class="pvl"><table><tr><th scope=col>message</th><th scope=col>claim</th><th '
              f'scope=col>verdict</th></tr>{rows}'
              f"</table></div>{parts}</body></html>")


def _one_verdict(i: int, v: dict, files: dict[str, str]) -> str:
    rows = "".join(f"<tr><th scope=row>{inline(what)}</th><td>{escape(value)}</td></tr>"
                   for what, value in v["evidence"])
    where = files.get(v["lesson"], "")
    means = f"<p>{v['verdict'].capitalize()}: {v['means']}.</p>" if v["means"] else ""
    return (f'<h2 id="v{i}">{escape(v["who"])}: {v["verdict"]}</h2><div class="pvl '
            f'pvl-verdict"><p>{inline(v["claim"])}</p>{means}'
            f'<table>{rows}</table>{v["figure"]}<p class="pvl-source">Linux {escape(v["kernel"])}, {v["date"]}, '
            f'<a href="{where}">notebook {escape(v["lesson"])}</a></p></div>')
