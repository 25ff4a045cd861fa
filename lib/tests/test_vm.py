# SPDX-License-Identifier: MIT
"""The machine when things go wrong: no QEMU, a damaged saved machine, panic, hang, kill: a clear error, and the next Lab works."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading

import pytest
from processes import gone, until

from pvmlab import Lab, calls, image, vm
from pvmlab.errors import GuestError, MachineDied, MachineTimeout, SetupError, TaskGone, UsageError

PAGE = 4096


@pytest.fixture
def machine_lab():
    with Lab(kernel="v2") as lab:
        yield lab


@pytest.fixture
def next_lab_works():
    """After the test, a new machine comes up and answers."""
    yield
    with Lab(kernel="v2") as lab:
        server = lab.task("server")
        assert lab.look().task("server").pid == server.pid


# --- what cannot be -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong", [dict(cpus=0), dict(cpus=5), dict(cpus=-1), dict(cpus="2"), dict(cpus=1.5), dict(ram=63),
                                   dict(ram=2049), dict(ram=0), dict(ram=-128), dict(ram="128"), dict(cpus=2, icount=True)])
def test_a_machine_that_cannot_be(wrong):
    with pytest.raises(UsageError, match="→ Lab"):
        Lab(kernel="v2", **wrong)


def test_a_wrong_accelerator(monkeypatch):
    monkeypatch.setenv("PVMLAB_ACCEL", "warp")
    with pytest.raises(UsageError, match="PVMLAB_ACCEL"):
        Lab(kernel="v2")


@pytest.mark.parametrize("asked_before", [False, True])
def test_no_qemu(monkeypatch, tmp_path, asked_before):
    """Whether or not its version was asked for while it was still there."""
    if asked_before:
        vm.qemu_version()
    else:
        vm.qemu_version.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PVMLAB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SetupError, match=f"{vm.QEMU}.*apt-get install qemu-system-x86"):
        Lab(kernel="v2")
    vm.qemu_version.cache_clear()


def test_no_setpriv(monkeypatch, tmp_path):
    """What lets QEMU die with its owner is a program of util-linux."""
    (tmp_path / vm.QEMU).symlink_to(subprocess.run(["which", vm.QEMU], capture_output=True, text=True).stdout.strip())
    vm.qemu_version()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="util-linux"):
        Lab(kernel="v2")


def test_a_qemu_that_refuses(monkeypatch, tmp_path):
    """Another program of that name: what it said last is in the error, and nothing stays."""
    fake = tmp_path / vm.QEMU
    fake.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU 99 && exit 0\necho 'no such machine' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    vm.qemu_version.cache_clear()
    with pytest.raises(MachineDied, match="QEMU did not start: no such machine.*doctor"):
        Lab(kernel="v2")
    vm.qemu_version.cache_clear()


def test_more_memory_than_there_is(monkeypatch, next_lab_works):
    monkeypatch.setattr(vm, "available_memory", lambda: 100 << 20)
    with pytest.raises(SetupError, match="128 MiB does not fit.*100 MiB are free.*ram=64"):
        Lab(kernel="v2")
    monkeypatch.undo()


def testavailable_memory_is_a_plausible_number():
    with open("/proc/meminfo") as f:
        total = int(f.readline().split()[1]) * 1024
    assert 0 < vm.available_memory() <= total


# --- a saved machine that is not what it was ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of these tests' own, whose saved machine they may damage."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVMLAB_CACHE", str(path))
        yield path


def saved_machine(cache):
    Lab(kernel="v2").close()
    (home,) = (cache / "machines").iterdir()
    return home


def overwrite(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def lose_data(path):
    """Its size stays and its blocks are gone, as after a crash of the computer."""
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


DAMAGE = {
    "state cut": lambda home: os.truncate(home / "state", 20000),
    "state empty": lambda home: os.truncate(home / "state", 0),
    "state lost": lambda home: lose_data(home / "state"),
    "state header": lambda home: overwrite(home / "state", 0, b"QEVN"),
    "state middle": lambda home: overwrite(home / "state", 600, b"\xff" * 64),
    "state missing": lambda home: os.unlink(home / "state"),
    "ram cut": lambda home: os.truncate(home / "ram", 1 << 20),
    "ram empty": lambda home: os.truncate(home / "ram", 0),
    "ram lost": lambda home: lose_data(home / "ram"),
    "ram missing": lambda home: os.unlink(home / "ram"),
    "all missing": lambda home: [os.unlink(home / name) for name in ("ram", "state")],
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_saved_machine_is_made_again(own_cache, damage):
    home = saved_machine(own_cache)
    DAMAGE[damage](home)
    with Lab(kernel="v2") as lab:
        assert lab.task("server").syscall("getpid") > 1
    assert (home / "ram").stat().st_size == 128 << 20
    with Lab(kernel="v2") as lab:                           # from the new one
        assert lab.look().others
    assert sorted(p.name for p in home.iterdir()) == ["ram", "state"]


def test_nothing_else_lies_in_the_cache(own_cache):
    home = saved_machine(own_cache)
    img = image.image("v2")
    known = {home.parent, img.vmlinux, img.initramfs, img.debug}
    assert {p for p in own_cache.iterdir() if not p.name.startswith("accel-")} == known
    assert list(home.parent.iterdir()) == [home]


def test_another_command_line_is_another_saved_machine(own_cache):
    saved_machine(own_cache)
    with Lab(kernel="v2", append="pvmlab.test=1") as lab:
        assert "pvmlab.test=1" in lab.guest.read_file("/proc/cmdline").decode()
    assert len(list((own_cache / "machines").iterdir())) == 2


# --- the end of a machine, in the middle ----------------------------------------------------------------------------------

def test_a_panic_is_told_with_the_console(machine_lab, next_lab_works):
    """panic_on_oom=2 makes running into a memory limit a panic."""
    lab = machine_lab
    lab.guest.write_file("/proc/sys/vm/panic_on_oom", "2")
    server = lab.task("server", cgroup=lab.memory_max("tight", 4 << 20))
    buf = server.mmap(len=16 << 20)
    with pytest.raises(MachineDied, match="kernel panicked.*start a new Lab") as e:
        server.touch(buf, 4096, write=True)
    assert "Kernel panic - not syncing: Out of memory" in e.value.console
    for again in (lambda: server.syscall("getpid"), lab.look, lambda: lab.task("x"), lambda: lab.run_for(1)):
        with pytest.raises((MachineDied, TaskGone), match="panicked"):
            again()
    assert "Kernel panic" in lab.machine.console_text()
    assert gone(lab.machine.qmp.process.pid)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_qemu_killed_in_the_middle_of_a_call(machine_lab, next_lab_works, sig):
    server = machine_lab.task("server")
    machine_lab.guest.write_file("/dev/kmsg", "a last word\n")
    call = server.start("pause")
    timer = threading.Timer(0.2, os.kill, (machine_lab.machine.qmp.process.pid, sig))
    timer.start()
    with pytest.raises(MachineDied, match="→") as e:
        call.wait(timeout=20)
    timer.join()
    assert isinstance(e.value.console, str)
    with pytest.raises(MachineDied):
        machine_lab.look()


def test_qemu_killed_while_it_stands_still(machine_lab, next_lab_works):
    server = machine_lab.task("server")
    os.kill(machine_lab.machine.qmp.process.pid, signal.SIGKILL)
    until(lambda: gone(machine_lab.machine.qmp.process.pid))
    with pytest.raises(MachineDied, match="ended with status -9"):
        server.syscall("getpid")


def test_a_call_longer_than_its_bound(machine_lab):
    """A timeout says what was waited for; the machine lives on, and so does the call."""
    server, other = machine_lab.tasks("server", "other")
    call = server.start("pause")
    with pytest.raises(MachineTimeout, match=r"server: pause\(\).*no answer within 0.2 s"):
        call.wait(timeout=0.2)
    assert other.syscall("getpid") == other.pid and not call.done
    call.stop()
    assert server.syscall("getpid") == server.pid


def test_a_deadlock_in_the_kernel(machine_lab, next_lab_works):
    """D2: a clone of oneself, with both entries under one page-table lock, spins for ever, the mmap lock held."""
    server, other = machine_lab.tasks("server", "other")
    buf = server.mmap(pages=4)
    server.stamp(buf, 4)
    call = server.start("process_vm_mmap", server, buf, pages=2)
    with pytest.raises(MachineTimeout):
        call.wait(timeout=0.3)
    with pytest.raises(MachineTimeout, match="does not come to rest: held: mmap_lock of server: write.*inside=True"):
        machine_lab.look()
    seen = machine_lab.look(inside=True)
    assert "mmap_lock of server: write" in seen.held and seen.task("server").vma(buf)
    assert other.syscall("getpid") == other.pid


def test_a_guest_that_hangs_altogether(next_lab_works):
    """Both CPUs stopped from outside: each wait ends at its bound, and closing does not hang."""
    with Lab(kernel="v2") as lab:
        server = lab.task("server")
        lab.machine.timeout = 0.3
        os.kill(lab.machine.qmp.process.pid, signal.SIGSTOP)
        with pytest.raises(MachineTimeout, match="no answer within 0.3 s"):
            server.syscall("getpid")
    assert gone(lab.machine.qmp.process.pid)


def test_a_panic_at_boot_is_told(tmp_path, monkeypatch, next_lab_works):
    """No init there: the kernel panics before the agent could answer."""
    with pytest.raises(MachineDied, match="panicked") as e:
        Lab(kernel="v2", append="rdinit=/nothing init=/nothing")
    assert re.search("Kernel panic", e.value.console)


# --- a task that is no more, lengths that cannot be -----------------------------------------------------------------------

def test_a_dead_task(machine_lab):
    server, other = machine_lab.tasks("server", "other")
    server.kill()
    with pytest.raises(TaskGone, match="killed by SIGKILL.*spawn another"):
        server.mmap(pages=1)
    with pytest.raises(GuestError, match="no such process"):
        other.process_vm_mmap(server, 0x400000, pages=1)


@pytest.mark.parametrize("length", [-1, 0, 1 << 47, (1 << 63) - 1, (1 << 64) - 1])
def test_lengths_that_cannot_be_reach_the_kernel(machine_lab, length):
    server, other = machine_lab.tasks("server", "other")
    buf = server.mmap(pages=1)
    for call in (lambda: other.process_vm_mmap(server, buf, len=length), lambda: other.mmap(len=length)):
        with pytest.raises(GuestError) as e:
            call()
        assert e.value.name in ("EINVAL", "ENOMEM", "EFAULT")
    assert other.syscall("getpid") == other.pid


@pytest.mark.parametrize("length", [-1, 1 << 40, 1 << 64])
def test_lengths_that_cannot_be_read(machine_lab, length):
    server = machine_lab.task("server")
    with pytest.raises(UsageError, match="out of range"):
        server.read(server.mmap(pages=1), length)
    with pytest.raises(UsageError):
        server.mmap(len=1 << 64)
    assert calls.PAGE_SIZE == PAGE
