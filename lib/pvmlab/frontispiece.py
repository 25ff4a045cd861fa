# SPDX-License-Identifier: MIT
"""The README's picture, and photographs of the standard figures, made the way a lesson makes its own.

Adds: the main path from boot to figure in one function each; the figures in
Chromium, as they are at first and with something chosen.
Leaves out: everything else.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .diff import steps
from .draw import PANELS, Picture, picture
from .errors import SetupError
from .lab import Lab
from .view import page

#: What is done to a figure before it is photographed: (name, selectors to click, keys to press).
POSES = (("", (), ()), ("-frame", ("[data-panel=translation] .row.frame",), ()),
         ("-list", ("[data-panel=translation] .row.vma",), ("Enter",)),
         ("-forest", ("[data-panel=forest] .row.head",), ()), ("-walk", (".pv-where.pv-here",), ("End", *"wwww")))
GROUNDS = {"light": "", "dark": ' style="background:#111111;color:#eeeeee"'}


def the_call() -> Picture:
    """Boot, arrange, look, act, look again: the figure of one process_vm_mmap()."""
    with Lab(kernel="v2") as lab:
        server, consumer = lab.tasks("server", "consumer")
        buf = server.mmap(pages=4)
        server.touch(buf, 4, write=True)
        before = lab.look("before")
        consumer.process_vm_mmap(server, buf, pages=4)
        after = lab.look("after process_vm_mmap()")
        return picture(after - before, walk=after.task("server").pte(buf).pfn)


def child_to_parent() -> Picture:
    """A forks B, and B's mapping is handed back to A: three steps, all panels."""
    with Lab(kernel="v2") as lab:
        a = lab.task("A")
        buf = a.mmap(pages=2)
        a.touch(buf, 2, write=True)
        alone = lab.look("A alone")
        b = a.fork("B")
        forked = lab.look("A forked B")
        a.process_vm_mmap(b, buf, pages=2)
        after = lab.look("handed back to A")
        return picture(steps(alone, forked, after), panels=PANELS, walk=after.task("A").pte(buf).pfn)


def inside_the_call() -> Picture:
    """The call as a film: a step for each place of the kernel that it comes to."""
    with Lab(kernel="v2") as lab:
        server, consumer = lab.tasks("server", "consumer")
        buf = server.mmap(pages=4)
        server.touch(buf, 4, write=True)
        return picture(steps(*lab.film(lambda: consumer.process_vm_mmap(server, buf, pages=4))))


def family() -> Picture:
    """Fifty children of one process: what is folded when there is much of it."""
    with Lab(kernel="v2") as lab:
        parent = lab.task("parent")
        buf = parent.mmap(pages=2)
        parent.touch(buf, 2, write=True)
        for i in range(50):
            parent.fork(f"child{i}")
        return picture(lab.look("fifty children"), panels=PANELS, focus=buf, walk=None)


def lineage() -> Picture:
    """A line of fifty processes, each the child of the one before; the last hands its pages to the first."""
    with Lab(kernel="v2", ram=512) as lab:
        first = task = lab.task("p0")
        buf = first.mmap(pages=2)
        first.touch(buf, 2, write=True)
        for i in range(1, 50):
            task = task.fork(f"p{i}")
        before = lab.look("fifty generations")
        first.process_vm_mmap(task, buf, pages=2)
        after = lab.look("handed to the first")
        return picture(after - before, panels=PANELS, walk=after.task("p0").pte(buf).pfn)


FIGURES = {"the-call": the_call, "child-to-parent": child_to_parent, "inside-the-call": inside_the_call,
           "family": family, "lineage": lineage}


def screenshots(directory: Path) -> Iterator[Path]:
    """Write <figure><pose>-<light or dark>.png into a directory; yield each. SetupError without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        raise SetupError("no screenshots were made", "they need Chromium and playwright",
                         "sudo apt-get install -y chromium; pip install -r binder/requirements.txt")
    directory.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, make in FIGURES.items():
            print(f"[screenshots] {name} …", file=sys.stderr, flush=True)
            source = page(make())
            for ground, style in GROUNDS.items():
                yield from _poses(browser, f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>"
                                  f"<body{style}>{source}", directory, name, ground)
        browser.close()


def _poses(browser, source: str, directory: Path, name: str, ground: str) -> Iterator[Path]:
    for pose, clicks, keys in POSES:
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.set_content(source)
        for selector in clicks:
            if tab.locator(selector).count():
                tab.locator(selector).first.click()
        for key in keys:
            tab.keyboard.press(key)
        path = directory / f"{name}{pose}-{ground}.png"
        tab.screenshot(path=path, full_page=not pose)
        tab.close()
        yield path
