# SPDX-License-Identifier: MIT
"""PVMMAP_MOVE: the source gives its memory away, on v3.

The frames, the swap slots and the bits of each entry are the same on the other
side, the source's range is unmapped, and a call that fails has moved nothing.
"""

from __future__ import annotations

import errno
import signal

import pytest

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED
from pvmlab.calls import PVMMAP_FIXED_NOREPLACE as NOREPLACE
from pvmlab.calls import PVMMAP_MOVE as MOVE
from pvmlab.defects import MADV_SOFT_OFFLINE
from pvmlab.errors import GuestError
from pvmlab.guest import expect

pytestmark = pytest.mark.kernels("v3")

PAGE, HUGE = 4096, 2 << 20
SMALL = HUGE // PAGE
PAGES = 8
#: include/uapi/linux/userfaultfd.h
UFFD_FEATURE_EVENT_UNMAP = 1 << 6
#: A place in both tasks where nothing is, at the start of a huge page.
PLACE = 0x10_0000_0000


@pytest.fixture
def buf(server):
    """Pages of the server, each with another number in it."""
    buf = server.mmap(pages=PAGES)
    server.stamp(buf, PAGES)
    return buf


@pytest.fixture
def huge(lab, server):
    """Two huge pages of the server, each small one with another number in it."""
    lab.thp("madvise")
    lab.guest.write_file("/sys/kernel/mm/transparent_hugepage/defrag", "always")
    addr = server.mmap(PLACE, len=2 * HUGE, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE)
    server.madvise(addr, calls.MADV_HUGEPAGE, len=2 * HUGE)
    server.stamp(addr, 2 * SMALL)
    assert levels(lab.look(), "server", addr) == ["pmd"] * 2
    return addr


def levels(seen, task, addr, length=2 * HUGE):
    return [pte.level for pte in seen.task(task).mm.entries.between(addr, addr + length)]


def words(proc, task, addr, pages=PAGES):
    """What pagemap says of each page: frame or slot, and whose it is; not if it is soft-dirty."""
    return [proc.pagemap(task, addr + i * PAGE).word & ~(1 << 55) for i in range(pages)]


def numbers(task, addr, pages=PAGES):
    return [int.from_bytes(task.read(addr + i * PAGE, 8), "little") for i in range(pages)]


def mapped(seen, task, addr, pages=PAGES):
    """The pages of a range that some mapping of a task covers."""
    vmas = seen.task(task).mm.vmas
    return [i for i in range(pages) if any(vma.vm_start <= addr + i * PAGE < vma.vm_end for vma in vmas)]


# --- what moves -------------------------------------------------------------------------------------------------------

def test_the_frames_are_the_same_and_the_source_has_no_mapping(lab, proc, server, consumer, buf):
    before = words(proc, server, buf)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    after = lab.look()
    assert words(proc, consumer, dst) == before
    assert not mapped(after, "server", buf)
    assert not after.task("server").mm.entries.between(buf, buf + PAGES * PAGE)
    assert numbers(consumer, dst) == list(range(1, PAGES + 1))


def test_the_next_write_copies_nothing(lab, proc, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    before, frames = lab.look(), words(proc, consumer, dst)
    pte = before.task("consumer").pte(dst)
    assert pte.writable and before.page(pte.pfn).exclusive and proc.kpagecount(pte.pfn) == 1
    consumer.stamp(dst, PAGES, first=50)
    assert words(proc, consumer, dst) == frames
    assert lab.look().counters["pgfault"] - before.counters["pgfault"] < PAGES    # one or two are of the agents


def test_no_walk_of_the_reverse_mapping_misses_it(lab, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    consumer.madvise(dst, MADV_SOFT_OFFLINE, pages=1)    # migrates the page
    server.exit()
    lab.swap(16 << 20)
    consumer.madvise(dst, calls.MADV_PAGEOUT, pages=PAGES)
    assert all(lab.look().task("consumer").pte(dst + i * PAGE).swap for i in range(PAGES))
    assert numbers(consumer, dst) == list(range(1, PAGES + 1))


def test_what_fork_shared_is_shared_with_the_same(proc, server, consumer, buf):
    child = server.fork("child")
    before = words(proc, server, buf)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    assert words(proc, consumer, dst) == before == words(proc, child, buf)
    assert proc.kpagecount(proc.pagemap(child, buf).pfn) == 2
    consumer.stamp(dst, PAGES, first=50)
    assert numbers(child, buf) == list(range(1, PAGES + 1))


def test_from_child_to_parent_and_back(server, buf):
    child = server.fork("child")
    theirs = child.mmap(pages=PAGES)
    child.stamp(theirs, PAGES, first=20)
    dst = server.process_vm_mmap(child, theirs, pages=PAGES, flags=MOVE)
    assert numbers(server, dst) == list(range(20, 20 + PAGES))
    assert child.process_vm_mmap(server, dst, pages=PAGES, dst_addr=theirs, flags=MOVE | NOREPLACE) == theirs
    assert numbers(child, theirs) == list(range(20, 20 + PAGES))


def test_part_of_a_mapping_leaves_the_rest(lab, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf + 2 * PAGE, pages=3, flags=MOVE)
    assert numbers(consumer, dst, 3) == [3, 4, 5]
    assert mapped(lab.look(), "server", buf) == [0, 1, 5, 6, 7]
    assert numbers(server, buf, 2) == [1, 2] and numbers(server, buf + 5 * PAGE, 3) == [6, 7, 8]


def test_two_halves_are_one_mapping(lab, server, consumer, buf):
    for half in (0, PAGES // 2):
        consumer.process_vm_mmap(server, buf + half * PAGE, pages=PAGES // 2, dst_addr=PLACE + half * PAGE,
                                 flags=MOVE | NOREPLACE)
    vma = lab.look().task("consumer").vma(PLACE)
    assert (vma.vm_start, vma.vm_end) == (PLACE, PLACE + PAGES * PAGE)
    assert numbers(consumer, PLACE) == list(range(1, PAGES + 1))


def test_swap_entries_move_without_io(lab, proc, server, consumer, buf):
    lab.swap(16 << 20)
    server.madvise(buf, calls.MADV_PAGEOUT, pages=PAGES)
    entries, before = words(proc, server, buf), lab.look()
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    after = lab.look()
    assert words(proc, consumer, dst) == entries
    assert "EXCLUSIVE" in after.task("consumer").pte(dst).flags
    assert [after.counters[n] - before.counters[n] for n in ("pswpin", "pswpout")] == [0, 0]
    assert (after.task("consumer").mm.counters["swapents"], after.task("server").mm.counters["swapents"]) == (PAGES, 0)
    server.exit()
    consumer.syscall("swapoff", "/dev/zram0")
    assert numbers(consumer, dst) == list(range(1, PAGES + 1))


def test_an_aligned_huge_page_moves_whole(lab, proc, server, consumer, huge):
    before = words(proc, server, huge, 2 * SMALL)
    dst = consumer.process_vm_mmap(server, huge, len=2 * HUGE, dst_addr=PLACE + 4 * HUGE, flags=MOVE | NOREPLACE)
    assert levels(lab.look(), "consumer", dst) == ["pmd"] * 2
    assert words(proc, consumer, dst, 2 * SMALL) == before


def test_a_misaligned_huge_page_is_split_and_its_frames_move(lab, proc, server, consumer, huge):
    before = words(proc, server, huge, SMALL)
    dst = consumer.process_vm_mmap(server, huge, len=HUGE, dst_addr=PLACE + 4 * HUGE + PAGE, flags=MOVE | NOREPLACE)
    assert set(levels(lab.look(), "consumer", dst, HUGE)) == {"pte"}
    assert words(proc, consumer, dst, SMALL) == before
    assert levels(lab.look(), "server", huge + HUGE, HUGE) == ["pmd"]


def test_part_of_a_huge_page_leaves_the_rest(proc, server, consumer, huge):
    before = words(proc, server, huge, SMALL)
    dst = consumer.process_vm_mmap(server, huge + 100 * PAGE, pages=50, flags=MOVE)
    assert words(proc, consumer, dst, 50) == before[100:150]
    assert words(proc, server, huge, SMALL) == [*before[:100], *[0] * 50, *before[150:]]


def test_what_was_never_written_is_zero(server, consumer):
    addr = server.mmap(pages=4)
    server.read(addr, 8)    # maps the zero page, which has no reverse mapping
    dst = consumer.process_vm_mmap(server, addr, pages=4, flags=MOVE)
    assert numbers(consumer, dst, 4) == [0] * 4
    consumer.stamp(dst, 4)
    assert numbers(consumer, dst, 4) == [1, 2, 3, 4]


def test_a_lock_stays_behind(lab, server, consumer, buf):
    server.syscall("mlock", buf, PAGES * PAGE)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    after = lab.look()
    assert "LOCKED" not in after.task("consumer").vma(dst).flags
    assert after.task("server").mm.counters["locked_vm"] == 0
    assert after.counters["nr_mlock"] == 0


def test_a_lock_of_huge_pages_stays_behind(lab, server, consumer, huge):
    """One moves as it is, one is split over."""
    server.syscall("mlock", huge, 2 * HUGE)
    assert lab.look().counters["nr_mlock"] == 2 * SMALL
    first = consumer.process_vm_mmap(server, huge, len=HUGE, dst_addr=PLACE, flags=MOVE | NOREPLACE)
    second = consumer.process_vm_mmap(server, huge + HUGE, len=HUGE, dst_addr=first + HUGE + PAGE,
                                      flags=MOVE | NOREPLACE)
    after = lab.look()
    assert levels(after, "consumer", first, HUGE) == ["pmd"] and after.counters["nr_mlock"] == 0
    assert numbers(consumer, first, SMALL) + numbers(consumer, second, SMALL) == list(range(1, 2 * SMALL + 1))


def test_the_charge_comes_along(lab, proc, server, consumer, buf):
    """Under strict overcommit, with no page left to commit: a clone is refused, a move is not."""
    before = proc.committed()
    lab.guest.write_file("/proc/sys/vm/overcommit_kbytes", str(before * PAGE // 1024))
    lab.guest.write_file("/proc/sys/vm/overcommit_memory", "2")
    with expect(errno.ENOMEM):
        consumer.process_vm_mmap(server, buf, pages=PAGES)
    consumer.process_vm_mmap(server, buf, pages=PAGES, flags=MOVE)
    assert proc.committed() == before


def test_it_replaces_what_fixed_names(server, consumer, buf):
    old = consumer.mmap(pages=PAGES + 2)
    consumer.stamp(old, PAGES + 2, first=70)
    consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=old + PAGE, flags=MOVE | FIXED)
    assert numbers(consumer, old, PAGES + 2) == [70, *range(1, PAGES + 1), 70 + PAGES + 1]


#: Where the entries are taken out and not flushed yet, and where they are flushed and not put in yet.
MOMENTS = {
    "a page": ("move_pte_range: flush_tlb_range(vma, src_addr, src_end);", "count_moved_pte"),
    "a huge page": ("move_whole_pmd: flush_pmd_tlb_range(vma, src_addr, src_addr + HPAGE_PMD_SIZE);",
                    "move_whole_pmd: mm_dec_nr_ptes(src_mm);"),
}


@pytest.mark.parametrize("size", MOMENTS)
def test_at_no_moment_is_a_page_in_both(new_lab, size):
    """One CPU moves while another writes to the page without end.

    Before the flush no entry names the frame any more, but the writer's TLB does: it writes on. After the flush it
    cannot, so that what the caller gets is what it was when it came, and the writer's next store has nowhere to go.
    A tick can flush the writer's TLB before: then there is nothing to see, and another machine has to show it.
    """
    assert any(_was_written_until_the_flush(new_lab, *MOMENTS[size], pages=SMALL if size == "a huge page" else PAGES)
               for _ in range(5))


def _was_written_until_the_flush(new_lab, before_flush, after_flush, pages):
    """Whether the writer went on before the flush; that it does not after it is asserted."""
    with new_lab("v3", cpus=3) as lab:
        server, consumer = lab.tasks("server", "consumer")
        buf = server.mmap(PLACE, pages=pages, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE)
        server.madvise(buf, calls.MADV_HUGEPAGE, pages=pages)
        server.stamp(buf, pages)
        assert lab.look().task("server").pte(buf).level == ("pmd" if pages == SMALL else "pte")
        consumer.pin(1)
        writer = server.thread("writer")
        writer.pin(2)
        pfn = lab.look().task("server").pte(buf).pfn
        writing = writer.start("write_loop", buf)
        lab.run_for(20)
        with (lab.stop_at(before_flush, task=consumer) as cleared, lab.stop_at(after_flush, task=consumer) as flushed):
            call = consumer.start("process_vm_mmap", server, buf, pages=pages, dst_addr=PLACE, flags=MOVE | NOREPLACE)
            cleared.wait()
            assert not mapped_somewhere(lab, pfn)
            went_on = changes(lab, pfn)
            cleared.go_on()
            flushed.wait()
            assert not mapped_somewhere(lab, pfn) and not changes(lab, pfn)
            flushed.go_on()
        assert call.wait() == PLACE
        with expect(signal.SIGSEGV):
            writing.wait()
        assert lab.look().task("consumer").pte(PLACE).pfn == pfn and not changes(lab, pfn)
        assert numbers(consumer, PLACE, pages)[1:] == list(range(2, pages + 1))
        return went_on


def mapped_somewhere(lab, pfn):
    seen = lab.look(inside=True)
    return pfn in seen.pages and seen.mapped(pfn)


def changes(lab, pfn):
    """Whether somebody writes to a frame."""
    before = lab.read_frame(pfn, 8)
    lab.run_for(20)
    return lab.read_frame(pfn, 8) != before


# --- what does not move -----------------------------------------------------------------------------------------------

def refused(lab, proc, server, consumer, addr, error, **call):
    """Make a call that fails with an errno; check that no entry and no mapping has changed on either side."""
    def state():
        return words(proc, server, addr), proc.maps(server), proc.maps(consumer)
    before = state()
    with expect(error):
        consumer.process_vm_mmap(server, addr, pages=PAGES, **{"flags": MOVE} | call)
    assert state() == before


@pytest.mark.parametrize("flags", [calls.MAP_SHARED | calls.MAP_ANONYMOUS, calls.MAP_SHARED, calls.MAP_PRIVATE])
def test_shared_memory_and_files_are_einval(lab, proc, server, consumer, flags):
    fd = -1
    if not flags & calls.MAP_ANONYMOUS:
        fd = server.memfd("file")
        server.syscall("ftruncate", fd, PAGES * PAGE)
    addr = server.mmap(pages=PAGES, flags=flags, fd=fd)
    server.stamp(addr, PAGES)
    refused(lab, proc, server, consumer, addr, errno.EINVAL)


def test_a_sealed_source_is_eperm(lab, proc, server, consumer, buf):
    server.syscall("mseal", buf, PAGES * PAGE, 0)
    refused(lab, proc, server, consumer, buf, errno.EPERM)


def test_noreplace_over_something_is_eexist(lab, proc, server, consumer, buf):
    refused(lab, proc, server, consumer, buf, errno.EEXIST, dst_addr=consumer.mmap(pages=1), flags=MOVE | NOREPLACE)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_pinned_page_is_ebusy_and_nothing_moves(lab, proc, server, consumer, buf, replaced):
    pin(server, buf + 3 * PAGE)
    old = consumer.mmap(pages=PAGES)
    consumer.stamp(old, PAGES, first=70)
    refused(lab, proc, server, consumer, buf, errno.EBUSY,
            **{"dst_addr": old, "flags": MOVE | FIXED} if replaced else {})
    assert numbers(consumer, old) == list(range(70, 70 + PAGES))
    dst = consumer.process_vm_mmap(server, buf, pages=3, flags=MOVE)    # the others can
    assert numbers(consumer, dst, 3) == [1, 2, 3]


def pin(task, addr):
    """Pin a page for good, as a buffer registered with io_uring (io_uring/rsrc.c, io_sqe_buffer_register)."""
    ring = task.syscall("io_uring_setup", 1, calls.new("struct io_uring_params *"))
    task.syscall("io_uring_register", ring, calls.constants()["IORING_REGISTER_BUFFERS"],
                 calls.new("struct iovec *", {"iov_base": addr, "iov_len": PAGE}), 1)


def test_a_pin_in_a_huge_page_holds_all_of_it(lab, proc, server, consumer, huge):
    pin(server, huge + 7 * PAGE)
    refused(lab, proc, server, consumer, huge, errno.EBUSY)
    consumer.process_vm_mmap(server, huge + HUGE, len=HUGE, flags=MOVE)


@pytest.mark.parametrize("flags", [0, MOVE])
def test_every_allocation_that_fails_keeps_what_fixed_would_replace(lab, server, consumer, flags):
    """Documentation/fault-injection/fault-injection.rst, fail-nth. Nothing has moved, and nothing is gone."""
    for kind in ("failslab", "fail_page_alloc"):
        lab.guest.write_file(f"/sys/kernel/debug/{kind}/ignore-gfp-wait", "N")
        lab.guest.write_file(f"/sys/kernel/debug/{kind}/verbose", "0")
    lab.guest.write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0")
    refusals = 0
    for nth in range(1, 80):
        buf, old = server.mmap(pages=PAGES), consumer.mmap(pages=PAGES)
        server.stamp(buf, PAGES)
        consumer.stamp(old, PAGES, first=70)
        error, fired = failing(lab, nth, consumer, server, buf, old, FIXED | flags)
        if error:
            refusals += 1
            assert error == errno.ENOMEM
            assert numbers(consumer, old) == list(range(70, 70 + PAGES))
            assert numbers(server, buf) == list(range(1, PAGES + 1))
        else:
            assert numbers(consumer, old) == list(range(1, PAGES + 1))
        if not fired:
            break
    assert refusals > 10 and not fired


def failing(lab, nth, consumer, server, buf, old, flags):
    """Make a call whose nth allocation fails; return its errno, or None, and whether there were so many."""
    fail_nth = f"/proc/{consumer.pid}/fail-nth"
    lab.guest.write_file(fail_nth, str(nth))
    try:
        consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=old, flags=flags)
        error = None
    except GuestError as e:
        error = e.errno
    fired = lab.guest.read_file(fail_nth) == b"0\n"
    lab.guest.write_file(fail_nth, "0")
    return error, fired


def test_a_move_that_fails_tells_the_callers_userfaultfd_nothing(lab, server, consumer, buf):
    """The source's mapping would be split, and it has no more to spare. Whoever watches what FIXED would have replaced
    must not hear that it is gone: the call would not even end before that is read.
    """
    uffd, at = calls.constants(), consumer.mmap(pages=3)
    consumer.stamp(at, 3, first=70)
    fd = consumer.syscall("userfaultfd", 0)
    consumer.syscall("ioctl", fd, uffd["UFFDIO_API"], calls.new("struct uffdio_api *", {
        "api": uffd["UFFD_API"], "features": UFFD_FEATURE_EVENT_UNMAP}))
    consumer.syscall("ioctl", fd, uffd["UFFDIO_REGISTER"], calls.new("struct uffdio_register *", {
        "range": {"start": at, "len": 3 * PAGE}, "mode": uffd["UFFDIO_REGISTER_MODE_MISSING"]}))
    for i in range(20):
        server.mmap(PLACE + 2 * i * PAGE, pages=1, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED)
    lab.guest.write_file("/proc/sys/vm/max_map_count", str(len(lab.look().task("server").mm.vmas)))
    call = consumer.start("process_vm_mmap", server, buf + PAGE, pages=3, dst_addr=at, flags=FIXED | MOVE)
    with expect(errno.ENOMEM):
        call.wait(timeout=10)
    assert numbers(consumer, at, 3) == [70, 71, 72] and numbers(server, buf) == list(range(1, PAGES + 1))
