# SPDX-License-Identifier: MIT
"""A real browser for the tests: Debian's Chromium, headless, and axe-core to judge what it shows.

Adds: the browser, what a page complains of, what axe finds, and the parts of
a figure on a page by their ids.
Leaves out: what is tested.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(PATH is None, reason="there is no Chromium here: apt-get install chromium")
#: Quiet: no calls home of the browser's own.
ARGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@contextlib.contextmanager
def started() -> Iterator:
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=PATH, args=ARGS) as browser:
            yield browser


def complaints(tab, also: tuple[str, ...] = ("warning",)) -> list[str]:
    """A list that fills with what the page complains of."""
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text) if message.type in ("error", *also) else None)
    tab.on("pageerror", lambda error: said.append(error.stack or str(error)))
    return said


def serious(tab) -> list[str]:
    """What axe-core finds wrong with the figures of a page, if it is serious or worse."""
    found = Axe().run(tab, context=".pvmlab-view").response["violations"]
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found
            if each["impact"] in ("serious", "critical")]


class Figure:
    """A figure on a page: its rows by the ids that figure() gives them."""

    def __init__(self, tab, made: dict, nth: int = 0) -> None:
        self.tab, self.made, self.root = tab, made, tab.locator(".pvmlab-view").nth(nth)

    def row(self, prefix: str):
        """The first row there is whose id begins so."""
        numbers = [i for i, name in enumerate(self.made["parts"]) if name.startswith(prefix)]
        return self.root.locator(",".join(f'.row[data-part="{n}"]' for n in numbers)).first

    def rows(self) -> set[str]:
        """Ids of all rows that are shown."""
        return self._ids(".row[data-part]")

    def lit(self) -> set[str]:
        return self._ids(".row.pv-lit")

    def _ids(self, selector: str) -> set[str]:
        numbers = self.root.locator(selector).evaluate_all("all => all.map(row => row.dataset.part)")
        return {self.made["parts"][int(n)] for n in numbers}

    def number(self, prefix: str) -> int:
        """The number of the first part whose id begins so."""
        return next(i for i, name in enumerate(self.made["parts"]) if name.startswith(prefix))

    def listed(self) -> list[str]:
        """Every line of the list that is open, page by page, by the key."""
        found = []
        while True:
            found += self.root.locator(".pv-list [data-item]").all_inner_texts()
            if not self.root.get_by_role("button", name="the next page").count():
                return found
            self.tab.keyboard.press("PageDown")

    @property
    def here(self) -> str:
        return self.root.locator("[aria-current=step]").inner_text()

    @property
    def said(self) -> str:
        return self.root.locator(".pv-said").inner_text()

    def known(self, where: str = ".pv-foot") -> list[tuple[str, str]]:
        """(term, words) of what is known of the part that is chosen, or (".pv-tip") pointed at."""
        return [tuple(pair) for pair in self.root.locator(f"{where} .pv-facts div").evaluate_all(
            "all => all.map(d => [d.firstChild.textContent, d.lastChild.textContent])")]
