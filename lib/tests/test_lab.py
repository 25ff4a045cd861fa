# SPDX-License-Identifier: MIT
"""Lab's life: one cell one machine, several at once, forgotten, killed, closed, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import gone, until

import pvmlab
from pvmlab import Lab, lab as lab_module
from pvmlab.errors import MachineDied, PvmlabError, SetupError, TaskGone, UsageError

PACKAGE = Path(pvmlab.__file__).parent.parent


def pid_of(lab):
    return lab.machine.qmp.process.pid


def python(code, **environment):
    """Run Python code in a process of its own, with this library."""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": str(PACKAGE), **environment})


@pytest.fixture
def machine_lab():
    with Lab(kernel="v2") as lab:
        yield lab


# --- several machines ---------------------------------------------------------------------------------------------------

def test_two_labs_at_once_know_nothing_of_each_other():
    with Lab(kernel="v2") as one, Lab(kernel="v2") as two:
        assert pid_of(one) != pid_of(two)
        a, b = one.task("a"), two.task("b")
        first, second = a.mmap(pages=4), b.mmap(pages=4)
        a.write(first, b"one")
        b.write(second, b"two")
        before = two.look()
        a.stamp(first, 4)
        assert not (two.look() - before)
        assert [t.name for t in one.look().tasks] == ["a"] and [t.name for t in two.look().tasks] == ["b"]
        assert b.read(second, 3) == b"two"
        one.close()
        assert b.syscall("getpid") == b.pid


def test_every_lab_begins_alike():
    """Pristine: the same processes, mappings and frames, whatever an earlier one did."""
    def looked(spoil):
        with Lab(kernel="v2") as lab:
            seen = lab.look()
            if spoil:
                lab.task("x").mmap(pages=100)
            return [(t.name, t.pid, t.mm.addr, len(t.mm.vmas), t.mm.entries) for t in seen.others]
    assert looked(True) == looked(True) == looked(False)


def test_labs_in_threads():
    """Made, used and closed by different threads, four at a time."""
    def work(number):
        with Lab(kernel="v2") as lab:
            task = lab.task(f"t{number}")
            buf = task.mmap(pages=2)
            task.write(buf, bytes([number]))
            assert lab.look().task(f"t{number}").pte(buf)
            return task.read(buf, 1)[0]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


def test_one_lab_used_by_several_threads(machine_lab):
    tasks = machine_lab.tasks("a", "b", "c", "d")

    def work(task):
        buf = task.mmap(pages=1)
        for i in range(50):
            task.write(buf, bytes([i]))
            assert task.read(buf, 1) == bytes([i])
        return task.syscall("getpid")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, tasks)) == [t.pid for t in tasks]


# --- one cell, one machine ------------------------------------------------------------------------------------------------

@pytest.fixture
def cell(monkeypatch):
    """A notebook cell that can be run again: call it before each run."""
    runs = {"count": 0, "name": "boot"}
    monkeypatch.setattr(lab_module, "_cell", lambda: (runs["name"], runs["count"]))
    monkeypatch.setattr(lab_module, "_made_by_cell", {})

    def run(name="boot"):
        runs.update(count=runs["count"] + 1, name=name)
    return run


def test_a_cell_run_five_times_has_one_machine(cell):
    labs = []
    for _ in range(5):
        cell()
        labs.append(Lab(kernel="v2"))
    assert [gone(pid_of(lab)) for lab in labs] == [True] * 4 + [False]
    assert labs[-1].task("server").syscall("getpid") > 1
    with pytest.raises(PvmlabError, match="closed"):
        labs[0].task("server")
    labs[-1].close()


def test_a_cell_may_make_several_and_cells_keep_to_themselves(cell):
    cell()
    first = [Lab(kernel="v2"), Lab(kernel="v2")]
    cell("another")
    other = Lab(kernel="v2")
    assert not any(gone(pid_of(lab)) for lab in (*first, other))
    cell()
    again = Lab(kernel="v2")
    assert [gone(pid_of(lab)) for lab in (*first, other, again)] == [True, True, False, False]
    other.close()
    again.close()


def test_a_cell_that_failed_does_not_stand_in_the_way(cell):
    cell()
    with pytest.raises(UsageError):
        Lab(kernel="v9")
    cell()
    with Lab(kernel="v2") as lab:
        assert lab.task("server").pid > 1


# --- the end ------------------------------------------------------------------------------------------------------------

def test_a_forgotten_lab_ends():
    lab = Lab(kernel="v2")
    server = lab.task("server")
    lab.look()
    pid = pid_of(lab)
    assert not gone(pid) and server.pid
    del lab
    gc.collect()
    assert gone(pid)
    with pytest.raises(PvmlabError, match="its Lab is gone"):
        server.syscall("getpid")


def test_a_closed_lab_says_so(machine_lab):
    server = machine_lab.task("server")
    before = machine_lab.look()
    machine_lab.close()
    machine_lab.close()
    for act in (machine_lab.look, lambda: machine_lab.task("x"), lambda: server.syscall("getpid"), lambda: machine_lab.kernel,
                lambda: machine_lab.run_for(1), lambda: machine_lab.swap(4096), lambda: server.start("pause")):
        with pytest.raises((MachineDied, TaskGone), match="closed.*new Lab"):
            act()
    assert "closed" in repr(machine_lab) and isinstance(machine_lab.console(), str)
    assert before.task("server").pid == server.pid      # what was seen stays


def test_closing_while_a_call_runs(machine_lab):
    server = machine_lab.task("server")
    call = server.start("pause")
    timer = threading.Timer(0.1, machine_lab.close)
    timer.start()
    with pytest.raises((MachineDied, TaskGone)):
        call.wait(timeout=10)
    timer.join()


def test_no_qemu_outlives_a_killed_owner():
    """SIGKILL: no handler runs. The kernel ends QEMU with the thread that started it."""
    code = "from pvmlab import Lab; lab = Lab(); t = lab.task('a'); print(lab.machine.qmp.process.pid, flush=True); t.start('spin').wait()"
    with python(code) as owner:
        qemu = int(owner.stdout.readline())
        assert not gone(qemu)
        owner.send_signal(signal.SIGKILL)
    until(lambda: gone(qemu))


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0", "import os; os._exit(0)"])
def test_no_qemu_outlives_an_owner_that_ends(end):
    code = f"from pvmlab import Lab; lab = Lab(); lab.look(); print(lab.machine.qmp.process.pid, flush=True); {end}"
    with python(code) as owner:
        qemu = int(owner.stdout.readline())
        _, complaint = owner.communicate(timeout=60)
    until(lambda: gone(qemu))
    assert "Exception ignored" not in complaint and "was never" not in complaint, complaint


def test_thirty_labs_leave_nothing():
    """No descriptor, no thread, no process."""
    def count():
        gc.collect()
        with open(f"/proc/self/task/{os.getpid()}/children") as f:
            children = len(f.read().split())
        return len(os.listdir("/proc/self/fd")), threading.active_count(), children
    Lab(kernel="v2").close()
    before = count()
    for i in range(30):
        lab = Lab(kernel="v2")
        if i % 10 == 0:
            lab.task("server").mmap(pages=1)
            lab.look()
        lab.close()
    del lab
    assert count() == before


def test_a_failed_lab_leaves_nothing(monkeypatch):
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    monkeypatch.setattr(lab_module.vm, "available_memory", lambda: 1 << 20)
    for _ in range(3):
        with pytest.raises(SetupError):
            Lab(kernel="v2")
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


# --- standing still -----------------------------------------------------------------------------------------------------

def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_stopped_machine_burns_nothing(machine_lab):
    """Its processor time as the kernel counts it, over a second in which nobody calls; a running guest takes most of one."""
    machine_lab.task("busy").start("spin")
    machine_lab.machine.settle()
    before = cpu_ticks(pid_of(machine_lab))
    time.sleep(1)
    assert cpu_ticks(pid_of(machine_lab)) - before <= os.sysconf("SC_CLK_TCK") // 20
    machine_lab.run_for(300)
    assert cpu_ticks(pid_of(machine_lab)) - before >= os.sysconf("SC_CLK_TCK") // 20


def test_the_guests_clock_stands_still_too(machine_lab):
    machine_lab.machine.settle()
    before = machine_lab.kernel.jiffies
    time.sleep(0.2)
    assert machine_lab.kernel.jiffies == before
    machine_lab.run_for(50)
    assert machine_lab.kernel.jiffies > before


# --- little room --------------------------------------------------------------------------------------------------------

def test_a_small_dev_shm_does_not_matter():
    """RAM is a memfd: it is not in /dev/shm, whose size in a container is often 64 MB."""
    code = "from pvmlab import Lab; lab = Lab(); t = lab.task('a'); b = t.mmap(pages=1); t.write(b, b'x'); print(t.read(b, 1))"
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs root and a mount namespace of its own")
    script = "mount -t tmpfs -o size=64k none /dev/shm && mount -t tmpfs -o size=64k none /run && exec \"$0\" -c \"$1\""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, sys.executable, code], capture_output=True, text=True,
                          timeout=100, env={**os.environ, "PYTHONPATH": str(PACKAGE)})
    assert done.stdout == "b'x'\n", done.stderr


def test_nothing_of_a_machine_has_a_name(machine_lab, tmp_path, monkeypatch):
    """All that QEMU has open is without a name, a device, or a file of the saved machine and of the system."""
    opened = {os.readlink(f"/proc/{pid_of(machine_lab)}/fd/{fd}") for fd in os.listdir(f"/proc/{pid_of(machine_lab)}/fd")}
    assert {path for path in opened if path.startswith(("/tmp/", "/dev/shm/", "/run/")) and "/machines/" not in path} == set()
    assert any(path.startswith("/memfd:pvmlab-ram") for path in opened)


# --- settings -----------------------------------------------------------------------------------------------------------

def test_settings_by_name(machine_lab):
    lab = machine_lab
    lab.swap(8 << 20)
    lab.thp("always")
    lab.ksm(True, pages_to_scan=123, sleep_ms=7)
    group = lab.memory_max("small", 8 << 20)
    read = lambda path: lab.guest.read_file(path).decode().strip()  # noqa: E731
    assert "zram0" in read("/proc/swaps")
    assert "[always]" in read("/sys/kernel/mm/transparent_hugepage/enabled")
    assert [read(f"/sys/kernel/mm/ksm/{n}") for n in ("run", "pages_to_scan", "sleep_millisecs")] == ["1", "123", "7"]
    lab.ksm(False)
    assert read(f"{group}/memory.max") == str(8 << 20)
    assert lab.memory_max("small", None) == group and read(f"{group}/memory.max") == "max"
    with pytest.raises(UsageError, match="without a name"):
        lab.tasks()


@pytest.mark.parametrize("config", [dict(cpus=1), dict(cpus=4), dict(ram=64), dict(ram=256), dict(icount=True)])
def test_other_machines(config):
    with Lab(kernel="v2", **config) as lab:
        server = lab.task("server")
        buf = server.mmap(pages=2)
        server.stamp(buf, 2)
        assert len(lab.look().task("server").mm.entries.between(buf, buf + 8192)) == 2
        assert lab.guest.read_file("/proc/cpuinfo").decode().count("processor\t") == lab.config.cpus


_BOOT = """
from pvmlab import Lab
lab = Lab(kernel="v2")
lab
"""
_COUNT = """
import os
os.popen(f"pgrep -c -P {os.getpid()} qemu-system").read().strip()
"""


def test_a_real_notebook_kernel_keeps_one_machine_although_it_keeps_every_output():
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        said = []
        for code in [_BOOT] * 5 + [_COUNT]:
            client.execute_interactive(code, timeout=60, output_hook=lambda m: said.append(m["content"]))
        assert said[-2]["data"]["text/plain"] == "'1'", said[-3:]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
