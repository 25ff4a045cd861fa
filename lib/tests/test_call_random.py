# SPDX-License-Identifier: MIT
"""process_vm_mmap() on random worlds, with fork() as the oracle, on v2 and v3.

The call copies entries the way fork() does, only to another address. So a
forked child of the source says what the clone has to look like, wherever page
tables end on either side; and a model says what each side has to contain.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvmlab import calls
from pvmlab.calls import PVMMAP_FIXED as FIXED

pytestmark = pytest.mark.kernels("v2", "v3")

PAGE = 4096
#: Where a page table ends, in the source and in the destination.
SRC_EDGE, DST_EDGE = 0x10_0020_0000, 0x20_0020_0000
SIDES = ("server", "consumer", "child")


class World(NamedTuple):
    """pages: the state of each source page; the clone takes `count` from `first` on;
    src_edge, dst_edge: how many pages lie before the end of a page table;
    writers: for each page of the clone the sides that write it afterwards, in order."""

    pages: list[str]
    first: int
    count: int
    src_edge: int
    dst_edge: int
    writers: list[list[str]]


@st.composite
def worlds(draw):
    pages = draw(st.lists(st.sampled_from(["untouched", "read", "written", "swapped"]), min_size=8, max_size=12))
    first = draw(st.integers(0, 4))
    count = draw(st.integers(4, len(pages) - first))
    writers = st.lists(st.lists(st.sampled_from(SIDES), unique=True), min_size=count, max_size=count)
    return World(pages, first, count, draw(st.integers(0, len(pages))), draw(st.integers(0, count)), draw(writers))


def arrange(server, world):
    """Map the source's pages and bring each into its state; return the address."""
    flags = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE
    buf = server.mmap(SRC_EDGE - world.src_edge * PAGE, pages=len(world.pages), flags=flags)
    for i, state in enumerate(world.pages):
        if state == "read":
            server.touch(buf + i * PAGE)
        if state in ("written", "swapped"):
            server.stamp(buf + i * PAGE, 1, first=i + 1)
        if state == "swapped":
            server.madvise(buf + i * PAGE, calls.MADV_PAGEOUT, pages=1)
    return buf


def entries(seen, task, addr, count):
    """(frame, swap entry, writable) of each page, or None where nothing is."""
    found = (seen.task(task).pte(addr + i * PAGE) for i in range(count))
    return [pte and (pte.pfn, pte.swap, pte.writable) for pte in found]


def numbers(task, addr, count):
    """The number in each page, which has to be zero behind it."""
    data = task.read(addr, count * PAGE)
    pages = [data[at:at + PAGE] for at in range(0, len(data), PAGE)]
    assert not any(any(page[8:]) for page in pages)
    return [int.from_bytes(page[:8], "little") for page in pages]


def check_entries(seen, src, dst, count):
    """The clone's entries are those a fork makes, and the reverse map finds every one."""
    clone = entries(seen, "consumer", dst, count)
    assert clone == entries(seen, "child", src, count)
    for pfn, _, writable in filter(None, clone):
        assert not writable
        if pfn is not None and seen.page(pfn).kind == "anon":
            assert seen.page(pfn).mapcount == len(seen.rmap(pfn).hits) == 3
            assert seen.rmap(pfn).missed == ()


def check_contents(where, world):
    """Each side sees what was there and its own writes, nobody else's."""
    states = world.pages[world.first:world.first + world.count]
    start = [world.first + i + 1 if state in ("written", "swapped") else 0 for i, state in enumerate(states)]
    model = {side: list(start) for side in SIDES}
    for page, side in [(page, side) for page, sides in enumerate(world.writers) for side in sides]:
        task, addr = where[side]
        model[side][page] = 1000 + SIDES.index(side)
        task.stamp(addr + page * PAGE, 1, first=model[side][page])
    assert {side: numbers(*where[side], world.count) for side in SIDES} == model


@settings(max_examples=25, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds())
def check_world(lab, world):
    server, consumer = lab.tasks("server", "consumer")
    tasks = [server, consumer]
    try:
        src = arrange(server, world) + world.first * PAGE
        dst = consumer.process_vm_mmap(server, src, pages=world.count, flags=FIXED,
                                       dst_addr=DST_EDGE - world.dst_edge * PAGE)
        tasks.append(child := server.fork("child"))
        check_entries(lab.look(), src, dst, world.count)
        check_contents({"server": (server, src), "consumer": (consumer, dst), "child": (child, src)}, world)
    finally:
        for task in reversed(tasks):
            task.kill()


def test_a_clone_is_a_fork_at_another_address(lab, proc):
    lab.swap(16 << 20)
    before = proc.committed()
    check_world(lab)
    assert proc.committed() == before
