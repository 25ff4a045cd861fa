# SPDX-License-Identifier: MIT
"""Stop points and films: a CPU is held where it was asked for, the others run on, and nothing is left behind."""

from __future__ import annotations

import errno

import pytest

from pvmlab import calls, places, steps
from pvmlab.errors import MachineTimeout, UsageError

PAGE = 4096


@pytest.fixture
def buf(server):
    addr = server.mmap(pages=4)
    server.stamp(addr, 4)
    return addr


def mapcounts(snapshot, task, addr, pages=4):
    return [snapshot.page(snapshot.task(task).pte(addr + i * PAGE).pfn).mapcount for i in range(pages)]


def test_one_cpu_is_held_and_the_other_runs_on(lab, server, consumer, buf):
    with lab.stop_at("copy_page_range") as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=4)
        assert stop.wait() is stop and stop.held and stop.cpu == 1
        place = stop.place
        assert (place.function, place.file, str(place.patch)) == ("copy_page_range", "mm/memory.c", "v2 3/7")
        assert server.read(buf, 8) == (1).to_bytes(8, "little")         # on CPU 0, meanwhile
        server.write(buf, b"told while the call is held")
        assert not call.done
        inside = lab.look(inside=True)
        assert {"mmap_lock of server: write", "mmap_lock of consumer: write"} <= set(inside.held)
        stop.go_on()
        assert consumer.read(call.wait(), 4) == b"told"
    assert mapcounts(lab.look(), "server", buf) == [2] * 4


def test_the_nth_time_of_an_inlined_function(lab, server, consumer, buf):
    """copy_present_ptes() has no symbol. At its third time, two entries are copied."""
    assert b" copy_present_ptes\n" not in lab.guest.read_file("/proc/kallsyms")
    with lab.stop_at("copy_present_ptes", nth=3) as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=4)
        stop.wait()
        assert mapcounts(lab.look(inside=True), "server", buf) == [2, 2, 1, 1]
        stop.go_on()
        stop.wait()
        assert mapcounts(lab.look(inside=True), "server", buf) == [2, 2, 2, 1]
    assert call.wait()                                                  # leaving the block let it go


def test_a_line_by_its_text(lab, server, consumer, buf):
    with lab.stop_at("copy_pte_range: pte_alloc_map_lock") as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=4)
        stop.wait()
        by_number = f"copy_pte_range:{stop.place.line}"
    call.wait()
    with lab.stop_at(by_number) as again:
        assert again.place == stop.place


def test_only_the_task_that_was_asked_for(lab, server, consumer, buf):
    with lab.stop_at("copy_page_range", task=consumer) as stop:
        server.fork("child")                                            # goes there, too
        call = consumer.start("process_vm_mmap", server, buf, pages=4)
        stop.wait()
        assert not call.done
    call.wait()


def test_a_place_that_is_not_reached_says_so(lab, server):
    with lab.stop_at("copy_page_range") as stop:
        server.mmap(pages=1)
        with pytest.raises(MachineTimeout, match=r"no CPU came to copy_page_range \(mm/memory.c:\d+\) within 0.2 s"):
            stop.wait(0.2)
        with pytest.raises(UsageError, match="no CPU is held"):
            stop.go_on()
    assert server.fork("child").alive


def test_names_that_are_no_place(lab):
    for text, why in {"copy_page_rang": "did you mean copy_page_range", "copy_vma:1": "no place in copy_vma",
                      "copy_vma: no such text": "no line that our patches show", "copy vma": "is no place"}.items():
        with pytest.raises(UsageError, match=why):
            lab.stop_at(text)
    with pytest.raises(UsageError, match="the first time is nth=1"):
        lab.stop_at("copy_vma", nth=0)


def test_places_are_where_the_kernel_says(lab):
    """/proc/kallsyms is the kernel's own table."""
    said = {}
    for line in lab.guest.read_file("/proc/kallsyms").decode().splitlines():
        address, _, name = line.split()[:3]
        said[name] = int(address, 16)
    for name in ("copy_vma", "anon_vma_clone", "copy_page_range", "do_munmap"):
        assert said[name] in lab.stop_at(name).place.addresses
    assert said["__x64_sys_process_vm_mmap"] in lab.stop_at("process_vm_mmap").place.addresses


def test_a_call_on_the_agent_s_own_cpu_can_be_filmed(lab, server, consumer, buf):
    film = lab.film(lambda: consumer.process_vm_mmap(server, buf, pages=4), at=["copy_vma", "copy_present_ptes"])
    assert [f.label for f in film] == ["before", "copy_vma", "copy_present_ptes", "copy_present_ptes (2)",
                                       "copy_present_ptes (3)", "copy_present_ptes (4)", "after"]
    assert [sum(mapcounts(f, "server", buf)) for f in film] == [4, 4, 4, 5, 6, 7, 8]
    assert film[-1].task("consumer").vma(film.result) and film.error is None
    inside = film[2]
    assert (inside.place.line > 0, str(inside.place.patch)) == (True, "v2 3/7")
    assert any(held.startswith("lock of server's pte table") for held in inside.held)
    assert any(held.startswith("lock of consumer's pte table") for held in inside.held)
    assert film[0].held == film[-1].held == () and film[-1].place is None
    assert len(steps(*film).snapshots) == 7


def test_a_call_that_fails_is_filmed_too(lab, server, consumer, buf):
    film = lab.film(lambda: consumer.process_vm_mmap(server, buf, pages=5))
    assert film.error.errno == errno.EFAULT and film.result is None
    assert [f.label for f in film] == ["before", "mmap_process_vm", "after"]


def test_a_film_of_a_fork(lab, server, buf):
    film = lab.film(lambda: server.fork("child"), at=["dup_mmap", "anon_vma_fork", "copy_page_range"])
    labels = [f.label for f in film]
    assert labels.index("dup_mmap") < labels.index("anon_vma_fork") < labels.index("copy_page_range")
    assert film[-1].task("child").pte(buf).pfn == film[0].task("server").pte(buf).pfn


def test_a_film_ends_at_its_bound(lab, server, consumer):
    addr = server.mmap(pages=64)
    server.stamp(addr, 64)
    film = lab.film(lambda: consumer.process_vm_mmap(server, addr, pages=64), at=["copy_present_ptes"], most=10)
    assert (len(film), film.missed) == (12, 54)


def test_a_lock_is_called_what_the_figure_calls_its_anon_vma(lab, server, consumer, buf):
    film = lab.film(lambda: consumer.process_vm_mmap(server, buf, pages=4), at=["anon_vma_interval_tree_insert"])
    inside = film[1]
    owner = inside.task("server").vma(buf).anon_vma
    assert owner.locked and owner.is_root
    assert [held for held in inside.held if held.startswith("rwsem")] == [f"rwsem of {inside.anon_vma_names[owner.id]}"]
    assert any(change.id == ("rwsem of av·server",) for change in (inside - film[0]).of("lock"))


def test_reading_debug_information_for_the_first_time_says_how_far_it_is(lab, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PVMLAB_CACHE", str(tmp_path))
    first = places.find(lab.machine.image, "copy_vma", "anon_vma_clone")
    said = capsys.readouterr().err
    assert "1 of 2, copy_vma" in said and "2 of 2, anon_vma_clone" in said and said.endswith("\n")
    assert places.find(lab.machine.image, "copy_vma", "anon_vma_clone") == first and not capsys.readouterr().err


def test_two_stops_hold_two_cpus_of_three(new_lab):
    from pvmlab import Lab
    with Lab(kernel="v2", cpus=3) as lab:
        a, b = lab.tasks("a", "b")
        a.pin(1)
        b.pin(2)
        with lab.stop_at("__vm_munmap", task=a) as one, lab.stop_at("do_madvise", task=b) as two:
            first = a.start("munmap", a.mmap(pages=4), pages=4)
            second = b.start("madvise", b.mmap(pages=1), calls.MADV_DONTNEED, pages=1)
            assert (one.wait().cpu, two.wait().cpu) == (1, 2)
            lab.guest.read_file("/proc/uptime")
        assert first.wait() == second.wait() == 0


def test_stops_cost_nothing_afterwards(lab, server, consumer, buf):
    """With none set, the machine is as it was: calls go through, on both CPUs."""
    with lab.stop_at("copy_vma"):
        pass
    for _ in range(5):
        consumer.process_vm_mmap(server, buf, pages=4)
        consumer.start("process_vm_mmap", server, buf, pages=4).wait()
    assert mapcounts(lab.look(), "server", buf) == [11] * 4
