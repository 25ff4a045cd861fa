# SPDX-License-Identifier: MIT
"""The figure that steps, without a browser: what it carries, and how a notebook gets it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import worlds

from pvmlab import widgets
from pvmlab.diff import steps
from pvmlab.draw import picture, ref
from pvmlab.view import SCRIPT, STYLE, View, bundle, figure, page

ALL = worlds.all_worlds()


def of(name, **kw):
    return picture(steps(*ALL[name]), **kw)


class Attributes(HTMLParser):
    """Collects the values of one attribute in a page."""

    def __init__(self, name, source):
        super().__init__()
        self.name, self.found = name, []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name == self.name]


@pytest.mark.parametrize("name", ALL)
def test_what_the_widget_sends_is_small(name):
    assert len(json.dumps(figure(of(name))).encode()) <= 300_000


def test_a_large_world_is_small_too():
    assert len(json.dumps(figure(picture(steps(*worlds.large())))).encode()) <= 300_000


@pytest.mark.parametrize("name", ALL)
def test_there_is_a_stop_for_each_step_and_for_the_whole(name):
    count, made = len(ALL[name]), figure(of(name))
    assert len(made["stops"]) == count + (count > 2)
    assert [stop["label"] for stop in made["stops"][:count]] == list(steps(*ALL[name]).labels())
    assert len({re.search(r'viewBox="[^"]*"', svg)[0] for svg in made["svgs"]}) == 1
    assert made["start"] == len(made["stops"]) - 1


@pytest.mark.parametrize("name", ALL)
def test_each_stop_lists_its_changes_and_has_a_text(name):
    row, made = steps(*ALL[name]), figure(of(name))
    diffs = [*row.diffs, *([row.whole] if len(row) > 2 else [])]
    assert made["stops"][0]["lines"] == [] and made["stops"][0]["nothing"]
    for diff, stop in zip(diffs, made["stops"][1:], strict=True):
        assert [(line["sign"], line["text"]) for line in stop["lines"]] == [line[:2] for line in diff.lines]
    for stop in made["stops"]:
        assert all(line["text"] in stop["text"] for line in stop["lines"])
        assert "Address spaces" in stop["text"]


@pytest.mark.parametrize("name", ALL)
def test_the_refs_of_a_line_are_drawn(name):
    made = figure(of(name))
    for diff, stop in zip(steps(*ALL[name]).diffs, made["stops"][1:]):
        drawn = {r for refs in Attributes("data-refs", made["svgs"][stop["marked"]]).found for r in refs.split()}
        for line, told in zip(diff.lines, stop["lines"]):
            assert set(told["refs"]) >= {ref(*r) for r in line.refs} & drawn


@pytest.mark.parametrize("name", ALL)
def test_every_part_that_can_be_chosen_says_something(name):
    made = figure(of(name))
    for stop in made["stops"]:
        drawn = set(Attributes("data-part", made["svgs"][stop["marked"]]).found)
        chosen = {part for part, _ in made["parts"]} & drawn
        assert chosen and {made["parts"][i][0] for i in stop["kin"]} == chosen
        for i, others in stop["kin"].items():
            assert i in others and stop["says"][i]


def test_what_belongs_together_is_symmetric():
    for name in ALL:
        for stop in figure(of(name))["stops"][:1]:  # nothing is gone there
            for i, others in stop["kin"].items():
                assert all(i in stop["kin"][other] for other in others)


def test_a_frame_says_who_maps_it():
    made = figure(of("twice"))
    frame = next(i for i, (part, _) in enumerate(made["parts"]) if part.startswith("frames-"))
    said = made["stops"][2]["says"][frame]
    assert "mapcount 3" in said and "0x7f4400000000–0x7f4400002000 in A (pid 60)" in said


def test_a_visit_of_a_walk_lights_its_vma():
    before, forked, after, walk = worlds.twice()
    made = figure(picture(steps(before, forked, after), walk=walk))
    names = [part for part, _ in made["parts"]]
    third = [i for i, part in enumerate(names) if part.startswith("walk-visit-")][2]
    lit = {names[i] for i in made["stops"][2]["kin"][third]}
    new = steps(forked, after).of("vma")[0].id
    assert f"spaces-{ref('vma', new)}" in lit
    assert len([part for part in lit if part.startswith("spaces-")]) == 1
    assert figure(picture(walk))["stops"][0]["label"] == "the walk"


def test_ids_are_unique_when_a_page_holds_the_figure_twice():
    source = page(of("clone")) + page(of("clone"))
    ids = Attributes("id", source).found
    assert ids and len(ids) == len(set(ids))


def test_the_page_needs_no_network():
    source = page(of("clone"))
    assert set(re.findall(r"https?://[\w./-]*", source)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=|@import|url\(|import\(|fetch\(", source)
    assert SCRIPT in source and STYLE in source


def test_names_of_processes_cannot_leave_the_script():
    world = worlds.World().task("</script><b>")
    world.touch("</script><b>", world.mmap("</script><b>", worlds.HEAP, 1))
    assert page(picture(world.look())).count("</script>") == 1


def test_the_plain_figure_stands_where_no_script_runs():
    source = page(of("clone"))
    assert "RW lost" in source.split("<script>")[0] and "What changed" in source.split("<script>")[0]


def test_the_widget_carries_the_page_beside_it():
    shown = View(of("cow"))
    data, _ = shown._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "image/svg+xml", "text/plain"}
    assert data["text/html"] == shown.html() and data["text/plain"] == of("cow").text()
    assert shown.step == shown.figure["start"] == 3


def test_a_notebook_gets_html_that_steps_without_a_kernel():
    types = {}
    formatter = SimpleNamespace(mimebundle_formatter=SimpleNamespace(for_type=types.__setitem__))
    widgets.show_in_notebooks(SimpleNamespace(display_formatter=formatter))
    before, *_, walk = worlds.twice()
    for seen in (before, steps(*ALL["clone"]), steps(*ALL["cow"]), of("clone"), walk):
        data = types[type(seen)](seen)
        assert "application/vnd.jupyter.widget-view+json" not in data
        assert set(data) == set(bundle(of("clone"))) and "pvmlabView(root" in data["text/html"]
