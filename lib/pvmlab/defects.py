# SPDX-License-Identifier: MIT
"""Ten mistakes of v2, each shown on a real kernel by what is then read from its memory.

Adds: one function a mistake. Each takes a fresh Lab, makes it happen, and
returns Evidence: what was found, and the snapshots it was found in. On v3 the
same function finds nothing.
Leaves out: MIXEDMAP memory and shadow stacks, which belong to the ninth: they
need a driver and a processor that are not there, and stay claims by reading.

    with Lab(kernel="v2") as lab:
        print(d1(lab))

Races are not left to luck: stop points hold one CPU in the middle of the call.
The first and seventh need three CPUs, Lab(cpus=3); the second and third leave
a machine with a CPU that spins for ever.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import calls
from .diff import COLUMNS
from .errors import ExpectationFailed, GuestError, UsageError, errno_name
from .guest import Call, Task
from .lab import Lab
from .model import Hang, Snapshot

PAGE = calls.PAGE_SIZE
MADV_SOFT_OFFLINE = 101             # include/uapi/asm-generic/mman-common.h
MAP_DROPPABLE = 0x08
RLIMIT_AS = 9                       # include/uapi/asm-generic/resource.h
PR_SET_DUMPABLE = 4                 # include/uapi/linux/prctl.h


@dataclass(frozen=True)
class Evidence:
    """What one experiment found.

    defect: "D1" to "D10"; found: {what the mistake does: whether it was seen};
    words: what was read; snapshots: in order, for steps(); hang: where a call
    got stuck, if one did; console: the kernel's last lines.
    """

    defect: str
    found: Mapping[str, bool]
    words: str
    snapshots: tuple[Snapshot, ...] = ()
    hang: Hang | None = None
    console: str = ""

    @property
    def shown(self) -> bool:
        """Whether all of it was seen."""
        return all(self.found.values())

    @property
    def gone(self) -> bool:
        """Whether nothing of it was seen."""
        return not any(self.found.values())

    def __str__(self) -> str:
        rows = [f"  {'yes' if seen else 'no ':3}  {what}" for what, seen in self.found.items()]
        return "\n".join(line for row in (*f"{self.defect}: {self.words}".splitlines(), *rows)
                         for line in textwrap.wrap(row, COLUMNS, subsequent_indent=" " * 7))

    __repr__ = __str__


def _evidence(lab: Lab, defect: str, found: dict[str, bool], words: str, *snapshots: Snapshot,
              hang: Hang | None = None) -> Evidence:
    return Evidence(defect, MappingProxyType(found), words, snapshots, hang, lab.console())


def _stamped(task: Task, pages: int, first: int = 1) -> int:
    """Map anonymous memory and write a number to each page."""
    addr = task.mmap(pages=pages)
    task.stamp(addr, pages, first=first)
    return addr


def _refusal(call: Callable[[], object]) -> int:
    """Make a call; return the errno it is refused with, 0 when it is not."""
    try:
        call()
    except GuestError as e:
        return e.errno
    return 0


def _need_cpus(lab: Lab, name: str) -> None:
    if lab.config.cpus < 3:
        raise UsageError(f"{name}() on {lab.config.cpus} CPUs", "the race takes two, and the agent lives on the first",
                         'Lab(kernel="v2", cpus=3)')


# --- D1: the source's TLB is not flushed ------------------------------------------------------------------------------

def d1(lab: Lab) -> Evidence:
    """A thread of the source goes on writing into the page the caller believes is its own copy.

    The thread stores on CPU 2 without a pause, and nothing else runs there: CPU 2 has a writable translation, which
    only a flush takes away. The call is held on CPU 1 before it copies, until the thread has stored there.
    """
    _need_cpus(lab, "d1")
    server, consumer = lab.tasks("server", "consumer")
    buf = _stamped(server, 1)
    writer = server.thread("writer")
    writer.pin(2)
    consumer.pin(1)
    before = lab.look("before")
    writer.start("write_loop", buf)
    with lab.stop_at("copy_page_range", task=consumer) as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=1)
        stop.wait()
        _next_number(lab, lab.look(inside=True).task("server").pte(buf).pfn)
    dst = call.wait()
    first = lab.look("the call is over", inside=True)
    frame = first.task("consumer").pte(dst).pfn
    one, two = _next_number(lab, frame)
    second = lab.look("a little later", inside=True)
    read_only = not any(mm.entries.at(addr).writable for seen in (first, second) for mm, addr in seen.mapped(frame))
    words = (f"the frame that the caller's clone maps held {one} when the call was over, and {two} a little later; "
             f"{'no' if read_only else 'an'} entry that maps it allows a write")
    found = {"a late write appears in the copy": read_only and one != two}
    return _evidence(lab, "D1", found, words, before, first, second)


def _next_number(lab: Lab, pfn: int) -> tuple[int, int]:
    """Return the number in a frame, and what it is after a write, or after a fifth of a second without one."""
    def number() -> int:
        return int.from_bytes(lab.read_frame(pfn, 8), "little")
    was = number()
    _run_until(lab, lambda: number() != was)
    return was, number()


def _run_until(lab: Lab, come: Callable[[], bool], tries: int = 40) -> bool:
    """Let the machine run until something has come, 5 ms each try; return whether it did. It may never come."""
    for _ in range(tries):
        lab.run_for(5)
        if come():
            return True
    return False


# --- D2: the same lock twice ------------------------------------------------------------------------------------------

def d2(lab: Lab, who: str = "self") -> Evidence:
    """The caller is the source's own: "self", a "thread" or a "vfork child". One page-table lock is taken twice."""
    (task,) = lab.tasks("task")
    buf = _stamped(task, 4)
    caller = {"self": lambda: task, "thread": lambda: task.thread("thread"),
              "vfork child": lambda: task.vfork_child("child")}[who]()
    before = lab.look("before")
    call = caller.start("process_vm_mmap", task, buf, pages=4)
    hang = lab.hang(call)
    words = str(hang) if hang else f"{call.text}: {_end(call)}"
    seen = (before, hang.seen) if hang else (before,)
    return _evidence(lab, "D2", {f"the call on {who} never ends": hang is not None}, words, *seen, hang=hang)


def _end(call: Call) -> str:
    """Say how a call ended."""
    try:
        return hex(call.wait())
    except GuestError as e:
        return e.name


# --- D3: the source is freed, then used -------------------------------------------------------------------------------

def d3(lab: Lab) -> Evidence:
    """The caller maps its own memory over itself (FIXED): the source is unmapped, then copied.

    VMAs are freed by RCU, so the plain kernel does not notice: it copies a VMA that is marked as detached, and the data
    is gone. A debug kernel (KASAN) names the use after free.
    """
    (task,) = lab.tasks("task")
    buf = _stamped(task, 4)
    before = lab.look("before")
    call = task.start("process_vm_mmap", task, buf, pages=4, dst_addr=buf, flags=calls.PVMMAP_FIXED)
    result = _end(call)
    after = lab.look("after")
    lost = [addr for addr in range(buf, buf + 4 * PAGE, PAGE) if after.task("task").pte(addr) is None]
    touch = task.start("touch", buf)
    hang = lab.hang(touch)
    words = f"the call says {result}; {len(lost)} of 4 pages are gone" + (f"; then {hang}" if hang else "")
    found = {"the source's data is lost": bool(lost), "the first touch of it never ends": hang is not None}
    return _evidence(lab, "D3", found, words, before, after, hang=hang)


# --- D4 and D5: what is taken back was never given --------------------------------------------------------------------

def d4(lab: Lab) -> Evidence:
    """A copy that fails unmaps pages that total_vm does not count yet."""
    server, consumer = lab.tasks("server", "consumer")
    for before, after in _refused_by_nth(lab, consumer, server, _stamped(server, 256), 256):
        was, now = (seen.task("consumer").mm.counters["total_vm"] for seen in (before, after))
        if was != now:
            break
    minus = f", that is {now - (1 << 64)}" if now >> 63 else ""
    words = f"the call failed, and total_vm of {was} pages is {now}{minus}"
    return _evidence(lab, "D4", {"total_vm underflows": now >> 63 == 1}, words, before, after)


def d5(lab: Lab) -> Evidence:
    """A failed call gives back a commit charge; for shared memory none was taken."""
    server, consumer = lab.tasks("server", "consumer")
    buf = server.mmap(pages=64, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    server.stamp(buf, 64)
    for before, after in _refused_by_nth(lab, consumer, server, buf, 64):
        was, now = (seen.counters["Committed_AS"] for seen in (before, after))
        if was != now:
            break
    words = f"the call failed, and Committed_AS went from {was} to {now} pages"
    return _evidence(lab, "D5", {"Committed_AS falls": now < was}, words, before, after)


def _refused_by_nth(lab: Lab, caller: Task, source: Task, buf: int, pages: int) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Let the call's first allocation fail, then its second, …; yield looks before and after each refusal.

    It is made to another address each time, so that page tables are allocated, and undone when it comes through.
    Documentation/fault-injection/fault-injection.rst: fail-nth.
    """
    for kind in ("failslab", "fail_page_alloc"):
        lab.guest.write_file(f"/sys/kernel/debug/{kind}/ignore-gfp-wait", "N")
        lab.guest.write_file(f"/sys/kernel/debug/{kind}/verbose", "0")
    lab.guest.write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0")
    for nth in range(1, 40):
        before = lab.look("before")
        lab.guest.write_file(f"/proc/{caller.pid}/fail-nth", str(nth))
        refused = _refusal(lambda: caller.process_vm_mmap(source, buf, pages=pages, dst_addr=nth << 39,
                                                          flags=calls.PVMMAP_FIXED_NOREPLACE))
        used = lab.guest.read_file(f"/proc/{caller.pid}/fail-nth") == b"0\n"
        lab.guest.write_file(f"/proc/{caller.pid}/fail-nth", "0")
        if refused:
            yield before, lab.look(f"refused: {errno_name(refused)}")
            continue
        caller.munmap(nth << 39, pages=pages)
        if not used:
            return
    raise ExpectationFailed("fail-nth", "the call needed 40 allocations and more", "clone less")


# --- D6: a page that the reverse map cannot find ----------------------------------------------------------------------

def d6(lab: Lab) -> Evidence:
    """A clone of a KSM page at another address: rmap_walk_ksm() looks at the first address only.

    The walk over the snapshot misses the clone's entry, and so does the kernel: asked to migrate the page away
    (MADV_SOFT_OFFLINE), it cannot unmap it.
    """
    server, consumer = lab.tasks("server", "consumer")
    buf = server.mmap(pages=2)
    server.stamp(buf, 2, first=4711, step=0)
    _merge(lab, server, buf, 2)
    before = lab.look("merged")
    dst = consumer.process_vm_mmap(server, buf, pages=2)
    after = lab.look("cloned")
    pfn = after.task("consumer").pte(dst).pfn
    missed = after.rmap(pfn).missed
    refused = _refusal(lambda: consumer.madvise(dst, MADV_SOFT_OFFLINE, pages=1))
    found = {"the walk misses an entry that maps the page": ("consumer", dst) in missed,
             "the kernel cannot migrate the page": errno_name(refused) == "EBUSY"}
    says = errno_name(refused) if refused else "it is done"
    words = f"the walk misses {len(missed)} entries; MADV_SOFT_OFFLINE says {says}"
    return _evidence(lab, "D6", found, words, before, after, lab.look("after the try to migrate"))


def _merge(lab: Lab, task: Task, addr: int, pages: int) -> None:
    """Let KSM merge pages of the same content."""
    task.madvise(addr, calls.MADV_MERGEABLE, pages=pages)
    lab.ksm(True)
    for _ in range(200):
        if int(lab.guest.read_file("/sys/kernel/mm/ksm/pages_sharing")) >= pages - 1:
            break
        lab.run_for(20)
    lab.ksm(False)


# --- D7: an rmap walk passes by too early -----------------------------------------------------------------------------

def d7(lab: Lab) -> Evidence:
    """The clone merges into an older VMA, which the reverse map visits before the source: entries come too late for it.

    Held in turn: the source's page is about to be migrated (try_to_migrate(), CPU 2); the clone has merged and has no
    entries yet (copy_page_range(), CPU 1). The migration writes its entry into the source, moves the page, passes the
    clone, and is held before it comes to the source again: now the clone gets a copy of the migration entry, and
    nobody will ever take it away.
    """
    _need_cpus(lab, "d7")
    server, consumer = lab.tasks("server", "consumer")
    buf = _stamped(server, 4)
    dst = consumer.mmap(pages=4)
    consumer.munmap(dst, pages=4)           # room
    consumer.process_vm_mmap(server, buf, pages=1, dst_addr=dst, flags=calls.PVMMAP_FIXED_NOREPLACE)
    server.munmap(buf, pages=1)             # the source's VMA begins behind the clone's first page: it is visited later
    consumer.pin(1)
    server.pin(2)
    before = lab.look("before")
    with (lab.stop_at("try_to_migrate", task=server) as migrate, lab.stop_at("copy_page_range", task=consumer) as copy,
          lab.stop_at("remove_migration_pte", task=server, nth=2) as restore):
        moving = server.start("madvise", buf + PAGE, MADV_SOFT_OFFLINE, pages=1)
        migrate.wait()
        clone = consumer.start("process_vm_mmap", server, buf + PAGE, pages=1, dst_addr=dst + PAGE,
                               flags=calls.PVMMAP_FIXED_NOREPLACE)
        copy.wait()
        merged = lab.look("the VMA is there, its entries are not", inside=True)
        migrate.go_on()
        restore.wait()
        between = lab.look("migrated; the source's entry is not yet put back", inside=True)
        copy.go_on()
        _run_until(lab, lambda: clone.done)     # a call that flushes the source's TLB waits for CPU 2 now
        restore.go_on()
    clone.wait()
    moving.wait()
    after = lab.look("both calls are over")
    left = after.task("consumer").pte(dst + PAGE)
    stays = left is not None and left.swap is not None and left.swap.kind.startswith("migration")
    kind = left.swap.kind if left and left.swap else "an ordinary one"
    words = f"both calls are over, and the clone's entry is {kind}"
    return _evidence(lab, "D7", {"a migration entry is left behind": stays}, words, before, merged, between, after)


# --- D8: the destination is destroyed first ---------------------------------------------------------------------------

def d8(lab: Lab) -> Evidence:
    """A call that fails at a limit has unmapped what was at its destination (FIXED)."""
    server, consumer = lab.tasks("server", "consumer")
    buf = _stamped(server, 8)
    old = _stamped(consumer, 8, first=1000)
    consumer.munmap(old + 4 * PAGE, pages=4)
    before = lab.look("before")
    size = before.task("consumer").mm.counters["total_vm"] * PAGE
    limit = calls.new("struct rlimit64 *", {"rlim_cur": size, "rlim_max": size})
    consumer.syscall("prlimit64", 0, RLIMIT_AS, limit, None)
    refused = _refusal(lambda: consumer.process_vm_mmap(server, buf, pages=8, dst_addr=old, flags=calls.PVMMAP_FIXED))
    after = lab.look("refused")
    lost = not any(after.task("consumer").pte(old + i * PAGE) for i in range(4))
    words = f"the call says {errno_name(refused)}; of 4 pages at its destination, {0 if lost else 4} are left"
    return _evidence(lab, "D8", {"what was at the destination is gone": lost and refused != 0}, words, before, after)


# --- D9: what should not be cloned ------------------------------------------------------------------------------------

def d9(lab: Lab) -> Evidence:
    """Memory that its owner keeps from others, or that works in one process only, is cloned all the same."""
    server, consumer = lab.tasks("server", "consumer")
    found, words = {}, []
    for kind, make in _PRIVATE.items():
        addr = make(server)
        refused = _refusal(lambda: consumer.process_vm_mmap(server, addr, pages=1))
        found[f"{kind} is cloned"] = not refused
        words.append(f"{kind}: {errno_name(refused) if refused else 'mapped'}")
    return _evidence(lab, "D9", found, ", ".join(words), lab.look("after"))


def _secret(task: Task) -> int:
    fd = task.syscall("memfd_secret", 0)
    task.syscall("ftruncate", fd, PAGE)
    addr = task.mmap(pages=1, fd=fd, flags=calls.MAP_SHARED)
    task.stamp(addr, 1)
    return addr


def _advised(advice: int) -> Callable[[Task], int]:
    def make(task: Task) -> int:
        addr = _stamped(task, 1)
        task.madvise(addr, advice, pages=1)
        return addr
    return make


def _droppable(task: Task) -> int:
    addr = task.mmap(pages=1, flags=MAP_DROPPABLE | calls.MAP_ANONYMOUS)
    task.stamp(addr, 1)
    return addr


def _keyed(task: Task) -> int:
    addr = _stamped(task, 1)
    key = task.syscall("pkey_alloc", 0, 0)
    task.syscall("pkey_mprotect", addr, PAGE, calls.PROT_READ | calls.PROT_WRITE, key)
    return addr


_PRIVATE: Mapping[str, Callable[[Task], int]] = MappingProxyType({
    "memfd_secret memory": _secret, "MADV_DONTFORK memory": _advised(calls.MADV_DONTFORK),
    "MADV_WIPEONFORK memory": _advised(calls.MADV_WIPEONFORK), "MAP_DROPPABLE memory": _droppable,
    "memory with a protection key": _keyed})


# --- D10: how it says no, and how it waits ----------------------------------------------------------------------------

def d10(lab: Lab) -> Evidence:
    """Error numbers that say little or nothing, and a wait that even SIGKILL does not end."""
    server, consumer, other = lab.tasks("server", "consumer", "other")
    found = {f"{what} is {errno_name(number)}": _refusal(lambda: make(server, consumer, _stamped(server, 4))) == number
             for what, (number, make) in _ANSWERS.items()}
    rounds = _dead_after(lab, server, other)
    found["a killed waiter stays"] = rounds is None
    words = "a killed waiter " + (
        f"still waited when the machine had answered {_ROUNDS} other requests, and went when the lock was free"
        if rounds is None else f"was gone when the machine had answered {rounds} other requests")
    return _evidence(lab, "D10", found, words, lab.look("after"))


def _sealed(server: Task, consumer: Task, buf: int) -> None:
    old = _stamped(consumer, 4)
    consumer.syscall("mseal", old, 4 * PAGE, 0)
    consumer.process_vm_mmap(server, buf, pages=4, dst_addr=old, flags=calls.PVMMAP_FIXED)


def _watched(server: Task, consumer: Task, buf: int) -> None:
    uffd = calls.constants()
    fd = server.syscall("userfaultfd", 0)
    server.syscall("ioctl", fd, uffd["UFFDIO_API"], calls.new("struct uffdio_api *", {"api": uffd["UFFD_API"]}))
    server.syscall("ioctl", fd, uffd["UFFDIO_REGISTER"], calls.new("struct uffdio_register *", {
        "range": {"start": buf, "len": 4 * PAGE}, "mode": uffd["UFFDIO_REGISTER_MODE_MISSING"]}))
    consumer.process_vm_mmap(server, buf, pages=4)


def _grown(server: Task, consumer: Task, buf: int) -> None:
    server.guest.write_file("/proc/sys/vm/nr_hugepages", "1")
    addr = server.mmap(len=2 << 20, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_HUGETLB)
    server.mremap(addr, len=2 << 20, new_len=4 << 20)


def _strangers(server: Task, consumer: Task, buf: int) -> None:
    for task, uid in ((server, 1001), (consumer, 1000)):
        task.syscall("setresuid", uid, uid, uid)
        task.syscall("prctl", PR_SET_DUMPABLE, 1)
    consumer.process_vm_mmap(server, buf, pages=4)


#: In this order: the last one gives up root. Of each, what v2 answers.
_ANSWERS = MappingProxyType({
    "the answer to a sealed destination": (12, _sealed), "the answer to a source with userfaultfd": (524, _watched),
    "mremap()'s answer when hugetlb is to grow": (14, _grown),
    "the answer about another user's process": (13, _strangers)})
#: How many answers of the kernel to others a killed waiter has to outlive.
_ROUNDS = 200


def _dead_after(lab: Lab, server: Task, waiter: Task) -> int | None:
    """Kill a task that waits for the source's mmap_lock; return after how many answers it was dead, or None.

    Counted in what the guest does: time says nothing in an emulated machine.
    """
    spare, buf = server.mmap(pages=1), _stamped(server, 4)
    waiter.pin(0)
    with lab.stop_at("do_vmi_munmap", task=server) as stop:
        munmap = server.start("munmap", spare, pages=1)
        stop.wait()                                             # with the server's mmap_lock
        waiter.start("process_vm_mmap", server, buf, pages=4)
        if not _run_until(lab, lambda: any(p.function.startswith("rwsem_down") for p in lab.stack(waiter)), tries=2000):
            raise ExpectationFailed("a waiter for the source's mmap_lock", "the call does not come to wait",
                                    "start a new Lab")
        waiter.kill(wait=False)
        dead = next((n for n in range(_ROUNDS) if not waiter.alive), None)
    munmap.wait()
    waiter.join()
    return dead


DEFECTS: Mapping[str, Callable[[Lab], Evidence]] = MappingProxyType({
    "D1": d1, "D2": d2, "D3": d3, "D4": d4, "D5": d5, "D6": d6, "D7": d7, "D8": d8, "D9": d9, "D10": d10})
