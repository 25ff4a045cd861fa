# SPDX-License-Identifier: MIT
"""process_vm_mmap() on pages that somebody else holds on to, on v2 and v3: pinned, merged, poisoned, charged, probed,
and handed back to where they came from. What the call did shows when the kernel reclaims them."""

from __future__ import annotations

import errno
import signal

import pytest
from conftest import thread_named
from drgn.helpers.linux.pid import find_task

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED_NOREPLACE as NOREPLACE
from pvmlab.defects import MADV_SOFT_OFFLINE
from pvmlab.errors import GuestError
from pvmlab.guest import expect

pytestmark = pytest.mark.kernels("v2", "v3")

PAGE, PAGES = 4096, 4
#: Where nothing is, in any task.
PLACE, ELSEWHERE = 0x10_0000_0000, 0x20_0000_0000
SWAP = 16 << 20


@pytest.fixture
def groups(lab):
    """The memory cgroups of the two tasks."""
    return {name: lab.memory_max(name, None) for name in ("servers", "consumers")}


@pytest.fixture
def server(lab, groups):
    return lab.task("server", cgroup=groups["servers"])


@pytest.fixture
def consumer(lab, groups):
    return lab.task("consumer", cgroup=groups["consumers"])


@pytest.fixture
def buf(server):
    return mapped(server)


def mapped(task):
    """Pages at PLACE with another number in each."""
    task.mmap(PLACE, pages=PAGES, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE)
    task.stamp(PLACE, PAGES)
    return PLACE


def numbers(task, addr):
    return [int.from_bytes(task.read(addr + i * PAGE, 8), "little") for i in range(PAGES)]


def entries(seen, task, addr):
    return [seen.task(task).pte(addr + i * PAGE) for i in range(PAGES)]


def frames(seen, task, addr):
    return [pte.pfn for pte in entries(seen, task, addr)]


def reclaimed(lab, groups, *places):
    """Have the kernel push out what it can; say for each place whether all of it is in swap then."""
    for _ in range(20):
        for group in groups.values():
            lab.reclaim(group)
        seen = lab.look()
        out = [all(pte.swap for pte in entries(seen, task.name, addr)) for task, addr in places]
        if all(out):
            break
    return out


# --- pinned -----------------------------------------------------------------------------------------------------------

def pin(task, addr, pages):
    """Register memory as a fixed buffer of io_uring, which pins it for as long as the ring is there."""
    ring = task.syscall("io_uring_setup", 1, calls.new("struct io_uring_params *"))
    parts = calls.new("struct iovec[1]", [{"iov_base": addr, "iov_len": pages * PAGE}])
    task.syscall("io_uring_register", ring, calls.constants()["IORING_REGISTER_BUFFERS"], parts, 1)


def test_a_pinned_page_is_copied_at_once(lab, server, consumer, buf):
    """As fork() does it: who does I/O with the page has to go on with the source's."""
    pin(server, buf, 2)
    before = lab.look()
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=ELSEWHERE, flags=NOREPLACE)
    after = lab.look()
    theirs, ours = frames(after, "server", buf), frames(after, "consumer", dst)
    assert theirs == frames(before, "server", buf)
    assert set(theirs[:2]).isdisjoint(ours[:2]) and ours[2:] == theirs[2:]
    assert [after.page(pfn).exclusive for pfn in theirs + ours] == 2 * [True, True, False, False]
    assert numbers(consumer, dst) == numbers(server, buf) == [1, 2, 3, 4]


def test_a_copied_page_is_found_at_the_clones_address(lab, groups, server, consumer, buf):
    """Its index is that of the destination: else no walk would find it, and it could never be swapped."""
    lab.swap(SWAP)
    pin(server, buf, 2)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=ELSEWHERE, flags=NOREPLACE)
    seen = lab.look()
    for i in range(2):
        walk = seen.rmap(seen.task("consumer").pte(dst + i * PAGE).pfn)
        assert [(step.tasks, step.address) for step in walk.hits] == [(("consumer",), dst + i * PAGE)]
        assert walk.missed == ()
    assert reclaimed(lab, groups, (consumer, dst)) == [True]
    assert numbers(consumer, dst) == numbers(server, buf) == [1, 2, 3, 4]


# --- charged ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def payers(lab, groups, server):
    """Says for each page of a task which cgroup it is charged to (/proc/kpagecgroup names it by its inode)."""
    names = {}
    for name, path in groups.items():
        stat = bytearray(144)
        server.syscall("stat", path, stat)
        names[int.from_bytes(stat[8:16], "little")] = name

    def of(task, addr):
        words = (lab.guest.read_file("/proc/kpagecgroup", pfn * 8, 8) for pfn in frames(lab.look(), task.name, addr))
        return [names[int.from_bytes(word, "little")] for word in words]
    return of


def test_what_is_shared_stays_charged_to_the_source(payers, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    assert payers(consumer, dst) == payers(server, buf) == PAGES * ["servers"]
    consumer.touch(dst, 1, write=True)
    assert payers(consumer, dst) == ["consumers", "servers", "servers", "servers"]
    server.exit()
    assert payers(consumer, dst) == ["consumers", "servers", "servers", "servers"]      # which nobody there can free


def test_who_pays_for_a_pinned_pages_copy(kernel, payers, server, consumer, buf):
    """On v2 the source, which never asked for it; on v3 the caller."""
    pin(server, buf, 2)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    payer = {"v2": "servers", "v3": "consumers"}[kernel]
    assert payers(consumer, dst) == [payer, payer, "servers", "servers"]


# --- merged -----------------------------------------------------------------------------------------------------------

def merge(lab, task, addr):
    """Fill pages with the same number and have KSM make them one."""
    task.stamp(addr, PAGES, first=4711, step=0)
    find_equals(lab, (task, addr))


def find_equals(lab, *areas):
    """Have KSM look at areas of PAGES equal pages each, until all they hold is one page."""
    for task, addr in areas:
        task.madvise(addr, calls.MADV_MERGEABLE, pages=PAGES)
    lab.ksm(True)
    for _ in range(200):
        if int(lab.guest.read_file("/sys/kernel/mm/ksm/pages_sharing")) == PAGES * len(areas) - 1:
            break
        lab.run_for(20)
    lab.ksm(False)
    seen = lab.look()
    [pfn] = {pfn for task, addr in areas for pfn in frames(seen, task.name, addr)}
    assert seen.page(pfn).kind == "ksm"


@pytest.mark.parametrize("place", [PLACE, ELSEWHERE], ids=["same address", "another address"])
def test_merged_pages_can_be_reclaimed_wherever_the_clone_is(lab, kernel, groups, server, consumer, buf, place):
    """D6: on v2 not where the clone has another address, for the kernel looks for it at the source's only."""
    lab.swap(SWAP)
    merge(lab, server, buf)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=place, flags=NOREPLACE)
    seen = lab.look()
    kinds = {seen.page(pfn).kind for pfn in frames(seen, "consumer", dst)}
    assert kinds == {"v2": {"ksm"}, "v3": {"anon"}}[kernel]
    lost = kernel == "v2" and place == ELSEWHERE
    assert reclaimed(lab, groups, (server, buf), (consumer, dst)) == [True, not lost]
    assert numbers(consumer, dst) == numbers(server, buf) == PAGES * [4711]


def test_the_source_stays_mergeable(lab, server, consumer, buf):
    merge(lab, server, buf)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    seen = lab.look()
    assert "MERGEABLE" in seen.task("server").vma(buf).flags
    assert "MERGEABLE" not in seen.task("consumer").vma(dst).flags


PR_SET_MEMORY_MERGE = 67      # include/uapi/linux/prctl.h
KPF_SWAPCACHE = 13     # include/uapi/linux/kernel-page-flags.h


def hold(task, addr):
    """Put a page into a pipe: a plain reference, which keeps it in memory when all its entries are gone."""
    ends = bytearray(8)
    task.syscall("pipe2", ends, 0)
    part = calls.new("struct iovec[1]", [{"iov_base": addr, "iov_len": PAGE}])
    task.syscall("vmsplice", int.from_bytes(ends[4:], "little"), part, 1, 0)


@pytest.mark.kernels("v3")
@pytest.mark.parametrize("flags", [0, calls.PVMMAP_MOVE], ids=["clone", "move"])
def test_a_merged_page_in_the_swap_cache_is_no_merged_page_in_the_clone(lab, groups, server, consumer, buf, flags):
    """Its entries are swapped out, but it is there, as somebody holds it: a fault would map it at the new address."""
    lab.swap(SWAP)
    merge(lab, server, buf)
    [pfn] = set(frames(lab.look(), "server", buf))
    hold(server, buf)
    assert reclaimed(lab, groups, (server, buf)) == [True]
    assert int.from_bytes(lab.guest.read_file("/proc/kpageflags", pfn * 8, 8), "little") >> KPF_SWAPCACHE & 1
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=ELSEWHERE, flags=NOREPLACE | flags)
    assert numbers(consumer, dst) == PAGES * [4711]
    seen = lab.look()
    assert {seen.page(pfn).kind for pfn in frames(seen, "consumer", dst)} == {"anon"}
    assert [seen.rmap(pfn).missed for pfn in frames(seen, "consumer", dst)] == PAGES * [()]
    consumer.madvise(dst, MADV_SOFT_OFFLINE, pages=PAGES)      # migrates each: EBUSY where a walk finds no entry
    assert numbers(consumer, dst) == PAGES * [4711]


def cloned(lab, groups, server, consumer, buf):
    return consumer, consumer.process_vm_mmap(server, buf, pages=PAGES, dst_addr=ELSEWHERE, flags=NOREPLACE)


def cloned_and_swapped(lab, groups, server, consumer, buf):
    """The source's pages are back, in the swap cache too, as the clone's are still out."""
    lab.swap(SWAP)
    clone = cloned(lab, groups, server, consumer, buf)
    assert reclaimed(lab, groups, (server, buf), clone) == [True, True]
    server.read(buf, PAGES * PAGE)
    return clone


def moved_in_a_child(lab, groups, server, consumer, buf):
    """Without our call: the same hole is in mremap()."""
    child = server.fork("child")
    moved = child.mremap(buf, pages=PAGES, flags=calls.MREMAP_MAYMOVE | calls.MREMAP_FIXED, new_addr=ELSEWHERE)
    return child, moved


@pytest.mark.parametrize("share", [cloned, cloned_and_swapped, moved_in_a_child])
def test_pages_are_shared_first_and_merged_then(lab, kernel, groups, server, consumer, buf, share):
    """On v2 one of them becomes the KSM page where it was shared, too, and no walk comes by: D6 by another way."""
    server.stamp(buf, PAGES, first=4711, step=0)
    task, addr = share(lab, groups, server, consumer, buf)
    find_equals(lab, (server, buf))
    assert numbers(task, addr) == PAGES * [4711]
    seen = lab.look()
    lost = [place for pfn in set(frames(seen, task.name, addr)) for place in seen.rmap(pfn).missed]
    assert len(lost) == {"v2": 1, "v3": 0}[kernel]
    assert stuck(task, addr) == [at for _, at in lost]


def stuck(task, addr):
    """Have the kernel migrate each page; return the addresses where it says that it cannot."""
    found = []
    for at in range(addr, addr + PAGES * PAGE, PAGE):
        try:
            task.madvise(at, MADV_SOFT_OFFLINE, pages=1)
        except GuestError as error:
            assert error.errno == errno.EBUSY
            found.append(at)
    return found


def test_ksm_fills_no_entry_that_was_emptied(lab, server, consumer, buf):
    """A shared page is dropped between ksmd's look and its merging: a fault to copy it would bring a page of zeros."""
    server.stamp(buf, PAGES, first=4711, step=0)
    consumer.process_vm_mmap(server, buf, pages=PAGES)
    server.madvise(buf, calls.MADV_MERGEABLE, pages=PAGES)
    server.syscall("sched_setaffinity", thread_named(lab, "ksmd"), 8, calls.new("unsigned long *", 1 << 1))
    with lab.stop_at("try_to_merge_two_pages") as stop:
        lab.ksm(True)
        stop.wait()
        server.madvise(buf, calls.MADV_DONTNEED, pages=PAGES)
        stop.go_on()
    lab.run_for(100)
    lab.ksm(False)
    assert entries(lab.look(), "server", buf) == PAGES * [None]


def test_a_caller_that_asks_for_merging_gets_it_for_a_clone(lab, kernel, server, consumer, buf):
    """PR_SET_MEMORY_MERGE: on v2 a clone is left out, and cannot be one mapping with its neighbour."""
    consumer.syscall("prctl", PR_SET_MEMORY_MERGE, 1, 0, 0, 0)
    first = consumer.process_vm_mmap(server, buf, pages=2, dst_addr=PLACE, flags=NOREPLACE)
    consumer.process_vm_mmap(server, buf + 2 * PAGE, pages=2, dst_addr=first + 2 * PAGE, flags=NOREPLACE)
    seen = lab.look()
    vma = seen.task("consumer").vma(first)
    assert ("MERGEABLE" in vma.flags) == (kernel == "v3") and vma.pages == PAGES
    assert "MERGEABLE" not in seen.task("server").vma(buf).flags


@pytest.mark.parametrize("heir", ["the parent", "a child", "both"])
def test_pages_of_a_family_are_merged(lab, server, buf, heir):
    """KSM copies a shared page before it makes a KSM page of it; where all ask for it, one page remains."""
    server.stamp(buf, PAGES, first=4711, step=0)
    child = server.fork("child")
    areas = {"the parent": [server], "a child": [child], "both": [server, child]}[heir]
    find_equals(lab, *((task, buf) for task in areas))
    assert numbers(server, buf) == numbers(child, buf) == PAGES * [4711]


@pytest.mark.kernels("v3")
def test_merged_pages_are_not_the_sources_alone(lab, server, consumer, buf):
    """The rule "exclusive" asks before anything is un-merged."""
    merge(lab, server, buf)
    lab.rule("exclusive")
    with expect(errno.EBUSY):
        consumer.process_vm_mmap(server, buf, pages=PAGES)
    seen = lab.look()
    assert {seen.page(pfn).kind for pfn in frames(seen, "server", buf)} == {"ksm"}


@pytest.mark.kernels("v3")
def test_a_signal_ends_the_un_merging(lab, server, consumer, buf):
    """EINTR, for a handler without SA_RESTART; nothing is mapped then."""
    merge(lab, server, buf)
    consumer.pin(1)
    before = lab.look()
    with lab.stop_at("break_ksm", task=consumer) as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=PAGES)
        stop.wait()
        call.interrupt()
        stop.go_on()
        with expect(errno.EINTR):
            call.wait()
    after = lab.look()
    assert len(after.task("consumer").mm.vmas) == len(before.task("consumer").mm.vmas)
    assert numbers(consumer, consumer.process_vm_mmap(server, buf, pages=PAGES)) == PAGES * [4711]


# --- poisoned ---------------------------------------------------------------------------------------------------------

def test_a_poisoned_page_is_poisoned_in_the_clone(lab, server, consumer, buf):
    """The entry that says so is copied, as fork() does it; a touch gets SIGBUS on either side."""
    pfn = lab.look().task("server").pte(buf + PAGE).pfn
    lab.guest.write_file("/sys/kernel/debug/hwpoison/corrupt-pfn", f"{pfn:#x}")     # MADV_HWPOISON kills its caller
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    after = lab.look()
    for pte in (after.task("server").pte(buf + PAGE), after.task("consumer").pte(dst + PAGE)):
        assert not pte.present and pte.swap.kind == "hwpoison"
    for task, addr in ((server, buf), (consumer, dst)):
        with expect(signal.SIGBUS):
            task.read(addr + PAGE, 1)
        assert [int.from_bytes(task.read(addr + i * PAGE, 8), "little") for i in (0, 2, 3)] == [1, 3, 4]


# --- handed back ------------------------------------------------------------------------------------------------------

def test_a_child_hands_its_memory_back_exits_and_all_is_swapped(lab, groups, server, buf):
    """One frame twice in one process, and an anon_vma whose own process is gone: swapped out whole, and read back."""
    lab.swap(SWAP)
    child = server.fork("child")
    dst = server.process_vm_mmap(child, buf, pages=PAGES, dst_addr=ELSEWHERE, flags=NOREPLACE)
    child.exit()
    server.syscall("wait4", child.pid, 0, 0, 0)
    seen = lab.look()
    assert frames(seen, "server", dst) == frames(seen, "server", buf)
    assert reclaimed(lab, groups, (server, buf), (server, dst)) == [True, True]
    seen = lab.look()
    assert [pte.swap for pte in entries(seen, "server", dst)] == [pte.swap for pte in entries(seen, "server", buf)]
    server.stamp(dst, 2, first=50)
    assert numbers(server, dst) == [50, 51, 3, 4] and numbers(server, buf) == [1, 2, 3, 4]
    seen = lab.look()
    for addr in range(dst, dst + PAGES * PAGE, PAGE):
        assert seen.rmap(seen.task("server").pte(addr).pfn).missed == ()


# --- probed -----------------------------------------------------------------------------------------------------------

TRACING, BREAKPOINT = "/sys/kernel/tracing", 0xCC
MMF_RECALC_UPROBES = 20    # include/linux/sched/coredump.h


@pytest.fixture
def define(lab, server):
    """Defines the uprobe of a test: at an offset of a file, maybe with a counter's; returns its switch."""
    server.syscall("mount", "tracefs", TRACING, "tracefs", 0, None)

    def define(place):
        lab.guest.write_file(f"{TRACING}/uprobe_events", f"p:probe {place}\n")
        return lambda on: lab.guest.write_file(f"{TRACING}/events/uprobes/probe/enable", "1" if on else "0")
    return define


@pytest.fixture
def probe(lab, server, define):
    """Puts a uprobe on the first instruction of the tasks' program; returns the offset in its file, and a switch."""
    header = lab.guest.read_file("/task", 0, 4096)
    text = next(v for v in lab.look().task("server").mm.vmas if v.name == "/task" and "EXEC" in v.flags)
    offset = int.from_bytes(header[24:32], "little") - text.vm_start + text.vm_pgoff * PAGE     # e_entry
    return text, offset, define(f"/task:{offset:#x}")


def test_a_breakpoint_in_cloned_code_goes_when_its_probe_does(server, consumer, probe):
    """It is in the page that was copied; the kernel has to know of the clone to take it out again."""
    text, offset, switch = probe
    at = offset - text.vm_pgoff * PAGE
    plain = server.read(text.vm_start + at, 1)
    switch(True)
    dst = consumer.process_vm_mmap(server, text.vm_start, pages=text.pages)
    assert server.read(text.vm_start + at, 1) == consumer.read(dst + at, 1) == bytes([BREAKPOINT]) != plain
    switch(False)
    assert server.read(text.vm_start + at, 1) == consumer.read(dst + at, 1) == plain


@pytest.mark.kernels("v3")
def test_the_kernel_knows_of_a_breakpoint_before_it_is_there(lab, server, consumer, probe):
    """The caller's other threads run on, and may come to it: without the mark they would get SIGTRAP."""
    text, _, switch = probe
    switch(True)
    mm = find_task(lab.kernel.prog, consumer.pid).mm
    assert not mm.flags.value_() >> MMF_RECALC_UPROBES & 1     # every task runs the probed file: it has the other mark
    with lab.stop_at("copy_page_range", task=consumer) as stop:
        call = consumer.start("process_vm_mmap", server, text.vm_start, pages=text.pages)
        stop.wait()
        assert mm.flags.value_() >> MMF_RECALC_UPROBES & 1
        stop.go_on()
        call.wait()
    switch(False)


def test_a_clone_of_probed_code_gets_breakpoints_that_come_later(server, consumer, probe):
    text, offset, switch = probe
    at = offset - text.vm_pgoff * PAGE
    dst = consumer.process_vm_mmap(server, text.vm_start, pages=text.pages)
    switch(True)
    assert consumer.read(dst + at, 1) == bytes([BREAKPOINT])
    switch(False)
    assert consumer.read(dst + at, 1) != bytes([BREAKPOINT])


class Counted:
    """A file of two pages of code and one of data, and a probe in the first that counts its breakpoints in the data."""

    FILE, AT, COUNTER = "/counted", 0x10, 0x20
    PARTS = {"code": (0, calls.PROT_READ | calls.PROT_EXEC), "more code": (PAGE, calls.PROT_READ | calls.PROT_EXEC),
             "data": (2 * PAGE, calls.PROT_READ | calls.PROT_WRITE)}

    def __init__(self, lab, define):
        self.opened = {}
        lab.guest.write_file(self.FILE, b"\x90" * 2 * PAGE + bytes(PAGE))
        self.switch = define(f"{self.FILE}:{self.AT:#x}({2 * PAGE + self.COUNTER:#x})")

    def map(self, task, part):
        if task not in self.opened:
            self.opened[task] = task.syscall("open", self.FILE, 0, 0)
        offset, prot = self.PARTS[part]
        return task.mmap(pages=1, prot=prot, flags=calls.MAP_PRIVATE, fd=self.opened[task], offset=offset)

    def breakpoint(self, task, code):
        return task.read(code + self.AT, 1) == bytes([BREAKPOINT])

    def count(self, task, data):
        return int.from_bytes(task.read(data + self.COUNTER, 2), "little")


@pytest.fixture
def counted(lab, server, define):
    yield Counted(lab, define)
    lab.guest.write_file(f"{TRACING}/uprobe_events", "\n")   # which lets go of all probes, and of their files
    server.syscall("unlink", Counted.FILE)


@pytest.mark.kernels("v3")
@pytest.mark.parametrize("own", [0, 1, 3], ids=lambda own: f"{own} of its own")
def test_a_cloned_breakpoint_is_counted_where_its_probe_counts(server, consumer, counted, own):
    """Each that goes takes one off the counter of its process; where that is 0, it stays, and the probe can never go."""
    counted.map(server, "data")
    source, data = counted.map(server, "code"), counted.map(consumer, "data")
    codes = [counted.map(consumer, "code") for _ in range(own)]
    counted.switch(True)
    codes.append(consumer.process_vm_mmap(server, source, pages=1))
    for on in (True, False, True, False):
        counted.switch(on)      # which it is already, the first time
        assert [counted.breakpoint(consumer, code) for code in codes] == [on] * (own + 1)
        assert counted.breakpoint(server, source) == on
        assert counted.count(consumer, data) == (own + 1) * on


@pytest.mark.kernels("v3")
@pytest.mark.parametrize("data_first", [True, False])
def test_a_counter_that_is_mapped_later_counts_the_clone(server, consumer, counted, data_first):
    source = counted.map(server, "code")
    counted.switch(True)
    clone = consumer.process_vm_mmap(server, source, pages=1)
    if data_first:
        data = counted.map(consumer, "data")
        assert counted.count(consumer, data) == 1
    counted.switch(False)
    assert not counted.breakpoint(consumer, clone)
    if not data_first:
        data = counted.map(consumer, "data")
    assert counted.count(consumer, data) == 0


@pytest.mark.kernels("v3")
def test_what_a_clone_merges_with_is_not_counted_again(lab, server, consumer, counted):
    code, more, data = counted.map(server, "code"), counted.map(server, "more code"), counted.map(consumer, "data")
    consumer.process_vm_mmap(server, code, pages=1, dst_addr=PLACE, flags=NOREPLACE)
    counted.switch(True)
    consumer.process_vm_mmap(server, more, pages=1, dst_addr=PLACE + PAGE, flags=NOREPLACE)
    assert lab.look().task("consumer").mm.vma(PLACE).pages == 2
    assert counted.count(consumer, data) == 1
    counted.switch(False)
    assert counted.count(consumer, data) == 0
