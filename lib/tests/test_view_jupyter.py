# SPDX-License-Identifier: MIT
"""The figure where it is used: JupyterLab opens a notebook, a cell runs, the figure is stepped and chosen from.

What lights up is checked against what the cell itself read from the snapshot.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import chromium
import nbformat
import pytest

import pvmlab

pytestmark = chromium.needed

TOKEN = "for-this-test"
BOOT = """
import json
from pvmlab import Lab, picture
lab = Lab(kernel="v2")
A = lab.task("A")
buf = A.mmap(pages=2); A.write(buf, b"one page"); A.touch(buf, 2, write=True)
B = A.fork("B")
forked = lab.look("A forked B")
dst = A.process_vm_mmap(B, buf, pages=2)
after = lab.look("handed back to A")
page = after.task("A").pte(buf).pfn
json.dump([hex(mm.vma(addr).vm_start) for mm, addr in after.mapped(page)], open("mapped.json", "w"))
lab.close()
"""
SHOW = "picture(after - forked, walk=page)"
WIDGET = "from pvmlab.view import View\nview = View(picture(after - forked, walk=page)); view"
#: Errors of the page that are not the figure's: JupyterLab asks for what an unpacked server does not have, for the
#: state of a debugger that nobody started, and on a busy machine for the kernel of a comm that it has lost.
NOT_OURS = ("404", "Failed to load resource", "ServiceWorker", "WebSocket", "debugger state", "(reading 'kernel')")
#: Where an error arises that is thrown in JupyterLab's own scripts; the figure's come from the page or a blob.
THEIR_SCRIPTS = re.compile(r"^[^\n]*\n\s+at [^\n]*/(static/lab|lab/extensions)/")


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on a free port, with directories of its own: (address, its home)."""
    home = tmp_path_factory.mktemp("jupyter")
    cells = [nbformat.v4.new_code_cell(source) for source in (BOOT, SHOW, WIDGET)]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), home / "figure.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"{name}_DIR": str(home / name.lower()) for name in ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "PYTHONPATH": str(Path(pvmlab.__file__).parents[1])}
    lab = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--log-level=ERROR",
                            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
                            f"--IdentityProvider.token={TOKEN}", "--LabApp.news_url=None",
                            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                            "--LabApp.extension_manager=readonly", "--KernelManager.transport_encryption=auto",
                            str(home)],
                           env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(f"http://127.0.0.1:{port}/api?token={TOKEN}", lab)
        yield f"http://127.0.0.1:{port}", home
    finally:
        lab.terminate()
        lab.wait(20)


def _answers(address: str, lab: subprocess.Popen) -> None:
    for _ in range(300):
        assert lab.poll() is None, "JupyterLab ended"
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("JupyterLab does not answer")


@pytest.fixture(scope="module", params=["JupyterLab Light", "JupyterLab Dark"])
def notebook(request, browser, server):
    """The notebook, run once in a theme: (tab, what it complained of, home)."""
    address, home = server
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": request.param}))
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    said = chromium.complaints(tab, ())
    tab.goto(f"{address}/lab/tree/figure.ipynb?token={TOKEN}&reset", timeout=90_000)
    tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    tab.wait_for_selector("text=Idle >> nth=0", state="attached", timeout=60_000)
    _run_all(tab, said)
    tab.evaluate("document.querySelector('.pvmlab-view').scrollIntoView()")
    tab.theme = request.param
    yield tab, said, home
    tab.close()


def _run_all(tab, said: list[str]) -> None:
    """Run the cells and wait for both figures.

    Where a kernel is slow to start, JupyterLab asks which one is meant, and may run the first cell only: they are run
    again once nothing runs any more. On a busy machine it may also lose a widget's comm (it complains "Cannot read
    properties of null (reading 'kernel')") and wait for it without end: the page is loaded again, as one would.
    """
    for tick in range(360):
        if tab.locator(".pvmlab-view.pv-on").count() == 2:
            return
        if tick in (120, 240):
            said.clear()
            tab.reload()
            tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
        if (accept := tab.locator(".jp-Dialog .jp-mod-accept")).is_visible():
            accept.click()
        elif tick % 20 == 0 and not tab.locator(".jp-InputPrompt").filter(has_text="[*]").count():
            tab.click("text=Run >> nth=0")
            tab.click("text=Run All Cells >> nth=0")
        tab.wait_for_timeout(500)
    raise AssertionError(tab.locator(".jp-Notebook").inner_text())


def figure(tab):
    return tab.locator(".pvmlab-view").first


def lit(root, kind):
    return root.locator(f".row.{kind}.pv-lit").evaluate_all("all => all.map(row => row.textContent)")


def test_it_steps_by_keyboard_and_mouse(notebook):
    root, tab = figure(notebook[0]), notebook[0]
    current = root.locator("[aria-current=step]")
    assert current.inner_text() == "handed back to A"
    root.get_by_role("button", name="step 1:").click()
    assert current.inner_text() == "A forked B"
    for key, label in (("ArrowRight", "handed back to A"), ("ArrowLeft", "A forked B"), ("End", "handed back to A")):
        tab.keyboard.press(key)
        assert current.inner_text() == label
    assert tab.locator(".jp-Notebook .jp-Cell").count() == 3  # no key went to the notebook


def test_the_frame_lights_what_the_snapshot_says(notebook):
    tab, _, home = notebook
    root, mapped = figure(tab), json.loads((home / "mapped.json").read_text())
    assert len(mapped) == 3
    root.locator("[data-panel=translation] .row.frame").first.click()
    vmas = [text for text in lit(root, "vma") if "rw-p" in text and "–" in text]
    assert len(vmas) == 3 and all(any(text.startswith(start) for text in vmas) for start in mapped)
    assert len(lit(root, "pte")) == 3 and len(lit(root, "visit")) == 3
    assert "2 times in one process" in root.locator(".pv-foot .pv-facts").inner_text()
    tab.keyboard.press("Escape")
    assert lit(root, "vma") == []


def test_enter_chooses_and_does_not_run_the_cell(notebook):
    root, tab = figure(notebook[0]), notebook[0]
    root.locator("[data-panel=forest] .row.link").first.focus()
    tab.keyboard.press("Enter")
    assert lit(root, "link") and "anon_vma_chain" in root.locator(".pv-foot .pv-facts").inner_text()


def test_a_folded_line_opens_by_mouse_and_by_key_and_no_key_goes_to_the_notebook(notebook):
    root, tab = figure(notebook[0]), notebook[0]
    fold, items = root.locator("[data-panel=translation] .row.fold").first, root.locator(".pv-list [data-item]")
    count = int(re.search(r"(\d+) other", fold.text_content())[1])
    fold.click()
    assert items.count() == count
    root.get_by_role("button", name="one list back").click()
    assert items.count() == 0
    tab.keyboard.press("Enter")
    assert items.count() == count
    tab.keyboard.press("ArrowDown")
    assert items.nth(1).get_attribute("aria-pressed") == "true" and root.locator(".pv-foot .pv-facts dt").count() > 3
    tab.keyboard.press("Enter")
    assert " → " in items.first.inner_text()
    for key in ("PageDown", "PageUp", "Escape", "Escape", "Escape"):
        tab.keyboard.press(key)
    assert items.count() == 0 and tab.locator(".jp-Notebook .jp-Cell").count() == 3


def test_the_walk_goes_visit_by_visit(notebook):
    root, tab = figure(notebook[0]), notebook[0]
    for _ in range(6):
        tab.keyboard.press("w")
    assert "more than once" in root.locator(".pv-said").inner_text()


def test_the_steps_stay_in_sight_in_a_notebook(notebook):
    root, tab = figure(notebook[0]), notebook[0]
    root.locator("[data-panel=forest] .row.link").last.scroll_into_view_if_needed()
    root.locator("[data-panel=forest] .row.link").last.focus()
    tab.wait_for_timeout(300)
    panel = tab.locator(".jp-WindowedPanel-outer, .jp-Notebook").first.bounding_box()
    top = root.locator(".pv-top").bounding_box()
    assert panel["y"] - 2 <= top["y"] <= panel["y"] + panel["height"]


def test_it_takes_the_theme(notebook):
    root, tab = figure(notebook[0]), notebook[0]
    assert root.evaluate("e => e.classList.contains('pv-dark')") is ("Dark" in tab.theme)


def test_a_widget_steps_too_and_tells_python(notebook):
    tab = notebook[0]
    widget = tab.locator(".pvmlab-view").nth(1)
    widget.get_by_role("button", name="step 1:").click()
    assert widget.locator("[aria-current=step]").inner_text() == "A forked B"
    tab.keyboard.press("ArrowRight")
    assert widget.locator("[aria-current=step]").inner_text() == "handed back to A"


def test_axe_finds_nothing_serious(notebook):
    assert chromium.serious(notebook[0]) == []


def test_nothing_was_complained_of(notebook):
    assert [text for text in notebook[1] if not any(known in text for known in NOT_OURS)
            and not THEIR_SCRIPTS.match(text)] == []


def test_the_notebook_alone_scrolls(notebook):
    """No output has a scrollbar of its own, which would catch the mouse wheel."""
    tab, *_ = notebook
    over = tab.evaluate("""[...document.querySelectorAll(".jp-Cell-outputArea, .jp-OutputArea-output")]
        .map((each) => each.scrollHeight - each.clientHeight)""")
    assert len(over) >= 4 and set(over) == {0}
