# SPDX-License-Identifier: MIT
"""Guest and Task against the real agent, run as a process on this computer.

What the tasks did is asked of another view: /proc of this computer.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import agent_on_host
import pytest
from processes import state, until

from pvmlab import calls
from pvmlab.errors import (ExpectationFailed, GuestError, ImageError, MachineDied,
                           MachineTimeout, PvmlabError, TaskFault, TaskGone,
                           UsageError)
from pvmlab.guest import Guest, errno_of, expect

PAGE = 4096


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    out = tmp_path_factory.mktemp("agent")
    if why := agent_on_host.build(out):
        pytest.skip(why)
    return out


@pytest.fixture
def port(agent):
    port = agent_on_host.HostPort(agent)
    yield port
    port.close()


@pytest.fixture
def guest(port):
    return Guest(port)


@pytest.fixture
def task(guest):
    return guest.spawn("server")


def proc(task, name):
    return Path(f"/proc/{task.pid}/{name}").read_text()


# ---- tasks -------------------------------------------------------------------

@pytest.mark.parametrize("wrong, why, how", [
    (lambda t: t.read(0x1000), "missing a required argument: 'len'", "it is read(addr, len)"),
    (lambda t: t.mmap(0, 4096), "too many positional arguments", "it is mmap(addr=0, *, len=None, pages=None, prot"),
    (lambda t: t.munmap(0x1000, size=1), "unexpected keyword argument 'size'", "it is munmap(addr, *, len=None, pages=None)"),
])
def test_arguments_that_do_not_fit_are_told_which_do(task, wrong, why, how):
    with pytest.raises(UsageError) as failed:
        wrong(task)
    assert failed.value.what.startswith("server: ") and why in failed.value.why and failed.value.mend.startswith(how)


def test_a_type_error_from_within_stays_one(task, monkeypatch):
    monkeypatch.setattr(task, "_do", lambda request: len(7))
    with pytest.raises(TypeError, match="has no len"):
        task.touch(0x1000)



def test_greeting(guest):
    assert guest.hello.abi == 1
    assert guest.hello.release == Path("/proc/sys/kernel/osrelease").read_text().strip()


def test_a_task_has_few_mappings_and_its_name(task):
    maps = proc(task, "maps").splitlines()
    assert proc(task, "comm") == "server\n"
    assert sum("[v" not in line for line in maps) == 3      # text, bss, stack
    assert not any("heap" in line for line in maps)


def test_its_memory_stays_still_between_calls(task):
    task.syscall("getppid")

    def faults():
        fields = proc(task, "stat").rsplit(") ", 1)[1].split()
        return fields[7], fields[9]         # minor, major; not the refused ones

    before = faults(), proc(task, "smaps")
    task.syscall("getppid")
    task.syscall("uname", bytearray(390))
    task.read(task.scratch, 16384)
    with expect(signal.SIGSEGV):
        task.read(0, 1)
    assert (faults(), proc(task, "smaps")) == before


def test_write_and_read_back(task):
    buf = task.mmap(pages=16)
    data = bytes(range(256)) * 200
    assert task.write(buf + 100, data) == len(data)
    assert task.read(buf + 100, len(data)) == data
    assert task.read(buf, 0) == b"" and task.write(buf, b"") == 0


def test_faults_are_reported_and_the_task_lives(task):
    hole = task.mmap(pages=2)
    task.munmap(hole + PAGE, pages=1)
    with expect(signal.SIGSEGV) as failed:
        task.write(hole + PAGE - 2, b"four")
    assert (failed.error.address, failed.error.code) == (hole + PAGE, 1)
    assert task.read(hole + PAGE - 2, 2) == b"fo"
    task.mprotect(hole, calls.PROT_READ, pages=1)
    with expect(signal.SIGSEGV) as failed:
        task.touch(hole, write=True)
    assert failed.error.code == 2 and task.alive


def test_sigbus_beyond_a_file(task):
    fd = task.memfd("empty")
    addr = task.mmap(pages=1, fd=fd, flags=calls.MAP_SHARED)
    with expect(signal.SIGBUS) as failed:
        task.touch(addr)
    assert failed.error.address == addr


def test_touch_faults_pages_in(task):
    buf = task.mmap(pages=10)
    rss = int(proc(task, "statm").split()[1])
    assert task.touch(buf, 10, write=True) == 10
    assert int(proc(task, "statm").split()[1]) == rss + 10


def test_touching_for_write_keeps_the_content(task):
    buf = task.mmap(pages=1)
    task.write(buf, b"kept")
    task.touch(buf, write=True)
    assert task.read(buf, 4) == b"kept"


def test_stamp(task):
    buf = task.mmap(pages=3)
    task.stamp(buf, 3, first=7, step=2)
    found = [int.from_bytes(task.read(buf + i * PAGE, 8), "little") for i in range(3)]
    assert found == [7, 9, 11]


def test_forked_child_has_a_copy(task):
    buf = task.mmap(pages=1)
    task.write(buf, b"before")
    child = task.fork("child")
    child.write(buf, b"after!")
    assert task.read(buf, 6) == b"before" and child.read(buf, 6) == b"after!"
    assert proc(child, "comm") == "child\n" and child.pid != task.pid


def test_no_own_page_is_shared_after_fork(task):
    child = task.fork("child")
    for one in (task, child):
        own = proc(one, "smaps").split("[stack]")[0].split("rw-p", 1)[1]
        dirty = [int(line.split()[1]) for line in own.splitlines()
                 if line.startswith("Shared_Dirty")]
        assert dirty[0] == 0                                # bss


def test_grandchildren_have_slots_of_their_own(task):
    family = [task]
    for i in range(5):
        family.append(family[-1].fork(f"child{i}"))
    assert [one.syscall("getpid") for one in family] == [one.pid for one in family]


def test_threads_share_memory(task):
    before = proc(task, "maps")
    threads = [task.thread(f"thread{i}") for i in range(8)]
    assert proc(task, "maps") == before
    assert {one.syscall("getpid") for one in threads} == {task.pid}
    assert [one.syscall("gettid") for one in threads] == [one.tid for one in threads]
    with expect(errno.EAGAIN):
        task.thread("one too many")
    threads[0].exit()
    assert task.thread("its seat").alive


def test_vfork_child_shares_memory_but_is_a_process(task):
    buf = task.mmap(pages=1)
    child = task.vfork_child("sharer")
    child.write(buf, b"seen")
    assert task.read(buf, 4) == b"seen" and child.syscall("getpid") == child.pid
    assert child.pid != task.pid
    child.exit(3)
    assert task.alive and not child.alive


# ---- endings -----------------------------------------------------------------

def test_exit_is_over_when_it_returns(guest, task):
    task.exit(7)
    assert not Path(f"/proc/{task.pid}").exists() and not task.alive
    with pytest.raises(TaskGone, match="exited with code 7"):
        task.syscall("getpid")


def test_a_thread_exits_alone(task):
    thread = task.thread("worker")
    thread.exit()
    assert task.alive and not thread.alive


def test_a_process_takes_its_threads_along(task):
    thread = task.thread("worker")
    task.exit()
    assert not thread.alive
    with pytest.raises(TaskGone):
        thread.syscall("getpid")


def test_a_tasks_child_stays_a_zombie_until_waited_for(task):
    child = task.fork("child")
    child.exit(5)
    assert state(child.pid) == "Z" and "code 5" in repr(child)
    assert task.syscall("wait4", child, None, 0, None) == child.pid
    assert not Path(f"/proc/{child.pid}").exists()


def test_orphans_are_reaped_by_pid_1(task):
    child = task.fork("child")
    zombie = task.fork("zombie")
    zombie.exit()
    task.exit()
    until(lambda: not Path(f"/proc/{zombie.pid}").exists())
    assert child.alive
    child.kill()
    until(lambda: not Path(f"/proc/{child.pid}").exists())


def test_death_in_the_middle_of_a_call_answers_it(task):
    call = task.start("pause")
    task.kill()
    with pytest.raises(TaskGone, match="SIGKILL"):
        call.wait()


def test_a_forked_childs_death_in_the_middle(task):
    child = task.fork("child")
    call = child.start("pause")
    child.kill()
    with pytest.raises(TaskGone, match="SIGKILL"):
        call.wait(2)


def test_an_outside_sigsegv_kills(task):
    task.kill(signal.SIGSEGV)
    assert "SIGSEGV" in task.join()


def test_exit_group_by_a_raw_call(task):
    with pytest.raises(TaskGone, match="code 4"):
        task.syscall("exit_group", 4)


def test_slots_are_used_again(guest):
    gone = guest.spawn("gone")
    gone.exit()
    for i in range(130):
        guest.spawn(f"t{i}").exit()
    with pytest.raises(TaskGone):
        gone.syscall("getpid")


def test_slots_run_out_with_an_error(guest):
    tasks = [guest.spawn(f"t{i}") for i in range(64)]
    with expect(errno.EAGAIN):
        guest.spawn("one too many")
    with expect(errno.EAGAIN):
        tasks[0].fork("one too many")
    tasks[5].exit()
    assert guest.spawn("fits").alive


def test_nothing_stays_behind(agent):
    port = agent_on_host.HostPort(agent)
    task = Guest(port).spawn("server")
    child = task.fork("child")
    port.close()
    until(lambda: not Path(f"/proc/{task.pid}").exists())
    until(lambda: not Path(f"/proc/{child.pid}").exists() or state(child.pid) == "Z")


# ---- calls -------------------------------------------------------------------

def test_structs_in_and_out(task):
    limit = calls.new("struct rlimit64 *")
    task.syscall("prlimit64", 0, 7, None, limit)
    assert limit.rlim_cur > 0
    limit.rlim_cur = 1000
    task.syscall("prlimit64", 0, 7, limit, None)
    again = calls.new("struct rlimit64 *")
    task.syscall("prlimit64", 0, 7, None, again)
    assert again.rlim_cur == 1000


def test_paths_and_buffers(task, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    fd = task.open(str(tmp_path / "file"))
    buffer = bytearray(100)
    assert task.syscall("read", fd, buffer, 100) == 7
    assert buffer[:8] == b"content\0"


def test_process_vm_readv(guest, task):
    other = guest.spawn("consumer")
    theirs, ours = task.mmap(pages=1), other.mmap(pages=1)
    task.write(theirs, b"over there")
    assert other.process_vm_readv(task, theirs, ours, 10) == 10
    assert other.read(ours, 10) == b"over there"
    other.write(ours, b"and back")
    assert other.process_vm_writev(task, theirs, ours, 8) == 8
    assert task.read(theirs, 8) == b"and back"


def test_process_vm_mmap_is_made(guest, task):
    """Whatever this computer's kernel makes of number 548."""
    with pytest.raises(GuestError) as failed:
        guest.spawn("consumer").process_vm_mmap(task, 0x1000, pages=1)
    assert failed.value.call == "consumer: process_vm_mmap(server, 0x1000, 0x1000, 0, 0)"


def test_wrong_values_reach_the_kernel(task):
    for len in (0, -1):
        with expect(errno.EINVAL):
            task.munmap(task.scratch & -PAGE, len=len)
    with expect(errno.EBADF):
        task.syscall("close", -1)
    with expect(errno.ENOSYS):
        task.syscall(9999)


def test_mremap_and_madvise(task):
    buf = task.mmap(pages=2)
    task.write(buf, b"moves along")
    grown = task.mremap(buf, pages=2, new_pages=64)
    assert task.read(grown, 11) == b"moves along"
    task.madvise(grown, calls.MADV_DONTNEED, pages=1)
    assert task.read(grown, 11) == bytes(11)


@pytest.mark.parametrize("ask, hint", [
    (lambda t: t.syscall("proces_vm_mmap"), "process_vm_mmap"),
    (lambda t: t.syscall("getpid", 1.5), "float"),
    (lambda t: t.syscall("close", 2**64), "64 bits"),
    (lambda t: t.syscall("close", *range(7)), "six"),
    (lambda t: t.syscall("fork"), r"task\.fork"),
    (lambda t: t.syscall(57), r"task\.fork"),
    (lambda t: t.syscall("write", 1, bytes(20000), 20000), "16384"),
    (lambda t: t.mmap(), "pages="),
    (lambda t: t.mmap(len=1, pages=1), "pages="),
    (lambda t: t.read(0x1000, -1), "out of range"),
    (lambda t: t.read(0x1000, 1 << 60), "out of range"),
    (lambda t: t.touch(0x1000, 1 << 60), "out of range"),
    (lambda t: t.touch(2**64 - PAGE, 2), "last address"),
    (lambda t: t.write(0x1000, "text"), "bytes"),
    (lambda t: t.fork(""), "15 bytes"),
    (lambda t: t.fork("a name that is too long"), "15 bytes"),
    (lambda t: t.exit(-1), "out of range"),
    (lambda t: t.open("a\0b"), "NUL"),
])
def test_mistakes_are_told_and_nothing_is_sent(task, ask, hint):
    with pytest.raises(UsageError, match=hint) as failed:
        ask(task)
    assert failed.value.what and failed.value.why
    assert task.syscall("getpid") == task.pid


# ---- side by side ------------------------------------------------------------

def test_a_blocked_task_blocks_no_other(guest, task):
    ends = calls.new("int32_t[2]")
    task.syscall("pipe2", ends, 0)
    reader = task.thread("reader")
    buf = task.mmap(pages=1)
    call = reader.start(calls.NUMBERS["read"], ends[0], buf, 5)
    assert not call.done and "running" in repr(call)
    assert guest.spawn("other").syscall("getpid")
    task.syscall("write", ends[1], b"12345", 5)
    assert call.wait(5) == 5 and call.done
    assert task.read(buf, 5) == b"12345"


def test_a_busy_task_says_so(task):
    call = task.start("pause")
    with pytest.raises(UsageError, match="still in pause"):
        task.syscall("getpid")
    assert call.stop() == 0
    assert task.syscall("getpid") == task.pid


def test_write_loop(task):
    buf = task.mmap(pages=1)
    writer = task.thread("writer")
    call = writer.start("write_loop", buf, first=1)
    until(lambda: int.from_bytes(task.read(buf, 8), "little") > 1000)
    stores = call.stop()
    assert int.from_bytes(task.read(buf, 8), "little") == stores
    assert writer.start("write_loop", buf, limit=10).wait() == 10


def test_write_loop_ends_with_a_fault(task):
    buf = task.mmap(pages=1)
    call = task.thread("writer").start("write_loop", buf)
    task.munmap(buf, pages=1)
    with expect(signal.SIGSEGV) as failed:
        call.wait()
    assert failed.error.address == buf


def cpus(task):
    found = Path(f"/proc/{task.pid}/task/{task.tid}/status").read_text()
    return found.split("Cpus_allowed_list:")[1].split()[0]


@pytest.mark.skipif(os.sched_getaffinity(0) != {0, 1}, reason="needs CPUs 0 and 1")
def test_what_is_started_runs_on_another_cpu(task):
    task.pin(0)
    call = task.start("spin")
    assert cpus(task) == "0"
    call.stop()
    task.pin(None)
    call = task.start("spin")
    assert cpus(task) == "1"
    call.stop()
    task.syscall("getpid")
    assert cpus(task) == "0"
    with expect(errno.EINVAL):
        task.pin(63)


def test_spin_and_stop(task):
    assert task.start("spin").stop() >= 0


def test_a_blocking_call_can_be_interrupted(task):
    call = task.start("nanosleep", calls.new("struct timespec *", {"tv_sec": 60}), None)
    until(lambda: state(task.pid) == "S")
    time.sleep(0.05)
    with expect(errno.EINTR):
        call.stop()


def test_timeout_and_afterwards(guest, task):
    sleeper = guest.spawn("sleeper")
    half = calls.new("struct timespec *", {"tv_nsec": 300_000_000})
    guest.port.timeout = 0.05
    with pytest.raises(MachineTimeout, match="sleeper: nanosleep"):
        sleeper.syscall("nanosleep", half, None)
    assert task.syscall("getpid") == task.pid
    guest.port.timeout = 5
    assert sleeper.syscall("getpid") == sleeper.pid     # after the late reply


def test_ctrl_c_leaves_the_protocol_usable(guest, task):
    other = guest.spawn("other")
    main = threading.main_thread().ident
    for i in range(60):
        timer = threading.Timer(0.001 + 0.0001 * i, signal.pthread_kill,
                                (main, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            while True:
                assert other.syscall("getpid") == other.pid
                assert task.read(task.scratch, 16384)
        timer.join()
    assert task.syscall("getpid") == task.pid
    assert other.syscall("getpid") == other.pid


def test_many_python_threads(guest):
    tasks = [guest.spawn(f"t{i}") for i in range(4)]
    wrong = []

    def hammer(task):
        for _ in range(200):
            if task.syscall("getpid") != task.pid:
                wrong.append(task)

    threads = [threading.Thread(target=hammer, args=(task,)) for task in tasks]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_the_machine_is_let_run_only_inside_calls(port, task):
    assert port.depth == 0
    task.syscall("getpid")
    with expect(errno.EBADF):
        task.syscall("close", 99)
    assert port.depth == 0


def test_a_dead_agent_is_told(port, task):
    port.process.kill()
    port.process.wait()
    with pytest.raises(MachineDied):
        task.syscall("getpid")


def test_a_closed_lab_is_told(guest, task):
    guest.close()
    with pytest.raises(TaskGone, match="lab is closed"):
        task.syscall("getpid")
    with pytest.raises(TaskGone, match="lab is closed"):
        guest.spawn("late")
    assert not task.alive and "closed" in repr(task)


# ---- files -------------------------------------------------------------------

def test_files(guest, tmp_path):
    path, data = str(tmp_path / "file"), bytes(range(256)) * 9000     # 2.2 MB
    guest.write_file(path, data)
    assert guest.read_file(path) == data
    assert guest.read_file(path, 1000, 5) == data[1000:1005]
    guest.write_file(path, "short")
    assert guest.read_file(path) == b"short" and guest.read_file(path, 5) == b""
    guest.mkdir(str(tmp_path / "directory"))
    assert (tmp_path / "directory").is_dir()


def test_pagemap_at_an_offset(guest, task):
    buf = task.mmap(pages=2)
    task.touch(buf, write=True)
    entries = guest.read_file(f"/proc/{task.pid}/pagemap", buf // PAGE * 8, 16)
    present = [int.from_bytes(entries[at:at + 8], "little") >> 63 for at in (0, 8)]
    assert present == [1, 0]


@pytest.mark.parametrize("ask, name", [
    (lambda g: g.read_file("/nowhere"), "ENOENT"),
    (lambda g: g.write_file("/proc/nothing", "x"), "ENOENT"),
    (lambda g: g.mkdir("/proc"), "EEXIST"),
    (lambda g: g.zram_swap(1 << 20, "no-such-device"), "ENOENT"),
])
def test_file_errors(guest, ask, name):
    with pytest.raises(GuestError) as failed:
        ask(guest)
    assert failed.value.name == name


def test_a_cgroup_that_is_not_there(guest):
    with pytest.raises(UsageError, match="cgroup"):
        guest.spawn("server", cgroup="/nowhere")


def test_run_a_program(guest, tmp_path):
    out = guest.run("/bin/uname", output=str(tmp_path / "out"))
    assert (out.status, out.output) == (0, b"Linux\n")
    with pytest.raises(UsageError, match="missing"):
        guest.run("/nowhere", output=str(tmp_path / "out"))


# ---- frames that make no sense ------------------------------------------------

def test_junk_on_the_stream_is_skipped(guest, port):
    port.sock.sendall(b"junk" * 50)
    assert guest.spawn("server").alive


@pytest.mark.parametrize("fields", [
    dict(op=999), dict(op=0), dict(op=64, payload=bytes(20000)), dict(op=66, want=1 << 30),
])
def test_impossible_requests_are_refused(guest, task, fields):
    fields.setdefault("slot", task.slot)
    seq = guest.wire.number()
    guest.wire.post(seq, **fields, what="nonsense")
    assert guest.wire.wait(seq, what="nonsense").status == 5        # PVM_BAD
    assert task.syscall("getpid") == task.pid


@pytest.mark.parametrize("op", ["PVM_READ_FILE", "PVM_SPAWN", "PVM_MKDIR"])
def test_a_path_without_its_end_is_refused(guest, op):
    with pytest.raises(ImageError):
        guest._checked(op, "nonsense", "open", payload=b"no NUL")


# ---- expect ------------------------------------------------------------------

def test_expect_shows_the_error(task):
    with expect(errno.EBADF) as failed:
        task.syscall("close", 99)
    assert failed.error.errno == errno.EBADF
    assert "server: close(99) → EBADF" in repr(failed)


def test_a_limit_of_its_own_address_space(task):
    pages = int(task.guest.read_file(f"/proc/{task.pid}/statm").split()[0])
    task.limit(calls.RLIMIT_AS, (pages + 1) * 4096)
    assert errno_of(task.mmap, pages=2) == "ENOMEM" and errno_of(task.mmap, pages=1) == ""


def test_errno_of_is_the_errors_name_or_nothing(task):
    assert errno_of(task.syscall, "close", 99) == "EBADF"
    assert errno_of(task.mmap, pages=1) == ""
    with pytest.raises(TaskFault):
        errno_of(task.read, 0, 1)


def test_expect_wants_an_error():
    with pytest.raises(ExpectationFailed, match="EFAULT") as failed:
        with expect(errno.EFAULT):
            pass
    assert isinstance(failed.value, AssertionError)
    assert isinstance(failed.value, PvmlabError)


def test_expect_lets_others_through(task):
    with pytest.raises(GuestError) as failed:
        with expect(errno.EFAULT):
            task.syscall("close", 99)
    assert failed.value.errno == errno.EBADF
    with pytest.raises(TaskFault):
        with expect(errno.EFAULT):
            task.read(0, 1)
