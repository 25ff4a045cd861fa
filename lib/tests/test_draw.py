# SPDX-License-Identifier: MIT
"""draw, on made-up worlds: what is shown, where, and that text says the same."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import graphviz
import pytest
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmlab.diff import steps
from pvmlab.draw import PANELS, USUAL, layout, picture, ref, svg
from pvmlab.draw.concern import parted
from pvmlab.draw.forest import MOST_ANON_VMAS
from pvmlab.draw.parts import CHAR
from pvmlab.draw.strips import bytes_of
from pvmlab.errors import SetupError, UsageError
from pvmlab.model import RmapStep, RmapWalk

ALL = worlds.all_worlds()
SVG = "{http://www.w3.org/2000/svg}"


def of(name, **kw):
    return picture(steps(*ALL[name]), **kw)


def tree(source):
    return ET.fromstring(source)


def texts(source):
    return ["".join(node.itertext()) for node in tree(source).iter(f"{SVG}text")]


def ids(source):
    return [node.get("id") for node in tree(source).iter() if node.get("id")]


def refs(source):
    return {r for node in tree(source).iter() for r in (node.get("data-refs") or "").split()}


def plain(text):
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", ALL)
def test_all_steps_share_one_layout(name):
    shown = of(name)
    assert len(shown.frames) == len(ALL[name])
    assert len({tree(f).get("viewBox") for f in (*shown.frames, shown.svg())}) == 1
    places = {}
    for frame in (*shown.frames, shown.svg()):
        for node in tree(frame).iter(f"{SVG}g"):
            if "box" in (node.get("class") or "").split():
                rect = node.find(f"{SVG}rect")
                place = tuple(rect.get(k) for k in ("x", "y", "width", "height"))
                assert places.setdefault(node.get("id"), place) == place
    assert places


@pytest.mark.parametrize("name", ALL)
def test_ids_are_unique_and_nothing_leaves_the_card(name):
    for source in of(name).frames:
        assert len(ids(source)) == len(set(ids(source)))
        _, _, wide, high = map(float, tree(source).get("viewBox").split())
        for panel in tree(source).iter(f"{SVG}g"):
            if (panel.get("id") or "").startswith("panel-"):
                dx, dy = map(float, re.findall(r"[\d.]+", panel.get("transform")))
                for rect in panel.iter(f"{SVG}rect"):
                    assert dx + float(rect.get("x")) + float(rect.get("width")) <= wide
                    assert dy + float(rect.get("y")) + float(rect.get("height")) <= high


@pytest.mark.parametrize("name", ALL)
def test_text_stays_inside_its_box(name):
    for source in (*of(name).frames, of(name).svg()):
        for box in tree(source).iter(f"{SVG}g"):
            if "box" not in (box.get("class") or "").split():
                continue
            rect = box.find(f"{SVG}rect")
            right, bottom = (float(rect.get(a)) + float(rect.get(b)) for a, b in (("x", "width"), ("y", "height")))
            for text in box.iter(f"{SVG}text"):
                assert float(text.get("x")) + len(text.text) * CHAR <= right, text.text
                assert float(text.get("y")) <= bottom


@pytest.mark.parametrize("name", ALL)
def test_the_text_form_says_all_that_the_figure_says(name):
    shown = of(name)
    for step in (None, *range(len(shown))):
        said = plain(shown.text(step))
        for line in texts(shown.svg(step)):
            if line in "+–~" or line == svg.LEGEND:
                continue
            for part in plain(line).strip().split("; "):
                assert part.rstrip(" .…").strip() in said, part


@pytest.mark.parametrize("name", ALL)
def test_what_is_new_and_gone_is_marked_in_text(name):
    for diff in steps(*ALL[name]).diffs:
        source, said = picture(diff).svg(), picture(diff).text()
        for what, badge in (("added", "+ new"), ("removed", "– gone")):
            if any(c.what == what for c in diff.of("vma")):
                assert badge in texts(source) and badge in said
        for change in diff.of("vma"):
            survived = {c.id for c in diff.of("mm") if c.what != "changed"}
            if not survived and change.what != "removed":
                assert ref("vma", change.id) in refs(source)
                assert f"{change.after.vm_start:#x}–{change.after.vm_end:#x}" in texts(source)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_world_can_be_drawn(numbers, stamps):
    shown = picture(steps(*worlds.history(numbers, stamps)))
    for frame in (*shown.frames, shown.svg()):
        assert len(ids(frame)) == len(set(ids(frame)))
        assert tree(frame).get("role") == "img"


def test_the_lines_of_the_list_point_at_parts():
    diff = steps(*ALL["clone"])
    shown = refs(picture(diff).svg())
    for line in diff.lines:
        places = [r for r in line.refs if r[0] in ("vma", "page", "entry", "anon_vma", "link")]
        assert all(ref(*r) in shown for r in places)


def test_the_standard_figure():
    before, frames_after = of("clone").frames
    assert "+ new" not in texts(before) and "consumer (pid 61)" in texts(before)
    assert {"~ RW lost", "+ new", "4 frames 0x1a2b–0x1a2e", "each mapcount 2, refcount 2"} <= set(texts(frames_after))
    assert "… and 5 others" in texts(frames_after)
    assert any("bystander" in t for t in texts(frames_after))
    assert float(tree(before).get("width")) <= 1280
    assert "mapcount 1, refcount 1" in plain(" ".join(texts(before)))


def test_a_step_can_be_shown_without_marks():
    shown = of("clone")
    assert "+ new" not in shown.svg(1, marks=False) and "0x7f11a0000000–0x7f11a0004000" in shown.svg(1, marks=False)
    assert shown.svg(-1) == shown.frames[-1]
    with pytest.raises(UsageError):
        shown.svg(2)


def test_the_walk_flags_a_page_that_is_twice_in_one_process():
    before, forked, after, walk = worlds.twice()
    said = picture(steps(before, forked, after), walk=walk).text()
    assert "‼ the page is mapped twice in A" in said and "3. ● HIT: A at 0x7f4400000000" in said
    alone = picture(walk)
    assert "twice in A" in alone.svg() and "av·A" not in alone.svg()


def test_a_walk_shows_misses_and_what_it_did_not_find():
    walk = RmapWalk(0x10, "anon", 0xFFFF0000, (RmapStep(1, 2, ("A",), None, False, "the page is outside the VMA"),),
                    (("B", 0x7000),))
    said = picture(walk, panels=("walk",)).text()
    assert "1. ○ miss: A" in said and "‼ not found, yet mapped: B at 0x7000" in said


def test_names_are_escaped():
    before, _ = ALL["clone"]
    task = before.tasks[0]
    odd = replace(task.mm.vmas[2], name='/a<b>&"c\'', file=0)
    vmas = (*task.mm.vmas[:2], odd, *task.mm.vmas[3:])
    snapshot = replace(before, tasks=(replace(task, name="<x&y>", mm=replace(task.mm, vmas=vmas)),))
    shown = picture(snapshot, focus="<x&y>")
    assert any('/a<b>&"c' in text for text in texts(shown.svg()))
    assert any("<x&y>" in text for text in texts(shown.svg()))


def test_focus_and_panels():
    before, _ = ALL["clone"]
    assert "stack" not in " ".join(texts(picture(before).svg())).replace("(program ×2, stack, vvar, vdso)", "")
    for focus in (0x7FFC10000000, "bystander", before.task("bystander").vma(0x7FFC10000000)):
        assert any("[stack]" in text for text in texts(picture(before, focus=focus).svg()))
    assert "panel-forest" not in picture(before, panels=("spaces",)).svg()
    straight = picture(before, panels=("spaces", "frames")).svg()
    assert "pmd" not in straight and "frame" in straight
    for wrong in ({"panels": ("nothing",)}, {"focus": "nobody"}, {"walk": (None, None)}):
        with pytest.raises(UsageError):
            picture(before, **wrong)
    with pytest.raises(UsageError):
        picture("a string")


def test_a_page_as_focus_shows_whoever_maps_it():
    _, after = ALL["clone"]
    shown = texts(picture(after, focus=after.page(0x1A2B)).svg())
    assert "server (pid 60)" in shown and "consumer (pid 61)" in shown


def test_a_huge_entry_and_the_table_that_replaces_it_stand_in_one_table():
    shown = of("huge")
    assert sum(text.startswith("pmd table at") for text in texts(shown.svg())) == 1
    assert "[225] names a table" in texts(shown.svg()) and "– gone" in texts(shown.svg())


def test_of_a_long_chain_stand_its_own_the_nearest_and_the_root():
    row = steps(*worlds.lineage(50))
    shown = picture(row, panels=PANELS)
    panel = next(panel for panel in shown.panels if panel.name == "forest")
    boxes = {box.header.refs[0]: box for box in panel.boxes}
    youngest = next(vma for vma in row.snapshots[1].task("p49").mm.vmas if vma.vm_start == worlds.HEAP)
    rows = boxes[ref("vma", row.identity.key("vma", 1, youngest.addr))].rows[1:]
    said = [r.seen[1].lines[0] for r in rows]
    assert said == [*(f"chain {i + 1}: av·p{49 - i}" for i in range(5)), "… and 44 more", "chain 50: av·p0"]
    listed = rows[-2].opens.what[1]
    assert [line.split()[0] for line in listed] == [f"av·p{i}" for i in range(44, 0, -1)]
    assert "44 VMAs in its tree" not in listed[0] and "7 VMAs in its tree" in listed[0]
    trees = [box for box in panel.boxes if box.cls == "anon_vma"]
    assert {"av·p49", "av·p0"} <= {box.header.seen[1].lines[0].split()[0] for box in trees}
    assert len(trees) == MOST_ANON_VMAS
    assert panel.folds[0].header.seen[1].lines == (f"… and {50 - len(trees)} more anon_vmas",)
    assert shown.placed["forest"].height < 4000


def test_brackets_to_parents_share_a_lane_where_they_are_apart():
    fork = picture(steps(*worlds.fork_tree(6)))
    ends = {edge.id: fork.placed["forest"].edges[edge.id] for panel in fork.panels for edge in panel.edges
            if edge.cls == "parent" and edge.id in fork.placed["forest"].edges}
    assert len(ends) == 5 and len({max(x for x, _ in points) for points in ends.values()}) == 2


def test_a_large_world_is_folded():
    before, after = worlds.large()
    shown = picture(after - before)
    source = shown.svg()
    assert len(source) < 300_000 and float(tree(source).get("width")) <= 1280
    assert "312 frames 0x10000–0x10137" in texts(source)


def test_one_vma_with_twenty_thousand_scattered_entries():
    world = worlds.World().task("A")
    area = world.mmap("A", worlds.HEAP, 20_000)
    world.touch("A", area, 0x10000)
    for i in range(0, 20_000, 3):
        world.put("A", area.start + i * 4096, 0x80000 + i * 7)
    shown = picture(world.look())
    source = shown.svg()
    assert len(source) < 200_000 and "more entries" in shown.text()


def test_an_empty_snapshot_has_a_picture():
    assert "panel-" not in picture(replace(ALL["clone"][0], tasks=())).svg()


def test_dot_runs_once_for_a_picture(monkeypatch):
    calls = []
    real = graphviz.pipe_string
    monkeypatch.setattr(graphviz, "pipe_string", lambda *a, **kw: calls.append(a) or real(*a, **kw))
    shown = of("cow", walk=None)
    shown.svg(), shown.frames, shown.text()
    assert len(calls) == 1


def test_the_dot_source_stands_on_its_own():
    drawn = graphviz.pipe_string("dot", "svg", of("clone").dot, encoding="utf-8")
    assert "server (pid 60)" in drawn and "num_active_vmas" in drawn


def test_without_dot_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="apt-get install -y graphviz"):
        of("clone").svg()


def test_dot_failing_is_told():
    with pytest.raises(Exception, match="dot failed"):
        layout._run("digraph {")


def test_the_notebook_gets_html_svg_and_text():
    bundle = of("clone")._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/svg+xml", "text/plain"} and bundle["text/plain"] == str(of("clone"))
    assert bundle["image/svg+xml"] in bundle["text/html"] and "max-width" in bundle["text/html"]


def luminance(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_all_text_can_be_read():
    for c in (svg.LIGHT, svg.DARK):
        marks = [*svg.SIGNS.values()]
        grounds = ["card", "mm", "table", "frame", "anon_vma", "walk", *(f"{mark}-ground" for mark in marks)]
        assert min(contrast(c["ink"], c[ground]) for ground in grounds) >= 4.5
        assert contrast(c["dim"], c["card"]) >= 4.5
        assert min(contrast(c[mark], c[ground]) for mark in marks for ground in ("card", f"{mark}-ground")) >= 4.5
        assert contrast(c["filled"], c["mm"]) >= 3 and contrast(c["rule"], c["card"]) >= 3


def test_every_panel_has_a_name():
    assert PANELS == ("changes", "scale", "spaces", "tables", "frames", "forest", "walk", "counters")
    assert set(USUAL) < set(PANELS)


def bars(shown):
    """{row id: (x, width)} of the VMAs on the bars of the first step."""
    panel = next(panel for panel in shown.panels if panel.name == "scale")
    return {name: (spans[0].x0, spans[0].x1 - spans[0].x0) for name, spans in panel.spans.items()
            if spans[0] and name.startswith("scale-vma")}


def test_address_spaces_are_to_scale_and_their_gaps_are_folded():
    world = worlds.World().task("A")
    world.touch("A", world.mmap("A", worlds.HEAP, 100))
    world.mmap("A", worlds.HEAP + 100 * 4096, 50, "r--p")
    seen = world.look()
    shown = picture(seen, panels=("scale",))
    at = {vma.vm_start: bars(shown)[f"scale-{ref('vma', vma.id)}"] for vma in seen.task("A").mm.vmas}
    (x, large), (y, half) = at[worlds.HEAP], at[worlds.HEAP + 100 * 4096]
    assert large == pytest.approx(2 * half, abs=0.5) and y == pytest.approx(x + large, abs=0.5)
    assert [at[start] for start in sorted(at)] == sorted(at.values())
    said = shown.text()
    assert "rw-p 400 KiB, 100 pages" in said and "⋯ 776 GiB" in said


def test_sizes_are_plain_numbers():
    assert [bytes_of(size) for size in (4096, 1 << 20, (1 << 30) - 4096, 5 << 29, 127 << 40)] == [
        "4 KiB", "1 MiB", "1024 MiB", "2.5 GiB", "127 TiB"]


def test_a_gigabyte_beside_four_pages_stays_on_the_card():
    world = worlds.World().task("A").task("B")
    world.mmap("A", worlds.HEAP, 1 << 18)
    world.touch("B", world.mmap("B", worlds.HEAP, 4))
    shown = picture(world.look(), panels=("scale",))
    assert float(tree(shown.svg()).get("width")) <= 1280
    assert min(wide for _, wide in bars(shown).values()) >= 12


def test_many_processes_are_folded_on_the_card():
    shown = picture(steps(*worlds.large()), panels=("scale",))
    assert "… and 8 more processes" in texts(shown.svg())


def test_counters_say_what_moved():
    said = of("clone", panels=("counters",)).text()
    assert re.search(r"total_vm +65 +\[~ 61 → 65\]", said) and re.search(r"pgalloc_normal +54 +\[~ 50 → 54\]", said)
    assert "pgfault" not in said


def test_a_frame_that_is_nowhere_is_refused():
    with pytest.raises(UsageError, match="0x99999"):
        of("clone", walk=0x99999)


def test_entries_whose_frames_count_down_are_one_run():
    world = worlds.World().task("A")
    area = world.mmap("A", worlds.HEAP, 6)
    world.touch("A", area)
    for i in range(6):
        world.put("A", area.start + i * 4096, 0x3000 - i)
        world.frames[0x3000 - i] = (world.stamp(), area.anon_vma, (area.start >> 12) + i)
        world.exclusive.add(0x3000 - i)
    said = picture(world.look()).text()
    assert "×6" in said and "same flags, descending frames" in said and "6 frames 0x2ffb–0x3000" in said


def test_two_processes_of_one_name_have_their_pids():
    world = worlds.World().task("A")
    world.touch("A", world.mmap("A", worlds.HEAP, 1))
    first = world.look()
    mm = replace(first.tasks[0].mm, addr=0xFFFF888009000000, vmas=(), born=77)
    other = replace(first.tasks[0], pid=99, start=7, mm=mm)
    row = steps(first, replace(first, tasks=(*first.tasks, other)))
    assert sorted(row.identity.mm_names.values()) == ["A (pid 60)", "A (pid 99)"]


def test_the_tables_of_the_path_are_level():
    """A table stands level with the box that names it, or below another child of it."""
    shown = of("clone")
    panel, at = shown.panels[1], shown.placed["translation"]
    box = {box.id: box for box in panel.boxes}
    level = [at.boxes[e.tail[0]][1] == at.boxes[e.head[0]][1] for e in panel.edges
             if e.cls == "walk" and box[e.head[0]].column == "path"]
    assert len(level) == 6 and all(level)


def test_columns_can_be_hidden():
    shown = of("clone", panels=("spaces", "frames"))
    assert "pud" not in texts(shown.svg()) and "Address spaces → frames" in texts(shown.svg())
    assert float(tree(shown.svg()).get("width")) <= float(tree(of("clone").svg()).get("width"))
    assert "anon_vma" not in of("clone", panels=("frames",)).svg().split("panel-translation")[1].split("of av")[0]


def test_an_anon_vma_names_its_folios():
    said = of("twice").text(0)
    assert "folio->mapping of" in said and said.count("2 frames 0x1a2b–0x1a2c") > 1


def test_a_process_that_has_gone_is_not_said_to_be_somewhere_else():
    world = worlds.World().task("A").task("B").task("C")
    for i, name in enumerate("ABC"):
        world.touch(name, world.mmap(name, worlds.HEAP, 1), 0x1000 * (i + 1))
    both = world.look()
    gone = replace(both, tasks=tuple(task for task in both.tasks if task.name != "B"))
    told = picture(steps(both, gone), focus="A").text(1, marks=False)
    assert "1 other process, not shown: C" in told, told


def test_an_anon_vma_keeps_the_name_it_got_first():
    """The story of lesson 18, where A's clone is all that is left of B's anon_vma."""
    from pvmlab import Lab
    with Lab(kernel="v2") as lab:
        A = lab.task("A")
        buf = A.mmap(pages=2)
        A.write(buf, b"one page")
        looks = [lab.look()]
        B = A.fork("B")
        looks.append(lab.look())
        dst = A.process_vm_mmap(B, buf, pages=2)
        looks.append(lab.look())
        B.munmap(buf, pages=2)
        looks.append(lab.look())
        B.exit()
        looks.append(lab.look())
        left = looks[-1].task("A").vma(dst).anon_vma
        assert left.id == looks[1].task("B").vma(buf).anon_vma.id
        A.fork("B").touch(buf, 2, write=True)
        looks.append(lab.look())
    for seen in looks:
        names = seen.anon_vma_names
        assert len(set(names.values())) == len(names) == len(seen.anon_vmas)
        assert names[seen.task("A").vma(buf).anon_vma.id] == "av·A"
    assert all(seen.anon_vma_names[left.id] == "av·B" for seen in looks[1:])
    second = looks[-1].task("B").vma(buf).anon_vma
    assert looks[-1].anon_vma_names[second.id] in ("av·B·2", "av·B·3")    # B has a copy of the clone, too
    told = picture(looks[4], focus=dst).text()
    assert "->anon_vma = av·B\n" in told and "av·A·" not in told
    assert set(steps(*looks).identity.anon_vma_names.values()) == {n for s in looks for n in s.anon_vma_names.values()}


def test_a_clone_is_not_called_after_who_cloned_it():
    """The first look comes after the call, when both have a VMA of B's anon_vma; B's is the older one."""
    from pvmlab import Lab
    with Lab(kernel="v2") as lab:
        A, B = lab.tasks("A", "B")
        buf = B.mmap(pages=2)
        B.stamp(buf, 2)
        A.process_vm_mmap(B, buf, pages=2)
        seen = lab.look()
    assert seen.anon_vma_names[seen.task("B").vma(buf).anon_vma.id] == "av·B"


def test_what_is_folded_is_counted_by_kind():
    world = worlds.World().task("A").task("B")
    for i in range(3):
        world.mmap("A", worlds.HEAP + i * 0x100000, 2)
    said = picture(world.look(), focus=worlds.HEAP).text()
    assert "(program ×2, memory ×2, stack, vvar, vdso)" in said


def test_a_walk_alone_says_the_names_of_the_lab():
    before, forked, after, walk = worlds.twice()
    named = replace(walk, name="av·A")
    assert "anon_vma av·A" in picture(named).svg() and hex(walk.start) not in picture(named).svg()
    assert str(named).startswith("frame 0x1a2b, from anon av·A: visited 3, hit 3\n  1. hit  ")
    assert "av·A" in repr(named) and hex(walk.start) in repr(walk)


def test_a_split_vma_takes_its_entries_along():
    """A page in the middle is unmapped: both VMAs are new ones, and the entries left are what they were."""
    world = worlds.World().task("A")
    area = world.mmap("A", worlds.HEAP, 8)
    world.touch("A", area)
    before = world.look()
    world.split("A", area, 3)
    shown = picture(world.look() - before)
    rows = [row for panel in shown.panels for box in panel.boxes for row in box.rows if row.cls == "pte"]
    assert len({row.id for row in rows}) == len(rows)
    assert [row.mark(0, 1).sign for row in rows] == ["", "–", ""]
    assert [row.seen[0].lines[0].rpartition(" ")[2] for row in rows] == ["×3", "0x7f3a1c203000", "×4"]
    arrows = [edge for panel in shown.panels for edge in panel.edges if edge.cls == "maps"]
    assert [edge.seen for edge in arrows] == [(True, True), (True, False), (True, True)]
    ways = {edge.tail[1]: edge.seen for panel in shown.panels for edge in panel.edges if edge.cls == "direct"}
    assert sorted(ways.values()) == [(False, True), (False, True), (True, False)]


def test_beside_the_focus_everything_is_folded():
    world = worlds.World().task("A").task("B")
    for who in "AB":
        world.touch(who, world.mmap(who, worlds.HEAP, 2), 0x1000)
        world.touch(who, world.mmap(who, worlds.HEAP + 0x100000, 3), 0x2000 + 0x100 * ord(who))
    said = picture(world.look(), focus=worlds.HEAP + 0x100000).text()
    assert "A 0x7f3a1c300000" in said and "B 0x7f3a1c300000" in said
    assert f"{worlds.HEAP:#x}" not in said and "0x1000" not in said and "memory" in said


def noisy():
    """A forks B while C writes to its stack and the machine counts."""
    world = worlds.World().task("A").task("C")
    world.touch("A", world.mmap("A", worlds.HEAP, 2))
    before = world.look("before")
    world.fork("A", "B")
    stack = next(a for a in world.areas["C"] if a.name == "[stack]")
    world.put("C", stack.start, 0x7777)
    world.frames[0x7777] = (world.stamp(), "", 0)
    world.counters["pgalloc_normal"] += 9
    world.counters["pswpin"] = 1
    return before, world.look("after")


def test_with_a_focus_what_concerns_it_comes_first_and_the_rest_stands_under_a_heading():
    before, after = noisy()
    diff = after - before
    shown = picture(diff, focus=worlds.HEAP)
    mine, (heading, *others) = parted(shown.lines(0, 1))
    assert str(heading).startswith(f"… and {len(others)} more elsewhere: C, other frames, counters")
    assert all("C" in str(line) or "0x7777" in str(line) or "machine" in str(line) for line in others)
    assert any("process B" in str(line) for line in mine) and any("pswpin" in str(line) for line in mine)
    told = sorted((c.kind, c.id, c.what) for line in (*mine, *others) for c in line.changes)
    assert told == sorted((c.kind, c.id, c.what) for c in diff.changes)  # nothing lost, nothing twice
    text = shown.text()
    assert text.index(str(mine[-1])) < text.index(f"\n{heading}") < text.index(str(others[0]))
    assert str(heading) in texts(shown.svg()) and str(others[0]) not in texts(shown.svg())


def test_without_a_focus_all_changes_stay():
    before, after = noisy()
    assert picture(after - before).lines(0, 1) == (after - before).lines


def test_frames_of_the_focus_that_only_move_to_an_lru_list_are_elsewhere():
    before, after = ALL["clone"]
    page = after.pages[0x1A2B]
    moved = replace(after, pages={**after.pages, 0x1A2B: page._replace(flags=("uptodate", "swapbacked"), refcount=3)})
    task = before.task("server")
    shown = picture(steps(before, moved, after), focus=task.vma(worlds.HEAP))
    assert [str(line) for line in shown.lines(1, 2)] == ["~ frame 0x1a2b: put on an LRU list (refcount 3 → 2)"]
    mine, others = parted(shown.lines(0, 2))
    assert mine and not any("LRU" in str(line) for line in mine)


def test_room_that_is_kept_for_another_step_is_framed():
    world = worlds.World().task("A")
    area = world.mmap("A", worlds.HEAP, 8)
    world.touch("A", area)
    before = world.look()
    world.split("A", area, 3)
    shown = picture(world.look() - before, panels=("spaces",))
    slots = [[node for node in tree(shown.svg(step)).iter(f"{SVG}rect") if node.get("class") == "slot"] for step in (0, 1)]
    assert [len(found) for found in slots] == [3, 0]  # both halves and the gap between them
