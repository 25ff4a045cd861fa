# SPDX-License-Identifier: MIT
"""The figure that steps, in a real browser: a saved page, opened from a file, with the network cut off.

What lights up is checked against the snapshot, not against what was drawn.
"""

from __future__ import annotations

import shutil
from itertools import chain

import nbformat
import pytest
import worlds
from nbconvert import HTMLExporter

from pvmlab.diff import steps
from pvmlab.draw import picture, ref
from pvmlab.view import bundle, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")

BEFORE, FORKED, AFTER, WALK = worlds.twice()
ROW = steps(BEFORE, FORKED, AFTER)
FRAME = "[data-part^=frames-].row"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]) as browser:
            yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page's source from a file, offline; fails at the end if the page complained or asked for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_offline(True)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)

    def open_page(source):
        (tmp_path / "saved.html").write_text(source)
        tab.goto((tmp_path / "saved.html").as_uri())
        return tab
    yield open_page
    context.close()
    assert said == []


@pytest.fixture
def shown(opened):
    return opened(f"<!doctype html><html lang=en><meta charset=utf-8><title>saved</title>"
                  f"{page(picture(ROW, walk=WALK))}")


def here(tab):
    return tab.locator("[aria-current=step]").inner_text()


def lit(tab):
    """data-refs of every lit row."""
    return [set(refs.split()) for refs in
            tab.eval_on_selector_all(".row.pv-lit", "all => all.map(r => r.dataset.refs)")]


def all_rows(tab):
    return [set(refs.split()) for refs in
            tab.eval_on_selector_all(".row[data-refs]", "all => all.map(r => r.dataset.refs)") if refs]


def mapping(step, pfn):
    """Refs of a frame and of every entry and VMA that maps it, read from the snapshot."""
    who = ROW.identity
    found = {ref("page", who.key("page", step, pfn))}
    for task in ROW.snapshots[step].tasks:
        for pte in task.mm.entries:
            if pte.present and pte.pfn == pfn:
                found.add(ref("entry", (who.key("mm", step, task.mm.addr), pte.addr, pte.level)))
                vma = task.vma(pte.addr)
                found |= {ref("vma", who.key("vma", step, vma.addr)), f"vma-{vma.addr:x}"}  # and as a walk names it
    return found


def test_it_steps_by_keyboard(shown):
    assert here(shown) == "all: before → handed back"
    shown.locator(".pv-bar [aria-current]").focus()
    for key, label in (("Home", "before"), ("ArrowLeft", "before"), ("ArrowRight", "forked"),
                       ("ArrowRight", "handed back"), ("ArrowLeft", "forked"), ("End", "all: before → handed back")):
        shown.keyboard.press(key)
        assert here(shown) == label
    shown.keyboard.press("Home")
    assert shown.locator(".pv-live").inner_text().startswith("step 1 of 4, before: nothing yet")
    shown.keyboard.press("ArrowRight")
    count = len(ROW.diffs[0].lines)
    assert shown.locator(".pv-live").inner_text().startswith(f"step 2 of 4, forked: {count} changes. ")
    assert shown.locator(".pv-changes .pv-here li").count() == count


def test_it_steps_by_mouse_and_stays_put(shown):
    def places():
        return shown.evaluate("[...document.querySelectorAll('.pv-bar, .pv-changes, .pv-said, .pv-card svg, details')]"
                              ".map(e => e.getBoundingClientRect()).map(r => [r.x, r.y, r.width, r.height])")
    first = places()
    for label in ("before", "forked", "handed back"):
        shown.get_by_role("button", name=f": {label}", exact=False).first.click()
        assert here(shown) == label and places() == first
    shown.get_by_role("button", name="the step before").click()
    assert here(shown) == "forked" and places() == first
    assert "+ new" in shown.locator(".pv-card").inner_text()
    shown.get_by_label("mark changes").uncheck()
    assert "+ new" not in shown.locator(".pv-card").inner_text() and places() == first


@pytest.mark.parametrize("step", range(3))
def test_a_frame_lights_what_maps_it_and_nothing_else(shown, step):
    shown.get_by_role("button", name=f"step {step + 1}:").click()
    shown.locator(FRAME).click()
    pfns = [p.pfn for p in ROW.snapshots[step].pages.values() if p.anon_vma]
    belong = set(chain.from_iterable(mapping(step, pfn) for pfn in pfns))
    expected = [refs for refs in all_rows(shown) if refs & belong]
    assert sorted(map(sorted, lit(shown))) == sorted(map(sorted, expected))
    vmas = [r for r in belong if r.startswith("vma-") and r.count("-") > 1]
    assert len(vmas) == step + 1 and shown.locator("[data-part^=spaces-vma].pv-lit").count() == step + 1
    assert f"mapcount {step + 1}" in shown.locator(".pv-said").inner_text()
    assert shown.locator(".pv-light").count() == len(expected)


def test_a_chosen_part_stays_chosen_from_step_to_step(shown):
    shown.keyboard.press("Tab")
    shown.locator(FRAME).focus()
    shown.keyboard.press("Home")
    assert shown.locator("[data-part^=spaces-vma].pv-lit").count() == 1
    shown.keyboard.press("ArrowRight")
    assert shown.locator("[data-part^=spaces-vma].pv-lit").count() == 2
    assert shown.evaluate("document.activeElement.dataset.part").startswith("frames-")
    shown.keyboard.press("Escape")
    assert lit(shown) == [] and shown.locator(".pv-said").inner_text() == ""


def test_a_line_lights_what_it_is_about(shown):
    shown.get_by_role("button", name="step 3:").click()
    for i, line in enumerate(ROW.diffs[1].lines):
        button = shown.locator(".pv-changes .pv-here button").nth(i)
        button.focus()
        shown.keyboard.press("Enter")
        refs = {ref(*r) for r in line.refs}
        expected = [names for names in all_rows(shown) if names & refs]
        assert sorted(map(sorted, lit(shown))) == sorted(map(sorted, expected)), line
        assert button.get_attribute("aria-pressed") == "true"


def test_tab_reaches_every_part(shown):
    shown.locator(".pv-changes .pv-here button").last.focus()
    parts = shown.locator(".row[role=button]").count()
    reached = set()
    for _ in range(parts):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.dataset.part"))
    assert len(reached - {None}) == parts > 20


def test_the_text_form_follows(shown):
    shown.locator("summary").click()
    shown.get_by_role("button", name="step 2:").click()
    assert shown.locator("pre").inner_text().strip() == picture(ROW, walk=WALK).text(1)


def test_it_fills_the_screen(shown):
    shown.get_by_role("button", name="full screen").click()
    shown.wait_for_function("document.fullscreenElement !== null")
    assert shown.locator(".pv-card svg").bounding_box()["width"] > 1200
    shown.keyboard.press("ArrowLeft")
    assert here(shown) == "handed back"


def test_two_figures_on_a_page_step_each_for_itself(opened):
    both = picture(ROW)
    tab = opened(f"<!doctype html><meta charset=utf-8><title>two</title>{page(both)}{page(both)}")
    tab.locator(".pvmlab-view").nth(1).get_by_role("button", name="step 1:").click()
    assert tab.locator("[aria-current=step]").all_inner_texts() == ["all: before → handed back", "before"]


def test_a_page_of_nbconvert_steps(opened):
    """nbconvert's own page asks the network for MathJax and the like: left out here, for they are not ours."""
    cell = nbformat.v4.new_code_cell("after - before", outputs=[
        nbformat.v4.new_output("execute_result", data=bundle(picture(ROW)), metadata={}, execution_count=1)])
    nothing = {name: "" for name in ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url",
                                     "mermaid_layout_elk_js_url")}
    source, _ = HTMLExporter(**nothing).from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    tab = opened(source)
    tab.get_by_role("button", name="step 2:").click()
    tab.locator(FRAME).click()
    assert here(tab) == "forked" and tab.locator("[data-part^=spaces-vma].pv-lit").count() == 2
