# SPDX-License-Identifier: MIT
"""process_vm_mmap(): what each series refuses, and with which errno.

One table says what v2, the series as posted, and v3, the review's answer to
it, do in each case. Below it stands how a case comes about: a function that
arranges it and returns the arguments of the call. The odd errnos of v2 are
those of the posted series (EACCES where process_vm_readv() says EPERM, 524,
ENOMEM for whatever failed half way).

Leaves out: calls that would hang v2's machine or let it use freed memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from errno import EACCES, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, ENOMEM, EOPNOTSUPP, EPERM, ESRCH
from types import SimpleNamespace

import pytest

from pvmlab import calls, meanings
from pvmlab.calls import PVMMAP_FIXED as FIXED
from pvmlab.calls import PVMMAP_FIXED_NOREPLACE as NOREPLACE
from pvmlab.calls import RLIMIT_AS, RLIMIT_DATA
from pvmlab.errors import GuestError, errno_text
from pvmlab.guest import expect

pytestmark = pytest.mark.kernels("v2", "v3")

#: The call is not refused, and what it maps reads as the source does.
MAPPED = 0
#: The kernel's own ENOTSUPP, for which no user has a name.
ENOTSUPP = 524
#: Not asked of v2 here: the call would hang it, or have it use freed memory.
HARM = -1

ANSWERS = {
    # what is asked for                                       v2          v3
    # --- the arguments
    "a flag nobody knows":                                    (EINVAL,     EINVAL),
    "a flag nobody knows, beside FIXED":                      (EINVAL,     EINVAL),
    "the highest flag":                                       (EINVAL,     EINVAL),
    "len 0":                                                  (EINVAL,     EINVAL),
    "len that wraps to 0":                                    (EINVAL,     EINVAL),
    "len above TASK_SIZE":                                    (EINVAL,     EINVAL),
    "len of TASK_SIZE":                                       (EFAULT,     EFAULT),
    "source address 0":                                       (EINVAL,     EINVAL),
    "source address that rounds to 0":                        (EINVAL,     EINVAL),
    "FIXED at TASK_SIZE":                                     (EINVAL,     EINVAL),
    "a hint too high for len":                                (EINVAL,     EINVAL),
    "NOREPLACE at the highest number":                        (EINVAL,     EINVAL),
    # --- whose memory
    "pid 0":                                                  (EINVAL,     EINVAL),
    "pid -1":                                                 (EINVAL,     EINVAL),
    "a kernel thread":                                        (EINVAL,     EINVAL),
    "a pid nobody has":                                       (ESRCH,      ESRCH),
    "a zombie":                                               (ESRCH,      ESRCH),
    "a process that was waited for":                          (ESRCH,      ESRCH),
    "another user's process":                                 (EACCES,     EPERM),
    "a process that is not dumpable":                         (EACCES,     EPERM),
    "Yama's scope 1, not a child":                            (EACCES,     EPERM),
    "Yama's scope 2":                                         (EACCES,     EPERM),
    "Yama's scope 3":                                         (EACCES,     EPERM),
    "Yama's scope 3, by root":                                (EACCES,     EPERM),
    "the same user's process":                                (MAPPED,     MAPPED),
    "any process, by root":                                   (MAPPED,     MAPPED),
    "oneself, far away":                                      (MAPPED,     EINVAL),
    "oneself, not dumpable, under Yama's scope 3":            (MAPPED,     EINVAL),
    "oneself, beside the source":                             (HARM,       EINVAL),
    "oneself, over the source":                               (HARM,       EINVAL),
    "one's own thread":                                       (MAPPED,     EINVAL),
    "one's own vfork child":                                  (MAPPED,     EINVAL),
    "a parent, by its vfork child":                           (MAPPED,     EINVAL),
    # --- the source mapping
    "nothing there":                                          (EFAULT,     EFAULT),
    "a range that leaves its mapping":                        (EFAULT,     EFAULT),
    "a range that begins before its mapping":                 (EFAULT,     EFAULT),
    "a hole":                                                 (EFAULT,     EFAULT),
    "two mappings":                                           (EFAULT,     EFAULT),
    "hugetlb":                                                (EFAULT,     EFAULT),
    "vdso":                                                   (EFAULT,     EFAULT),
    "vvar":                                                   (EFAULT,     EFAULT),
    "vsyscall":                                               (EFAULT,     EFAULT),
    "an AIO ring":                                            (EFAULT,     EFAULT),
    "memfd_secret":                                           (MAPPED,     EFAULT),
    "MADV_DONTFORK":                                          (MAPPED,     EFAULT),
    "MADV_WIPEONFORK":                                        (MAPPED,     EFAULT),
    "MAP_DROPPABLE":                                          (MAPPED,     EFAULT),
    "a protection key":                                       (MAPPED,     EINVAL),
    "writable code, under the caller's MDWE":                 (MAPPED,     EACCES),
    "plain code, under the caller's MDWE":                    (MAPPED,     MAPPED),
    "userfaultfd, missing pages":                             (ENOTSUPP,   EOPNOTSUPP),
    "userfaultfd, write-protection":                          (ENOTSUPP,   EOPNOTSUPP),
    "userfaultfd, minor faults":                              (ENOTSUPP,   EOPNOTSUPP),
    # --- the destination
    "NOREPLACE over a mapping's start":                       (EEXIST,     EEXIST),
    "NOREPLACE inside a mapping":                             (EEXIST,     EEXIST),
    "NOREPLACE over a mapping's end":                         (EEXIST,     EEXIST),
    "NOREPLACE and FIXED over a mapping":                     (EEXIST,     EEXIST),
    "FIXED below mmap_min_addr":                              (EPERM,      EPERM),
    "FIXED over a sealed mapping":                            (ENOMEM,     EPERM),
    "FIXED over a mapping that is sealed further on":         (ENOMEM,     EPERM),
    "FIXED over part of a hugetlb page":                      (ENOMEM,     EINVAL),
    # --- the limits: one page too many each
    "RLIMIT_AS":                                              (ENOMEM,     ENOMEM),
    "RLIMIT_DATA":                                            (ENOMEM,     ENOMEM),
    "overcommit":                                             (ENOMEM,     ENOMEM),
    "max_map_count":                                          (ENOMEM,     ENOMEM),
}

#: What a refusal leaves of the mapping that FIXED would have replaced in part.
LEFT = {
    # what refuses             v2          v3
    "RLIMIT_AS":              ("gone",    "whole"),
    "RLIMIT_DATA":            ("gone",    "whole"),
    "overcommit":             ("gone",    "whole"),
    "max_map_count":          ("gone",    "whole"),
    "a seal further on":      ("split",   "whole"),
}

PAGE = 4096
HUGE = 2 << 20
#: arch/x86/include/asm/page_64_types.h, with four levels
TASK_SIZE = (1 << 47) - PAGE
PR_SET_DUMPABLE, PR_SET_MDWE = 4, 65
MAP_DROPPABLE = 8
ALL = calls.PROT_READ | calls.PROT_WRITE | calls.PROT_EXEC
ANONYMOUS = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS

ARRANGED: dict[str, Callable[[SimpleNamespace], dict]] = {}


def case(name, **how):
    """Note that the function arranges this case; `how` goes to it."""
    def note(arrange):
        ARRANGED[name] = functools.partial(arrange, **how)
        return arrange
    return note


@pytest.fixture
def world(lab, proc, server, consumer):
    """Two tasks, and four pages of the server with another number in each."""
    buf = server.mmap(pages=4)
    server.stamp(buf, 4)
    return SimpleNamespace(lab=lab, guest=lab.guest, proc=proc, server=server, consumer=consumer, buf=buf)


@pytest.fixture
def answer(kernel):
    """Picks a kernel's column."""
    return lambda columns: columns[("v2", "v3").index(kernel)]


def call(source, src_addr, pages=1, **others):
    return {"source": source, "src_addr": src_addr, "pages": pages} | others


def counters(world):
    return world.lab.look().task("consumer").mm.counters


# --- each case of the table -------------------------------------------------------------------------------------------

def test_every_case_is_arranged():
    assert ANSWERS.keys() == ARRANGED.keys()


def test_every_errno_that_we_explain_is_seen(kernel, answer):
    """But for EINTR, which takes a signal (test_call_pages.py), and EBUSY, which needs a rule or a move."""
    explained = meanings._MEANINGS[f"process_vm_mmap/{kernel}"].keys()
    seen = {answer(columns) for columns in ANSWERS.values()} - {MAPPED, HARM}
    assert explained - seen == answer((set(), {EINTR, EBUSY})) and seen <= explained


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_call_answers(world, answer, name):
    """Refused, it leaves the caller's mappings as they were."""
    expected = answer(ANSWERS[name])
    if expected == HARM:
        pytest.skip("would hang the machine or use freed memory")
    arguments = ARRANGED[name](world)
    caller = arguments.pop("caller", world.consumer)
    before = world.proc.maps(caller)
    if expected == MAPPED:
        length = arguments["pages"] * PAGE
        dst = caller.process_vm_mmap(**arguments)
        theirs = arguments["source"] if hasattr(arguments["source"], "read") else caller
        assert caller.read(dst, length) == theirs.read(arguments["src_addr"], length)
    else:
        with expect(expected) as refused:
            caller.process_vm_mmap(**arguments)
        assert world.proc.maps(caller) == before
        assert refused.error.meaning not in ("", errno_text(expected))


@case("a flag nobody knows", flags=0x100)
@case("a flag nobody knows, beside FIXED", flags=FIXED | 0x8)
@case("the highest flag", flags=1 << 63)
@case("source address 0", src_addr=0)
@case("source address that rounds to 0", src_addr=PAGE - 1)
@case("FIXED at TASK_SIZE", dst_addr=TASK_SIZE, flags=FIXED)
@case("a hint too high for len", dst_addr=TASK_SIZE - PAGE, pages=2)
@case("NOREPLACE at the highest number", dst_addr=2**64 - 1, flags=NOREPLACE)
@case("pid 0", source=0)
@case("pid -1", source=-1)
@case("a kernel thread", source=2)
@case("a pid nobody has", source=32767)
def wrong(world, **wrong):
    return call(world.server, world.buf) | wrong


@case("len 0", len=0)
@case("len that wraps to 0", len=2**64 - 1)
@case("len above TASK_SIZE", len=TASK_SIZE + 1)
@case("len of TASK_SIZE", len=TASK_SIZE)
def long(world, len):
    return {"source": world.server, "src_addr": world.buf, "len": len}


@case("a zombie", waited_for=False)
@case("a process that was waited for", waited_for=True)
def dead(world, waited_for):
    child = world.server.fork("child")
    child.exit()
    assert b"zombie" in world.guest.read_file(f"/proc/{child.pid}/status")
    if waited_for:
        world.server.syscall("wait4", child.pid, 0, 0, 0)
    return call(child.pid, world.buf)


def become(task, uid, dumpable=True):
    """Make it an ordinary user's process, as if it had been started so."""
    task.syscall("setresuid", uid, uid, uid)
    task.syscall("prctl", PR_SET_DUMPABLE, int(dumpable))


@case("another user's process", uid=1001)
@case("a process that is not dumpable", dumpable=False)
@case("Yama's scope 1, not a child", scope=1)
@case("Yama's scope 2", scope=2)
@case("Yama's scope 3", scope=3)
@case("Yama's scope 3, by root", scope=3, caller=0)
@case("the same user's process")
@case("any process, by root", uid=1001, dumpable=False, caller=0)
def attach(world, uid=1000, dumpable=True, scope=0, caller=1000):
    if caller:
        become(world.consumer, caller)
    become(world.server, uid, dumpable)
    world.guest.write_file("/proc/sys/kernel/yama/ptrace_scope", str(scope))
    return call(world.server, world.buf)


@case("oneself, far away")
@case("oneself, not dumpable, under Yama's scope 3", scope=3)
def oneself(world, scope=0):
    """The tables of source and destination have two locks."""
    server = world.server
    if scope:
        become(server, 1000, dumpable=False)
        world.guest.write_file("/proc/sys/kernel/yama/ptrace_scope", str(scope))
    return call(server, world.buf, dst_addr=world.buf - (64 << 20), flags=FIXED, caller=server)


@case("oneself, beside the source", off=4)
@case("oneself, over the source", off=1)
def too_near(world, off):
    return call(world.server, world.buf, 2, dst_addr=world.buf + off * PAGE, flags=FIXED, caller=world.server)


@case("one's own thread", kind="thread")
@case("one's own vfork child", kind="vfork_child")
def relative(world, kind):
    server = world.server
    return oneself(world) | {"source": getattr(server, kind)("relative").tid, "caller": server}


@case("a parent, by its vfork child")
def parent(world):
    return oneself(world) | {"caller": world.server.vfork_child("child")}


@case("nothing there", holes=range(4))
@case("a hole", holes=[1], pages=3)
@case("a range that leaves its mapping", holes=[2, 3], first=1, pages=2)
@case("a range that begins before its mapping", holes=[0, 1], first=1, pages=2)
def holes(world, holes, first=0, pages=1):
    for i in holes:
        world.server.munmap(world.buf + i * PAGE, pages=1)
    return call(world.server, world.buf + first * PAGE, pages)


@case("two mappings")
def two(world):
    world.server.mprotect(world.buf + PAGE, calls.PROT_READ, pages=1)
    return call(world.server, world.buf, 2)


def hugetlb_page(world, task):
    world.guest.write_file("/proc/sys/vm/nr_hugepages", "1")
    addr = task.mmap(len=HUGE, flags=ANONYMOUS | calls.MAP_HUGETLB)
    task.touch(addr, 1, write=True)
    return addr


@case("hugetlb")
def hugetlb(world):
    return call(world.server, hugetlb_page(world, world.server), HUGE // PAGE)


@case("vdso", flags={"DONTEXPAND"})
@case("vvar", flags={"PFNMAP", "IO"})
def of_the_kernel(world, flags):
    """The first mapping with such flags in a fresh task."""
    vma = next(v for v in world.lab.look().task("server").mm.vmas if flags <= set(v.flags)
               and v.name in ("[vdso]", "[vvar]") and ("IO" in v.flags) == ("IO" in flags))
    return call(world.server, vma.vm_start)


@case("vsyscall")
def vsyscall(world):
    """In no mm: arch/x86/entry/vsyscall."""
    return call(world.server, 0xFFFFFFFFFF600000)


@case("an AIO ring")
def aio(world):
    context = bytearray(8)
    world.server.syscall("io_setup", 8, context)
    ring = int.from_bytes(context, "little")
    assert "DONTEXPAND" in world.lab.look().task("server").vma(ring).flags
    return call(world.server, ring)


@case("memfd_secret")
def secret(world):
    fd = world.server.syscall("memfd_secret", 0)
    world.server.syscall("ftruncate", fd, PAGE)
    addr = world.server.mmap(pages=1, fd=fd, flags=calls.MAP_SHARED)
    world.server.write(addr, b"secret")
    with expect(EFAULT):
        world.consumer.process_vm_readv(world.server, addr, world.consumer.mmap(pages=1), 6)
    return call(world.server, addr)


@case("MADV_DONTFORK", advice=calls.MADV_DONTFORK)
@case("MADV_WIPEONFORK", advice=calls.MADV_WIPEONFORK)
def advised(world, advice):
    world.server.madvise(world.buf, advice, pages=4)
    return call(world.server, world.buf, 4)


@case("MAP_DROPPABLE")
def droppable(world):
    addr = world.server.mmap(pages=1, flags=MAP_DROPPABLE | calls.MAP_ANONYMOUS)
    world.server.stamp(addr, 1)
    return call(world.server, addr)


@case("a protection key")
def protected(world):
    """The caller has a key of this number, too: without, it could not even read its clone on v2."""
    key, _ = (task.syscall("pkey_alloc", 0, 0) for task in (world.server, world.consumer))
    world.server.syscall("pkey_mprotect", world.buf, 4 * PAGE, calls.PROT_READ | calls.PROT_WRITE, key)
    assert key > 0 and f"PKEY_BIT{key.bit_length() - 1}" in world.lab.look().task("server").vma(world.buf).flags
    return call(world.server, world.buf)


@case("writable code, under the caller's MDWE", prot=ALL)
@case("plain code, under the caller's MDWE", prot=calls.PROT_READ | calls.PROT_EXEC)
def code(world, prot):
    world.server.mprotect(world.buf, prot, pages=4)
    world.consumer.syscall("prctl", PR_SET_MDWE, 1, 0, 0, 0)
    return call(world.server, world.buf)


UFFD_FEATURE_EVENT_UNMAP = 1 << 6     # include/uapi/linux/userfaultfd.h


def register(task, addr, pages, mode, features=0):
    """Register memory with a new userfaultfd."""
    uffd = calls.constants()
    fd = task.syscall("userfaultfd", 0)
    task.syscall("ioctl", fd, uffd["UFFDIO_API"],
                 calls.new("struct uffdio_api *", {"api": uffd["UFFD_API"], "features": features}))
    task.syscall("ioctl", fd, uffd["UFFDIO_REGISTER"], calls.new("struct uffdio_register *", {
        "range": {"start": addr, "len": pages * PAGE}, "mode": uffd[f"UFFDIO_REGISTER_MODE_{mode}"]}))


@case("userfaultfd, missing pages", mode="MISSING")
@case("userfaultfd, write-protection", mode="WP")
@case("userfaultfd, minor faults", mode="MINOR")
def userfault(world, mode):
    addr = world.buf
    if mode == "MINOR":     # of shared memory only
        addr = world.server.mmap(pages=4, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    register(world.server, addr, 4, mode)
    return call(world.server, addr, 4)


@case("NOREPLACE over a mapping's start", first=-1)
@case("NOREPLACE inside a mapping", first=0)
@case("NOREPLACE over a mapping's end", first=1)
@case("NOREPLACE and FIXED over a mapping", first=0, flags=FIXED | NOREPLACE)
def taken(world, first, flags=NOREPLACE):
    old = world.consumer.mmap(pages=6)
    world.consumer.munmap(old, pages=1)
    world.consumer.munmap(old + 3 * PAGE, pages=3)
    return call(world.server, world.buf, 2, dst_addr=old + (1 + first) * PAGE, flags=flags)


@case("FIXED below mmap_min_addr")
def too_low(world):
    return attach(world) | {"dst_addr": 0, "flags": FIXED}


@case("FIXED over a sealed mapping", sealed=0)
@case("FIXED over a mapping that is sealed further on", sealed=2)
def seal(world, sealed):
    old = world.consumer.mmap(pages=4)
    world.consumer.stamp(old, 4)
    world.consumer.syscall("mseal", old + sealed * PAGE, PAGE, 0)
    return call(world.server, world.buf, 4, dst_addr=old, flags=FIXED)


@case("FIXED over part of a hugetlb page")
def half_hugetlb(world):
    return call(world.server, world.buf, dst_addr=hugetlb_page(world, world.consumer) + PAGE, flags=FIXED)


@case("RLIMIT_AS", resource=RLIMIT_AS, counter="total_vm")
@case("RLIMIT_DATA", resource=RLIMIT_DATA, counter="data_vm")
def rlimit(world, resource, counter, room=3):
    world.consumer.limit(resource, (counters(world)[counter] + room) * PAGE)
    return call(world.server, world.buf, 4)


@case("overcommit")
def overcommit(world, room=512):
    """In hundreds of pages: the kernel asks a counter that is kept for each CPU, and is not exact."""
    big = world.server.mmap(pages=1024)
    world.guest.write_file("/proc/sys/vm/overcommit_kbytes", str((world.proc.committed() + room) * 4))
    world.guest.write_file("/proc/sys/vm/overcommit_memory", "2")
    return call(world.server, big, 1024)


@case("max_map_count")
def too_many(world, room=-1):
    world.guest.write_file("/proc/sys/vm/max_map_count", str(counters(world)["map_count"] + room))
    return call(world.server, world.buf, 4)


# --- the limits: what just fits, and what is lost ---------------------------------------------------------------------

@pytest.mark.parametrize("arrange", [functools.partial(rlimit, resource=RLIMIT_AS, counter="total_vm", room=4),
                                     functools.partial(rlimit, resource=RLIMIT_DATA, counter="data_vm", room=4),
                                     functools.partial(too_many, room=0)],
                         ids=["RLIMIT_AS", "RLIMIT_DATA", "max_map_count"])
def test_the_last_that_fits(world, arrange):
    world.consumer.process_vm_mmap(**arrange(world))
    with expect(ENOMEM):
        world.consumer.process_vm_mmap(world.server, world.buf, pages=4)


def test_overcommit_counts_every_page_once(world):
    arguments = overcommit(world)
    before = world.proc.committed()
    with expect(ENOMEM):
        world.consumer.process_vm_mmap(**arguments)
    assert world.proc.committed() == before
    world.consumer.process_vm_mmap(**arguments | {"pages": 256})
    assert world.proc.committed() == before + 256


def test_what_fixed_replaces_does_not_count(lab, world):
    old = world.consumer.mmap(pages=4)
    world.consumer.limit(RLIMIT_AS, counters(world)["total_vm"] * PAGE)
    assert world.consumer.process_vm_mmap(world.server, world.buf, pages=4, dst_addr=old, flags=FIXED) == old


@pytest.mark.kernels("v3")
def test_what_fixed_replaces_makes_room_for_its_charge(world):
    """v2 gives the old charge back and takes a new one, which a counter that is not exact may refuse."""
    old = world.consumer.mmap(pages=1024)
    arguments = overcommit(world, room=0)
    before = world.proc.committed()
    with expect(ENOMEM):
        world.consumer.process_vm_mmap(**arguments)
    assert world.consumer.process_vm_mmap(**arguments | {"dst_addr": old, "flags": FIXED}) == old
    assert world.proc.committed() == before


def test_what_fixed_replaces_makes_room_for_a_mapping(world):
    old = world.consumer.mmap(pages=4)
    arguments = too_many(world, room=-1)
    with expect(ENOMEM):
        world.consumer.process_vm_mmap(**arguments)
    assert world.consumer.process_vm_mmap(**arguments | {"dst_addr": old, "flags": FIXED}) == old


@pytest.mark.parametrize("name", LEFT)
def test_what_a_refusal_leaves(world, answer, name):
    """Three pages of four would go, and one behind them be mapped."""
    consumer = world.consumer
    old = consumer.mmap(pages=8)
    consumer.munmap(old + 4 * PAGE, pages=4)
    consumer.stamp(old, 4, first=100)
    forbid(world, old, name)
    was = consumer.read(old, 4 * PAGE), world.proc.maps(consumer)
    with expect(answer(ANSWERS.get(name, ANSWERS["FIXED over a sealed mapping"]))):
        consumer.process_vm_mmap(world.server, world.buf, pages=4, dst_addr=old + PAGE, flags=FIXED)
    now = [place for place in world.proc.maps(consumer) if old <= place[0] < old + 5 * PAGE]
    if answer(LEFT[name]) == "gone":
        assert [place[:2] for place in now] == [(old, old + PAGE)]
    else:
        assert consumer.read(old, 4 * PAGE) == was[0]
        assert (world.proc.maps(consumer) == was[1]) == (answer(LEFT[name]) == "whole")


def forbid(world, old, name):
    """Let a limit be met, or a seal, by the call that follows."""
    if name == "a seal further on":
        world.consumer.syscall("mseal", old + 3 * PAGE, PAGE, 0)
    elif name == "overcommit":
        overcommit(world, room=-512)
    else:
        ARRANGED[name](world, room=-1 if name == "max_map_count" else 0)


def test_a_destination_with_userfaultfd_is_replaced(lab, world):
    dst = world.consumer.mmap(pages=4)
    register(world.consumer, dst, 4, "MISSING")
    world.consumer.process_vm_mmap(world.server, world.buf, pages=4, dst_addr=dst, flags=FIXED)
    assert "UFFD_MISSING" not in lab.look().task("consumer").vma(dst).flags
    assert world.consumer.read(dst, 8) == world.server.read(world.buf, 8)


def test_nobody_holds_the_memory_of_a_dead_source(lab, kernel, world):
    """The caller waits until its unmapping was read by whoever monitors it. v2 keeps the source's mm meanwhile."""
    world.server.touch(world.server.mmap(pages=1000), 1000, write=True)
    dst = world.consumer.mmap(pages=4)
    register(world.consumer, dst, 4, "MISSING", features=UFFD_FEATURE_EVENT_UNMAP)
    waiting = world.consumer.start("process_vm_mmap", world.server, world.buf, pages=4, dst_addr=dst, flags=FIXED)
    lab.run_for(50)
    assert not waiting.done
    before = anonymous(lab)
    world.server.kill()
    lab.run_for(50)
    freed = before - anonymous(lab)
    world.consumer.kill()
    assert freed >= 1000 if kernel == "v3" else freed < 1000


def anonymous(lab):
    """Pages of anonymous memory, of all there is."""
    return int(re.search(rb"^AnonPages: +(\d+) kB", lab.guest.read_file("/proc/meminfo"), re.M)[1]) // 4


# --- no memory: every allocation fails in turn ------------------------------------------------------------------------

@pytest.fixture
def refusals(world):
    """Make the call with its first allocation failing, then with its second, … until one needs no more; yield at each
    refusal (Documentation/fault-injection/fault-injection.rst, fail-nth)."""
    guest, consumer = world.guest, world.consumer
    for kind in ("failslab", "fail_page_alloc"):
        guest.write_file(f"/sys/kernel/debug/{kind}/ignore-gfp-wait", "N")
        guest.write_file(f"/sys/kernel/debug/{kind}/verbose", "0")
    guest.write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0")
    fail_nth = f"/proc/{consumer.pid}/fail-nth"

    def each(buf, pages):
        for nth in range(1, 40):
            guest.write_file(fail_nth, str(nth))
            error = refused_or_undone(world, buf, pages, place=nth << 39)
            failed = guest.read_file(fail_nth) == b"0\n"
            guest.write_file(fail_nth, "0")
            if not failed:
                return
            if error:
                yield error
        pytest.fail("the call never came through")
    return each


def refused_or_undone(world, buf, pages, place):
    """Return the errno of a call, or None when it came through; its mapping is gone then."""
    try:
        world.consumer.process_vm_mmap(world.server, buf, pages=pages, dst_addr=place, flags=NOREPLACE)
    except GuestError as e:
        return e.errno
    world.consumer.munmap(place, pages=pages)


@pytest.mark.miscounts("v2")
def test_every_allocation_that_fails_is_enomem_and_leaves_nothing(world, refusals):
    before = world.proc.maps(world.consumer)
    errors = []
    for error in refusals(world.buf, 4):
        errors.append(error)
        assert world.proc.maps(world.consumer) == before
    assert len(errors) > 3 and set(errors) == {ENOMEM}


@pytest.mark.miscounts("v2")
def test_a_failed_copy_takes_pages_off_total_vm_on_v2(world, refusals, answer):
    """D4: they are unmapped, but had not been counted yet. (0 where no entry could be copied yet.)"""
    total = [counters(world)["total_vm"] for _ in refusals(world.buf, 4)]
    assert {after - before for before, after in zip(total, total[1:])} == answer(({0, -4}, {0}))


@pytest.mark.miscounts("v2")
def test_a_refusal_gives_back_charge_that_was_not_taken_on_v2(world, refusals, answer):
    """D5: shared memory was never charged to the mapping."""
    shared = world.server.mmap(pages=4, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    committed = [world.proc.committed()] + [world.proc.committed() for _ in refusals(shared, 4)]
    assert {after - before for before, after in zip(committed, committed[1:])} == answer(({-4}, {0}))


# --- what the series change elsewhere ---------------------------------------------------------------------------------

#: What mremap() is asked to do to the vDSO, and what it says to that on the unpatched kernel and on v3: v2 says EFAULT.
OF_VDSO = {
    "duplicated": ({"len": 0, "new_len": PAGE}, EINVAL),
    "grown": ({"pages": 1, "new_pages": 2}, EFAULT),
    "kept, past its end": ({"pages": 100, "flags": calls.MREMAP_MAYMOVE | calls.MREMAP_DONTUNMAP}, EINVAL),
}


@pytest.mark.kernels("base", "v2", "v3")
def test_mremap_cannot_grow_hugetlb(world, kernel):
    """EINVAL before v2, and on v3 again."""
    addr = hugetlb_page(world, world.server)
    with expect(EFAULT if kernel == "v2" else EINVAL):
        world.server.mremap(addr, len=HUGE, new_len=2 * HUGE)


@pytest.mark.kernels("base", "v2", "v3")
@pytest.mark.parametrize("how", OF_VDSO)
def test_mremap_says_of_the_vdso_what_it_said(world, kernel, how):
    asked, error = OF_VDSO[how]
    vdso = next(vma for vma in world.lab.look().task("server").mm.vmas if vma.name == "[vdso]")
    with expect(EFAULT if kernel == "v2" else error):
        world.server.mremap(vdso.vm_start, **asked)


def test_mremap_still_grows_ordinary_memory(world):
    moved = world.server.mremap(world.buf, pages=4, new_pages=8)
    assert world.server.read(moved + 3 * PAGE, 8) == (4).to_bytes(8, "little")
