# SPDX-License-Identifier: MIT
"""The figure that steps, without a browser: what it carries, and how a notebook gets it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmlab import kernel, widgets
from pvmlab.diff import steps
from pvmlab.draw import picture, ref
from pvmlab.draw.belonging import parts
from pvmlab.draw.details import VM_WORDS, split
from pvmlab.errors import UsageError
from pvmlab.figure import figure
from pvmlab.model import Patch, Place
from pvmlab.view import SCRIPT, STYLE, View, bundle, page

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


def size(picture):
    return len(json.dumps(figure(picture), ensure_ascii=False, separators=(",", ":")).encode())


def drawn(made, stop, how="marked"):
    """The SVG of all panels at a stop."""
    return "".join(made["pieces"][n] for pieces in stop[how].values() for n in pieces)


def numbers(made, stop):
    """The numbers of the rows that a stop shows."""
    return {int(n) for n in re.findall(r'data-part="(\d+)" class="row', drawn(made, stop))}


def part(made, prefix):
    return next(i for i, name in enumerate(made["parts"]) if name.startswith(prefix))


def said(made, stop):
    """The text form of a stop."""
    return "\n".join(made["words"][n] for n in made["lists"][stop["text"]])


def kin(made, stop, n):
    """The numbers of what belongs to a part."""
    return made["lists"][stop["kin"][n]]


def details(made, stop, n):
    words = [made["words"][w] for w in made["lists"][stop["details"][n]]]
    return list(zip(words[::2], words[1::2]))


@pytest.mark.parametrize("name", ALL)
def test_what_the_widget_sends_is_small(name):
    assert size(of(name)) <= 300_000


def test_a_large_world_is_small_too():
    assert size(picture(steps(*worlds.large()))) <= 300_000


@pytest.mark.parametrize("name", ALL)
def test_there_is_a_stop_for_each_step_and_for_the_whole(name):
    count, made = len(ALL[name]), figure(of(name))
    assert len(made["stops"]) == count + (count > 2)
    assert [stop["label"] for stop in made["stops"][:count]] == list(steps(*ALL[name]).labels())
    assert made["start"] == len(made["stops"]) - 1


@pytest.mark.parametrize("name", ALL)
def test_each_stop_lists_its_changes_and_has_a_text(name):
    row, made = steps(*ALL[name]), figure(of(name))
    diffs = [*row.diffs, *([row.whole] if len(row) > 2 else [])]
    assert made["stops"][0]["lines"] == [] and made["stops"][0]["nothing"]
    for diff, stop in zip(diffs, made["stops"][1:], strict=True):
        assert [(line["sign"], line["text"]) for line in stop["lines"]] == [line[:2] for line in diff.lines]
    for stop in made["stops"]:
        assert all(line["text"] in said(made, stop) for line in stop["lines"])
        assert "Address spaces" in said(made, stop)


@pytest.mark.parametrize("name", ALL)
def test_the_places_of_a_line_are_the_rows_that_show_its_refs(name):
    shown = of(name)
    made, rows = figure(shown), {row.id: set(row.refs) for _, row in parts(shown.panels)}
    for diff, stop in zip(steps(*ALL[name]).diffs, made["stops"][1:]):
        for line, told in zip(diff.lines, stop["lines"]):
            refs = {ref(*r) for r in line.refs}
            expected = {i for i in numbers(made, stop) if rows.get(made["parts"][i], set()) & refs}
            assert set(told["places"]) >= expected


def test_a_line_about_what_is_not_drawn_shows_what_stands_for_it():
    """A page of a folded VMA, an anon_vma of the stack: the line of the other VMAs. A lock: its mm, its table."""
    world = worlds.World().task("A")
    stack = next(area for area in world.areas["A"] if area.name == "[stack]")
    world.touch("A", stack, 0x5000)
    world.touch("A", world.mmap("A", worlds.HEAP, 1))
    before = world.look()
    world.share("A", world.areas["A"][-1], "A", 0x7F11A0000000)
    world.fork("A", "B")
    after = world.look()
    table = next(t for t in after.tasks[0].mm.tables if t.level == "pte" and t.start == worlds.HEAP >> 21 << 21)
    after = replace(after, held=("mmap_lock of A: write", f"lock of A's pte table for {table.start:#x}"))
    made = figure(picture(steps(before, after)))
    places = {line["text"]: [made["parts"][n] for n in line["places"]] for line in made["stops"][1]["lines"]}
    folded = [text for text in places if "0x5000" in text and "frame" in text]
    assert folded and all(any(name.startswith("spaces-others") for name in places[text]) for text in folded)
    locks = {text: names for text, names in places.items() if "held now" in text}
    assert len(locks) == 2 and all(any(f"-{table.phys:x}-" in name for name in names)
                                   for text, names in locks.items() if "pte table" in text)
    assert all(names for names in places.values())


def test_the_heading_of_what_went_on_elsewhere_shows_where():
    world = worlds.World().task("A").task("B")
    areas = [world.mmap(name, worlds.HEAP, 2) for name in "AB"]
    before = world.look()
    for name, area, pfn in zip("AB", areas, (0x3000, 0x4000)):
        world.touch(name, area, pfn)
    lines = figure(picture(steps(before, world.look()), focus="A"))["stops"][1]["lines"]
    at = next(i for i, line in enumerate(lines) if line["sign"] == "…")
    assert 0 < at < len(lines) - 1 and lines[at]["places"]
    assert set(lines[at]["places"]) == {n for line in lines[at + 1:] for n in line["places"]}


@pytest.mark.parametrize("name", ALL)
def test_every_part_that_can_be_chosen_says_something(name):
    shown = of(name)
    made, choosable = figure(shown), {row.id for _, row in parts(shown.panels)}
    for stop in made["stops"]:
        folds = {n for panel in made["panels"] for n, _ in panel["folds"]}
        chosen = {n for n in numbers(made, stop) | folds if made["parts"][n] in choosable}
        assert chosen and set(stop["kin"]) == chosen
        for i in stop["kin"]:
            assert i in kin(made, stop, i) and made["words"][stop["says"][i]]


def test_what_belongs_together_is_symmetric():
    for name in ALL:
        made = figure(of(name))
        stop = made["stops"][0]  # nothing is gone there
        for i in stop["kin"]:
            assert all(i in kin(made, stop, other) for other in kin(made, stop, i) if other in stop["kin"])


def test_a_frame_says_who_maps_it():
    made = figure(of("twice"))
    stop, frame = made["stops"][2], part(made, "frames-")
    said = made["words"][stop["says"][frame]]
    assert "mapcount 3" in said and "0x7f4400000000–0x7f4400002000 in A (pid 60)" in said
    known = details(made, stop, frame)
    assert ("mapped by", "A at 0x7f3a1c200000, 0x7f4400000000 (2 times in one process)") in known
    assert ("mapped by", "B at 0x7f3a1c200000") in known


def mappers(row, step, pfns):
    """Refs of some frames, and of every entry and VMA that maps one of them, read from the snapshot."""
    who, found = row.identity, {ref("page", row.identity.key("page", step, pfn)) for pfn in pfns}
    for mm in row.snapshots[step].mms:
        for pte in mm.entries:
            if pte.present and not pfns.isdisjoint(range(pte.pfn, pte.pfn + pte.size // 4096)):
                found |= {ref("entry", (who.key("mm", step, mm.addr), pte.addr, pte.level)),
                          ref("vma", who.key("vma", step, mm.vma(pte.addr).addr))}
    return found


@pytest.mark.parametrize("world", [lambda: (worlds.family(),), lambda: (worlds.scattered(),), worlds.large])
def test_a_frame_lights_everything_that_maps_it_in_every_process(world):
    """The box of a group lights what maps any of its frames, and so does that of the walk."""
    row = steps(*world())
    last = len(row) - 1
    pfn = next(pte.pfn for pte in row.snapshots[-1].tasks[0].mm.entries if pte.present)
    shown = picture(row, walk=pfn)
    made, rows = figure(shown), {row.id: row for _, row in parts(shown.panels)}
    stop, choosable = made["stops"][last], made["stops"][last]["kin"]
    frames = [name for name, row in rows.items() if row.opens and row.opens.kind == "frames"
              and not name.startswith("forest-") and made["parts"].index(name) in choosable]
    assert "walk-page-row" in frames and len(frames) > 1
    for name in frames:
        refs = mappers(row, last, {pfn for pfn in rows[name].opens.what if pfn in row.snapshots[last].pages})
        expected = {n for n in choosable if refs & set(rows[made["parts"][n]].refs)}
        assert expected <= set(kin(made, stop, made["parts"].index(name))), name
        extra = {made["parts"][n] for n in set(kin(made, stop, made["parts"].index(name))) - expected}
        assert all(re.search(r"-(pgd|pud|pmd|pte)-[0-9a-f]+-\d+$", each) or each.startswith("walk-")
                   for each in extra), extra


@pytest.mark.parametrize("world", [*ALL, "large", "scattered", "family", "lineage"])
def test_a_vma_lights_all_its_entries_and_frames_drawn_or_folded(world):
    """And nothing of another VMA: a line that stands for entries is lit if some of them are the VMA's."""
    row = steps(*{"large": worlds.large, "scattered": lambda: (worlds.scattered(),), "family": lambda: (
        worlds.family(),), "lineage": worlds.lineage}.get(world, lambda: ALL[world])())
    shown, last = picture(row), len(row) - 1
    made, rows = figure(shown), {row.id: row for _, row in parts(shown.panels)}
    stop, snapshot = made["stops"][last], row.snapshots[-1]
    for mm in snapshot.mms:
        mine = row.identity.key("mm", last, mm.addr)
        for vma in mm.vmas:
            name = ref("vma", row.identity.key("vma", last, vma.addr))
            box = f"spaces-{name}"
            if box not in made["parts"] or made["parts"].index(box) not in stop["kin"]:
                continue
            ptes = mm.entries.between(vma.vm_start, vma.vm_end)
            refs = {ref("entry", (mine, pte.addr, pte.level)) for pte in ptes} | {
                ref("page", row.identity.key("page", last, pfn)) for pte in ptes if pte.present
                for pfn in range(pte.pfn, pte.pfn + pte.size // 4096) if pfn in snapshot.pages}
            lit = {made["parts"][n] for n in kin(made, stop, made["parts"].index(box))}
            there = {made["parts"][n] for n in stop["kin"]}
            assert {n for n in there if n.startswith(("tables-", "frames-")) and refs & set(rows[n].refs)} == {
                n for n in lit if n.startswith(("tables-", "frames-")) and rows[n].cls != "index"}, (box, world)


def test_a_part_carries_all_that_it_stands_for():
    shown = picture(steps(*worlds.large()))
    run = next(row for _, row in parts(shown.panels) if row.cls == "pte" and "×312" in row.seen[1].lines[0])
    assert len(run.refs) == len(set(run.refs)) == 312


def expanded(made, step):
    """(VMAs, entries, frames) of a step as the browser reads them, from the numbers."""
    inventory, lists, words = made["inventory"], made["lists"], made["words"]
    spaces, held = inventory["steps"][step]
    vmas, entries = set(), set()
    for mm, areas, runs, _ in spaces:
        name = words[inventory["mms"][mm][0]]
        for n in lists[areas]:
            _, page, pages, pgoff, prot, *_ = lists[n]
            vmas.add((name, page << 12, pages, pgoff, words[prot]))
        end = 0
        for gap, count, level, bits, first, by in zip(*[iter(lists[runs])] * 6):
            page, (base, unit, *_) = end + gap, inventory["bits"][bits]
            for i in range(count):
                entries.add((name, (page + i * 512 ** level) << 12, int(base, 16) + (first + i * by) * unit, level))
            end = page + count * 512 ** level
    frames, end = set(), 0
    for gap, count, facts, first, by in zip(*[iter(lists[held])] * 5):
        short = words[inventory["facts"][facts][0]]
        frames |= {(end + gap + i, first + i * by, *map(int, re.findall(r"\d+", short)[:2])) for i in range(count)}
        end += gap + count
    return vmas, entries, frames


def held(row, step):
    """The same, from the snapshot."""
    names, snapshot = row.identity.mm_names, row.snapshots[step]
    mms = [(names[row.identity.key("mm", step, mm.addr)], mm) for mm in snapshot.mms]
    levels = ("pte", "pmd", "pud")
    return ({(name, v.vm_start, v.pages, v.vm_pgoff, v.prot) for name, mm in mms for v in mm.vmas},
            {(name, pte.addr, pte.raw, levels.index(pte.level)) for name, mm in mms for pte in mm.entries},
            {(page.pfn, page.index, page.mapcount, page.refcount) for page in snapshot.pages.values()})


@pytest.mark.parametrize("world", [*ALL, "large", "scattered"])
def test_the_browser_is_sent_every_vma_entry_and_frame(world):
    row = steps(*{"large": worlds.large, "scattered": lambda: (worlds.scattered(),)}.get(world, lambda: ALL[world])())
    made = figure(picture(row))
    for step in range(len(row)):
        assert expanded(made, step) == held(row, step)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_browser_is_sent_all_of_any_world(numbers, stamps):
    row = steps(*worlds.history(numbers, stamps))
    made = figure(picture(row))
    assert all(expanded(made, step) == held(row, step) for step in range(len(row)))


def test_an_entry_lights_the_way_through_the_tables():
    made = figure(of("clone"))
    stop, entry = made["stops"][1], part(made, "tables-entry")
    lit = [made["parts"][n] for n in kin(made, stop, entry)]
    way = [name for name in lit if re.search(r"-(pgd|pud|pmd)-[0-9a-f]+-\d+$", name)]
    assert [name.rsplit("-", 1)[1] for name in way] == ["225", "232", "254"]


@pytest.mark.parametrize("name", ALL)
def test_an_index_lights_the_entries_it_leads_to_and_is_decoded(name):
    shown, row = of(name), steps(*ALL[name])
    made, rows = figure(shown), {r.id: r for _, r in parts(shown.panels)}
    last, seen = len(row) - 1, 0
    tables = {ref("table", key): (key[0], table) for key, table in row.identity.tables(last).items()}
    for n in made["stops"][last]["kin"]:
        index = rows[made["parts"][n]]
        if index.cls != "index" or index.refs[-1] not in tables:
            continue
        (mm, table), seen = tables[index.refs[-1]], seen + 1
        known = dict(details(made, made["stops"][last], n))
        assert known["the entry"] == f"{table.raw:#018x}, at {table.parent:#x}" and known["P"] == "present"
        assert known["names"] == f"the {table.level} table at {table.phys:#x}" and "of no effect" in known["D"]
        assert row.identity.mm_names[mm] in made["words"][made["stops"][last]["says"][n]]
        size = {"pte": 1 << 21, "pmd": 1 << 30, "pud": 1 << 39}[table.level]
        below = {ref("entry", (mm, pte.addr, pte.level)) for pte in row.identity.at("mm", last)[mm].entries.between(
            table.start, table.start + size)}
        lit = {made["parts"][k] for k in kin(made, made["stops"][last], n)}
        drawn, gone = ({made["parts"][k] for k in made["stops"][last][which]} for which in ("kin", "gone"))
        assert {k for k in drawn if rows[k].cls == "pte" and below & set(rows[k].refs)} == {
            k for k in lit - gone if rows[k].cls == "pte"} != set()
    assert seen >= 3


def test_an_entry_is_decoded():
    made = figure(of("clone"))
    known = details(made, made["stops"][0], part(made, "tables-entry"))
    pte = ALL["clone"][0].task("server").pte(worlds.HEAP)
    assert [term for term, _ in known if term in pte.flags] == list(pte.flags)
    assert ("its indices", "pgd 254 · pud 232 · pmd 225 · pte 0 · offset 0x0") in known
    assert ("RW", "writable") in known and ("frame", "0x1a2b") in known


def test_a_huge_entry_has_a_longer_offset():
    assert split(worlds.HEAP + 0x12345, "pmd") == "pgd 254 · pud 232 · pmd 225 · offset 0x12345"


def test_a_vma_is_said_in_words():
    made = figure(of("twice"))
    known = dict(details(made, made["stops"][2], part(made, "forest-vma-")))
    assert known["READ"] == "may be read" and known["entries"].startswith("2 present")
    assert known["chain"] == "newest first: av·A"
    assert "0x7f3a1c200000–0x7f3a1c202000, 2 pages (8 KiB) of A" in known["range"]


def test_every_flag_of_the_kernel_has_words():
    assert set(kernel.VM_FLAGS.values()) == set(VM_WORDS)


def test_a_visit_of_a_walk_lights_its_vma():
    before, forked, after, walk = worlds.twice()
    made = figure(picture(steps(before, forked, after), walk=walk))
    third = [i for i, part in enumerate(made["parts"]) if part.startswith("walk-visit-")][2]
    lit = {made["parts"][i] for i in kin(made, made["stops"][2], third)}
    new = steps(forked, after).of("vma")[0].id
    assert f"spaces-{ref('vma', new)}" in lit
    assert len([part for part in lit if part.startswith("spaces-")]) == 1
    assert figure(picture(walk))["stops"][0]["label"] == "the walk"


def test_the_walk_goes_from_the_frame_to_every_visit():
    """Each visit lights the VMA, its link in the tree, and the very entry that is looked at."""
    before, forked, after, walk = worlds.twice()
    row = steps(before, forked, after)
    made = figure(picture(row, walk=walk))
    steps_of_it = made["stops"][2]["walk"]
    assert len(steps_of_it) == len(walk.steps) + 3 and made["stops"][0]["walk"] == []
    for visit, (lit, said, item) in zip(walk.steps, steps_of_it[2:]):
        names, at = {made["parts"][n] for n in lit}, row.identity
        vma, mm = at.key("vma", 2, visit.vma), at.key("mm", 2, visit.mm)
        link = (vma, at.key("anon_vma", 2, walk.start))
        assert {f"spaces-{ref('vma', vma)}", f"forest-tree-{ref('link', link)}", f"forest-chain-{ref('link', link)}",
                f"tables-{ref('entry', (mm, visit.address, 'pte'))}"} <= names
        assert "HIT" in made["words"][said] and hex(visit.address) in made["words"][said]
    assert made["words"][steps_of_it[-1][1]].endswith(
        "The page is in A more than once, at 0x7f3a1c200000 and 0x7f4400000000. Why: av·A is in the chain of each of "
        "these VMAs, so its tree holds them all: A 0x7f3a1c200000 has av·A; A 0x7f4400000000 has av·B, av·A (the chain "
        "of B 0x7f3a1c200000: who clones a VMA copies its chain). The page's index 0x7f3a1c200 and vm_pgoff give one "
        "address in each: 0x7f3a1c200000 with vm_pgoff 0x7f3a1c200 and 0x7f4400000000 with vm_pgoff 0x7f3a1c200.")
    end = {made["parts"][n] for n in steps_of_it[-1][0]}
    for vma in (after.task("A").vma(addr) for addr in (worlds.HEAP, 0x7F4400000000)):
        key, owner = row.identity.key("vma", 2, vma.addr), row.identity.key("anon_vma", 2, walk.start)
        assert {f"forest-chain-{ref('link', (key, owner))}", f"spaces-{ref('vma', key)}"} <= end


def test_a_film_says_where_it_stands_and_what_is_locked():
    before, after = ALL["clone"]
    place = Place("copy_vma", "mm/vma.c", 1803, Patch("v2", 2, 7, "mm: copy_vma() to another mm"))
    held = ("mmap_lock of server: write", "mmap_lock of consumer: write")
    inside = replace(after, label="copy_vma", place=place, held=held)
    made = figure(picture(steps(before, inside, after)))
    where = ("in copy_vma(), mm/vma.c:1803, touched by patch v2 2/7 (mm: copy_vma() to another mm)",
             "locks held: mmap_lock of server: write, mmap_lock of consumer: write")
    assert [stop["where"] for stop in made["stops"]] == [(), where, (), ()]
    assert all(line in said(made, made["stops"][1]) for line in where)
    assert "+ held now: mmap_lock of server: write" in said(made, made["stops"][1])


def test_what_a_real_film_sends_is_small():
    from pvmlab import Lab
    with Lab(kernel="v2") as lab:
        server, consumer = lab.tasks("server", "consumer")
        buf = server.mmap(pages=4)
        server.touch(buf, 4, write=True)
        film = lab.film(lambda: consumer.process_vm_mmap(server, buf, pages=4))
    assert len(film) > 10 and size(picture(steps(*film))) <= 300_000
    stops = figure(picture(steps(*film)))["stops"]
    held = [line for stop in stops for line in stop["lines"] if "held" in line["text"]]
    assert len(held) > 6 and all(line["places"] for stop in stops for line in stop["lines"])


def test_every_frame_of_a_plain_film_says_where_it_was_taken_and_what_was_locked():
    before, after = ALL["clone"]
    place = Place("copy_vma", "mm/vma.c", 1803, Patch("v2", 2, 7, "mm: copy_vma() to another mm"))
    held = ("mmap_lock of server: write", "mmap_lock of consumer: write")
    shown = picture(steps(before, replace(after, label="copy_vma", place=place, held=held), after))
    words = ("mm/vma.c:1803", "v2 2/7", *held)
    for at, source in enumerate((*shown.frames, shown.svg())):
        strip = [t for t in re.findall(r"<text[^>]*>[^<]*</text>", source.split("What changed")[0])]
        bold = " ".join(re.sub(r"<[^>]*>", "", t) for t in strip if 'class="bold"' in t)
        assert all(word in re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", " ".join(strip))) for word in words)
        assert at == 3 and not bold or bold.startswith(f"▶ {at + 1}. ") and (at != 1 or place.file in bold)
    assert "2. copy_vma; in copy_vma(), mm/vma.c:1803" in shown.text()
    long = picture(steps(before, *[replace(after, label="copy_vma", place=place)] * 20, after))
    assert "mm/vma.c:1803" in long.frames[3] and "mm/vma.c:1803" not in long.frames[0]


def test_a_film_opens_at_its_first_step():
    before, after = ALL["clone"]
    inside = replace(after, label="copy_vma", place=Place("copy_vma"))
    assert View(picture(steps(before, inside, after))).step == 0
    assert View(picture(steps(before, replace(after, held=("mmap_lock of server: write",))))).step == 1


def test_notes_go_with_their_steps():
    made = figure(of("cow", notes=("first", "then")))
    assert [stop["note"] for stop in made["stops"]] == ["first", "then", "", ""]
    with pytest.raises(UsageError):
        of("clone", notes=("a", "b", "c"))


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
