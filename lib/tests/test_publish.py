# SPDX-License-Identifier: MIT
"""The course as pages: a notebook is run, and its page asks and steps with the network cut off."""

from __future__ import annotations

import nbformat
import pytest
from test_view_browser import browser, opened, pytestmark  # noqa: F401

from pvmlab.errors import PvmlabError
from pvmlab.image import root
from pvmlab.lesson import publish
from pvmlab.lesson.course import pages


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The lesson with a verdict, run; and its place in the course."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVMLAB_STATE", str(tmp_path_factory.mktemp("state")))
        page = next(page for page in pages() if page.number == "03")
        yield page, publish.run(root() / "notebooks" / page.file)


def test_a_page_asks_and_steps_without_a_kernel(opened, book):  # noqa: F811
    page, made = book
    tab = opened(publish._as_page(made, page))
    first = tab.locator(".pvl-reveal").first
    assert tab.locator(".pvl-ask").count() == len(page.predictions) == tab.locator(".pvl-reveal").count()
    assert not first.locator("details").first.evaluate("d => d.open")
    tab.locator(".pvl-ask input").first.fill("2")
    tab.locator(".pvl-ask button").first.click()
    assert first.get_attribute("data-right") == "true" and "Linux 6.12" in first.inner_text()
    first.get_by_role("button", name="step 1:").click()
    assert first.locator("[aria-current=step]").inner_text() == "A alone"


def test_no_line_of_code_is_cut(opened, book):  # noqa: F811
    """It fits, or can be scrolled to."""
    page, made = book
    long = nbformat.v4.new_code_cell("x = " + " + ".join(map(str, range(200))))
    tab = opened(publish._as_page(nbformat.v4.new_notebook(cells=[*made.cells[:2], long]), page))
    pres = tab.locator(".jp-InputArea-editor pre")
    assert pres.last.evaluate("e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX === 'auto'")
    assert tab.locator(".jp-InputArea-editor").last.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_links_lead_to_pages(book):
    page, made = book
    source = publish._as_page(made, page)
    assert 'href="04-the-problem.html"' in source and ".ipynb\"" not in source


def test_verdicts_come_to_the_review(opened, book):  # noqa: F811
    page, made = book
    tab = opened(publish._review_page({page: made}))
    [verdict] = publish._verdicts({page: made})
    text = tab.locator("body").inner_text()
    assert verdict["message"] == "11" and verdict["claim"] in text and "holds" in text
    assert all(what in text and value in text for what, value in verdict["evidence"])
    assert tab.locator(".pvmlab-view").count() == 1 and tab.locator('a[href="03-anon-vma.html"]').count() == 1


def test_the_index_has_every_notebook():
    index = publish._index_page(pages())
    assert all(f'href="{page.file.removesuffix(".ipynb")}.html"' in index for page in pages())


def test_a_cell_that_fails_is_named(tmp_path):
    source = (root() / "notebooks" / "template.ipynb").read_text()
    (tmp_path / "broken.ipynb").write_text(source.replace('labs = {kernel', 'raise RuntimeError(\\"on '
                                                                            'purpose\\")\\nlabs = {kernel'))
    with pytest.raises(PvmlabError, match="on purpose(?s:.*)git checkout notebooks") as told:
        publish.run(tmp_path / "broken.ipynb")
    assert "\x1b" not in str(told.value)
