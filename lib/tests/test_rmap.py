# SPDX-License-Identifier: MIT
"""The reverse-map walk against what really maps a page, and against the kernel's own walk.

Two oracles: Snapshot.mapped(), which looks through every page table and knows
no rmap; and the kernel, which uses its rmap to unmap a page on reclaim: what
our walk finds is then gone, and what it says would be missed is still there.
"""

from __future__ import annotations

from errno import EBUSY

import pytest

from pvmlab import Lab, calls
from pvmlab.console import complaints
from pvmlab.defects import MADV_SOFT_OFFLINE
from pvmlab.errors import GuestError, MachineTimeout, UsageError

PAGE = 4096


@pytest.fixture
def machine_lab():
    with Lab(kernel="v2") as lab:
        lab.swap(32 << 20)
        yield lab
        assert not complaints(lab.machine.console_text())


def found(walk):
    return sorted((step.mm, step.address) for step in walk.hits)


def mapped(snapshot, pfn):
    return sorted((mm.addr, address) for mm, address in snapshot.mapped(pfn))


def assert_complete(snapshot):
    """For every page with a reverse map: the walk finds exactly the entries that map it."""
    kinds = set()
    for pfn, page in snapshot.pages.items():
        if page.kind not in ("anon", "file"):
            continue
        walk = snapshot.rmap(pfn)
        assert (walk.via, walk.missed) == (page.kind, ())
        assert found(walk) == mapped(snapshot, pfn) and len(walk.hits) >= 1, walk
        assert len(walk.hits) == page.mapcount or page.kind == "file"
        kinds.add(page.kind)
    return kinds


def pfn_at(snapshot, task, addr):
    return snapshot.task(task).pte(addr).pfn_at(addr)


def tasks_of(walk):
    return [step.tasks[0] for step in walk.hits]


# --- complete where the kernel's rmap is --------------------------------------------------------------------------------

def test_over_a_tree_of_forks(machine_lab):
    (a,) = machine_lab.tasks("a")
    buf = a.mmap(pages=6)
    a.stamp(buf, 6)
    b = a.fork("b")
    c = b.fork("c")
    d = a.fork("d")
    b.touch(buf, write=True)                       # b's own page from here on
    c.touch(buf + PAGE, write=True)
    d.munmap(buf + 2 * PAGE, pages=2)              # splits d's VMA
    e = c.fork("e")
    e.touch(buf + 5 * PAGE, write=True)
    snapshot = machine_lab.look()
    assert assert_complete(snapshot) == {"anon", "file"}
    assert sorted(tasks_of(snapshot.rmap(pfn_at(snapshot, "a", buf + 2 * PAGE)))) == ["a", "b", "c", "e"]
    assert sorted(tasks_of(snapshot.rmap(pfn_at(snapshot, "c", buf + PAGE)))) == ["c", "e"]
    own = snapshot.rmap(pfn_at(snapshot, "b", buf))
    assert tasks_of(own) == ["b"]


def test_steps_without_a_hit_say_why(machine_lab):
    (a,) = machine_lab.tasks("a")
    buf = a.mmap(pages=4)
    a.stamp(buf, 4)
    b = a.fork("b")
    b.touch(buf, write=True)
    b.madvise(buf + PAGE, calls.MADV_DONTNEED, pages=1)
    snapshot = machine_lab.look()
    first, second = (snapshot.rmap(pfn_at(snapshot, "a", buf + i * PAGE)) for i in (0, 1))
    assert [(s.tasks, s.hit) for s in first.steps] == [(("a",), True), (("b",), False)]
    assert "another frame" in first.steps[1].why and "nothing is mapped" in second.steps[1].why


def test_over_clones_of_halves_and_back(machine_lab):
    """One page twice in one process (message 15), and VMAs that span only part of it."""
    a, c = machine_lab.tasks("a", "c")
    buf = a.mmap(pages=8)
    a.stamp(buf, 8)
    first = c.process_vm_mmap(a, buf, pages=4)
    c.process_vm_mmap(a, buf + 4 * PAGE, pages=4, dst_addr=first + 4 * PAGE, flags=calls.PVMMAP_FIXED)
    b = a.fork("b")
    back = a.process_vm_mmap(b, buf + 2 * PAGE, pages=4)
    c.munmap(first + PAGE, pages=2)
    snapshot = machine_lab.look()
    assert_complete(snapshot)
    walk = snapshot.rmap(pfn_at(snapshot, "a", buf + 3 * PAGE))
    assert sorted(tasks_of(walk)) == ["a", "a", "b", "c"] and walk.twice == ("a",)
    assert (snapshot.task("a").mm.addr, back + PAGE) in found(walk)
    outside = snapshot.rmap(pfn_at(snapshot, "a", buf))
    assert back not in [s.address for s in outside.steps] and outside.twice == ()


def test_over_file_mappings(machine_lab):
    a, b = machine_lab.tasks("a", "b")
    fd = a.memfd("segment")
    a.syscall("ftruncate", fd, 8 * PAGE)
    whole = a.mmap(pages=8, fd=fd, flags=calls.MAP_SHARED)
    part = a.mmap(pages=2, fd=fd, flags=calls.MAP_SHARED, offset=3 * PAGE)
    private = a.mmap(pages=8, fd=fd)
    a.stamp(whole, 8)
    a.touch(part, 2)
    a.touch(private, 8)
    a.touch(private, write=True)
    clone = b.process_vm_mmap(a, whole, pages=8)
    b.touch(clone, 8)
    snapshot = machine_lab.look()
    assert_complete(snapshot)
    assert len(snapshot.rmap(pfn_at(snapshot, "a", whole + 3 * PAGE)).hits) == 4
    assert snapshot.rmap(pfn_at(snapshot, "a", private)).via == "anon"


def test_over_huge_pages(machine_lab):
    machine_lab.thp("madvise")
    (a,) = machine_lab.tasks("a")
    raw = a.mmap(len=6 << 20)
    huge = -(-raw // (2 << 20)) * (2 << 20)
    a.madvise(huge, calls.MADV_HUGEPAGE, len=2 << 20)
    a.touch(huge, write=True)
    b = a.fork("b")
    b.mprotect(huge, calls.PROT_READ, pages=16)          # b's entries become small ones
    snapshot = machine_lab.look()
    assert (snapshot.task("a").pte(huge).level, snapshot.task("b").pte(huge).level) == ("pmd", "pte")
    head = pfn_at(snapshot, "a", huge)
    for i in (0, 1, 17, 511):
        assert found(snapshot.rmap(head + i)) == mapped(snapshot, head + i)
        assert {s.address for s in snapshot.rmap(head + i).hits} == {huge + i * PAGE}


def test_zero_pages_have_no_rmap(machine_lab):
    (a,) = machine_lab.tasks("a")
    buf = a.mmap(pages=1)
    a.touch(buf)
    walk = (snapshot := machine_lab.look()).rmap(pfn_at(snapshot, "a", buf))
    assert (walk.via, walk.steps, walk.missed) == ("none", (), ())


def test_a_frame_nobody_maps_is_refused(machine_lab):
    with pytest.raises(UsageError, match="not in this snapshot"):
        machine_lab.look().rmap(1)


# --- KSM ----------------------------------------------------------------------------------------------------------------

def merge(lab, pages, *areas):
    for task, addr, count in areas:
        task.stamp(addr, count, first=4711, step=0)
        task.madvise(addr, calls.MADV_MERGEABLE, pages=count)
    lab.ksm(True)
    for _ in range(100):
        if int(lab.guest.read_file("/sys/kernel/mm/ksm/pages_sharing")) == pages - 1:
            break
        lab.run_for(20)
    lab.ksm(False)


def test_ksm_is_found_where_it_merged_and_after_a_fork(machine_lab):
    a, b = machine_lab.tasks("a", "b")
    one, two = a.mmap(pages=3), b.mmap(pages=1)
    merge(machine_lab, 4, (a, one, 3), (b, two, 1))
    a.fork("child")
    snapshot = machine_lab.look()
    pfn = pfn_at(snapshot, "a", one)
    walk = snapshot.rmap(pfn)
    assert (walk.via, walk.missed) == ("ksm", ()) and found(walk) == mapped(snapshot, pfn)
    assert sorted(tasks_of(walk)) == ["a"] * 3 + ["b"] + ["child"] * 3
    assert tasks_of(walk)[-3:] == ["child"] * 3                # the second pass


def test_ksm_at_another_address_is_missed(machine_lab):
    """D6: rmap_walk_ksm() looks in the clone's VMA at the original address only. The kernel's own walk agrees."""
    a, c = machine_lab.tasks("a", "c")
    buf = a.mmap(pages=2)
    merge(machine_lab, 2, (a, buf, 2))
    clone = c.process_vm_mmap(a, buf, pages=2)
    snapshot = machine_lab.look()
    pfn = pfn_at(snapshot, "a", buf)
    walk = snapshot.rmap(pfn)
    assert sorted(walk.missed) == [("c", clone), ("c", clone + PAGE)] and set(tasks_of(walk)) == {"a"}
    a.madvise(buf, calls.MADV_PAGEOUT, pages=2)
    after = machine_lab.look()
    assert {after.task("c").pte(clone + i * PAGE).pfn for i in (0, 1)} == {pfn}        # never unmapped


# --- the kernel walks too -----------------------------------------------------------------------------------------------

def test_reclaim_unmaps_all_that_the_walk_found(machine_lab):
    """shrink_folio_list() → try_to_unmap(): one rmap walk for each page. cgroup reclaim takes shared pages too."""
    lab = machine_lab
    group = lab.memory_max("pushed", None)
    a = lab.task("a", cgroup=group)
    (c,) = lab.tasks("c")
    buf = a.mmap(pages=8)
    a.stamp(buf, 8)
    b = a.fork("b")
    clone = c.process_vm_mmap(a, buf, pages=8)
    back = a.process_vm_mmap(b, buf, pages=8)
    before = lab.look()
    expected = {}
    for i in range(8):
        walk = before.rmap(pfn_at(before, "a", buf + i * PAGE))
        assert walk.missed == () and len(walk.hits) == 4
        expected[i] = found(walk)
        assert {address for _, address in expected[i]} == {x + i * PAGE for x in (buf, clone, back)}
    for _ in range(20):
        lab.reclaim(group)
        after = lab.look()
        if all(after.task("a").pte(buf + i * PAGE).swap for i in range(8)):
            break
    mms = {mm.addr: mm for mm in after.mms}
    for i, entries in expected.items():
        swaps = {mms[mm].entries.at(address).swap for mm, address in entries}
        assert len(swaps) == 1 and swaps.pop().kind == "swap"


def test_migration_moves_all_that_the_walk_found(machine_lab):
    """compaction: try_to_migrate() and remove_migration_ptes() are two rmap walks; every entry names the new frame."""
    lab = machine_lab
    (a,) = lab.tasks("a")
    buf = a.mmap(pages=256)
    a.stamp(buf, 256)
    a.fork("b")
    before = lab.look()
    for _ in range(10):
        lab.guest.write_file("/proc/sys/vm/compact_memory", "1")
        after = lab.look()
        moved = [addr for addr in range(buf, buf + 256 * PAGE, PAGE)
                 if pfn_at(after, "a", addr) != pfn_at(before, "a", addr)]
        if moved:
            break
        extra = lab.task("hog").mmap(pages=64)     # gives compaction something to move
        assert extra
    if not moved:
        pytest.skip("compaction found nothing to move in this memory")
    for addr in moved:
        assert pfn_at(after, "a", addr) == pfn_at(after, "b", addr)
        assert after.rmap(pfn_at(after, "a", addr)).missed == ()
    assert_complete(after)


# --- the kernel's walk, visit by visit --------------------------------------------------------------------------------

def kernel_walk(lab, task, addr):
    """Have one page migrated; return (errno or 0, [(vma, address)] as try_to_migrate_one() was called for them)."""
    visits = []
    with lab.stop_at("try_to_migrate_one", task=task) as stop:
        call = task.start("madvise", addr, MADV_SOFT_OFFLINE, pages=1)
        while not call.done:
            try:
                stop.wait(0.2)
            except MachineTimeout:
                continue
            registers = lab.cpus()[stop.cpu].registers              # (folio, vma, address, arg)
            visits.append((registers["rsi"], registers["rdx"]))
            stop.go_on()
    try:
        call.wait()
    except GuestError as e:
        return e.errno, visits
    return 0, visits


def ours(walk):
    """The visits the walk foresees: the kernel turns back once nothing maps the page any more (folio_not_mapped())."""
    last = max(i for i, step in enumerate(walk.steps) if step.hit or walk.missed)
    return [(step.vma, step.address) for step in walk.steps[:last + 1] if step.address is not None]


def test_the_kernel_visits_what_the_walk_does_in_its_order(machine_lab):
    a, c = machine_lab.tasks("a", "c")
    buf = a.mmap(pages=8)
    a.stamp(buf, 8)
    b = a.fork("b")
    first = c.process_vm_mmap(a, buf, pages=4)
    back = a.process_vm_mmap(b, buf + PAGE, pages=4)
    b.touch(buf + 2 * PAGE, write=True)                     # a miss: another frame is there
    c.munmap(first, pages=1)
    a.madvise(buf + 5 * PAGE, calls.MADV_DONTNEED, pages=1)     # a miss where the others keep it
    for page, task, addr in ((1, a, buf + PAGE), (2, a, buf + 2 * PAGE), (2, b, buf + 2 * PAGE),
                             (3, c, first + 3 * PAGE), (4, a, back + 3 * PAGE), (5, b, buf + 5 * PAGE),
                             (7, a, buf + 7 * PAGE)):
        before = machine_lab.look()
        walk = before.rmap(pfn_at(before, task.name, addr))
        errno, visits = kernel_walk(machine_lab, task, addr)
        assert (errno, visits) == (0, ours(walk)), page
        after = machine_lab.look()
        now = pfn_at(after, task.name, addr)
        assert now != walk.pfn and found(after.rmap(now)) == found(walk) == mapped(after, now)
        assert mapped(after, walk.pfn) == []                # nothing maps the old frame any more


def test_the_kernel_visits_ksm_s_items_as_the_walk_does(machine_lab):
    """It cannot migrate a page of which its walk misses an entry, and puts back what it had unmapped."""
    a, c = machine_lab.tasks("a", "c")
    buf = a.mmap(pages=2)
    merge(machine_lab, 2, (a, buf, 2))
    a.fork("b")
    before = machine_lab.look()
    walk = before.rmap(pfn_at(before, "a", buf))
    errno, visits = kernel_walk(machine_lab, a, buf)
    assert (errno, visits, walk.missed) == (0, ours(walk), ())
    clone = c.process_vm_mmap(a, buf, pages=2)
    before = machine_lab.look()
    walk = before.rmap(pfn_at(before, "a", buf))
    errno, visits = kernel_walk(machine_lab, c, clone)
    assert errno == EBUSY and set(walk.missed) == {("c", clone), ("c", clone + PAGE)}
    assert visits[:len(ours(walk))] == ours(walk)           # it tries several times
    after = machine_lab.look()
    assert mapped(after, walk.pfn) == mapped(before, walk.pfn)


def test_file_pages_are_visited_in_the_order_of_the_file_s_tree(machine_lab):
    a, b = machine_lab.tasks("a", "b")
    fd = a.memfd("segment")
    a.syscall("ftruncate", fd, 8 * PAGE)
    whole = a.mmap(pages=8, fd=fd, flags=calls.MAP_SHARED)
    a.stamp(whole, 8)
    part = a.mmap(pages=2, fd=fd, flags=calls.MAP_SHARED, offset=3 * PAGE)
    a.touch(part, 2)
    clone = b.process_vm_mmap(a, whole, pages=8)
    b.touch(clone + 3 * PAGE)
    before = machine_lab.look()
    walk = before.rmap(pfn_at(before, "a", part))
    errno, visits = kernel_walk(machine_lab, a, part)
    assert (errno, visits) == (0, ours(walk)) and len(walk.hits) == 3
