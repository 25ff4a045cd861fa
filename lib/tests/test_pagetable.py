# SPDX-License-Identifier: MIT
"""The page-table walk in C and the one in Python are the same, on real tables and on senseless ones.

Also translate() against a Python translation, and what entry.py decodes.
The random tables lie in a RAM of a few pages, so that entries name tables,
tables name themselves, and most addresses lie outside.
"""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmlab import Lab, calls, entry
from pvmlab.errors import MachineDied
from pvmlab.memory import Memory
from pvmlab.pagetable import quick_walk, walk

PAGE = 4096
FRAMES = 12                                # of the random RAM
P, RW, PSE, PROTNONE = 1, 1 << 1, 1 << 7, 1 << 8


# --- on a machine -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def machine_lab():
    """Three processes with small, large, huge, swapped and unreadable memory."""
    with Lab(kernel="v2") as lab:
        lab.swap(16 << 20)
        lab.thp("madvise")
        server, consumer = lab.tasks("server", "consumer")
        big = server.mmap(len=64 << 20, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_NORESERVE)
        server.touch(big, (64 << 20) // PAGE)           # the zero page, 16384 times
        server.touch(big, 500, write=True)
        server.madvise(big, calls.MADV_PAGEOUT, pages=100)
        server.mprotect(big + 200 * PAGE, calls.PROT_NONE, pages=100)
        huge = consumer.mmap(len=4 << 20)
        consumer.madvise(huge, calls.MADV_HUGEPAGE, len=4 << 20)
        consumer.touch(huge, 1024, write=True)
        server.fork("child")
        yield lab


def test_both_walks_agree_on_every_mm_of_a_machine(machine_lab):
    snapshot = machine_lab.look()
    memory = machine_lab.kernel.memory
    assert {t.name for t in snapshot.tasks} == {"server", "consumer", "child"} and snapshot.others
    for mm in snapshot.mms:
        assert walk(memory, mm.pgd) == quick_walk(memory, mm.pgd) == (mm.entries, mm.tables)
    server = snapshot.task("server").mm
    assert len(server.entries) > 16384
    kinds = {(e.level, "P" in e.flags, e.swap is None) for mm in snapshot.mms for e in mm.entries}
    assert {("pte", True, True), ("pte", False, False), ("pte", False, True), ("pmd", True, True)} <= kinds


def test_room_for_too_few_entries_grows(machine_lab):
    mm = machine_lab.look().task("server").mm
    memory = machine_lab.kernel.memory
    assert quick_walk(memory, mm.pgd, room=1) == quick_walk(memory, mm.pgd, room=1 << 17)


def test_translation_of_kernel_addresses(machine_lab):
    """The direct map, the kernel's image and the memory map, found by both."""
    kernel = machine_lab.kernel
    memory, prog = kernel.memory, kernel.prog
    addresses = [prog["init_task"].address_of_().value_(), prog["init_mm"].pgd.value_(), prog["vmemmap"].value_(),
                 prog["init_task"].tasks.next.value_(), 0, PAGE, 0xFFFFFFFFFFFFF000]
    found = [memory.translate(kernel.pgd, address) for address in addresses]
    assert found == [slow_translate(memory, kernel.pgd, address) for address in addresses]
    assert None not in found[:4] and found[4] is None


# --- on random tables ---------------------------------------------------------------------------------------------------

def slow_translate(memory, pgd, addr):
    """Translate by the processor's manual: four levels of nine bits, PSE ends it early."""
    table = pgd
    for level in (3, 2, 1, 0):
        at = table + 8 * (addr >> 12 + 9 * level & 511)
        if at > memory.size - 8:
            return None
        raw = memory.u64(at)
        if not raw & P:
            return None
        frame = raw & ((1 << 52) - 1) & ~0xFFF
        if level == 0 or raw & PSE:
            low = (1 << 12 + 9 * level) - 1
            return frame & ~low | addr & low
        table = frame
    return None


frames = st.integers(0, FRAMES + 1)        # two of them outside the RAM
far = st.integers(0, (1 << 40) - 1)
bits = st.sampled_from([0, P, P | RW, P | PSE, P | RW | 1 << 63, PROTNONE, PROTNONE | PSE, PSE, 1 << 1, 1 << 58 | P])
entries = st.one_of(st.builds(lambda f, b: f << 12 | b, frames, bits), st.builds(lambda f, b: f << 12 | b, far, bits),
                    st.integers(0, (1 << 64) - 1), st.just(0))
placed = st.lists(st.tuples(st.integers(0, FRAMES - 1), st.one_of(st.integers(0, 3), st.sampled_from([255, 256, 511]),
                                                                  st.integers(0, 511)), entries), max_size=24)


def ram_of(entries):
    ram = bytearray(FRAMES * PAGE)
    for frame, slot, raw in entries:
        struct.pack_into("<Q", ram, frame * PAGE + 8 * slot, raw)
    return Memory(ram)


@settings(max_examples=250, deadline=None)
@given(placed, st.integers(0, FRAMES - 1))
def test_both_walks_agree_on_random_tables(entries, pgd):
    memory = ram_of(entries)
    assert walk(memory, pgd * PAGE) == quick_walk(memory, pgd * PAGE, room=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(), st.integers(1, 3))
def test_both_walks_agree_on_noise(seed, pages):
    memory = Memory(bytearray(Random(seed).randbytes(pages * PAGE)))
    for page in range(pages):
        assert walk(memory, page * PAGE) == quick_walk(memory, page * PAGE)


def test_a_table_that_names_itself_ends():
    memory = ram_of([(0, slot, P | RW) for slot in (0, 1, 5)])
    found, tables = walk(memory, 0)
    assert (found, tables) == quick_walk(memory, 0)
    assert len(found) == 3 ** 4 and len(tables) == 1 + 3 + 9 + 27
    assert all(t.raw == int.from_bytes(memory.read(t.parent, 8), "little") for t in tables[1:]) and not tables[0].raw


def test_the_kernels_half_is_left_out():
    memory = ram_of([(0, 255, 1 << 12 | PSE | P), (0, 256, 1 << 12 | PSE | P)])
    for found, tables in (walk(memory, 0), quick_walk(memory, 0)):
        assert [e.addr for e in found] == [255 << 39] and len(tables) == 1


@pytest.mark.parametrize("level", ["pmd", "pud"])
def test_huge_entries_end_the_walk(level):
    depth = {"pud": 1, "pmd": 2}[level]
    chain = [(i, 0, i + 1 << 12 | P) for i in range(depth)]
    memory = ram_of([*chain, (depth, 3, 7 << 30 | P | PSE), (depth, 4, 7 << 30 | PROTNONE | PSE), (depth, 5, 99 << 9)])
    found, _ = walk(memory, 0)
    assert (found, _) == quick_walk(memory, 0)
    assert [(e.level, e.addr // entry.LEVEL_SIZE[level]) for e in found] == [(level, 3), (level, 4), (level, 5)]
    assert (found.at(3 * entry.LEVEL_SIZE[level]).pfn, found.at(5 * entry.LEVEL_SIZE[level]).pfn) == (7 << 18, None)


@pytest.mark.parametrize("pgd", [-4096, 1, 8, FRAMES * PAGE, (FRAMES - 1) * PAGE + 8, 1 << 51])
@pytest.mark.parametrize("how", [walk, quick_walk])
def test_a_pgd_that_is_no_page_of_the_ram(how, pgd):
    with pytest.raises(MachineDied, match="is no page table"):
        how(ram_of([]), pgd)


@settings(max_examples=250, deadline=None)
@given(placed, st.integers(0, FRAMES - 1), st.one_of(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 64) - 1),
                                                      st.integers(0, 4 << 12)))
def test_translation_agrees_on_random_tables(entries, pgd, addr):
    memory = ram_of(entries)
    assert memory.translate(pgd * PAGE, addr) == slow_translate(memory, pgd * PAGE, addr)


@given(st.integers(-PAGE, (FRAMES + 1) * PAGE), st.integers(0, PAGE))
def test_reading_outside_the_ram_is_refused(phys, size):
    memory = ram_of([])
    if 0 <= phys and phys + size <= memory.size:
        assert memory.read(phys, size) == bytes(size)
    else:
        with pytest.raises(MachineDied, match="not in RAM"):
            memory.read(phys, size)


# --- what an entry says -------------------------------------------------------------------------------------------------

pfns = st.integers(0, (1 << 40) - 1)


@given(pfns, st.integers(0, 0xFFF))
def test_a_present_entry_gives_its_frame(pfn, low):
    raw = pfn << 12 | low | P | 1 << 63
    assert entry.pfn_of(raw) == pfn and entry.is_present(raw) and entry.swap_of(raw) is None


@given(pfns)
def test_a_prot_none_entry_has_its_frame_inverted(pfn):
    """protnone_mask(): the whole of it is inverted, so that no such entry names a real frame to the processor."""
    inverted = ~(pfn << 12) & ((1 << 52) - 1) & ~0xFFF
    raw = inverted | PROTNONE | 1 << 5
    assert entry.pfn_of(raw) == pfn and entry.is_present(raw) and "P" not in entry.flags_of(raw)


@given(st.integers(0, 30), st.integers(0, (1 << 50) - 1), st.sampled_from([0, 2, 4, 8, 14]))
def test_a_swap_entry_gives_type_and_offset(kind, offset, low):
    """__swp_entry() (arch/x86/include/asm/pgtable_64.h): ~offset shifted up by 14 and down by 5, the type in the top five bits."""
    raw = (~offset & (1 << 64) - 1) << 14 & (1 << 64) - 1
    raw = raw >> 5 | kind << 59 | low
    if raw == 0:
        return
    found = entry.swap_of(raw)
    assert (found.type, found.offset) == (kind, offset) and not entry.is_present(raw)
    assert entry.flags_of(raw) == tuple(n for b, n in ((2, "SOFT_DIRTY"), (4, "UFFD_WP"), (8, "EXCLUSIVE")) if low & b)


def test_an_empty_entry_is_nothing():
    assert not entry.is_present(0) and entry.swap_of(0) is None and entry.flags_of(0) == ()


@given(st.integers(0, (1 << 48) - 1))
def test_indices_put_together_are_the_address(addr):
    at = entry.indices(addr)
    assert addr == at["pgd"] << 39 | at["pud"] << 30 | at["pmd"] << 21 | at["pte"] << 12 | at["offset"]
