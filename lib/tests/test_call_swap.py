# SPDX-License-Identifier: MIT
"""process_vm_mmap() on memory that is swapped out, on v2 and v3.

The entries are copied as they are: nothing is read back from swap until
somebody touches it.
"""

from __future__ import annotations

import pytest

from pvmlab import calls
from pvmlab.stress import slot_users

pytestmark = pytest.mark.kernels("v2", "v3")

PAGE, PAGES = 4096, 4


@pytest.fixture
def buf(lab, server):
    """Pages of the server that lie in swap, each with another number in it."""
    lab.swap(16 << 20)
    buf = server.mmap(pages=PAGES)
    server.stamp(buf, PAGES)
    server.madvise(buf, calls.MADV_PAGEOUT, pages=PAGES)
    assert len(entries(lab.look(), "server", buf)) == PAGES
    return buf


def entries(seen, task, addr):
    """(type, offset) of each swap entry of a task's PAGES pages."""
    found = seen.task(task).mm.entries.between(addr, addr + PAGES * PAGE)
    return [(pte.swap.type, pte.swap.offset) for pte in found if pte.swap]


def numbers(task, addr):
    return [int.from_bytes(task.read(addr + i * PAGE, 8), "little") for i in range(PAGES)]


def test_entries_are_copied_and_nothing_is_read(lab, proc, server, consumer, buf):
    before = lab.look()
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    after = lab.look()
    assert entries(after, "consumer", dst) == entries(after, "server", buf) == entries(before, "server", buf)
    assert entries(after, "consumer", dst) == [proc.pagemap(consumer, dst + i * PAGE).swap for i in range(PAGES)]
    assert after.counters["pswpin"] == before.counters["pswpin"]
    assert after.task("consumer").mm.counters["swapents"] == PAGES


def test_neither_side_keeps_them_for_itself(lab, server, consumer, buf):
    assert "EXCLUSIVE" in lab.look().task("server").pte(buf).flags
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    after = lab.look()
    assert "EXCLUSIVE" not in after.task("server").pte(buf).flags
    assert "EXCLUSIVE" not in after.task("consumer").pte(dst).flags


def test_each_slot_is_counted_twice(proc, server, consumer, buf):
    """SwapPss divides by the slot's count (mm/swapfile.c, swp_swapcount)."""
    alone = proc.smaps(server, buf)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    assert (alone["Swap"], alone["SwapPss"]) == (16, 16)
    for smaps in (proc.smaps(server, buf), proc.smaps(consumer, dst)):
        assert (smaps["Rss"], smaps["Swap"], smaps["SwapPss"]) == (0, 16, 8)


@pytest.mark.parametrize("first", ["server", "consumer"])
def test_touching_reads_it_back(lab, server, consumer, buf, first):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    before = lab.look().counters["pswpin"]
    sides = [(server, buf), (consumer, dst)]
    for task, addr in sides if first == "server" else reversed(sides):
        assert numbers(task, addr) == list(range(1, PAGES + 1))
    assert lab.look().counters["pswpin"] - before >= PAGES
    assert not entries(lab.look(), "consumer", dst) and not entries(lab.look(), "server", buf)


@pytest.mark.parametrize("writer", ["server", "consumer"])
def test_writes_stay_apart(server, consumer, buf, writer):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    mine, other = ((server, buf), (consumer, dst))[::1 if writer == "server" else -1]
    mine[0].stamp(mine[1], PAGES, first=50)
    assert numbers(*mine) == list(range(50, 50 + PAGES))
    assert numbers(*other) == list(range(1, PAGES + 1))


def test_the_slots_outlive_the_source(server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    server.exit()
    assert numbers(consumer, dst) == list(range(1, PAGES + 1))


def test_swapoff_finds_both_sides(lab, server, consumer, buf):
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    server.syscall("swapoff", "/dev/zram0")
    after = lab.look()
    assert not entries(after, "consumer", dst) and not entries(after, "server", buf)
    assert numbers(consumer, dst) == numbers(server, buf) == list(range(1, PAGES + 1))


def test_the_slots_are_given_back(lab, server, consumer, buf):
    [(kind, slot), *_] = entries(lab.look(), "server", buf)
    dst = consumer.process_vm_mmap(server, buf, pages=PAGES)
    assert slot_users(lab, kind, slot) == 2
    consumer.munmap(dst, pages=PAGES)
    assert slot_users(lab, kind, slot) == 1
    server.munmap(buf, pages=PAGES)
    assert slot_users(lab, kind, slot) == 0


def test_a_slot_that_many_have_is_counted_in_digits(lab, server, consumer, buf):
    """A byte of the count holds 62; beyond, it is continued elsewhere (mm/swapfile.c, swap_count_continued())."""
    [(kind, slot), *_] = entries(lab.look(), "server", buf)
    counts = [slot_users(lab, kind, slot)]
    clones = []
    for _ in range(140):
        clones.append(consumer.process_vm_mmap(server, buf, pages=1))
        counts.append(slot_users(lab, kind, slot))
    assert counts == list(range(1, 142))
    for users, clone in zip(range(140, 0, -1), clones):
        consumer.munmap(clone, pages=1)
        assert slot_users(lab, kind, slot) == users
