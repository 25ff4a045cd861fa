# SPDX-License-Identifier: MIT
"""process_vm_mmap() on huge pages of anonymous memory, on v2 and v3.

A huge entry is copied whole where both addresses allow, and split first where
they do not. Either way the frames stay where they are.
"""

from __future__ import annotations

import pytest

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED

pytestmark = pytest.mark.kernels("v2", "v3")

PAGE, HUGE = 4096, 2 << 20
SMALL = HUGE // PAGE
#: A place in the consumer where nothing is, at the start of a huge page.
PLACE = 0x10_0000_0000


@pytest.fixture
def huge(lab, server):
    """The address of memory of the server that may have two huge pages, untouched."""
    base = "/sys/kernel/mm/transparent_hugepage"
    lab.thp("madvise")
    lab.guest.write_file(f"{base}/defrag", "always")
    lab.guest.write_file(f"{base}/use_zero_page", "1")
    addr = server.mmap(PLACE, len=2 * HUGE, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE)
    server.madvise(addr, calls.MADV_HUGEPAGE, len=2 * HUGE)
    return addr


@pytest.fixture
def buf(lab, server, huge):
    """Two huge pages of the server, each small one with another number in it."""
    server.stamp(huge, 2 * SMALL)
    assert [pte.level for pte in lab.look().task("server").mm.entries.between(huge, huge + 2 * HUGE)] == ["pmd"] * 2
    return huge


def levels(seen, task, addr, length):
    """How many entries of each level a task has in a range."""
    found = [pte.level for pte in seen.task(task).mm.entries.between(addr, addr + length)]
    return {level: found.count(level) for level in found}


def frames(seen, task, addr, length):
    entries = seen.task(task).mm.entries
    return [entries.at(at).pfn_at(at) for at in range(addr, addr + length, PAGE)]


def numbers(task, addr, length):
    data = task.read(addr, length)
    return [int.from_bytes(data[at:at + 8], "little") for at in range(0, length, PAGE)]


def test_aligned_it_is_copied_whole(lab, proc, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, len=2 * HUGE, dst_addr=PLACE + 5 * HUGE, flags=FIXED)
    after = lab.look()
    assert levels(after, "consumer", dst, 2 * HUGE) == levels(after, "server", buf, 2 * HUGE) == {"pmd": 2}
    theirs, ours = after.task("server").pte(buf), after.task("consumer").pte(dst)
    assert ours.pfn == theirs.pfn and not ours.writable and not theirs.writable
    assert after.page(ours.pfn + 7).mapcount == proc.kpagecount(ours.pfn + 7) == 2
    assert proc.smaps(consumer, dst)["AnonHugePages"] == 2 * HUGE // 1024


def test_the_kernel_chooses_an_aligned_place_itself(lab, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, len=2 * HUGE)
    assert levels(lab.look(), "consumer", dst, 2 * HUGE) == {"pmd": 2}


@pytest.mark.parametrize("off", [1, 511])
def test_misaligned_it_is_split(lab, proc, server, consumer, buf, off):
    dst = consumer.process_vm_mmap(server, buf, len=2 * HUGE, dst_addr=PLACE + 4 * HUGE + off * PAGE, flags=FIXED)
    after = lab.look()
    assert levels(after, "consumer", dst, 2 * HUGE) == levels(after, "server", buf, 2 * HUGE) == {"pte": 2 * SMALL}
    assert frames(after, "consumer", dst, 2 * HUGE) == frames(after, "server", buf, 2 * HUGE)
    pfn = after.task("consumer").pte(dst + 7 * PAGE).pfn
    assert after.page(pfn).mapcount == proc.kpagecount(pfn) == 2 and after.page(pfn).order == 9
    assert numbers(consumer, dst, 2 * HUGE) == list(range(1, 2 * SMALL + 1))


@pytest.mark.parametrize("first, pages", [(0, 3), (100, 3), (509, 3), (511, 2), (0, 511)])
def test_a_part_splits_what_it_touches_only(lab, server, consumer, buf, first, pages):
    dst = consumer.process_vm_mmap(server, buf + first * PAGE, pages=pages, dst_addr=PLACE + 5 * HUGE, flags=FIXED)
    after = lab.look()
    split = 1 + (first + pages > SMALL)
    assert levels(after, "consumer", dst, pages * PAGE) == {"pte": pages}
    assert levels(after, "server", buf, 2 * HUGE) == ({"pte": SMALL, "pmd": 1} if split == 1 else {"pte": 2 * SMALL})
    assert frames(after, "consumer", dst, pages * PAGE) == frames(after, "server", buf + first * PAGE, pages * PAGE)
    assert numbers(consumer, dst, pages * PAGE) == list(range(first + 1, first + pages + 1))


def test_one_and_a_half(lab, server, consumer, buf):
    """The first goes whole, the second is split."""
    dst = consumer.process_vm_mmap(server, buf, pages=SMALL + 3, dst_addr=PLACE + 5 * HUGE, flags=FIXED)
    after = lab.look()
    assert levels(after, "consumer", dst, 2 * HUGE) == {"pmd": 1, "pte": 3}
    assert levels(after, "server", buf, 2 * HUGE) == {"pmd": 1, "pte": SMALL}


@pytest.mark.parametrize("off", [0, 1])
@pytest.mark.parametrize("writer", ["server", "consumer"])
def test_writes_stay_apart(server, consumer, buf, off, writer):
    dst = consumer.process_vm_mmap(server, buf, len=HUGE, dst_addr=PLACE + 5 * HUGE + off * PAGE, flags=FIXED)
    mine, other = ((server, buf), (consumer, dst))[::1 if writer == "server" else -1]
    mine[0].stamp(mine[1] + 9 * PAGE, 1, first=0)
    assert numbers(*mine, HUGE) == [*range(1, 10), 0, *range(11, SMALL + 1)]
    assert numbers(*other, HUGE) == list(range(1, SMALL + 1))


@pytest.mark.parametrize("off", [0, 1])
def test_counters_are_given_back(lab, server, consumer, buf, off):
    place = PLACE + 5 * HUGE + off * PAGE
    before = lab.look().task("consumer").mm.counters
    consumer.process_vm_mmap(server, buf, len=HUGE, dst_addr=place, flags=FIXED)
    grown = lab.look().task("consumer").mm.counters
    consumer.munmap(place, len=HUGE)
    assert grown["rss_anon"] - before["rss_anon"] == grown["total_vm"] - before["total_vm"] == SMALL
    assert lab.look().task("consumer").mm.counters == before


# --- folios of 64 KiB -------------------------------------------------------------------------------------------------

FOLIO = 16


@pytest.fixture
def middling(lab, server):
    """A folio of sixteen pages of the server, each with another number in it."""
    base = "/sys/kernel/mm/transparent_hugepage/hugepages"
    lab.guest.write_file(f"{base}-2048kB/enabled", "never")
    lab.guest.write_file(f"{base}-64kB/enabled", "always")
    addr = server.mmap(PLACE, pages=FOLIO, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE)
    server.stamp(addr, FOLIO)
    seen = lab.look()
    pages = [seen.page(pfn) for pfn in frames(seen, "server", addr, FOLIO * PAGE)]
    assert {(page.order, page.head) for page in pages} == {(4, pages[0].pfn)}
    return addr


@pytest.mark.parametrize("before", [0, 1, 8, 15, 16])
def test_a_folio_over_the_end_of_a_page_table(lab, proc, server, consumer, middling, before):
    """So many of its pages lie in one table of the destination, and the others in the next."""
    place = PLACE + 5 * HUGE - before * PAGE
    dst = consumer.process_vm_mmap(server, middling, pages=FOLIO, dst_addr=place, flags=FIXED)
    after = lab.look()
    ours = frames(after, "consumer", dst, FOLIO * PAGE)
    assert ours == frames(after, "server", middling, FOLIO * PAGE)
    assert {after.page(pfn).mapcount for pfn in ours} == {proc.kpagecount(pfn) for pfn in ours} == {2}
    assert all(not after.task("consumer").pte(dst + i * PAGE).writable for i in range(FOLIO))
    assert len({table.phys for table in after.task("consumer").mm.tables if table.level == "pte"
                and dst - HUGE < table.start < dst + FOLIO * PAGE}) == (1 if before in (0, 16) else 2)
    consumer.stamp(dst + 7 * PAGE, 1, first=0)
    assert numbers(consumer, dst, FOLIO * PAGE) == [*range(1, 8), 0, *range(9, FOLIO + 1)]
    assert numbers(server, middling, FOLIO * PAGE) == list(range(1, FOLIO + 1))


@pytest.mark.parametrize("first, pages", [(0, 5), (3, 9), (15, 1)])
def test_a_part_of_a_folio(lab, server, consumer, middling, first, pages):
    place = PLACE + 5 * HUGE - PAGE
    dst = consumer.process_vm_mmap(server, middling + first * PAGE, pages=pages, dst_addr=place, flags=FIXED)
    after = lab.look()
    mapcounts = [after.page(pfn).mapcount for pfn in frames(after, "server", middling, FOLIO * PAGE)]
    assert mapcounts == [2 if first <= i < first + pages else 1 for i in range(FOLIO)]
    assert numbers(consumer, dst, pages * PAGE) == list(range(first + 1, first + pages + 1))


# --- the huge zero page --------------------------------------------------------

@pytest.fixture
def zeros(lab, server, huge):
    """Memory of the server with the huge zero page, and anonymous memory behind it."""
    server.touch(huge)
    server.stamp(huge + HUGE, 1)
    seen = lab.look()
    assert seen.page(seen.task("server").pte(huge).pfn).kind == "huge zero"
    return huge


def test_the_huge_zero_page_whole(lab, server, consumer, zeros):
    dst = consumer.process_vm_mmap(server, zeros, len=HUGE, dst_addr=PLACE + 5 * HUGE, flags=FIXED)
    after = lab.look()
    assert after.task("consumer").pte(dst).pfn == after.task("server").pte(zeros).pfn
    assert levels(after, "consumer", dst, HUGE) == {"pmd": 1}
    consumer.write(dst + 5, b"mine")
    assert consumer.read(dst, 16) == bytes(5) + b"mine" + bytes(7)
    assert server.read(zeros, HUGE) == bytes(HUGE)


def test_the_huge_zero_page_outlives_its_source(lab, server, consumer, zeros):
    outlives(lab, server, consumer, zeros, flags=0)


@pytest.mark.kernels("v3")
def test_the_huge_zero_page_outlives_who_gave_it_away(lab, server, consumer, zeros):
    outlives(lab, server, consumer, zeros, flags=calls.PVMMAP_MOVE)


def outlives(lab, server, consumer, zeros, flags):
    """Each mm that has it counts as a user, and the shrinker takes it when there is none."""
    dst = consumer.process_vm_mmap(server, zeros, len=HUGE, dst_addr=PLACE + 5 * HUGE, flags=FIXED | flags)
    server.exit()
    lab.guest.write_file("/proc/sys/vm/drop_caches", "2")
    seen = lab.look()
    assert seen.page(seen.task("consumer").pte(dst).pfn).kind == "huge zero"
    assert consumer.read(dst, HUGE) == bytes(HUGE)
    consumer.exit()


def test_the_huge_zero_page_split(lab, server, consumer, zeros):
    dst = consumer.process_vm_mmap(server, zeros, pages=4, dst_addr=PLACE + 5 * HUGE + PAGE, flags=FIXED)
    after = lab.look()
    ours = [after.page(pfn).kind for pfn in frames(after, "consumer", dst, 4 * PAGE)]
    assert ours == ["zero"] * 4
    assert levels(after, "server", zeros, HUGE) == {"pte": SMALL}
    consumer.write(dst, b"mine")
    assert server.read(zeros, 4) == bytes(4)
