# SPDX-License-Identifier: MIT
"""diff.py, identity.py and words.py, on made-up worlds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmlab.diff import KINDS, Diff, Steps, steps
from pvmlab.errors import UsageError
from pvmlab.model import Pte

NUMBERS = st.lists(st.integers(0, 10_000), min_size=1, max_size=8)
ALL = worlds.all_worlds()


@pytest.mark.parametrize("name", ALL)
def test_nothing_changed_between_a_snapshot_and_itself(name):
    for snapshot in ALL[name]:
        diff = snapshot - snapshot
        assert not diff and diff.changes == () and diff.words() == [] and str(diff) == "nothing changed"


@given(NUMBERS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_changes_lead_from_before_to_after(numbers, stamps):
    row = steps(*worlds.history(numbers, stamps))
    for step, diff in enumerate(row.diffs):
        for kind in ("mm", "vma", "anon_vma", "page"):
            before, after = (row.identity.at(kind, i) for i in (step, step + 1))
            assert (before.keys() - keys(diff, kind, "removed")) | keys(diff, kind, "added") == after.keys()
        assert entries_after(row, step, diff) == {
            (row.identity.key("mm", step + 1, mm.addr), pte.addr, pte.level): pte
            for mm in row.snapshots[step + 1].mms for pte in mm.entries}


def keys(diff, kind, what):
    return {c.id for c in diff.of(kind) if c.what == what}


def entries_after(row, step, diff):
    """The entries of the earlier snapshot with the changes applied."""
    found = {(row.identity.key("mm", step, mm.addr), pte.addr, pte.level): pte
             for mm in row.snapshots[step].mms for pte in mm.entries}
    for c in diff.of("entry"):
        assert found.pop(c.id, None) == c.before
        if c.after is not None:
            found[c.id] = c.after
    return found


@given(NUMBERS)
@settings(max_examples=40, deadline=None)
def test_backwards_what_was_added_is_removed(numbers):
    looks = worlds.history(numbers)
    there, back = looks[-1] - looks[0], looks[0] - looks[-1]
    swap = {"added": "removed", "removed": "added", "changed": "changed"}
    assert {(c.kind, c.id, c.what) for c in there.changes} == {(c.kind, c.id, swap[c.what]) for c in back.changes}


@given(NUMBERS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_change_is_in_exactly_one_line(numbers, stamps):
    looks = worlds.history(numbers, stamps)
    for diff in (looks[-1] - looks[0], *steps(*looks).diffs):
        told = Counter((c.kind, c.id, c.what) for line in diff.lines for c in line.changes)
        assert told == Counter((c.kind, c.id, c.what) for c in diff.changes)
        assert all(line.text and line.sign in "+–~" for line in diff.lines)
        assert all(c.kind in KINDS and c.refs[0] == (c.kind, c.id) for c in diff.changes)


@pytest.mark.parametrize("stamps", (True, False))
def test_a_clone_in_words(stamps):
    before, after = worlds.clone(stamps)
    words = (after - before).words()
    for said in ("consumer: VMA 0x7f11a0000000–0x7f11a0004000 rw-p (4 pages) is new, anon_vma av·server",
                 "anon_vma av·server: refcount 2 → 3, num_active_vmas 1 → 2",
                 "av·server: its interval tree now holds consumer 0x7f11a0000000 (1 → 2 VMAs)",
                 "server: 4 entries 0x7f3a1c200000–0x7f3a1c204000 lost RW, D kept",
                 "consumer: 4 entries 0x7f11a0000000–0x7f11a0004000 new: P US A D NX",
                 "4 frames 0x1a2b–0x1a2e: now mapped by consumer too; no longer exclusive "
                 "(mapcount 1 → 2, refcount 1 → 2)",
                 "counters of the whole machine: pgalloc_normal +4"):
        assert said in words


def test_a_merge_in_words():
    assert ("consumer: VMA 0x7f11a0000000–0x7f11a0004000: grew from 0x7f11a0000000–0x7f11a0002000 to "
            "0x7f11a0000000–0x7f11a0004000 (merged)") in steps(*worlds.merge()).diffs[1].words()


def test_a_write_after_the_clone_in_words():
    words = steps(*worlds.cow()).diffs[1].words()
    assert "consumer: entry 0x7f11a0001000 gained RW, maps another frame (0x1a2c → 0x2c40)" in words
    assert "frame 0x1a2c: no longer mapped by consumer (mapcount 2 → 1, refcount 2 → 1)" in words


def test_a_page_handed_back_is_mapped_once_more():
    before, forked, after, _ = worlds.twice()
    words = (after - forked).words()
    assert "2 frames 0x1a2b–0x1a2c: now mapped by A once more (mapcount 2 → 3, refcount 2 → 3)" in words
    assert any(w.startswith("process B (pid 61) is new") for w in (forked - before).words())


def test_an_exit_is_one_line_with_all_that_went():
    before, after = worlds.fork_tree()
    first = (after - before).lines[0]
    assert str(first) == "– process B (pid 61) is gone: 6 VMAs, 2 entries, 4 page-table pages"
    assert {c.kind for c in first.changes} == {"task", "mm", "vma", "entry", "table"}


def test_swapping_out_and_splitting_in_words():
    before, after = worlds.swapped()
    assert ("server: entry 0x7f3a1c200000 P RW US A D NX → swap entry (EXCLUSIVE) (area 0, offset 12)"
            in (after - before).words())
    before, after = worlds.huge()
    assert "server: 512 entries 0x7f3a1c200000–0x7f3a1c400000 new: P RW US A D NX" in (after - before).words()
    assert [c.what for c in (after - before).of("entry") if c.id[2] == "pmd"] == ["removed"]


def test_a_frame_used_again_is_another_page():
    before, _ = worlds.clone()
    page = before.pages[0x1A2B]
    after = replace(before, pages={**before.pages, 0x1A2B: page._replace(born=page.born + 999)})
    diff = after - before
    assert {(c.what, c.id) for c in diff.of("page")} == {("removed", page.id), ("added", (page.pfn, page.born + 999))}
    assert diff.words() == ["server: entry 0x7f3a1c200000 maps another page in the same frame → frame 0x1a2b",
                            "frame 0x1a2b: freed and used again, it is another page now"]


def test_a_slab_address_used_again_is_another_vma():
    before, after = worlds.clone()
    made = next(c.after for c in (after - before).of("vma"))
    task = after.task("consumer")
    reborn = replace(made, born=made.born + 999)
    vmas = tuple(reborn if v is made else v for v in task.mm.vmas)
    consumer = replace(task, mm=replace(task.mm, vmas=vmas))
    again = replace(after, tasks=tuple(consumer if t is task else t for t in after.tasks))
    assert {(c.what, c.id) for c in (again - after).of("vma")} == {("removed", made.id), ("added", reborn.id)}


def test_without_stamps_a_place_needs_evidence():
    before, after = worlds.clone(stamps=False)
    page = after.pages[0x1A2B]
    moved = replace(after, pages={**after.pages, 0x1A2B: page._replace(index=page.index + 1)})
    assert [c.what for c in (moved - after).of("page")] == ["removed", "added"]
    counted = replace(after, pages={**after.pages, 0x1A2B: page._replace(refcount=9)})
    assert [c.what for c in (counted - after).of("page")] == ["changed"]
    assert {c.what for c in (after - before).of("vma")} == {"added"}


def test_fields_have_names_and_both_values():
    before, after = worlds.clone()
    change = next(c for c in (after - before).of("page"))
    assert change.field("mapcount")[1:] == (1, 2) and change.field("index") is None
    entry = next(c for c in (after - before).of("entry") if c.what == "changed")
    assert isinstance(entry.before, Pte) and entry.before.writable and not entry.after.writable
    assert ("page", change.id) in entry.refs


def test_two_snapshots_make_a_diff_and_more_make_steps():
    row = steps(*worlds.cow())
    assert isinstance(steps(*worlds.clone()), Diff) and isinstance(row, Steps) and len(row.diffs) == 2
    assert row.labels() == ("before", "cloned", "written")
    assert {c.id for c in row.whole.of("vma")} == {c.id for c in row.diffs[0].of("vma")}
    assert len(steps(row.snapshots[0])) == 1 and steps(row.snapshots[0]).words() == []
    with pytest.raises(UsageError):
        steps()
    with pytest.raises(UsageError):
        steps(row.snapshots[0], "after")
    with pytest.raises(TypeError):
        row.snapshots[0] - 1


def test_anon_vmas_are_called_after_their_owner_and_keep_their_names():
    row = steps(*worlds.twice()[:3])
    assert list(row.identity.anon_vma_names.values()) == ["av·A", "av·B"]
    assert set(row.diffs[1].identity.anon_vma_names.values()) == {"av·A", "av·B"}


def test_twenty_thousand_entries_are_told_in_a_few_lines():
    before, after = worlds.large()
    assert sum(len(mm.entries) for mm in before.mms) == 20_000
    assert len((after - before).words()) < 20


def test_what_a_lesson_speaks_of_comes_before_what_every_program_has():
    """Its frames too, though they were put on an LRU list as well; what else happened to the others is said last."""
    world = worlds.World().task("A")
    stack = next(area for area in world.areas["A"] if area.name == "[stack]")
    world.touch("A", stack, 0x5000)
    world.touch("A", world.mmap("A", worlds.HEAP, 2))
    before = world.look()
    world.fork("A", "B")
    after = world.look()
    listed = {pfn: page._replace(flags=(*page.flags, "active")) for pfn, page in after.pages.items()}
    without = {pfn: page._replace(flags=("uptodate",)) for pfn, page in before.pages.items()}
    lines = [*map(str, (replace(after, pages=listed) - replace(before, pages=without)).lines)]
    main = next(i for i, line in enumerate(lines) if "frames 0x1a2b" in line)
    assert "put on an LRU list" in lines[main] and "0x5000" not in lines[main]
    beside = [i for i, line in enumerate(lines) if "stack" in line or "0x5000" in line]
    assert beside and min(beside) > max(i for i, line in enumerate(lines) if "0x7f3a1c200000" in line) >= main


def test_anon_vmas_of_the_stack_do_not_take_the_short_name():
    world = worlds.World().task("server")
    stack = next(a for a in world.areas["server"] if a.name == "[stack]")
    bss = world.mmap("server", 0x417000, 1)
    heap = world.mmap("server", worlds.HEAP, 1)
    for i, area in enumerate((stack, bss, heap)):
        world.touch("server", area, 0x1000 * (i + 1))
    assert set(steps(world.look()).identity.anon_vma_names.values()) == {"av·server·stack", "av·server·bss", "av·server"}


def test_a_dirty_bit_that_moves_is_said_so():
    before, after = (worlds.World().task("server") for _ in range(2))
    for world, flags in ((before, worlds.DATA), (after, worlds.READ | 1 << 58)):
        world.touch("server", world.mmap("server", worlds.HEAP, 2), flags=flags)
    words = (after.look() - before.look()).words()
    assert "server: 2 entries 0x7f3a1c200000–0x7f3a1c202000 lost RW, D became SAVED_DIRTY" in words


def test_a_tree_that_swaps_vmas_says_what_came_what_went_and_how_many_it_holds():
    world = worlds.World().task("server")
    area = world.mmap("server", worlds.HEAP, 8)
    world.touch("server", area)
    before = world.look()
    world.split("server", area, 3)
    line = next(line for line in (world.look() - before).lines if "interval tree" in line.text)
    assert str(line) == ("~ av·server: its interval tree now holds server 0x7f3a1c200000–0x7f3a1c203000, server "
                         "0x7f3a1c204000–0x7f3a1c208000 in place of server 0x7f3a1c200000–0x7f3a1c208000 (1 → 2 VMAs)")


def test_a_printed_difference_fits_an_output_of_a_notebook():
    before, after = worlds.fork_tree()
    wide = replace(after, counters={f"a_counter_of_the_machine_{i}": i for i in range(1, 12)})
    said = str(wide - before)
    assert max(map(len, said.splitlines())) <= 88
    assert " ".join(said.split()) == " ".join(" ".join(map(str, (wide - before).lines)).split())
