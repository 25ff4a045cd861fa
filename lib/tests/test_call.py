# SPDX-License-Identifier: MIT
"""process_vm_mmap(): what it maps, where, and like what, on v2 and v3.

Each test arranges, makes one call, and asserts through another view: the
kernel's memory seen from outside, the guest's own /proc, or the tasks'
contents. Refusals are in test_call_errors.py, swap, huge pages and random
worlds in files of their own.
"""

from __future__ import annotations

import errno
import os
import signal

import pytest

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED
from pvmlab.calls import PVMMAP_FIXED_NOREPLACE as NOREPLACE
from pvmlab.calls import PVMMAP_MOVE as MOVE
from pvmlab.guest import expect

pytestmark = pytest.mark.kernels("v2", "v3")

PAGE = 4096
#: arch/x86/include/asm/page_64_types.h, with four levels
TASK_SIZE = (1 << 47) - PAGE
MADV_DONTDUMP, MLOCK_ONFAULT = 16, 1
MFD_ALLOW_SEALING, F_ADD_SEALS, F_SEAL_WRITE = 2, 1033, 8
#: What stays behind: decisions of the source's owner about its own memory.
OWNERS = {"MERGEABLE", "LOCKED", "LOCKONFAULT", "WIPEONFORK", "DONTCOPY", "UFFD_MISSING", "UFFD_WP", "UFFD_MINOR"}


@pytest.fixture
def buf(server):
    """Eight pages of the server, each with another number in it."""
    buf = server.mmap(pages=8)
    server.stamp(buf, 8)
    return buf


def free_range(task, pages):
    """An address at which so many pages are free, with a free page on either side."""
    addr = task.mmap(pages=pages + 2)
    task.munmap(addr, pages=pages + 2)
    return addr + PAGE


def number(task, addr):
    return int.from_bytes(task.read(addr, 8), "little")


# --- the fixtures themselves ---------------------------------------------------

@pytest.mark.kernels("v2")
@pytest.mark.parametrize("line", [b"<4>WARNING: CPU: 0 PID: 1 at mm/x.c:1\n", b"<1>BUG: Bad rss-counter state\n"])
def test_a_complaint_of_the_kernel_fails_the_test(new_lab, line):
    with pytest.raises(AssertionError, match="WARNING|BUG"):
        with new_lab() as lab:
            lab.guest.write_file("/dev/kmsg", line)


# --- sharing -------------------------------------------------------------------

def test_both_sides_map_the_same_frames_read_only(lab, proc, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    for at in range(0, 8 * PAGE, PAGE):
        theirs, ours = after.task("server").pte(buf + at), after.task("consumer").pte(dst + at)
        assert ours.pfn == theirs.pfn
        assert not ours.writable and not theirs.writable
        assert after.page(ours.pfn).mapcount == proc.kpagecount(ours.pfn) == 2
        assert not after.page(ours.pfn).exclusive


def test_the_guest_sees_the_same_frames(proc, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    for at in range(0, 8 * PAGE, PAGE):
        theirs, ours = proc.pagemap(server, buf + at), proc.pagemap(consumer, dst + at)
        assert ours.present and ours.pfn == theirs.pfn
        assert not ours.exclusive and not theirs.exclusive


def test_contents_come_along(server, consumer, buf):
    server.write(buf + PAGE - 2, b"hello")
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    assert consumer.read(dst, 8 * PAGE) == server.read(buf, 8 * PAGE)


def test_nothing_is_faulted_in_or_copied(lab, server, consumer, buf):
    before = lab.look()
    consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    assert set(after.pages) == set(before.pages)
    assert after.counters["pgfault"] == before.counters["pgfault"]


@pytest.mark.parametrize("writer", ["server", "consumer"])
def test_a_write_is_seen_by_its_writer_only(lab, server, consumer, buf, writer):
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    if writer == "server":
        server.write(buf, b"changed!")
    else:
        consumer.write(dst, b"changed!")
    after = lab.look()
    theirs, ours = after.task("server").pte(buf), after.task("consumer").pte(dst)
    assert ours.pfn != theirs.pfn
    assert {server.read(buf, 8), consumer.read(dst, 8)} == {b"changed!", (1).to_bytes(8, "little")}
    assert (server.read(buf, 8) == b"changed!") == (writer == "server")


def test_smaps_halves_what_is_shared(proc, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    for task, addr in ((server, buf), (consumer, dst)):
        smaps = proc.smaps(task, addr)
        assert (smaps["Rss"], smaps["Pss"], smaps["Private_Dirty"]) == (32, 16, 0)


def test_a_threads_id_names_its_memory(server, consumer, buf):
    dst = consumer.process_vm_mmap(server.thread("worker").tid, buf, pages=1)
    assert number(consumer, dst) == 1


@pytest.mark.kernels("v2")
def test_the_callers_own_memory_can_be_mapped_again(lab, consumer):
    """As posted, and far enough away: under one page-table lock it would wait for itself (D2). v3 refuses it."""
    buf = consumer.mmap(pages=1)
    consumer.stamp(buf, 1, first=7)
    far = consumer.process_vm_mmap(consumer, buf, pages=1, dst_addr=(buf & ~0xFFFFFF) - (64 << 20), flags=FIXED)
    after = lab.look()
    pfn = after.task("consumer").pte(far).pfn
    assert pfn == after.task("consumer").pte(buf).pfn
    assert after.page(pfn).mapcount == 2
    assert after.rmap(pfn).twice == ("consumer",)
    assert number(consumer, far) == 7


def test_the_source_may_exit(lab, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    server.exit()
    assert [number(consumer, dst + i * PAGE) for i in range(8)] == list(range(1, 9))
    pfn = lab.look().task("consumer").pte(dst).pfn
    assert lab.look().page(pfn).mapcount == 1


# --- which part, and where -----------------------------------------------------

@pytest.mark.parametrize("first, pages", [(0, 1), (3, 2), (7, 1), (0, 8)])
def test_any_part_of_a_vma(lab, server, consumer, buf, first, pages):
    dst = consumer.process_vm_mmap(server, buf + first * PAGE, pages=pages)
    vma = lab.look().task("consumer").vma(dst)
    assert (vma.vm_start, vma.pages) == (dst, pages)
    assert [number(consumer, dst + i * PAGE) for i in range(pages)] == list(range(first + 1, first + pages + 1))


@pytest.mark.parametrize("length, pages", [(1, 1), (PAGE, 1), (PAGE + 1, 2)])
def test_len_rounds_up(lab, server, consumer, buf, length, pages):
    dst = consumer.process_vm_mmap(server, buf, len=length)
    assert lab.look().task("consumer").vma(dst).pages == pages


def test_src_rounds_down(lab, kernel, server, consumer, buf):
    """On v2 len does not grow by what is rounded off, and the last bytes asked for are left out."""
    dst = consumer.process_vm_mmap(server, buf + PAGE + 0x800, len=PAGE)
    assert dst % PAGE == 0
    assert lab.look().task("consumer").vma(dst).pages == {"v2": 1, "v3": 2}[kernel]
    assert number(consumer, dst) == 2


@pytest.mark.parametrize("rest", [0, 1, PAGE - 1])
def test_a_hint_rounds_down_and_is_taken_where_free(server, consumer, buf, rest):
    hint = free_range(consumer, 8)
    assert consumer.process_vm_mmap(server, buf, pages=8, dst_addr=hint + rest) == hint


def test_a_hint_gives_way(server, consumer, buf):
    taken = consumer.mmap(pages=1)
    consumer.write(taken, b"mine")
    assert consumer.process_vm_mmap(server, buf, pages=8, dst_addr=taken) != taken
    assert consumer.read(taken, 4) == b"mine"


def test_a_hint_below_the_lowest_address_rounds_up(lab, server, consumer, buf):
    lab.guest.write_file("/proc/sys/vm/mmap_min_addr", str(16 * PAGE))
    assert consumer.process_vm_mmap(server, buf, pages=1, dst_addr=PAGE + 1) == 16 * PAGE


@pytest.mark.parametrize("rest", [0, PAGE - 1])
def test_fixed_replaces_what_is_there_and_no_more(proc, server, consumer, buf, rest):
    old = consumer.mmap(pages=4)
    consumer.stamp(old, 4, first=100)
    dst = consumer.process_vm_mmap(server, buf, pages=2, dst_addr=old + PAGE + rest, flags=FIXED)
    assert dst == old + PAGE
    assert [number(consumer, old + i * PAGE) for i in range(4)] == [100, 1, 2, 103]
    assert [m[:2] for m in proc.maps(consumer) if old <= m[0] < old + 4 * PAGE] == \
        [(old, dst), (dst, dst + 2 * PAGE), (dst + 2 * PAGE, old + 4 * PAGE)]


def test_noreplace_takes_a_free_place(server, consumer, buf):
    free = free_range(consumer, 2)
    assert consumer.process_vm_mmap(server, buf, pages=2, dst_addr=free + 5, flags=NOREPLACE) == free


def test_the_last_page_of_the_address_space(server, consumer, buf):
    last = TASK_SIZE - PAGE
    assert consumer.process_vm_mmap(server, buf, pages=1, dst_addr=last, flags=FIXED) == last
    assert number(consumer, last) == 1


# --- merging -------------------------------------------------------------------

@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("source", ["touched", "untouched", "mlocked and mergeable"])
def test_two_halves_become_one_vma(proc, server, consumer, order, source):
    buf, dst = server.mmap(pages=8), free_range(consumer, 8)
    if source != "untouched":
        server.stamp(buf, 8)
    if source == "mlocked and mergeable":
        server.syscall("mlock", buf, 8 * PAGE)
        server.madvise(buf, calls.MADV_MERGEABLE, pages=8)
    for at in (half * 4 * PAGE for half in order):
        consumer.process_vm_mmap(server, buf + at, pages=4, dst_addr=dst + at, flags=NOREPLACE)
    assert [m[:2] for m in proc.maps(consumer) if dst <= m[0] < dst + 8 * PAGE] == [(dst, dst + 8 * PAGE)]
    assert consumer.read(dst, 8 * PAGE) == server.read(buf, 8 * PAGE)


def test_halves_in_the_wrong_order_stay_two(lab, server, consumer, buf):
    dst = free_range(consumer, 8)
    consumer.process_vm_mmap(server, buf + 4 * PAGE, pages=4, dst_addr=dst, flags=FIXED)
    consumer.process_vm_mmap(server, buf, pages=4, dst_addr=dst + 4 * PAGE, flags=FIXED)
    after = lab.look().task("consumer")
    assert (after.vma(dst).pages, after.vma(dst + 4 * PAGE).pages) == (4, 4)
    assert [number(consumer, dst + i * PAGE) for i in range(8)] == [5, 6, 7, 8, 1, 2, 3, 4]


def test_a_merged_vma_is_in_the_tree_once(lab, server, consumer, buf):
    dst = free_range(consumer, 8)
    for at in (0, 4 * PAGE):
        consumer.process_vm_mmap(server, buf + at, pages=4, dst_addr=dst + at, flags=FIXED)
    after = lab.look()
    vma = after.task("consumer").vma(dst)
    assert [(link.vma, link.last - link.start + 1) for link in vma.anon_vma.tree] == \
        [(after.task("server").vma(buf).addr, 8), (vma.addr, 8)]


# --- like what: flags ----------------------------------------------------------

@pytest.mark.parametrize("flag, call, argument", [
    ("MERGEABLE", "madvise", calls.MADV_MERGEABLE), ("LOCKED", "mlock", 0), ("LOCKONFAULT", "mlock2", MLOCK_ONFAULT)])
def test_the_owners_decisions_stay_behind(lab, server, consumer, buf, flag, call, argument):
    stays_behind(lab, server, consumer, buf, flag, call, argument)


@pytest.mark.kernels("v2")
@pytest.mark.parametrize("flag, advice", [("WIPEONFORK", calls.MADV_WIPEONFORK), ("DONTCOPY", calls.MADV_DONTFORK)])
def test_even_those_that_forbid_a_copy(lab, server, consumer, buf, flag, advice):
    """As posted (D9): the clone has the data, and not the mark that kept it from a child."""
    stays_behind(lab, server, consumer, buf, flag, "madvise", advice)


def stays_behind(lab, server, consumer, buf, flag, call, argument):
    server.syscall(call, buf, 8 * PAGE, argument)
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    theirs, ours = after.task("server").vma(buf), after.task("consumer").vma(dst)
    assert flag in theirs.flags
    assert set(ours.flags) == set(theirs.flags) - OWNERS
    assert consumer.read(dst, 8 * PAGE) == server.read(buf, 8 * PAGE)


@pytest.mark.parametrize("flag, call, argument", [
    ("DONTDUMP", "madvise", MADV_DONTDUMP), ("HUGEPAGE", "madvise", calls.MADV_HUGEPAGE),
    ("SEQ_READ", "madvise", calls.MADV_SEQUENTIAL)])
def test_other_flags_come_along(lab, server, consumer, buf, flag, call, argument):
    server.syscall(call, buf, 8 * PAGE, argument)
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    assert flag in after.task("consumer").vma(dst).flags
    assert after.task("consumer").vma(dst).vm_flags == after.task("server").vma(buf).vm_flags


def test_a_seal_comes_along_on_v2_and_stays_behind_on_v3(lab, kernel, server, consumer, buf):
    server.syscall("mseal", buf, 8 * PAGE, 0)
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    assert ("SEALED" in lab.look().task("consumer").vma(dst).flags) == (kernel == "v2")
    if kernel == "v3":
        consumer.munmap(dst, pages=8)


def test_the_clone_is_soft_dirty(lab, server, consumer, buf):
    lab.guest.write_file(f"/proc/{server.pid}/clear_refs", "4")
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    assert "SOFTDIRTY" not in after.task("server").vma(buf).flags
    assert "SOFTDIRTY" in after.task("consumer").vma(dst).flags


def test_an_mlocked_source_locks_nothing_here(lab, server, consumer, buf):
    server.syscall("mlock", buf, 8 * PAGE)
    consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    assert after.task("server").mm.counters["locked_vm"] == 8
    assert after.task("consumer").mm.counters["locked_vm"] == 0


@pytest.mark.kernels("v2")
@pytest.mark.parametrize("flag", ["DROPPABLE", "PKEY_BIT0"])
def test_what_a_reviewer_would_refuse_is_cloned(lab, server, consumer, flag):
    """As posted (D9)."""
    map_droppable = 0x08
    kind = map_droppable if flag == "DROPPABLE" else calls.MAP_PRIVATE
    buf = server.mmap(pages=1, flags=kind | calls.MAP_ANONYMOUS)
    server.stamp(buf, 1)
    if flag == "PKEY_BIT0":
        key = server.syscall("pkey_alloc", 0, 0)
        server.syscall("pkey_mprotect", buf, PAGE, calls.PROT_READ | calls.PROT_WRITE, key)
    dst = consumer.process_vm_mmap(server, buf, pages=1)
    assert flag in lab.look().task("consumer").vma(dst).flags


# --- like what: kinds of memory ------------------------------------------------

def test_never_touched_memory_gives_a_vma_and_no_entries(lab, server, consumer):
    buf = server.mmap(pages=4)
    dst = consumer.process_vm_mmap(server, buf, pages=4)
    after = lab.look()
    vma = after.task("consumer").vma(dst)
    assert (vma.pages, vma.anon_vma, vma.chain) == (4, None, ())
    assert after.task("consumer").mm.entries.between(dst, dst + 4 * PAGE) == ()
    assert consumer.read(dst, 4 * PAGE) == bytes(4 * PAGE)


def test_prot_none_comes_along(lab, server, consumer, buf):
    server.mprotect(buf, calls.PROT_NONE, pages=8)
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    assert after.task("consumer").vma(dst).prot == "---p"
    assert after.task("consumer").pte(dst).pfn == after.task("server").pte(buf).pfn
    with expect(signal.SIGSEGV):
        consumer.read(dst, 1)
    consumer.mprotect(dst, calls.PROT_READ, pages=8)
    assert number(consumer, dst) == 1


def test_a_read_only_mapping_stays_read_only(server, consumer, buf):
    server.mprotect(buf, calls.PROT_READ, pages=8)
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    with expect(signal.SIGSEGV):
        consumer.write(dst, b"x")


def test_a_stack_can_be_cloned(lab, server, consumer):
    stack = next(v for v in lab.look().task("server").mm.vmas if v.name == "[stack]")
    dst = consumer.process_vm_mmap(server, stack.vm_start, pages=stack.pages)
    after = lab.look().task("consumer").vma(dst)
    assert "GROWSDOWN" in after.flags
    top = (stack.pages - 1) * PAGE
    assert consumer.read(dst + top, PAGE) == server.read(stack.vm_start + top, PAGE)


def open_file(task, kind, pages):
    """A file of so many pages that has no name any more; returns its descriptor."""
    if kind == "memfd":
        fd = task.memfd("file")
    else:
        fd = task.open("/tmp/file", os.O_RDWR | os.O_CREAT)
        task.syscall("unlink", "/tmp/file")     # so that it goes with its last user
    task.syscall("ftruncate", fd, pages * PAGE)
    return fd


@pytest.mark.parametrize("kind", ["memfd", "tmpfs"])
def test_shared_file_memory_is_the_same_memory(lab, server, consumer, kind):
    buf = server.mmap(pages=4, fd=open_file(server, kind, 4), flags=calls.MAP_SHARED)
    server.stamp(buf, 4)
    dst = consumer.process_vm_mmap(server, buf + PAGE, pages=3)
    after = lab.look()
    theirs, ours = after.task("server").vma(buf), after.task("consumer").vma(dst)
    assert (ours.prot, ours.file, ours.vm_pgoff) == ("rw-s", theirs.file, theirs.vm_pgoff + 1)
    assert after.files[ours.file] == (theirs.addr, ours.addr)
    assert after.task("consumer").mm.entries.between(dst, dst + 3 * PAGE) == ()
    consumer.write(dst, b"changed!")
    assert server.read(buf + PAGE, 8) == b"changed!"


def test_a_clone_can_write_where_its_source_could(server, consumer):
    """And no more: the source's descriptor is for reading, and the file cannot be had for writing through the clone."""
    file = server.open("/tmp/file", os.O_RDWR | os.O_CREAT)
    server.syscall("ftruncate", file, PAGE)
    buf = server.mmap(pages=1, prot=calls.PROT_READ, fd=server.open("/tmp/file", os.O_RDONLY), flags=calls.MAP_SHARED)
    dst = consumer.process_vm_mmap(server, buf, pages=1)
    with expect(errno.EACCES):
        consumer.mprotect(dst, calls.PROT_READ | calls.PROT_WRITE, pages=1)


def test_a_clone_keeps_its_file_from_being_sealed_against_writing(server, consumer):
    """As every writable mapping of it does, and no longer than it is there."""
    file = server.syscall("memfd_create", b"file\0", MFD_ALLOW_SEALING)
    server.syscall("ftruncate", file, PAGE)
    buf = server.mmap(pages=1, fd=file, flags=calls.MAP_SHARED)
    dst = consumer.process_vm_mmap(server, buf, pages=1)
    consumer.process_vm_mmap(server, buf, pages=1, dst_addr=dst, flags=FIXED)
    server.munmap(buf, pages=1)
    with expect(errno.EBUSY):
        server.syscall("fcntl", file, F_ADD_SEALS, F_SEAL_WRITE)
    consumer.munmap(dst, pages=1)
    server.syscall("fcntl", file, F_ADD_SEALS, F_SEAL_WRITE)


@pytest.mark.parametrize("kind", ["memfd", "tmpfs"])
def test_private_file_memory_is_copied_on_write(lab, server, consumer, kind):
    """Page 0 was written, page 1 only read: one anonymous frame, one of the file."""
    buf = server.mmap(pages=3, fd=open_file(server, kind, 3))
    server.stamp(buf, 1)
    server.touch(buf + PAGE)
    dst = consumer.process_vm_mmap(server, buf, pages=3)
    after = lab.look()
    frames = [after.page(after.task("consumer").pte(dst + at).pfn) for at in (0, PAGE)]
    assert [(page.kind, page.mapcount) for page in frames] == [("anon", 2), ("file", 2)]
    assert after.task("consumer").pte(dst + 2 * PAGE) is None
    consumer.write(dst, b"changed!")
    assert number(server, buf) == 1


def test_private_file_memory_never_written_gives_no_entries(lab, proc, server, consumer):
    buf = server.mmap(pages=2, fd=open_file(server, "memfd", 2))
    server.touch(buf, 2)
    dst = consumer.process_vm_mmap(server, buf, pages=2)
    assert lab.look().task("consumer").mm.entries.between(dst, dst + 2 * PAGE) == ()
    assert (dst, dst + 2 * PAGE, "rw-p", "/memfd:file (deleted)") in proc.maps(consumer)


def test_shared_anonymous_memory(lab, server, consumer):
    buf = server.mmap(pages=2, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    server.stamp(buf, 2)
    dst = consumer.process_vm_mmap(server, buf, pages=2)
    assert lab.look().task("consumer").pte(dst) is None
    consumer.write(dst + PAGE, b"changed!")
    assert server.read(buf + PAGE, 8) == b"changed!"


# --- the anon_vma --------------------------------------------------------------

def test_the_clone_shares_the_sources_anon_vma(lab, server, consumer, buf):
    before = lab.look()
    dst = consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    theirs, ours = after.task("server").vma(buf), after.task("consumer").vma(dst)
    assert ours.anon_vma == theirs.anon_vma
    assert set(after.anon_vmas) == set(before.anon_vmas)
    assert before.anon_vma(ours.anon_vma.addr).num_active_vmas == 1
    assert ours.anon_vma.num_active_vmas == 2
    assert len(ours.chain) == len(theirs.chain) == 1
    assert [link.vma for link in ours.anon_vma.tree] == [theirs.addr, ours.addr]


def test_a_forked_sources_whole_chain_is_cloned(lab, server, consumer, buf):
    child = server.fork("child")
    dst = consumer.process_vm_mmap(child, buf, pages=8)
    after = lab.look()
    theirs, ours = after.task("child").vma(buf), after.task("consumer").vma(dst)
    assert ours.anon_vma == theirs.anon_vma != after.task("server").vma(buf).anon_vma
    assert [link.anon_vma for link in ours.chain] == [link.anon_vma for link in theirs.chain]
    assert len(ours.chain) == 2


def test_a_childs_copy_handed_back_is_mapped_twice(lab, proc, server, buf):
    child = server.fork("child")
    dst = server.process_vm_mmap(child, buf, pages=8)
    after = lab.look()
    pfn = after.task("server").pte(dst).pfn
    assert pfn == after.task("server").pte(buf).pfn
    assert after.page(pfn).mapcount == proc.kpagecount(pfn) == 3
    assert after.rmap(pfn).twice == ("server",) and after.rmap(pfn).missed == ()


def test_the_reverse_map_finds_both_sides(lab, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf + 2 * PAGE, pages=3)
    after = lab.look()
    walk = after.rmap(after.task("consumer").pte(dst + PAGE).pfn)
    assert [(step.tasks, step.address) for step in walk.hits] == \
        [(("server",), buf + 3 * PAGE), (("consumer",), dst + PAGE)]
    assert walk.missed == ()


# --- accounts ------------------------------------------------------------------

def test_the_callers_counters_grow_by_the_clone(lab, proc, server, consumer, buf):
    before, committed = lab.look(), proc.committed()
    consumer.process_vm_mmap(server, buf, pages=8)
    after = lab.look()
    ours, was = after.task("consumer").mm.counters, before.task("consumer").mm.counters
    assert {name: ours[name] - was[name] for name in ("total_vm", "data_vm", "rss_anon", "map_count", "locked_vm")} == \
        {"total_vm": 8, "data_vm": 8, "rss_anon": 8, "map_count": 1, "locked_vm": 0}
    assert proc.committed() - committed == 8
    assert after.task("server").mm.counters == before.task("server").mm.counters


def test_munmap_and_exit_give_everything_back(lab, proc):
    pristine = proc.committed()
    server, consumer = lab.tasks("server", "consumer")
    sources = [server.mmap(pages=4), server.mmap(pages=4, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS),
               server.mmap(pages=4, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_NORESERVE),
               server.mmap(pages=4, fd=open_file(server, "memfd", 4))]
    for buf in sources:
        server.stamp(buf, 3)
    consumer.munmap(consumer.process_vm_mmap(server, sources[0], pages=4), pages=4)     # page tables that stay
    before, committed = lab.look(), proc.committed()
    clones = [consumer.process_vm_mmap(server, buf, pages=4) for buf in sources]
    for dst in clones:
        consumer.stamp(dst, 2)
        consumer.munmap(dst, pages=4)
    assert lab.look().task("consumer").mm.counters == before.task("consumer").mm.counters
    assert proc.committed() == committed
    server.exit()
    consumer.exit()
    assert proc.committed() == pristine


@pytest.mark.kernels("v3")
def test_what_is_replaced_leaves_no_address_space_behind(lab, server, consumer, buf):
    """v3 puts the clone together in an mm of its own where the place is taken; the slab says how many mms there are."""
    dst = consumer.mmap(pages=8)
    before = address_spaces(lab)
    for _ in range(50):
        consumer.process_vm_mmap(server, buf, pages=8, dst_addr=dst, flags=FIXED)
        consumer.process_vm_mmap(server, server.mmap(pages=8), pages=8, dst_addr=dst, flags=FIXED | MOVE)
    assert address_spaces(lab) < before + 50


def address_spaces(lab):
    """How many mms there is memory for: the slab is a few ahead of how many there are."""
    return int(lab.guest.read_file("/sys/kernel/slab/mm_struct/total_objects").split()[0])
