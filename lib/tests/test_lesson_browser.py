# SPDX-License-Identifier: MIT
"""A lesson's cells in a real browser: a saved page, opened from a file, with the network cut off."""

from __future__ import annotations

import pytest
import worlds
from test_lesson import CHOICE, NUMBER, WHICH
from test_view_browser import browser, opened, pytestmark  # noqa: F401

from pvmlab.lesson import Lesson, patch

BEFORE, AFTER = worlds.clone()
ANSWERS = {"c": "b", "n": 4, "w": frozenset("xz")}
THEME = "<style>:root { color-scheme: light dark } body { background: Canvas; color: CanvasText }</style>"


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    monkeypatch.setenv("PVMLAB_STATE", str(tmp_path))
    made = Lesson("test")
    made._all = {q.name: q for q in (CHOICE, NUMBER, WHICH)}
    return made


def cells(lesson):
    """The head, each question and its answer, as a saved page has them."""
    yield lesson._repr_mimebundle_()["text/html"]
    for name, answer in ANSWERS.items():
        yield lesson.predict(name).html()
        yield lesson.reveal(name, lambda before, after, answer=answer: answer, BEFORE, AFTER).html()


@pytest.fixture
def shown(opened, lesson):  # noqa: F811
    return opened(f"<!doctype html><html lang=en><meta charset=utf-8><title>lesson</title>{THEME}<main>"
                  f"{''.join(cells(lesson))}</main>")


def answer(tab, i):
    return tab.locator(".pvl-reveal").nth(i)


def test_a_saved_page_asks_first(shown):
    for i in range(3):
        assert not answer(shown, i).locator("details").first.evaluate("d => d.open")
        assert "Commit to your prediction" in answer(shown, i).locator("summary").first.inner_text()
    assert "text of" not in shown.locator("main").inner_text()


@pytest.mark.parametrize("greedy", [False, True], ids=["alone", "as in JupyterLab"])
def test_by_keyboard_alone(shown, greedy):
    """JupyterLab takes keys from the document, before they come to what has the focus."""
    if greedy:
        shown.evaluate("document.addEventListener('keydown', (event) => event.preventDefault(), true)")
    shown.locator(".pvl-ask input").first.focus()
    shown.keyboard.press("ArrowDown")       # the second of the choices
    shown.keyboard.press("Enter")
    assert "✓" in answer(shown, 0).locator("summary").first.inner_text() and "text of b" in answer(shown,
                                                                                                   0).inner_text()
    shown.locator("input[type=number]").focus()
    shown.keyboard.type("0")
    shown.keyboard.press("Enter")
    told = answer(shown, 1).inner_text()
    assert "✗" in told and "text of 0" in told and "text of 4" in told
    boxes = shown.locator(".pvl-ask input[type=checkbox]")
    boxes.nth(0).focus()
    for key in ("Space", "Tab", "Tab", "Space", "Tab", "Enter"):
        shown.keyboard.press(key)
    assert "✓" in answer(shown, 2).locator("summary").first.inner_text()


@pytest.mark.parametrize("given, right", [("4", True), ("0", False), ("77", False)])
def test_a_number_is_told_what_python_would_tell(shown, given, right):
    shown.locator("input[type=number]").fill(given)
    shown.locator(".pvl-ask").nth(1).get_by_role("button").click()
    told = answer(shown, 1)
    assert told.get_attribute("data-right") == str(right).lower()
    wanted = NUMBER.told(int(given) if int(given) in NUMBER.options else None, 4).text
    assert told.locator(".pvl-told").inner_text().split() == wanted.replace("**", "").split()


def test_one_commits_once(shown):
    shown.locator("input[type=radio]").first.check()
    shown.locator(".pvl-ask").first.get_by_role("button").click()
    assert shown.locator("input[type=radio]").first.is_disabled()
    assert shown.locator(".pvl-ask .pvl-said").first.inner_text().startswith("Committed")
    assert shown.evaluate("document.activeElement.className") == "pvl-said"


def test_the_figure_of_an_answer_steps(shown):
    answer(shown, 0).locator("summary").first.click()
    answer(shown, 0).get_by_role("button", name="step 1:").click()
    assert answer(shown, 0).locator("[aria-current=step]").inner_text() == "before"


def test_a_reviewer_skips_to_the_calls(shown):
    shown.get_by_role("button", name="For reviewers").click()
    assert all(answer(shown, i).locator("details").first.evaluate("d => d.open") for i in range(3))
    assert "text of b" in answer(shown, 0).inner_text()
    assert answer(shown, 0).evaluate("r => r.contains(document.activeElement)")
    answer(shown, 0).get_by_role("button", name="next call").click()
    assert answer(shown, 1).evaluate("r => r.contains(document.activeElement)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened, lesson, scheme):  # noqa: F811
    """WCAG: at least 4.5 to 1, for every visible text outside of the figures."""
    source = "".join(cells(lesson)) + patch("v2", 3, function="copy_pmd_range").html()
    tab = opened(f"<!doctype html><html lang=en><meta charset=utf-8><title>lesson</title>{THEME}{source}")
    tab.emulate_media(color_scheme=scheme)
    tab.locator(".pvl-skip").click()
    assert tab.evaluate(CONTRAST) == []


#: Every text whose contrast is too small: [text, ratio].
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  function blend(colours) {           // painted one over the other
    const key = colours.join();
    if (!known.has(key)) known.set(key, paint(colours));
    return known.get(key);
  }
  function paint(colours) {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  }
  function light([r, g, b]) {
    const [x, y, z] = [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  }
  const poor = [];
  for (const node of document.querySelectorAll(".pvl, .pvl *:not(style):not(script)")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.closest(".pvmlab-view") || !node.getClientRects().length || node.matches(":disabled *")) continue;
    const grounds = [];
    for (let at = node; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const ground = blend(grounds), ink = blend([...grounds, getComputedStyle(node).color]);
    const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) poor.push([node.textContent.slice(0, 40), ratio.toFixed(2)]);
  }
  return poor;
}"""


#: How JupyterLab breaks what is printed, and so every <pre> of an output; it comes after the output's own style.
JUPYTERLAB = ("<style>.jp-OutputArea-output pre { word-break: break-all; word-wrap: break-word; "
              "white-space: pre-wrap }</style>")


@pytest.mark.parametrize("wide", [1280, 860])
def test_no_word_of_a_patch_is_broken_in_jupyterlab(opened, wide):  # noqa: F811
    shown = patch("v2", 1, file="include/linux/syscalls.h", about="process_vm_mmap(pid, src_addr").html()
    tab = opened(f"<!doctype html><html lang=en><meta charset=utf-8><title>patch</title>{THEME}<main "
                 f"class=jp-OutputArea-output style='width:{wide - 300}px'>{shown.replace('<details>', '<details open>')}"
                 f"</main>{JUPYTERLAB}")
    broken = tab.locator("pre").evaluate_all(r"""all => all.flatMap(pre => {
        const walk = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT), broken = [];
        for (let node; (node = walk.nextNode());)
            for (const word of node.data.matchAll(/\S+/g)) {
                const range = document.createRange();
                range.setStart(node, word.index);
                range.setEnd(node, word.index + word[0].length);
                if (range.getClientRects().length > 1) broken.push(word[0]);
            }
        return broken;
    })""")
    assert broken == []


@pytest.mark.parametrize("wide, words_are", [(1250, "beside"), (940, "above"), (600, "above")])
def test_a_patch_s_words_have_room(opened, wide, words_are):  # noqa: F811
    shown = patch("v2", 3, function="copy_pmd_range", about="A huge entry that one step").html()
    tab = opened(f"<!doctype html><html lang=en><meta charset=utf-8><title>patch</title>{THEME}<main "
                 f"style='width:{wide}px'>{shown}</main>")
    said, code = (tab.locator(where).bounding_box() for where in (".pvl-said", ".pvl-code"))
    above = said["y"] + said["height"] <= code["y"]
    assert above == (words_are == "above") and said["width"] > 240
    assert above or said["x"] >= code["x"] + code["width"]


def test_a_table_of_a_patch_has_its_lines_whole(opened):  # noqa: F811
    shown = patch("v2", 7, function="process_vm_mmap", about="What a user sees").html()
    tab = opened(f"<!doctype html><html lang=en><meta charset=utf-8><title>patch</title>{THEME}<main "
                 f"style='width:860px'>{shown}</main>")
    table = tab.locator(".pvl-said pre")
    assert table.evaluate("pre => pre.scrollWidth <= pre.clientWidth && getComputedStyle(pre).whiteSpace === 'pre'")
