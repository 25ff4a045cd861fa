# SPDX-License-Identifier: MIT
"""Stacks and hangs: what a CPU or a sleeping task is at, against what was made to happen and what /proc says."""

from __future__ import annotations

import pytest

from pvmlab import Lab
from pvmlab.errors import MachineTimeout

CALL = ["copy_page_range", "mmap_process_vm", "__do_sys_process_vm_mmap"]


@pytest.fixture
def buf(server):
    addr = server.mmap(pages=4)
    server.stamp(addr, 4)
    return addr


def functions(stack):
    return [place.function for place in stack]


def test_the_stack_of_a_held_cpu(lab, server, consumer, buf):
    with lab.stop_at("copy_page_range") as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=4)
        stop.wait()
        assert functions(stop.stack())[:3] == CALL
        assert stop.stack()[0].file == "mm/memory.c" and str(stop.stack()[1].patch) == "v2 7/7"
        held = lab.cpus()[stop.cpu]
        assert (held.task, held.pid, held.mode, held.held) == ("consumer", consumer.pid, "kernel", stop.place)
        assert held.registers["rip"] in stop.place.addresses
        assert "CPU 1: consumer, held at copy_page_range" in str(held)
    call.wait()


def test_what_idle_and_busy_cpus_are_at(lab, server, consumer):
    """Nearly always: now and then the agent looks around on CPU 0, and ticks come on both."""
    spin = consumer.start("spin")
    seen = []
    for _ in range(20):
        lab.run_for(3)
        seen.append(lab.cpus())
    idle, busy = zip(*seen)
    assert any("default_idle" in functions(cpu.stack) for cpu in idle if cpu.mode == "idle")
    assert any((cpu.task, cpu.tid, cpu.stack) == ("consumer", consumer.tid, ()) for cpu in busy if cpu.mode == "user")
    spin.stop()


def test_who_waits_for_whom(lab, server, consumer, buf):
    """/proc/PID/wchan and status say the same of the sleeper."""
    with lab.stop_at("copy_page_range") as stop:
        call = consumer.start("process_vm_mmap", server, buf, pages=4)
        stop.wait()
        server.pin(0)
        waits = server.start("munmap", buf, pages=4)
        hang = lab.hang(waits)
        assert (hang.stuck.task, hang.stuck.tid) == ("server", server.tid)
        assert hang.stuck.waits == "mmap_lock of server, held for writing by consumer"
        assert "rwsem_down_write_slowpath" in functions(hang.stuck.stack)
        assert b"State:\tD" in lab.guest.read_file(f"/proc/{server.pid}/status")
        assert "asleep in the kernel" in str(hang)
    assert call.wait() and waits.wait() == 0


def test_a_deadlock_is_found_and_shown(new_lab):
    with Lab(kernel="v2") as lab:
        (task,) = lab.tasks("task")
        buf = task.mmap(pages=4)
        task.stamp(buf, 4)
        call = task.start("process_vm_mmap", task, buf, pages=4)
        hang = lab.hang(call)
        assert hang.stuck.task == "task" and "copy_pte_range" in functions(hang.stuck.stack)
        assert hang.stuck.spins and hang.stuck.waits.startswith("the lock of task's pte table for ")
        assert hang.stuck.waits[9:] in [held.replace("lock of", "of") for held in hang.seen.held]
        assert f"RIP: {hang.stuck.registers['rip']:016x}" in str(hang) and "R15: " in str(hang)
        with pytest.raises(MachineTimeout) as error:
            call.wait(0.5)
        assert "--- what the CPUs are at ---\nCPU 1: task" in str(error.value)


def test_what_ends_does_not_hang(lab, server, consumer, buf):
    assert lab.hang(consumer.start("process_vm_mmap", server, buf, pages=4)) is None
    with pytest.raises(MachineTimeout, match="neither ended nor hangs"):
        lab.hang(consumer.start("spin"), bound=0.5)
