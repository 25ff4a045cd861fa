# SPDX-License-Identifier: MIT
"""The rules of series v3: what each lets pass and what it refuses, and that the anon_vmas seen from outside say so too.

Adds: each rule of messages 16, 18 and 20, and UFFDIO_MOVE's, on the worlds that the messages bring up against it.
Leaves out: the errors of the call that have nothing to do with a rule.
"""

from __future__ import annotations

import errno

import pytest

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED
from pvmlab.errors import GuestError, UsageError
from pvmlab.guest import expect
from pvmlab.lab import RULES

PAGE = 4096
PAGES = 4
SIZE = PAGES * PAGE
#: Nothing is near these addresses, so that nothing merges but what a test puts there.
HERE, THERE = 1 << 40, 1 << 41
PLACE = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE


@pytest.fixture
def kernel():
    return "v3"


def mapped(task, addr=HERE, **how):
    """PAGES pages of a task, written to."""
    task.mmap(addr, pages=PAGES, flags=PLACE, **how)
    task.stamp(addr, PAGES)
    return addr


@pytest.fixture
def buf(server):
    return mapped(server)


def passes(caller, source, addr=HERE, pages=PAGES, keep=False):
    """Whether the rule lets the call through; a clone that is not kept is gone again."""
    try:
        dst = caller.process_vm_mmap(source, addr, pages=pages)
    except GuestError as e:
        assert e.errno == errno.EBUSY
        return False
    assert caller.read(dst, 8) == source.read(addr, 8)
    if not keep:
        caller.munmap(dst, pages=pages)
    return True


# --- the setting ---------------------------------------------------------------

def test_any_is_the_default(lab):
    assert lab.rule() == "any"


@pytest.mark.parametrize("name", RULES)
def test_it_is_read_as_it_was_written(lab, name):
    assert lab.rule(name) == name == lab.rule()


def test_no_other_name_is_taken(lab):
    with pytest.raises(UsageError, match="never-forked"):
        lab.rule("forked")
    with expect(errno.EINVAL):
        lab.guest.write_file("/proc/sys/vm/process_vm_mmap_rule", "forked")
    assert lab.rule() == "any"


def test_v2_has_no_rules(new_lab):
    with new_lab("v2") as lab, pytest.raises(UsageError, match="v3"):
        lab.rule("any")


# --- what all of them have in common -------------------------------------------

@pytest.mark.parametrize("name", RULES)
def test_fresh_memory_passes(lab, server, consumer, buf, name):
    lab.rule(name)
    assert passes(consumer, server)


@pytest.mark.parametrize("name", RULES)
def test_untouched_memory_passes(lab, server, consumer, name):
    """Message 17: that it must be faulted would be too much."""
    server.mmap(HERE, pages=PAGES, flags=PLACE)
    lab.rule(name)
    assert lab.look().task("server").vma(HERE).anon_vma is None
    assert passes(consumer, server)


@pytest.mark.parametrize("name", RULES[1:])
def test_child_to_parent_is_refused(lab, proc, server, buf, name):
    """Message 15, with the sides named: what A had before B was forked does not come back to A."""
    child = server.fork("child")
    lab.rule(name)
    before, maps = lab.look(), proc.maps(server)
    assert not passes(server, child)
    assert proc.maps(server) == maps
    assert raw(lab.look(), "server") == raw(before, "server") and raw(lab.look(), "child") == raw(before, "child")


def test_child_to_parent_passes_without_a_rule(lab, server, buf):
    child = server.fork("child")
    assert passes(server, child, keep=True)
    pfns = [e.pfn for e in lab.look().task("server").mm.entries if e.present]
    assert len(pfns) > len(set(pfns))       # one page, twice in one process


@pytest.mark.parametrize("name", RULES[1:])
def test_a_refusal_leaves_what_fixed_would_replace(lab, server, buf, name):
    child = server.fork("child")
    mapped(server, THERE)
    lab.rule(name)
    with expect(errno.EBUSY):
        server.process_vm_mmap(child, HERE, pages=PAGES, dst_addr=THERE, flags=FIXED)
    assert server.read(THERE + PAGE, 8) == (2).to_bytes(8, "little")


def test_a_change_is_felt_at_once(lab, server, consumer, buf):
    server.fork("child")
    for name, through in (("any", True), ("never-forked", False), ("foreign-root", True), ("exclusive", False)):
        lab.rule(name)
        assert passes(consumer, server) == through


def raw(seen, task):
    """What the page tables of a task say of HERE."""
    return [(e.addr, e.raw) for e in seen.task(task).mm.entries.between(HERE, HERE + SIZE)]


# --- single-chain: message 16 --------------------------------------------------

def single(lab, task, addr=HERE):
    """The rule, evaluated on the kernel's memory: one anon_vma, with one VMA in it."""
    vma = lab.look().task(task).vma(addr)
    return len(vma.chain) == 1 and len(vma.anon_vma.tree) == 1


def test_single_chain_refuses_while_a_child_lives(lab, server, consumer, buf):
    lab.rule("single-chain")
    child = server.fork("child")
    assert not single(lab, "server") and not passes(consumer, server)
    assert not single(lab, "child") and not passes(consumer, child)
    child.exit()
    server.syscall("wait4", child.pid, 0, 0, 0)
    assert single(lab, "server") and passes(consumer, server)


def test_single_chain_refuses_a_second_clone(lab, server, consumer, buf):
    lab.rule("single-chain")
    assert passes(consumer, server, keep=True)
    assert not single(lab, "server") and not passes(consumer, server)


def test_single_chain_refuses_what_was_split(lab, server, consumer, buf):
    """The puzzle of message 19: nobody else has these pages, and still."""
    lab.rule("single-chain")
    server.mprotect(HERE, calls.PROT_READ, pages=1)
    assert not single(lab, "server", HERE + PAGE) and not passes(consumer, server, HERE + PAGE, pages=3)
    server.mprotect(HERE, calls.PROT_READ | calls.PROT_WRITE, pages=1)
    assert single(lab, "server") and passes(consumer, server)


# --- foreign-root: message 18 --------------------------------------------------

def roots(lab, task):
    """The roots of all anon_vmas of a task."""
    return {vma.anon_vma.root for vma in lab.look().task(task).mm.vmas if vma.anon_vma}


def root(lab, task, addr=HERE):
    return lab.look().task(task).vma(addr).anon_vma.root


def test_foreign_root_takes_from_strangers_only(lab, server, consumer, buf):
    lab.rule("foreign-root")
    child = server.fork("child")
    other = server.fork("other")
    assert root(lab, "server") in roots(lab, "child") & roots(lab, "other")
    assert not passes(child, server) and not passes(server, child) and not passes(other, child)
    assert root(lab, "child") not in roots(lab, "consumer")
    assert passes(consumer, child) and passes(consumer, server)


def test_foreign_root_takes_what_came_after_the_fork(lab, server, buf):
    lab.rule("foreign-root")
    child = server.fork("child")
    mapped(child, THERE)
    assert root(lab, "child", THERE) not in roots(lab, "server")
    assert passes(server, child, THERE)


def test_foreign_root_refuses_a_second_clone_until_the_first_is_gone(lab, server, consumer, buf):
    lab.rule("foreign-root")
    dst = consumer.process_vm_mmap(server, HERE, pages=1)
    assert root(lab, "server") in roots(lab, "consumer") and not passes(consumer, server, HERE + PAGE, pages=1)
    consumer.munmap(dst, pages=1)
    assert root(lab, "server") not in roots(lab, "consumer") and passes(consumer, server, HERE + PAGE, pages=1)


# --- never-forked: message 20 --------------------------------------------------

def forked(lab, proc, task, addr=HERE):
    """Whether a mapping has the mark; the kernel's memory and smaps must agree."""
    mark = "FORKED" in lab.look().task(task.name).vma(addr).flags
    assert mark == ("fk" in vm_flags(proc, task, addr))
    return mark


def vm_flags(proc, task, addr):
    """The VmFlags of the mapping at addr in /proc/PID/smaps."""
    text = proc.guest.read_file(f"/proc/{task.pid}/smaps").decode()
    part = text[text.index(f"{addr:08x}-"):]
    return part[part.index("VmFlags:"):].splitlines()[0].split()


def test_a_fork_marks_both_sides(lab, proc, server, consumer, buf):
    """The posted diff cleared its mark in the parent only, so that the child could still hand the pages back."""
    lab.rule("never-forked")
    assert not forked(lab, proc, server)
    child = server.fork("child")
    assert forked(lab, proc, server) and forked(lab, proc, child)
    assert not passes(consumer, server) and not passes(consumer, child) and not passes(server, child)


def test_the_mark_outlives_the_child(lab, proc, server, consumer, buf):
    lab.rule("never-forked")
    child = server.fork("child")
    child.exit()
    server.syscall("wait4", child.pid, 0, 0, 0)
    assert forked(lab, proc, server) and not passes(consumer, server)


def test_what_is_mapped_after_the_fork_passes(lab, proc, server, consumer, buf):
    lab.rule("never-forked")
    child = server.fork("child")
    mapped(server, THERE), mapped(child, THERE)
    assert not forked(lab, proc, child, THERE)
    assert passes(consumer, server, THERE) and passes(server, child, THERE)


@pytest.mark.parametrize("advice, marked", [(calls.MADV_WIPEONFORK, False), (calls.MADV_DONTFORK, False)])
def test_what_the_child_does_not_get_is_not_marked(lab, proc, server, buf, advice, marked):
    server.madvise(HERE, advice, pages=PAGES)
    server.fork("child")
    assert forked(lab, proc, server) == marked


def test_a_part_is_refused(lab, server, consumer, buf):
    lab.rule("never-forked")
    assert not passes(consumer, server, HERE, pages=PAGES - 1)
    assert not passes(consumer, server, HERE + PAGE, pages=PAGES - 1)
    assert passes(consumer, server)


@pytest.mark.parametrize("name, addr", [("after", HERE + SIZE), ("before", HERE - SIZE)])
def test_a_merge_with_a_forked_neighbour_is_refused(lab, proc, server, consumer, buf, name, addr):
    """Message 17: new memory, mapped beside old, becomes part of it without anybody asking."""
    lab.rule("never-forked")
    server.fork("child")
    mapped(server, addr)
    vma = lab.look().task("server").vma(addr)
    assert vma.pages == 2 * PAGES
    assert forked(lab, proc, server, vma.vm_start) and not passes(consumer, server, vma.vm_start, vma.pages)


def test_walls_keep_it_apart(lab, proc, server, consumer, buf):
    """Message 18: a page of another protection on either side, and it stays a mapping of its own."""
    lab.rule("never-forked")
    server.fork("child")
    server.mmap(HERE + SIZE, pages=PAGES + 2, prot=calls.PROT_NONE, flags=PLACE)
    inside = HERE + SIZE + PAGE
    server.mprotect(inside, calls.PROT_READ | calls.PROT_WRITE, pages=PAGES)
    server.stamp(inside, PAGES)
    assert lab.look().task("server").vma(inside).pages == PAGES
    assert not forked(lab, proc, server, inside) and passes(consumer, server, inside)
    assert not passes(consumer, server)


@pytest.mark.parametrize("fresh_first", [True, False])
def test_a_merge_by_mprotect_keeps_the_mark(lab, proc, server, consumer, buf, fresh_first):
    """mprotect() merges, and then sets the flags it computed before: of one part only."""
    lab.rule("never-forked")
    server.fork("child")
    old, new = (HERE + SIZE, HERE) if fresh_first else (HERE, HERE + SIZE)
    if fresh_first:
        server.mremap(HERE, pages=PAGES, flags=calls.MREMAP_MAYMOVE | calls.MREMAP_FIXED, new_addr=HERE + SIZE)
    server.mprotect(old, calls.PROT_READ, pages=PAGES)
    mapped(server, new)
    assert forked(lab, proc, server, old) and not forked(lab, proc, server, new) and passes(consumer, server, new)
    server.mprotect(new, calls.PROT_READ, pages=PAGES)
    seen = lab.look().task("server").vma(HERE)
    if seen.pages == 2 * PAGES:             # merged, where the anon_vmas allow it
        assert forked(lab, proc, server) and not passes(consumer, server, HERE, 2 * PAGES)
    else:
        assert fresh_first and forked(lab, proc, server, old)


def test_a_split_keeps_the_mark(lab, proc, server, buf):
    server.fork("child")
    server.mprotect(HERE + PAGE, calls.PROT_READ, pages=1)
    assert all(forked(lab, proc, server, HERE + page * PAGE) for page in (0, 1, 2))


def test_a_clone_has_the_mark_of_its_source(lab, proc, server, consumer, buf):
    fresh = consumer.process_vm_mmap(server, HERE, pages=PAGES, dst_addr=HERE, flags=FIXED)
    assert not forked(lab, proc, consumer, fresh)
    consumer.munmap(fresh, pages=PAGES)
    server.fork("child")
    assert forked(lab, proc, consumer, consumer.process_vm_mmap(server, HERE, pages=PAGES, dst_addr=HERE, flags=FIXED))


def test_a_clone_is_no_fork(lab, server, consumer, buf):
    """So the rule as it was put keeps a page from being in a process twice only where it is moved."""
    lab.rule("never-forked")
    assert passes(consumer, server, keep=True) and passes(consumer, server, keep=True)
    pfns = [e.pfn for e in lab.look().task("consumer").mm.entries if e.present]
    assert len(pfns) > len(set(pfns))


# --- exclusive: UFFDIO_MOVE ----------------------------------------------------

def exclusive(proc, task, addr=HERE):
    """Which of the pages are the task's alone, as /proc/PID/pagemap has it."""
    return [proc.pagemap(task, addr + i * PAGE).exclusive for i in range(PAGES)]


def test_exclusive_goes_by_the_page(lab, proc, server, consumer, buf):
    lab.rule("exclusive")
    server.fork("child")
    server.touch(HERE + PAGE, write=True)
    assert [passes(consumer, server, HERE + i * PAGE, pages=1) for i in (0, 2, 3)] == [False] * 3
    assert passes(consumer, server, HERE + PAGE, pages=1)
    assert exclusive(proc, server).count(False) >= 3


def test_exclusive_passes_again_after_a_write(lab, proc, server, consumer, buf):
    lab.rule("exclusive")
    server.fork("child")
    server.touch(HERE, PAGES, write=True)
    assert exclusive(proc, server) == [True] * PAGES and passes(consumer, server)


def test_exclusive_refuses_a_second_clone(lab, server, consumer, buf):
    lab.rule("exclusive")
    assert passes(consumer, server, keep=True) and not passes(consumer, server)


def test_exclusive_asks_swap_entries_too(lab, proc, server, consumer, buf):
    lab.swap(16 << 20)
    lab.rule("exclusive")
    server.madvise(HERE, calls.MADV_PAGEOUT, pages=PAGES)
    assert all(proc.pagemap(server, HERE + i * PAGE).swap for i in range(PAGES))
    before = lab.look().counters["pswpin"]
    dst = consumer.process_vm_mmap(server, HERE, pages=PAGES)
    with expect(errno.EBUSY):
        consumer.process_vm_mmap(server, HERE, pages=PAGES)
    assert lab.look().counters["pswpin"] == before
    assert consumer.read(dst, 8) == server.read(HERE, 8)


@pytest.mark.parametrize("forks, through", [(False, True), (True, False)])
def test_exclusive_asks_huge_pages_too(lab, server, consumer, forks, through):
    huge = 2 << 20
    server.mmap(HERE, len=huge, flags=PLACE)
    server.madvise(HERE, calls.MADV_HUGEPAGE, len=huge)
    server.touch(HERE, write=True)
    assert lab.look().task("server").pte(HERE).level == "pmd"
    if forks:
        server.fork("child")
    lab.rule("exclusive")
    assert passes(consumer, server, pages=huge // PAGE) == through


def test_exclusive_leaves_files_and_the_zero_page_alone(lab, server, consumer):
    lab.rule("exclusive")
    server.mmap(HERE, pages=PAGES, flags=PLACE)
    server.touch(HERE, PAGES)
    text = next(v for v in lab.look().task("server").mm.vmas if v.name == "/task" and "EXEC" in v.flags)
    server.fork("child")
    assert passes(consumer, server) and passes(consumer, server, text.vm_start, 1)
