# SPDX-License-Identifier: MIT
"""What look() reads from outside, against what the guest's kernel says of itself.

The oracles are the files of the guest's own /proc and cgroup: maps, smaps,
pagemap, kpagecount, kpageflags, status, vmstat, memory.current. None of them
comes from the readers' code.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from types import SimpleNamespace

import pytest

from pvmlab import Lab, calls, diff
from pvmlab.kernel import VM_FLAGS

PAGE = 4096
HUGE = 1 << 21
ANY = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS
READ_WRITE = calls.PROT_READ | calls.PROT_WRITE
#: What must never be in the console after a test.
TROUBLE = re.compile(r"WARNING:|BUG:|Oops|Bad rss-counter|Bad page|INFO: possible|Call Trace")


@pytest.fixture
def machine_lab():
    with Lab(kernel="v2") as lab:
        yield lab
        assert not TROUBLE.search(lab.machine.console_text()), lab.console()


# --- the oracles ------------------------------------------------------------------------------------------------------

def text(lab, path):
    return lab.guest.read_file(path).decode()


def words64(lab, path, first=0, count=None):
    """A file of 64-bit numbers from the guest's /proc."""
    data = lab.guest.read_file(path, offset=8 * first, length=None if count is None else 8 * count)
    return struct.unpack(f"<{len(data) // 8}Q", data)


MAPS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)")


def maps(lab, task):
    """/proc/PID/maps as (start, end, prot, offset, dev, inode, name)."""
    found = (MAPS.fullmatch(line).groups() for line in text(lab, f"/proc/{task.pid}/maps").splitlines())
    return [(int(start, 16), int(end, 16), prot, int(offset, 16), dev, int(inode), name)
            for start, end, prot, offset, dev, inode, name in found]


def smaps(lab, task):
    """/proc/PID/smaps as {vm_start: {field: kB, or the list of VmFlags}}."""
    areas: dict[int, dict] = {}
    for line in text(lab, f"/proc/{task.pid}/smaps").splitlines():
        if head := MAPS.fullmatch(line):
            area = areas[int(head[1], 16)] = {}
        elif line.startswith("VmFlags:"):
            area["VmFlags"] = line.split()[1:]
        else:
            name, value = line.split(":")
            area[name] = int(value.split()[0])
    return areas


def pagemap(lab, task, vma):
    return words64(lab, f"/proc/{task.pid}/pagemap", vma.vm_start // PAGE, vma.pages)


def table(lab, path, sep=None):
    """A file of "name value" lines as numbers."""
    rows = (line.replace(":", "").split(sep) for line in text(lab, path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].lstrip("-").isdigit()}


# --- one world with every kind of memory --------------------------------------------------------------------------------

def huge_area(task, blocks=1):
    """Address space for whole huge pages, with MADV_HUGEPAGE and nothing else beside it."""
    raw = task.mmap(pages=512 * (blocks + 1))
    start = -(-raw // HUGE) * HUGE
    task.madvise(start, calls.MADV_HUGEPAGE, len=blocks * HUGE)
    return start


def furnish(server):
    """Map and touch one of every kind; return where each lies."""
    at = SimpleNamespace(pages=SimpleNamespace())
    at.anon = server.mmap(pages=8)                     # 3 written, 2 only read, 3 never touched
    server.stamp(at.anon, 3)
    server.touch(at.anon + 3 * PAGE, 2)
    at.never = server.mmap(pages=4, prot=calls.PROT_READ)
    at.none = server.mmap(pages=4)
    server.stamp(at.none, 3, first=77)
    server.mprotect(at.none, calls.PROT_NONE, pages=4)
    at.none_never = server.mmap(pages=2, prot=calls.PROT_NONE, flags=ANY | calls.MAP_NORESERVE)
    at.locked = server.mmap(pages=3)
    server.syscall("mlock", at.locked, 3 * PAGE)
    at.on_fault = server.mmap(pages=3)
    server.syscall("mlock2", at.on_fault, 3 * PAGE, 1)
    server.touch(at.on_fault, write=True)
    furnish_files(server, at)
    at.shared = server.mmap(pages=6, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    server.stamp(at.shared, 4, first=500)
    at.huge = huge_area(server)
    server.touch(at.huge, write=True)
    at.huge_split = huge_area(server)
    server.touch(at.huge_split, write=True)
    server.mprotect(at.huge_split, calls.PROT_READ, pages=8)
    at.huge_zero = huge_area(server)
    server.touch(at.huge_zero)
    at.swapped = server.mmap(pages=8)
    server.stamp(at.swapped, 8, first=9000)
    server.madvise(at.swapped, calls.MADV_PAGEOUT, pages=8)
    server.touch(at.swapped, 2)
    furnish_flags(server, at)
    return at


def furnish_files(server, at):
    memfd = server.memfd("segment")
    server.syscall("ftruncate", memfd, 16 * PAGE)
    at.memfd = server.mmap(pages=4, fd=memfd, flags=calls.MAP_SHARED, offset=2 * PAGE)
    server.stamp(at.memfd, 3, first=40)
    at.memfd_private = server.mmap(pages=4, fd=memfd, offset=2 * PAGE)
    server.touch(at.memfd_private, 2)
    server.touch(at.memfd_private + PAGE, 1, write=True)
    file = server.open("/tmp/plain file", 0o102)     # O_RDWR | O_CREAT
    server.syscall("ftruncate", file, 8 * PAGE)
    at.file = server.mmap(pages=8, fd=file, prot=calls.PROT_READ)
    server.touch(at.file, 2)
    gone = server.open("/tmp/gone", 0o102)
    server.syscall("ftruncate", gone, PAGE)
    server.mmap(pages=1, fd=gone)
    server.syscall("unlink", "/tmp/gone")
    at.file_shared = server.mmap(pages=2, fd=file, flags=calls.MAP_SHARED, offset=PAGE)
    server.touch(at.file_shared, 2, write=True)


#: madvise() advice and the flag it leaves on the VMA.
ADVICE = {calls.MADV_RANDOM: "RAND_READ", calls.MADV_SEQUENTIAL: "SEQ_READ", calls.MADV_DONTFORK: "DONTCOPY",
          calls.MADV_WIPEONFORK: "WIPEONFORK", 16: "DONTDUMP", calls.MADV_HUGEPAGE: "HUGEPAGE",
          calls.MADV_NOHUGEPAGE: "NOHUGEPAGE", calls.MADV_MERGEABLE: "MERGEABLE"}


def furnish_flags(server, at):
    """One small VMA for each flag that a task can set, so that no name of VM_FLAGS is only believed."""
    at.flags = {}
    for advice, name in ADVICE.items():
        at.flags[name] = server.mmap(pages=2)
        server.mmap(pages=1, prot=calls.PROT_NONE)   # so that they do not merge
        server.madvise(at.flags[name], advice, pages=2)
    at.flags["SEALED"] = server.mmap(pages=2)
    server.syscall("mseal", at.flags["SEALED"], 2 * PAGE, 0)
    at.flags["EXEC"] = server.mmap(pages=1, prot=calls.PROT_READ | calls.PROT_EXEC)
    at.flags["GROWSDOWN"] = server.mmap(pages=1, flags=ANY | calls.MAP_GROWSDOWN)
    at.flags["DROPPABLE"] = server.mmap(pages=1, flags=calls.MAP_ANONYMOUS | 0x08)
    key = server.syscall("pkey_alloc", 0, 0)
    at.flags["PKEY_BIT0"] = server.mmap(pages=1)
    server.syscall("pkey_mprotect", at.flags["PKEY_BIT0"], PAGE, READ_WRITE, key)
    at.flags["UFFD_MISSING"] = server.mmap(pages=1)
    at.flags["UFFD_WP"] = server.mmap(pages=1)
    at.flags["UFFD_MINOR"] = server.mmap(pages=1, flags=calls.MAP_SHARED | calls.MAP_ANONYMOUS)
    c = calls.constants()
    uffd = server.syscall("userfaultfd", c["UFFD_USER_MODE_ONLY"])
    server.syscall("ioctl", uffd, c["UFFDIO_API"], calls.new("struct uffdio_api *", {"api": c["UFFD_API"]}))
    for name, mode in (("UFFD_MISSING", 1), ("UFFD_WP", 2), ("UFFD_MINOR", 4)):
        area = calls.new("struct uffdio_register *", {"range": {"start": at.flags[name], "len": PAGE}, "mode": mode})
        server.syscall("ioctl", uffd, c["UFFDIO_REGISTER"], area)


@pytest.fixture(scope="module")
def world():
    """A server with everything, its forked child that has written a little, and a consumer with clones."""
    with Lab(kernel="v2") as lab:
        lab.swap(64 << 20)
        lab.thp("madvise")
        lab.guest.write_file("/proc/sys/kernel/yama/ptrace_scope", "0")
        server, consumer = lab.tasks("server", "consumer")
        at = furnish(server)
        child = server.fork("child")
        child.touch(at.anon, 1, write=True)
        child.touch(at.shared + 4 * PAGE, 1, write=True)
        child.touch(at.swapped + 4 * PAGE)             # both have its swap entry, so it stays in the swap cache
        server.touch(at.anon + 6 * PAGE, 1, write=True)
        at.clone = consumer.process_vm_mmap(server, at.anon, pages=8)
        consumer.process_vm_mmap(server, at.swapped, pages=8)
        consumer.process_vm_mmap(server, at.memfd, pages=4)
        consumer.touch(at.clone, 1, write=True)
        yield SimpleNamespace(lab=lab, server=server, child=child, consumer=consumer, at=at)
        assert not TROUBLE.search(lab.machine.console_text()), lab.console()


TASKS = ("server", "child", "consumer")
each_task = pytest.mark.parametrize("name", TASKS)


def task_and_seen(world, name):
    return getattr(world, name), world.lab.look().task(name)


# --- VMAs ---------------------------------------------------------------------------------------------------------------

@each_task
def test_vmas_are_those_of_maps(world, name):
    task, seen = task_and_seen(world, name)
    ours = [(v.vm_start, v.vm_end, v.prot, v.vm_pgoff * PAGE if v.file else 0, v.dev, v.inode, v.name)
            for v in seen.mm.vmas]
    assert ours == [row for row in maps(world.lab, task) if row[-1] != "[vsyscall]"]


#: fs/proc/task_mmu.c, show_smap_vma_flags(); "" for what smaps does not print there.
MNEMONICS = dict(
    READ="rd", WRITE="wr", EXEC="ex", SHARED="sh", MAYREAD="mr", MAYWRITE="mw", MAYEXEC="me", MAYSHARE="ms",
    GROWSDOWN="gd", PFNMAP="pf", LOCKED="lo", IO="io", SEQ_READ="sr", RAND_READ="rr", DONTCOPY="dc", DONTEXPAND="de",
    LOCKONFAULT="lf", ACCOUNT="ac", NORESERVE="nr", HUGETLB="ht", SYNC="sf", WIPEONFORK="wf", DONTDUMP="dd",
    SOFTDIRTY="sd", MIXEDMAP="mm", HUGEPAGE="hg", NOHUGEPAGE="nh", MERGEABLE="mg", UFFD_MISSING="um", UFFD_WP="uw",
    UFFD_MINOR="ui", SHADOW_STACK="ss", DROPPABLE="dp", FORKED="fk", SEALED="sl",
    PKEY_BIT0="", PKEY_BIT1="", PKEY_BIT2="", PKEY_BIT3="")


def test_every_flag_has_its_mnemonic():
    assert set(MNEMONICS) == set(VM_FLAGS.values())


@each_task
def test_flags_are_those_of_smaps(world, name):
    task, seen = task_and_seen(world, name)
    told = smaps(world.lab, task)
    for vma in seen.mm.vmas:
        assert [m for flag in vma.flags if (m := MNEMONICS[flag])] == told[vma.vm_start]["VmFlags"], vma
        assert told[vma.vm_start]["ProtectionKey"] == vma.vm_flags >> 32 & 15


def test_each_flag_was_really_there(world):
    seen = world.lab.look().task("server")
    assert {name for name, addr in world.at.flags.items() if name not in seen.vma(addr).flags} == set()


def test_stack_and_vdso_have_their_names(world):
    names = {vma.name for vma in world.lab.look().task("server").mm.vmas}
    assert {"[stack]", "[vdso]", "[vvar]", "/memfd:segment (deleted)", "/tmp/plain file", "/dev/zero (deleted)"} <= names


# --- entries ------------------------------------------------------------------------------------------------------------

SOFT_DIRTY, EXCLUSIVE, UFFD_WP, FILE, SWAP, PRESENT = (1 << bit for bit in (55, 56, 57, 61, 62, 63))


def expected_pagemap(seen, snapshot, vma, addr):
    """The 64 bits that /proc/PID/pagemap owes us for what the readers saw (fs/proc/task_mmu.c, pte_to_pagemap_entry)."""
    pte = seen.pte(addr)
    value = SOFT_DIRTY if "SOFTDIRTY" in vma.flags else 0
    if pte is None:
        return value
    value |= SOFT_DIRTY if "SOFT_DIRTY" in pte.flags else 0
    if pte.swap:
        return value | SWAP | pte.swap.type | pte.swap.offset << 5 | FILE * (pte.swap.kind != "swap")
    value |= PRESENT | pte.pfn_at(addr)
    page = snapshot.pages.get(pte.pfn_at(addr))
    if page is None or "SPECIAL" in pte.flags:      # vm_normal_page() has none
        return value
    value |= FILE if page.kind not in ("anon", "ksm") else 0
    return value | EXCLUSIVE if page.mapcount == 1 else value


@each_task
def test_entries_are_those_of_pagemap(world, name):
    task, snapshot = getattr(world, name), world.lab.look()
    seen = snapshot.task(name)
    for vma in seen.mm.vmas:
        ours = [expected_pagemap(seen, snapshot, vma, addr) for addr in range(vma.vm_start, vma.vm_end, PAGE)]
        told = list(pagemap(world.lab, task, vma))
        different = [(hex(vma.vm_start + i * PAGE), hex(a), hex(b)) for i, (a, b) in enumerate(zip(ours, told)) if a != b]
        assert not different, (vma.name, vma.prot, seen.pte(int(different[0][0], 16)), different[:4])


@each_task
def test_no_entry_lies_outside_the_vmas(world, name):
    _, seen = task_and_seen(world, name)
    assert [e for e in seen.mm.entries if seen.mm.vma(e.addr) is None] == []


def test_the_world_holds_every_kind_of_entry(world):
    """Without this, an oracle could agree on nothing at all."""
    snapshot, at = world.lab.look(), world.at
    seen = snapshot.task("server")
    kind = lambda addr: snapshot.page(seen.pte(addr).pfn_at(addr)).kind  # noqa: E731
    assert kind(at.anon) == "anon" and kind(at.anon + 3 * PAGE) == "zero"
    assert seen.pte(at.never) is None and seen.pte(at.none_never) is None
    assert seen.pte(at.none).present and "P" not in seen.pte(at.none).flags
    assert seen.pte(at.huge).level == seen.pte(at.huge_zero).level == "pmd"
    assert seen.pte(at.huge_split).level == "pte" and kind(at.huge_zero) == "huge zero"
    assert kind(at.memfd) == kind(at.memfd_private) == kind(at.file) == kind(at.shared) == "file"
    assert kind(at.memfd_private + PAGE) == "anon"
    assert seen.pte(at.swapped).present and seen.pte(at.swapped + 7 * PAGE).swap.kind == "swap"
    assert "LOCKED" in seen.vma(at.locked).flags and kind(at.locked) == "anon"


def test_a_huge_page_that_is_prot_none_keeps_its_frame(machine_lab):
    """Its frame bits are inverted too, but not those below 2 MiB (pfn_pmd(), arch/x86/include/asm/pgtable.h)."""
    machine_lab.thp("madvise")
    (a,) = machine_lab.tasks("a")
    buf = huge_area(a)
    a.touch(buf, write=True)
    frame = machine_lab.look().task("a").pte(buf).pfn
    a.mprotect(buf, calls.PROT_NONE, len=HUGE)
    pte = machine_lab.look().task("a").pte(buf)
    assert (pte.level, pte.present, "P" in pte.flags, pte.pfn) == ("pmd", True, False, frame)


# --- pages --------------------------------------------------------------------------------------------------------------

def test_mapcounts_are_those_of_kpagecount(world):
    snapshot = world.lab.look()
    told = words64(world.lab, "/proc/kpagecount")
    assert {p.pfn: p.mapcount for p in snapshot.pages.values()} == {pfn: told[pfn] for pfn in snapshot.pages}


def test_mapcounts_are_the_entries_that_map(world):
    """Every process with memory is in the snapshot, so nothing else can map an anonymous page."""
    snapshot, mapped = world.lab.look(), Counter()
    for mm in snapshot.mms:
        for pte in mm.entries:
            mapped.update(range(pte.pfn, pte.pfn + pte.size // PAGE) if pte.present else ())
    anonymous = [p for p in snapshot.pages.values() if p.kind == "anon"]
    assert anonymous and {p.pfn: p.mapcount for p in anonymous} == {p.pfn: mapped[p.pfn] for p in anonymous}


#: include/uapi/linux/kernel-page-flags.h and the name that Page.flags has for the same; both copied bit by bit.
KPF = {0: "locked", 2: "referenced", 3: "uptodate", 4: "dirty", 5: "lru", 6: "active", 8: "writeback", 9: "reclaim",
       14: "swapbacked", 18: "unevictable"}


def expected_kpageflags(page):
    """The bits that stable_page_flags() (fs/proc/page.c) owes us for a Page; those that Page does not know left out.

    Not KPF_KSM: 6.12 tests `mapping & PAGE_MAPPING_KSM`, and PAGE_MAPPING_KSM has two bits of which every
    anonymous page has one, so all of them get it.
    """
    value = sum(1 << bit for bit, name in KPF.items() if name in page.flags)
    value |= 1 << 11 if page.mapcount else 0                                       # KPF_MMAP
    value |= 1 << 12 if page.kind in ("anon", "ksm") else 0                        # KPF_ANON
    value |= 1 << 13 if {"swapbacked", "swapcache"} <= set(page.flags) else 0      # KPF_SWAPCACHE
    value |= (1 << 15 if page.pfn == page.head else 1 << 16) if page.order else 0  # KPF_COMPOUND_HEAD, _TAIL
    value |= 1 << 24 if "zero" in page.kind else 0                                 # KPF_ZERO_PAGE
    return value


KPF_COMPARED = sum(1 << bit for bit in (*KPF, 11, 12, 13, 15, 16, 24))


def same_flags(lab):
    """Compare all mapped pages. KPF_MMAP says whether any page of the folio is mapped: left out for large ones."""
    snapshot, told = lab.look(), words64(lab, "/proc/kpageflags")
    wrong = []
    for page in snapshot.pages.values():
        mask = KPF_COMPARED & ~(1 << 11 if page.order else 0)
        ours, theirs = expected_kpageflags(page) & mask, told[page.pfn] & mask
        if ours != theirs:
            wrong.append((hex(page.pfn), hex(ours ^ theirs), page))
    assert not wrong, wrong[:3]
    return snapshot, told


def test_flags_are_those_of_kpageflags(world):
    snapshot, told = same_flags(world.lab)
    bits = 0
    for pfn in snapshot.pages:
        bits |= told[pfn]
    for bit in (3, 5, 11, 12, 13, 14, 15, 16, 18, 22, 24):      # the world must have shown them
        assert bits >> bit & 1, bit


def test_huge_pages_are_thp_for_the_kernel_too(world):
    snapshot, told = world.lab.look(), words64(world.lab, "/proc/kpageflags")
    seen = snapshot.task("server")
    first = seen.pte(world.at.huge).pfn
    for pfn in range(first, first + 512):
        assert told[pfn] >> 22 & 1
        assert (snapshot.page(pfn).order, snapshot.page(pfn).head) == (9, first)
        assert snapshot.page(pfn).index == snapshot.page(first).index + pfn - first


def test_exclusive_is_what_a_write_keeps(world):
    """PG_anon_exclusive has no file of its own: a write to such a page reuses the frame, else it is copied."""
    lab, child = world.lab, world.child
    area = child.mmap(pages=2)
    child.stamp(area, 2)
    sibling = child.fork("sibling")
    before = lab.look()
    shared = before.task("child").pte(area).pfn
    assert not before.page(shared).exclusive
    child.touch(area, write=True)
    middle = lab.look()
    own = middle.task("child").pte(area).pfn
    assert own != shared and middle.page(own).exclusive
    child.touch(area, write=True)
    assert lab.look().task("child").pte(area).pfn == own
    sibling.kill()
    child.syscall("wait4", -1, None, 0, None)
    child.munmap(area, pages=2)


# --- sums ---------------------------------------------------------------------------------------------------------------

def sums_of(snapshot, seen, vma):
    """Rss, Pss, Swap and AnonHugePages of one VMA in bytes, from entries and mapcounts (fs/proc/task_mmu.c, smaps_account)."""
    rss = pss = swap = huge = locked = 0
    for pte in seen.mm.entries.between(vma.vm_start, vma.vm_end):
        if pte.swap:
            swap += PAGE * (pte.swap.kind == "swap")
            continue
        for addr in range(pte.addr, pte.addr + pte.size, PAGE):
            page = snapshot.pages.get(pte.pfn_at(addr))
            if page is None or "SPECIAL" in pte.flags or "zero" in page.kind:
                continue
            rss += PAGE
            pss += (PAGE << 12) // max(page.mapcount, 1)
            huge += PAGE * (pte.level == "pmd")
    locked = pss if "LOCKED" in vma.flags else 0
    return {"Rss": rss >> 10, "Pss": pss >> 22, "Swap": swap >> 10, "AnonHugePages": huge >> 10, "Locked": locked >> 22}


@each_task
def test_sums_are_those_of_smaps(world, name):
    """Pss divides by what the kernel believes is shared: an independent check of sharing.

    A PMD entry's Pss is divided as a whole there, to the byte; here page by page: the same when mapcounts agree.
    """
    task, snapshot = getattr(world, name), world.lab.look()
    seen, told = snapshot.task(name), smaps(world.lab, task)
    for vma in seen.mm.vmas:
        ours = sums_of(snapshot, seen, vma)
        assert ours == {key: told[vma.vm_start][key] for key in ours}, vma


@each_task
def test_mm_counters_are_those_of_the_process(world, name):
    """Exact against what statm and status take from plain fields, and rss against the entries.

    VmRSS itself is percpu_counter_read_positive(): each CPU may keep back up to the counter's batch
    (max(32, 2 × CPUs)), so it is held to that bound only; ours is the sum over the CPUs.
    """
    task, snapshot = getattr(world, name), world.lab.look()
    seen = snapshot.task(name)
    c = seen.mm.counters
    status = table(world.lab, f"/proc/{task.pid}/status")
    statm = [int(x) for x in text(world.lab, f"/proc/{task.pid}/statm").split()]
    assert c["total_vm"] == statm[0] == status["VmSize"] // 4 == sum(v.pages for v in seen.mm.vmas)
    assert (c["locked_vm"] * 4, c["pinned_vm"] * 4) == (status["VmLck"], status["VmPin"])
    assert (c["data_vm"] * 4, c["stack_vm"] * 4) == (status["VmData"], status["VmStk"])
    assert c["pgtables_bytes"] // 1024 == status["VmPTE"]
    assert c["map_count"] == len(seen.mm.vmas)
    slack = 4 * 32 * world.lab.config.cpus
    for ours, theirs in (("rss_anon", "RssAnon"), ("rss_file", "RssFile"), ("rss_shmem", "RssShmem"), ("swapents", "VmSwap")):
        assert abs(c[ours] * 4 - status[theirs]) <= slack, ours


@each_task
def test_rss_counters_are_the_entries(world, name):
    snapshot = world.lab.look()
    seen, kinds = snapshot.task(name), Counter()
    for pte in seen.mm.entries:
        if pte.swap:
            kinds["swapents"] += pte.swap.kind == "swap"
            continue
        for pfn in range(pte.pfn, pte.pfn + pte.size // PAGE):
            page = snapshot.pages.get(pfn)
            if page is None or "SPECIAL" in pte.flags or "zero" in page.kind:
                continue
            kinds["rss_anon" if page.kind in ("anon", "ksm")
                  else "rss_shmem" if "swapbacked" in page.flags else "rss_file"] += 1
    ours = {key: seen.mm.counters[key] for key in ("rss_anon", "rss_file", "rss_shmem", "swapents")}
    assert ours == {key: kinds[key] for key in ours}


@each_task
def test_page_tables_are_those_the_mm_pays_for(world, name):
    """pgtables_bytes counts the tables below the pgd (mm_inc_nr_ptes() and its like); a huge entry keeps one in reserve."""
    seen = world.lab.look().task(name)
    below = sum(t.level != "pgd" for t in seen.mm.tables)
    deposited = sum(e.level == "pmd" and e.present for e in seen.mm.entries)
    assert seen.mm.counters["pgtables_bytes"] == PAGE * (below + deposited)


def test_threads_are_those_of_the_process(world):
    thread = world.consumer.thread("helper")
    seen = world.lab.look().task("consumer")
    assert seen.tids == (world.consumer.tid, thread.tid)
    thread.exit()


# --- the machine's counters ---------------------------------------------------------------------------------------------

#: Events that reading a /proc file makes by itself: its buffers are allocated, freed and copied.
_BY_READING = re.compile(r"pgalloc_|pgfree|pgfault|nr_free_pages|nr_slab|nr_kernel_stack|pgreuse|nr_page_table|nr_tlb")


def test_machine_counters_are_those_of_vmstat(machine_lab):
    """Every counter of ours has that name in /proc/vmstat, and that value.

    Zone and node counters lag by what each CPU keeps back (vm_stat_diff): writing stat_refresh folds it in first.
    What the reading of /proc itself allocates is left to the bound of a page or some dozens.
    """
    lab = machine_lab
    lab.swap(16 << 20)
    (server,) = lab.tasks("server")
    area = server.mmap(pages=600)
    server.stamp(area, 600)
    server.madvise(area, calls.MADV_PAGEOUT, pages=64)
    server.touch(area, 16)
    lab.guest.write_file("/proc/sys/vm/stat_refresh", "1")
    ours, told = lab.look().counters, table(lab, "/proc/vmstat")
    compared = {name for name in ours if name != "Committed_AS" and not name.startswith("memcg:")}
    assert compared <= set(told) and len(compared) > 100
    for name in compared:
        if _BY_READING.match(name):
            assert abs(ours[name] - told[name]) <= 128, name
        else:
            assert ours[name] == told[name], name
    assert ours["pswpout"] >= 64 and ours["pswpin"] >= 16 and ours["nr_anon_pages"] >= 500


def test_commit_charge_is_that_of_meminfo(machine_lab):
    lab = machine_lab
    before = lab.look().counters["Committed_AS"]
    (server,) = lab.tasks("server")
    middle = lab.look().counters["Committed_AS"]
    server.mmap(pages=1000)
    after = lab.look().counters["Committed_AS"]
    assert after * 4 == table(lab, "/proc/meminfo")["Committed_AS"] and middle > before
    assert after - middle == 1000


def test_memcg_counters_are_those_of_the_cgroup(machine_lab):
    """memory.current is the page counter itself. A CPU may hold a stock of up to 64 pages charged in advance."""
    lab = machine_lab
    lab.swap(16 << 20)
    path = lab.memory_max("lesson", 8 << 20)
    server = lab.task("server", cgroup=path)
    area = server.mmap(pages=500)
    server.stamp(area, 500)
    server.madvise(area, calls.MADV_PAGEOUT, pages=100)
    counters = lab.look().counters
    told = {name: int(text(lab, f"{path}/memory.{name}")) for name in ("current", "swap.current")}
    assert counters["memcg:/lesson memory"] * PAGE == told["current"] >= 400 * PAGE
    assert counters["memcg:/lesson swap"] * PAGE == told["swap.current"] == 100 * PAGE


# --- anon_vmas ----------------------------------------------------------------------------------------------------------

def test_anon_vma_after_fork(machine_lab):
    """anon_vma_fork(): the child's chain is the parent's plus its own; its own hangs below, under the same root."""
    (a,) = machine_lab.tasks("a")
    buf = a.mmap(pages=4)
    a.stamp(buf, 4)
    alone = machine_lab.look().task("a").vma(buf)
    av = alone.anon_vma
    assert (len(alone.chain), av.is_root, av.parent == av.addr) == (1, True, True)
    assert (av.num_children, av.num_active_vmas, len(av.tree)) == (1, 1, 1)
    a.fork("b")
    seen = machine_lab.look()
    mine, childs = seen.task("a").vma(buf), seen.task("b").vma(buf)
    av, own = mine.anon_vma, childs.anon_vma
    assert [link.anon_vma for link in mine.chain] == [av.addr]
    assert [link.anon_vma for link in childs.chain] == [own.addr, av.addr]       # newest first
    assert (own.root, own.parent, own.is_root) == (av.addr, av.addr, False)
    assert (av.num_children, av.num_active_vmas, own.num_children, own.num_active_vmas) == (2, 1, 0, 1)
    assert [link.vma for link in av.tree] == [mine.addr, childs.addr] and [link.vma for link in own.tree] == [childs.addr]
    assert {(link.start, link.last) for link in av.tree} == {(mine.vm_pgoff, mine.vm_pgoff + 3)}


def test_anon_vma_of_a_grandchild_and_its_reuse(machine_lab):
    """A middle process that exits leaves its anon_vma for the next child (fewer than two children, no active VMA)."""
    (a,) = machine_lab.tasks("a")
    buf = a.mmap(pages=2)
    a.stamp(buf, 2)
    b = a.fork("b")
    c = b.fork("c")
    seen = machine_lab.look()
    chain = [link.anon_vma for link in seen.task("c").vma(buf).chain]
    of = {name: seen.task(name).vma(buf).anon_vma for name in "abc"}
    assert chain == [of["c"].addr, of["a"].addr, of["b"].addr] or sorted(chain) == sorted(av.addr for av in of.values())
    assert chain[0] == of["c"].addr and of["c"].parent == of["b"].addr and of["c"].root == of["a"].addr
    b.kill()
    c.fork("d")
    seen = machine_lab.look()
    assert seen.task("d").vma(buf).anon_vma.addr == of["b"].addr
    assert len(seen.task("d").vma(buf).chain) == 3


def test_anon_vma_of_a_clone_is_the_sources(machine_lab):
    """The call does it as mremap does: dst->anon_vma == src->anon_vma, and no new one (kernel.md 7 b and c)."""
    lab = machine_lab
    a, c = lab.tasks("a", "c")
    buf = a.mmap(pages=3)
    a.stamp(buf, 3)
    clone = c.process_vm_mmap(a, buf, pages=3)
    seen = lab.look()
    src, dst = seen.task("a").vma(buf), seen.task("c").vma(clone)
    assert dst.anon_vma.addr == src.anon_vma.addr and dst.anon_vma.num_active_vmas == 2
    assert [link.anon_vma for link in dst.chain] == [src.anon_vma.addr]
    assert dst.vm_pgoff == src.vm_pgoff
    assert smaps(lab, a)[buf]["Pss"] == smaps(lab, c)[clone]["Pss"] == 6      # 3 pages of two
    b = a.fork("b")
    back = a.process_vm_mmap(b, buf, pages=3)
    seen = lab.look()
    page = seen.page(seen.task("a").pte(buf).pfn)
    assert seen.task("a").pte(back).pfn == page.pfn and page.mapcount == 4
    assert len(seen.anon_vma(src.anon_vma.addr).tree) == 4
    assert smaps(lab, a)[buf]["Rss"] == 12 and smaps(lab, a)[buf]["Pss"] == 3


def test_chains_and_trees_say_the_same(world):
    """Each anon_vma_chain is in two lists; read from both ends, they must be the same links."""
    snapshot = world.lab.look()
    chains = {link for mm in snapshot.mms for vma in mm.vmas for link in vma.chain}
    trees = {link for av in snapshot.anon_vmas.values() for link in av.tree}
    assert chains == trees and chains
    for av in snapshot.anon_vmas.values():
        active = sum(vma.anon_vma is not None and vma.anon_vma.addr == av.addr for mm in snapshot.mms for vma in mm.vmas)
        children = sum(other.parent == av.addr for other in snapshot.anon_vmas.values())
        assert (av.num_active_vmas, av.num_children) == (active, children)


# --- KSM ----------------------------------------------------------------------------------------------------------------

def merged_by_ksm(lab, *areas):
    """Let KSM merge pages of the same content: two full scans make them stable."""
    for task, addr, pages in areas:
        task.stamp(addr, pages, first=4711, step=0)
        task.madvise(addr, calls.MADV_MERGEABLE, pages=pages)
    lab.ksm(True)
    for _ in range(200):
        lab.run_for(20)
        if table_of_ksm(lab)["pages_sharing"] >= sum(pages for _, _, pages in areas) - 1:
            break
    lab.ksm(False)


def table_of_ksm(lab):
    return {name: int(text(lab, f"/sys/kernel/mm/ksm/{name}")) for name in ("pages_shared", "pages_sharing")}


def test_ksm_pages_and_their_items(machine_lab):
    lab = machine_lab
    a, b = lab.tasks("a", "b")
    first, second = a.mmap(pages=3), b.mmap(pages=2)
    merged_by_ksm(lab, (a, first, 3), (b, second, 2))
    told = table_of_ksm(lab)
    snapshot, _ = same_flags(lab)
    (page,) = [p for p in snapshot.pages.values() if p.kind == "ksm"]
    items = snapshot.ksm[page.pfn]
    assert told == {"pages_shared": 1, "pages_sharing": 4} and len(items) == 5 == page.mapcount
    ours = {(snapshot.users(item.mm)[0], item.address) for item in items}
    assert ours == {("a", first + i * PAGE) for i in range(3)} | {("b", second + i * PAGE) for i in range(2)}
    anon_vmas = {snapshot.task("a").vma(first).anon_vma.addr, snapshot.task("b").vma(second).anon_vma.addr}
    assert {item.anon_vma for item in items} == anon_vmas
    assert text(lab, f"/proc/{a.pid}/ksm_stat").split()[1] == "3"                # ksm_rmap_items
    assert smaps(lab, a)[first]["KSM"] == 12


# --- hugetlb ------------------------------------------------------------------------------------------------------------

def test_hugetlb_pages(machine_lab):
    """hugetlb keeps its pages' type where others count their mappings (folio_precise_page_mapcount())."""
    lab = machine_lab
    lab.guest.write_file("/proc/sys/vm/nr_hugepages", "2")
    (a,) = lab.tasks("a")
    buf = a.mmap(len=HUGE, flags=ANY | calls.MAP_HUGETLB)
    a.touch(buf, write=True)
    a.fork("b")
    snapshot, told = lab.look(), words64(lab, "/proc/kpagecount")
    vma, pte = snapshot.task("a").vma(buf), snapshot.task("a").pte(buf)
    assert ("HUGETLB" in vma.flags, pte.level, vma.name) == (True, "pmd", "/anon_hugepage (deleted)")
    assert {snapshot.page(pfn).mapcount for pfn in range(pte.pfn, pte.pfn + 512)} == {2}
    assert {told[pfn] for pfn in range(pte.pfn, pte.pfn + 512)} == {2}


# --- who is who ---------------------------------------------------------------------------------------------------------

def changes(before, after, kind, what):
    return [c for c in (after - before).changes if (c.kind, c.what) == (kind, what)]


def ids(changes):
    return {c.id for c in changes}


def test_what_was_freed_and_made_again_is_new(machine_lab):
    """munmap, the same mmap and a touch: an equal address or frame is another thing, and the diff says so."""
    lab = machine_lab
    (a,) = lab.tasks("a")
    buf = a.mmap(pages=2)
    first_at: dict[tuple, tuple] = {}        # (kind, place): (snapshot, thing) that was seen there first
    handed_out_again = Counter()
    for _ in range(80):       # SLUB and the page lists hand the same places out again sooner or later
        a.munmap(buf, pages=2)
        assert a.mmap(buf, pages=2, flags=ANY | calls.MAP_FIXED) == buf
        a.stamp(buf, 2)
        after = lab.look()
        now = after.task("a")
        for kind, new in (("vma", now.vma(buf)), ("anon_vma", now.vma(buf).anon_vma), ("page", after.page(now.pte(buf).pfn))):
            before, old = first_at.setdefault((kind, new.id[0]), (after, new))
            if before is after:
                continue
            handed_out_again[kind] += 1
            assert old.born and new.born and old.id != new.id
            assert old.id in ids(changes(before, after, kind, "removed"))
            assert new.id in ids(changes(before, after, kind, "added"))
        if len(handed_out_again) == 3:
            return
    raise AssertionError(f"no place was used again but {dict(handed_out_again)}: the test has shown nothing")


def test_what_survives_is_a_survivor(machine_lab):
    """mprotect of the whole, a write, and a clone of it: the VMA, its anon_vma and its page stay who they are."""
    lab = machine_lab
    a, b = lab.tasks("a", "b")
    buf = a.mmap(pages=2)
    a.stamp(buf, 2)
    before = lab.look()
    a.mprotect(buf, calls.PROT_READ, pages=2)
    a.mprotect(buf, READ_WRITE, pages=2)
    a.write(buf, b"more")
    b.process_vm_mmap(a, buf, pages=2)
    after = lab.look()
    was, now = before.task("a"), after.task("a")
    assert was.id == now.id and was.mm.id == now.mm.id and was.vma(buf).id == now.vma(buf).id
    assert was.vma(buf).anon_vma.id == now.vma(buf).anon_vma.id
    assert before.page(was.pte(buf).pfn).id == after.page(now.pte(buf).pfn).id
    gone = {kind for kind in ("vma", "anon_vma", "page", "mm", "task") if changes(before, after, kind, "removed")}
    assert gone == set()


def test_two_looks_at_a_machine_that_stands_still_are_equal(world):
    first, second = world.lab.look(), world.lab.look()
    assert first == second and not (second - first) and isinstance(second - first, diff.Diff)


def test_every_thing_has_a_stamp(world):
    snapshot = world.lab.look()
    assert all(mm.born for mm in snapshot.mms) and all(av.born for av in snapshot.anon_vmas.values())
    assert all(vma.born for mm in snapshot.mms for vma in mm.vmas)
    assert all(page.born for page in snapshot.pages.values() if page.kind in ("anon", "ksm"))


def test_the_table_of_system_calls_says_what_is_behind_a_number(world):
    """The agent makes these calls by number all the time, so the numbers are right."""
    name = world.lab.kernel.syscall_name
    assert (name(9), name(310), name(548)) == ("mmap", "process_vm_readv", "process_vm_mmap")
    assert name(547) == "ni_syscall" and name(549) == "" and name(-1) == ""
