# SPDX-License-Identifier: MIT
"""What else may happen to the same pages while the call is under way: the source's end, truncation, a broken page,
khugepaged.

Stop points put it where it would have to hurt: the one is held in the middle, the other goes on. The same at random,
thousands of times, are the races of test_stress.py.
"""

from __future__ import annotations

import errno
import os
import signal

import pytest
from conftest import miscounts, thread_named

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED
from pvmlab.calls import PVMMAP_FIXED_NOREPLACE as NOREPLACE
from pvmlab.calls import PVMMAP_MOVE as MOVE
from pvmlab.guest import expect

on_both = pytest.mark.kernels("v2", "v3")

PAGE, PAGES = 4096, 4
SMALL, SHARED = 512, 511
#: A huge page of the source, and two places for its clone: one where a huge page fits as well, one where none does.
PLACE, ALIGNED, MISALIGNED = 0x10_0000_0000, 0x20_0000_0000, 0x20_0000_3000
PRIVATE = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS


@pytest.fixture
def lab(kernel, new_lab):
    """The agent on the first CPU, the call on the second, what happens meanwhile on the third."""
    with new_lab(kernel, cpus=3) as lab:
        yield lab
        assert not miscounts(lab.look())


def run_until(lab, come, tries=400):
    for _ in range(tries):
        if come():
            return True
        lab.run_for(5)
    return False


def numbers(task, addr, pages):
    return [int.from_bytes(task.read(addr + i * PAGE, 8), "little") for i in pages]


# --- the source's end -------------------------------------------------------------------------------------------------

@on_both
def test_a_source_that_is_reaped_before_its_lock_is_taken_is_not_cloned(new_lab, kernel):
    """The call holds its mm, so that the VMAs stay; process_mrelease() takes the pages away under it, as the OOM reaper
    does. v2 maps what is left, and the caller reads zeros that nobody wrote.
    """
    with new_lab(kernel, cpus=4) as lab:
        tasks = consumer, server, reaper = lab.tasks("consumer", "server", "reaper")
        for cpu, task in enumerate(tasks, 1):
            task.pin(cpu)
        buf = server.mmap(pages=PAGES)
        server.stamp(buf, PAGES)
        pid = reaper.syscall("pidfd_open", server.pid, 0)
        with (lab.stop_at("process_vm_mmap: uprobe_start_dup_mmap()", task=consumer) as locking,     # the locks come next
              lab.stop_at("do_exit", task=server) as dying):
            call = consumer.start("process_vm_mmap", server, buf, pages=PAGES)
            locking.wait()
            server.kill(wait=False)
            dying.wait()
            reaping = reaper.start("process_mrelease", pid, 0)
            assert run_until(lab, lambda: "mmap_lock of server: read" in lab.look(inside=True).held)
            dying.go_on()
            reaping.wait()
        if kernel == "v3":
            with expect(errno.ESRCH):
                call.wait()
        else:
            assert numbers(consumer, call.wait(), range(PAGES)) == [0] * PAGES
        server.join()


# --- truncation -------------------------------------------------------------------------------------------------------

@on_both
def test_truncation_finds_a_clone_that_is_being_merged(lab, kernel, server, consumer):
    """Truncation unmaps what maps the file, drops the file's pages, and unmaps once more, for what came in between.

    The call is held before it copies, and truncation when it has passed one of the two VMAs. On v2 (D7) that is the
    clone's, which has grown already: it gets its entries behind truncation's back, and only the second walk finds
    them. On v3 the first walk leaves nothing.
    """
    server.pin(2)
    consumer.pin(1)
    file = server.memfd("file")
    server.syscall("ftruncate", file, PAGES * PAGE)
    buf = server.mmap(pages=PAGES, flags=calls.MAP_PRIVATE, fd=file)
    server.stamp(buf, PAGES)
    dst = consumer.mmap(pages=PAGES)
    consumer.munmap(dst, pages=PAGES)
    consumer.process_vm_mmap(server, buf, pages=1, dst_addr=dst, flags=NOREPLACE)
    server.munmap(buf, pages=1)             # the source's VMA begins behind the clone's first page: it is visited later
    with (lab.stop_at("copy_page_range", task=consumer) as copy,
          lab.stop_at("zap_page_range_single", task=server, nth=2) as walk):
        clone = consumer.start("process_vm_mmap", server, buf + PAGE, pages=3, dst_addr=dst + PAGE, flags=NOREPLACE)
        copy.wait()
        truncate = server.start("ftruncate", file, PAGE)
        walk.wait()
        copy.go_on()
        run_until(lab, lambda: clone.done, tries=40)    # v3's merge waits for truncation to let go of the file's VMAs
        walk.go_on()
        walk.wait()
        left = lab.look("the second walk begins", inside=True).task("consumer").mm.entries.between(
            dst + PAGE, dst + PAGES * PAGE)
    assert len(left) == (3 if kernel == "v2" else 0)
    truncate.wait()
    clone.wait()
    seen = lab.look("both calls are over").task("consumer")
    assert [vma.pages for vma in seen.mm.vmas if vma.vm_start == dst] == [PAGES]
    assert [pte.addr for pte in seen.mm.entries.between(dst, dst + PAGES * PAGE)] == [dst]
    assert numbers(consumer, dst, [0]) == [1]
    for task, addr in (server, buf), (consumer, dst):
        with expect(signal.SIGBUS):
            task.read(addr + PAGE, 1)


# --- a page that breaks -----------------------------------------------------------------------------------------------

#: Where the call is held: before it copies, and when it has; the same for a move.
HELD = [("v2", FIXED, "copy_page_range"), ("v2", FIXED, "khugepaged_enter_vma"),
        ("v3", FIXED, "copy_page_range"), ("v3", FIXED, "prepare_process_vm_move"), ("v3", FIXED, "adopt_vma"),
        ("v3", FIXED | MOVE, "prepare_process_vm_move"), ("v3", FIXED | MOVE, "process_vm_move"),
        ("v3", NOREPLACE | MOVE, "vms_complete_munmap_vmas")]


@pytest.mark.parametrize("kernel, flags, place", HELD, ids=[f"{k}-{f}-{p}" for k, f, p in HELD])
def test_a_page_that_breaks_meanwhile_is_nobody_s_afterwards(lab, server, consumer, flags, place):
    """memory_failure() takes it from all that map it, and needs no mmap lock for that. The call is not disturbed."""
    consumer.pin(1)
    buf = server.mmap(pages=PAGES)
    server.stamp(buf, PAGES)
    dst = consumer.mmap(pages=PAGES)
    consumer.stamp(dst, PAGES, first=70)
    if flags & NOREPLACE:
        consumer.munmap(dst, pages=PAGES)
    pfn = lab.look().task("server").pte(buf + PAGE).pfn
    hammer = lab.task("hammer")
    hammer.pin(2)
    text = hammer.mmap(pages=1)
    part = calls.new("struct iovec *", {"iov_base": text, "iov_len": hammer.write(text, f"{pfn:#x}".encode())})
    file = hammer.open("/sys/kernel/debug/hwpoison/corrupt-pfn", os.O_WRONLY)
    lab.guest.write_file("/proc/sys/vm/drop_caches", "1")   # no CPU keeps pages aside, which it would be asked for
    with lab.stop_at(place, task=consumer) as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=PAGES, dst_addr=dst, flags=flags)
        stop.wait()
        breaking = hammer.start("writev", file, part, 1)
        run_until(lab, lambda: breaking.done, tries=20)     # or it waits: for a lock of the move's, or to flush the TLB
    assert call.wait() == dst
    breaking.wait()
    after = lab.look()
    assert not after.mapped(pfn)
    for task, addr in [(consumer, dst)] + ([] if flags & MOVE else [(server, buf)]):
        assert after.task(task.name).pte(addr + PAGE).swap.kind == "hwpoison"
        with expect(signal.SIGBUS):
            task.read(addr + PAGE, 1)
        assert numbers(task, addr, [0, 2, 3]) == [1, 3, 4]


# --- khugepaged -------------------------------------------------------------------------------------------------------

@pytest.fixture
def khugepaged(lab, server):
    """Starts it, on the third CPU, at work all the time, and allowed to collapse what is shared."""
    base = "/sys/kernel/mm/transparent_hugepage"

    def start():
        server.syscall("sched_setaffinity", thread_named(lab, "khugepaged"), 8, calls.new("unsigned long *", 1 << 2))
        lab.guest.write_file(f"{base}/defrag", "always")
        for name, value in (("max_ptes_shared", 511), ("pages_to_scan", 4096), ("alloc_sleep_millisecs", 0),
                            ("scan_sleep_millisecs", 10), ("defrag", 1)):
            lab.guest.write_file(f"{base}/khugepaged/{name}", str(value))
    return start


def huge(lab, task, addr):
    pte = lab.look(inside=True).task(task).pte(addr)
    return pte is not None and pte.level == "pmd"


@pytest.fixture
def small(lab, server):
    """What khugepaged would like to make a huge page of: 512 pages, each with another number."""
    lab.thp("madvise")
    server.mmap(PLACE, pages=SMALL, flags=PRIVATE | calls.MAP_FIXED_NOREPLACE)
    server.stamp(PLACE, SMALL)
    return PLACE


@on_both
@pytest.mark.parametrize("place", [ALIGNED, MISALIGNED], ids=["aligned", "misaligned"])
def test_a_clone_comes_between_khugepaged_s_look_and_its_collapse(lab, server, consumer, small, khugepaged, place):
    """It has found pages of one process, and has to see that they are shared now: the source gets a copy.

    Of all but one: where every page is shared, khugepaged gives up (max_ptes_shared).
    """
    frames = [pte.pfn for pte in lab.look().task("server").mm.entries.between(small, small + SHARED * PAGE)]
    with lab.stop_at("alloc_charge_folio") as stop:
        khugepaged()
        server.madvise(small, calls.MADV_HUGEPAGE, pages=SMALL)
        stop.wait()
        consumer.process_vm_mmap(server, small, pages=SHARED, dst_addr=place, flags=NOREPLACE)
    assert run_until(lab, lambda: huge(lab, "server", small))
    after = lab.look()
    theirs = after.task("consumer").mm.entries.between(place, place + SHARED * PAGE)
    assert [pte.pfn for pte in theirs] == frames and {after.page(pfn).mapcount for pfn in frames} == {1}
    server.stamp(small, SMALL, first=5000)
    assert numbers(consumer, place, range(SHARED)) == list(range(1, SMALL))
    consumer.stamp(place, SHARED, first=9000)
    assert numbers(server, small, range(SMALL)) == list(range(5000, 5000 + SMALL))


@on_both
def test_khugepaged_collapses_a_clone(lab, server, consumer, small, khugepaged):
    """The clone, at an address that fits, becomes a huge page of its own; the source keeps what it had."""
    server.madvise(small, calls.MADV_HUGEPAGE, pages=SMALL)         # what the call says to khugepaged has to do
    consumer.process_vm_mmap(server, small, pages=SMALL, dst_addr=ALIGNED, flags=NOREPLACE)
    server.madvise(small, calls.MADV_NOHUGEPAGE, pages=SMALL)
    consumer.stamp(ALIGNED + SHARED * PAGE, 1, first=SMALL)
    frames = [pte.pfn for pte in lab.look().task("server").mm.entries.between(small, small + SMALL * PAGE)]
    khugepaged()
    assert run_until(lab, lambda: huge(lab, "consumer", ALIGNED))
    after = lab.look()
    ours = after.task("server").mm.entries.between(small, small + SMALL * PAGE)
    assert [pte.pfn for pte in ours] == frames and {after.page(pfn).mapcount for pfn in frames} == {1}
    consumer.stamp(ALIGNED, SMALL, first=9000)
    assert numbers(server, small, range(SMALL)) == list(range(1, SMALL + 1))
