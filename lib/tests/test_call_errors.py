# SPDX-License-Identifier: MIT
"""process_vm_mmap() of series v2: what it refuses, one row per errno and cause.

Errnos are those of the posted series, its odd ones too (EACCES where
process_vm_readv() says EPERM, 524, ENOMEM for whatever failed half way).
"""

from __future__ import annotations

import errno

import pytest

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED
from pvmlab.calls import PVMMAP_FIXED_NOREPLACE as NOREPLACE
from pvmlab.errors import GuestError
from pvmlab.guest import expect

PAGE = 4096
HUGE = 2 << 20
#: arch/x86/include/asm/page_64_types.h, with four levels
TASK_SIZE = (1 << 47) - PAGE
ENOTSUPP = 524
RLIMIT_DATA, RLIMIT_AS = 2, 9
PR_SET_DUMPABLE = 4


@pytest.fixture
def buf(server):
    """Four pages of the server, each with another number in it."""
    buf = server.mmap(pages=4)
    server.stamp(buf, 4)
    return buf


# --- EINVAL, ESRCH: arguments --------------------------------------------------

@pytest.mark.parametrize("wrong", [
    pytest.param({"flags": 0x4}, id="flag 4, which is v3's"),
    pytest.param({"flags": FIXED | 0x8}, id="unknown flag beside a known one"),
    pytest.param({"flags": 1 << 63}, id="highest flag"),
    pytest.param({"len": 0}, id="len 0"),
    pytest.param({"len": 2**64 - 1}, id="len wraps to 0"),
    pytest.param({"len": TASK_SIZE + 1}, id="len above TASK_SIZE"),
    pytest.param({"src_addr": 0}, id="src 0"),
    pytest.param({"src_addr": PAGE - 1}, id="src rounds to 0"),
    pytest.param({"dst_addr": TASK_SIZE, "flags": FIXED}, id="dst too high"),
    pytest.param({"dst_addr": TASK_SIZE - PAGE, "len": 2 * PAGE}, id="dst too high for len, as a hint"),
    pytest.param({"dst_addr": 2**64 - 1, "flags": NOREPLACE}, id="dst the highest number"),
    pytest.param({"source": 0}, id="pid 0"),
    pytest.param({"source": -1}, id="pid -1"),
    pytest.param({"source": 2}, id="kernel thread"),
])
def test_einval(proc, server, consumer, buf, wrong):
    call = {"source": server, "src_addr": buf, "len": PAGE} | wrong
    before = proc.maps(consumer)
    with expect(errno.EINVAL):
        consumer.process_vm_mmap(**call)
    assert proc.maps(consumer) == before


def test_the_longest_len_is_only_a_range_that_leaves_the_vma(server, consumer, buf):
    with expect(errno.EFAULT):
        consumer.process_vm_mmap(server, buf, len=TASK_SIZE)


def test_esrch_no_such_task(consumer):
    with expect(errno.ESRCH):
        consumer.process_vm_mmap(32767, PAGE, pages=1)


def test_esrch_zombie(proc, server, consumer, buf):
    child = server.fork("child")
    child.exit()
    assert b"zombie" in proc.guest.read_file(f"/proc/{child.pid}/status")
    with expect(errno.ESRCH):
        consumer.process_vm_mmap(child, buf, pages=1)


def test_esrch_reaped(server, consumer, buf):
    child = server.fork("child")
    child.exit()
    server.syscall("wait4", child.pid, 0, 0, 0)
    with expect(errno.ESRCH):
        consumer.process_vm_mmap(child.pid, buf, pages=1)


# --- EACCES: permission --------------------------------------------------------

def become(task, uid, dumpable=True):
    """Make it an ordinary user's process, as if it had been started so."""
    task.syscall("setresuid", uid, uid, uid)
    task.syscall("prctl", PR_SET_DUMPABLE, int(dumpable))


def forbid(lab, server, consumer, how):
    become(consumer, 1000)
    become(server, 1001 if how == "other uid" else 1000, dumpable=how != "not dumpable")
    if how.startswith("yama"):
        lab.guest.write_file("/proc/sys/kernel/yama/ptrace_scope", how[-1])


@pytest.mark.parametrize("how", ["other uid", "not dumpable", "yama 1", "yama 2", "yama 3"])
def test_eacces_where_process_vm_readv_says_eperm(lab, proc, server, consumer, buf, how):
    mine = consumer.mmap(pages=1)
    forbid(lab, server, consumer, how)
    before = proc.maps(consumer)
    with expect(errno.EPERM):
        consumer.process_vm_readv(server, buf, mine, 8)
    with expect(errno.EACCES):
        consumer.process_vm_mmap(server, buf, pages=1)
    assert proc.maps(consumer) == before


def test_eacces_for_root_where_yama_allows_nobody(lab, server, consumer, buf):
    lab.guest.write_file("/proc/sys/kernel/yama/ptrace_scope", "3")
    with expect(errno.EACCES):
        consumer.process_vm_mmap(server, buf, pages=1)


def test_the_same_user_may(lab, server, consumer, buf):
    forbid(lab, server, consumer, "yama 0")
    dst = consumer.process_vm_mmap(server, buf, pages=1)
    assert consumer.read(dst, 8) == server.read(buf, 8)


def test_root_may(server, consumer, buf):
    become(server, 1001, dumpable=False)
    dst = consumer.process_vm_mmap(server, buf, pages=1)
    assert consumer.read(dst, 8) == server.read(buf, 8)


def test_the_callers_own_memory_needs_no_permission(lab, consumer):
    mine = consumer.mmap(pages=1)
    consumer.stamp(mine, 1)
    become(consumer, 1000, dumpable=False)
    lab.guest.write_file("/proc/sys/kernel/yama/ptrace_scope", "3")
    far = consumer.process_vm_mmap(consumer, mine, pages=1, dst_addr=mine - (64 << 20), flags=FIXED)
    assert consumer.read(far, 8) == consumer.read(mine, 8)


# --- EFAULT, 524: the source ---------------------------------------------------

def nothing(lab, server):
    addr = server.mmap(pages=1)
    server.munmap(addr, pages=1)
    return addr, PAGE


def beyond_the_end(lab, server):
    addr = server.mmap(pages=4)
    server.munmap(addr + 2 * PAGE, pages=2)
    return addr + PAGE, 2 * PAGE


def before_the_start(lab, server):
    addr = server.mmap(pages=4)
    server.munmap(addr, pages=2)
    return addr + PAGE, 2 * PAGE


def a_hole(lab, server):
    addr = server.mmap(pages=3)
    server.munmap(addr + PAGE, pages=1)
    return addr, 3 * PAGE


def two_vmas(lab, server):
    addr = server.mmap(pages=2)
    server.mprotect(addr + PAGE, calls.PROT_READ, pages=1)
    return addr, 2 * PAGE


def hugetlb(lab, server):
    lab.guest.write_file("/proc/sys/vm/nr_hugepages", "1")
    addr = server.mmap(len=HUGE, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_HUGETLB)
    server.touch(addr, 1, write=True)
    return addr, HUGE


def named(lab, server, name):
    vma = next(v for v in lab.look().task("server").mm.vmas if v.name == name)
    return vma, (vma.vm_start, PAGE)


def vdso(lab, server):
    vma, place = named(lab, server, "[vdso]")
    assert "DONTEXPAND" in vma.flags
    return place


def vvar(lab, server):
    vma, place = named(lab, server, "[vvar]")
    assert {"PFNMAP", "IO"} <= set(vma.flags)
    return place


def vsyscall(lab, server):
    return 0xFFFFFFFFFF600000, PAGE     # in no mm: arch/x86/entry/vsyscall


def aio_ring(lab, server):
    context = bytearray(8)
    server.syscall("io_setup", 8, context)
    ring = int.from_bytes(context, "little")
    assert "DONTEXPAND" in lab.look().task("server").vma(ring).flags
    return ring, PAGE


@pytest.mark.parametrize("source", [nothing, beyond_the_end, before_the_start, a_hole, two_vmas, hugetlb,
                                    vdso, vvar, vsyscall, aio_ring], ids=lambda f: f.__name__)
def test_efault(lab, proc, server, consumer, source):
    addr, length = source(lab, server)
    before = proc.maps(consumer)
    with expect(errno.EFAULT):
        consumer.process_vm_mmap(server, addr, len=length)
    assert proc.maps(consumer) == before


@pytest.mark.parametrize("mode", ["MISSING", "WP"])
def test_524_userfaultfd(server, consumer, buf, mode):
    """ENOTSUPP, which the kernel should have kept to itself: as posted."""
    register(server, buf, 4, mode)
    with expect(ENOTSUPP):
        consumer.process_vm_mmap(server, buf, pages=4)


def register(task, addr, pages, mode):
    """Register memory with a new userfaultfd."""
    uffd = calls.constants()
    fd = task.syscall("userfaultfd", 0)
    task.syscall("ioctl", fd, uffd["UFFDIO_API"], calls.new("struct uffdio_api *", {"api": uffd["UFFD_API"]}))
    task.syscall("ioctl", fd, uffd["UFFDIO_REGISTER"], calls.new("struct uffdio_register *", {
        "range": {"start": addr, "len": pages * PAGE}, "mode": uffd[f"UFFDIO_REGISTER_MODE_{mode}"]}))


def test_a_destination_with_userfaultfd_is_replaced(lab, server, consumer, buf):
    dst = consumer.mmap(pages=4)
    register(consumer, dst, 4, "MISSING")
    consumer.process_vm_mmap(server, buf, pages=4, dst_addr=dst, flags=FIXED)
    assert "UFFD_MISSING" not in lab.look().task("consumer").vma(dst).flags
    assert consumer.read(dst, 8) == server.read(buf, 8)


# --- EEXIST, EPERM: the destination --------------------------------------------

@pytest.mark.parametrize("flags", [NOREPLACE, FIXED | NOREPLACE])
@pytest.mark.parametrize("first", [-1, 0, 1])
def test_eexist(proc, server, consumer, buf, flags, first):
    taken = consumer.mmap(pages=6)
    consumer.munmap(taken, pages=1)
    consumer.munmap(taken + 3 * PAGE, pages=3)
    before = proc.maps(consumer)
    with expect(errno.EEXIST):
        consumer.process_vm_mmap(server, buf, pages=2, dst_addr=taken + (1 + first) * PAGE, flags=flags)
    assert proc.maps(consumer) == before


def test_eperm_below_mmap_min_addr(lab, server, consumer, buf):
    forbid(lab, server, consumer, "nothing")
    with expect(errno.EPERM):
        consumer.process_vm_mmap(server, buf, pages=1, dst_addr=0, flags=FIXED)


# --- ENOMEM: limits ------------------------------------------------------------

def limit(task, resource, size):
    task.syscall("prlimit64", 0, resource, calls.new("struct rlimit64 *", {"rlim_cur": size, "rlim_max": size}), None)


@pytest.mark.parametrize("resource, counter", [(RLIMIT_AS, "total_vm"), (RLIMIT_DATA, "data_vm")])
def test_enomem_rlimit(lab, server, consumer, buf, resource, counter):
    """Two pages are left: three do not fit, two do."""
    limit(consumer, resource, (lab.look().task("consumer").mm.counters[counter] + 2) * PAGE)
    with expect(errno.ENOMEM):
        consumer.process_vm_mmap(server, buf, pages=3)
    consumer.process_vm_mmap(server, buf, pages=2)


def test_what_fixed_replaces_does_not_count(lab, server, consumer, buf):
    old = consumer.mmap(pages=4)
    limit(consumer, RLIMIT_AS, lab.look().task("consumer").mm.counters["total_vm"] * PAGE)
    assert consumer.process_vm_mmap(server, buf, pages=4, dst_addr=old, flags=FIXED) == old


@pytest.mark.parametrize("room", [-1, 0])
def test_enomem_max_map_count(lab, proc, server, consumer, buf, room):
    count = lab.look().task("consumer").mm.counters["map_count"]
    lab.guest.write_file("/proc/sys/vm/max_map_count", str(count + room))
    if room < 0:
        with expect(errno.ENOMEM):
            consumer.process_vm_mmap(server, buf, pages=1)
    else:
        consumer.process_vm_mmap(server, buf, pages=1)
    assert lab.look().task("consumer").mm.counters["map_count"] == count + 1 + room


def test_enomem_overcommit(lab, proc, server, consumer):
    big = server.mmap(pages=1024)
    before = proc.committed()
    lab.guest.write_file("/proc/sys/vm/overcommit_kbytes", str((before + 512) * 4))
    lab.guest.write_file("/proc/sys/vm/overcommit_memory", "2")
    with expect(errno.ENOMEM):
        consumer.process_vm_mmap(server, big, pages=1024)
    assert proc.committed() == before
    consumer.process_vm_mmap(server, big, pages=256)
    assert proc.committed() == before + 256


def test_a_refusal_destroys_what_fixed_would_have_replaced(lab, proc, server, consumer, buf):
    """As posted (D8): the old mapping goes before the limit is looked at."""
    old = consumer.mmap(pages=2)
    consumer.munmap(old + PAGE, pages=1)
    limit(consumer, RLIMIT_AS, lab.look().task("consumer").mm.counters["total_vm"] * PAGE)
    with expect(errno.ENOMEM):
        consumer.process_vm_mmap(server, buf, pages=2, dst_addr=old, flags=FIXED)
    assert not [m for m in proc.maps(consumer) if m[0] <= old < m[1]]


def test_enomem_sealed_destination(server, consumer, buf):
    """As posted: any unmap that fails is ENOMEM; mmap() says EPERM."""
    old = consumer.mmap(pages=1)
    consumer.write(old, b"mine")
    consumer.syscall("mseal", old, PAGE, 0)
    with expect(errno.ENOMEM):
        consumer.process_vm_mmap(server, buf, pages=1, dst_addr=old, flags=FIXED)
    assert consumer.read(old, 4) == b"mine"


# --- ENOMEM: no memory ---------------------------------------------------------

@pytest.fixture
def refusals(lab, server, consumer):
    """Make the call on memory of the server with its first allocation failing, then with its second, … until one
    call needs no more; yield at each ENOMEM (Documentation/fault-injection/fault-injection.rst, fail-nth)."""
    for kind in ("failslab", "fail_page_alloc"):
        lab.guest.write_file(f"/sys/kernel/debug/{kind}/ignore-gfp-wait", "N")
        lab.guest.write_file(f"/sys/kernel/debug/{kind}/verbose", "0")
    lab.guest.write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0")
    fail_nth = f"/proc/{consumer.pid}/fail-nth"

    def each(buf, pages):
        for nth in range(1, 40):
            lab.guest.write_file(fail_nth, str(nth))
            error = refused_or_undone(server, consumer, buf, pages, place=nth << 39)
            failed = lab.guest.read_file(fail_nth) == b"0\n"
            lab.guest.write_file(fail_nth, "0")
            if not failed:
                return
            if error:
                yield error
        pytest.fail("the call never came through")
    return each


def refused_or_undone(server, consumer, buf, pages, place):
    """Return the errno of a call, or None when it came through; its mapping is gone then."""
    try:
        consumer.process_vm_mmap(server, buf, pages=pages, dst_addr=place, flags=NOREPLACE)
    except GuestError as e:
        return e.errno
    consumer.munmap(place, pages=pages)


def test_enomem_when_an_allocation_fails(lab, proc, consumer, buf, refusals):
    before = proc.maps(consumer)
    errors = []
    for error in refusals(buf, 4):
        errors.append(error)
        assert proc.maps(consumer) == before
    assert len(errors) > 3 and set(errors) == {errno.ENOMEM}


def test_a_failed_copy_takes_pages_off_total_vm(lab, proc, consumer, buf, refusals):
    """As posted (D4): they are unmapped, but had not been counted yet."""
    total = [lab.look().task("consumer").mm.counters["total_vm"] for _ in refusals(buf, 4)]
    steps = [after - before for before, after in zip(total, total[1:])]
    assert set(steps) == {0, -4}        # 0 where no entry could be copied yet


def test_a_refusal_gives_back_charge_that_was_not_taken(proc, server, refusals):
    """As posted (D5): shared memory was never charged to the mapping."""
    shared = server.mmap(pages=4, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    committed = [proc.committed()] + [proc.committed() for _ in refusals(shared, 4)]
    assert {after - before for before, after in zip(committed, committed[1:])} == {-4}


# --- what series v2 changes elsewhere ------------------------------------------

def test_mremap_cannot_grow_hugetlb_and_says_efault(lab, server):
    """EINVAL before the series."""
    addr, length = hugetlb(lab, server)
    with expect(errno.EFAULT):
        server.mremap(addr, len=length, new_len=2 * length)


def test_mremap_still_grows_ordinary_memory(server, buf):
    moved = server.mremap(buf, pages=4, new_pages=8)
    assert server.read(moved + 3 * PAGE, 8) == (4).to_bytes(8, "little")
