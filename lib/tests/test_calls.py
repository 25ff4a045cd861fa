# SPDX-License-Identifier: MIT
"""Numbers, types and constants against this computer's kernel headers, and
the laying down of arguments."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmlab import abi, calls
from pvmlab.arguments import lay_out, unsigned
from pvmlab.errors import UsageError
from pvmlab.requests import BUILDERS, call_text

UNISTD = [path for path in (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
                            Path("/usr/include/asm/unistd_64.h")) if path.exists()]
HEADERS = ("linux/uio.h linux/resource.h linux/time.h linux/openat2.h linux/poll.h "
           "linux/sched.h linux/userfaultfd.h linux/io_uring.h linux/mman.h "
           "sys/types.h").split()
MMAN = [name for name in dir(calls)
        if re.match(r"(PROT|MAP|MREMAP|MADV|CLONE)_[A-Z]", name)
        and name != "CLONE_FLAGS"]
TASK = SimpleNamespace(name="server", pid=7, scratch=0x10000)


@pytest.mark.skipif(not UNISTD, reason="needs <asm/unistd_64.h>")
def test_numbers_are_the_kernels():
    found = dict(re.findall(r"#define __NR_(\w+) (\d+)", UNISTD[0].read_text()))
    known = {name: number for name, number in calls.NUMBERS.items() if name in found}
    assert len(known) >= 80
    assert known == {name: int(found[name]) for name in known}


def test_the_calls_own_number():
    assert calls.number_of("process_vm_mmap") == 548
    assert calls.number_of(548) == 548 and calls.number_of(9999) == 9999


def compiles(lines):
    program = "".join(f"#include <{header}>\n" for header in HEADERS) + "\n".join(lines)
    return subprocess.run(["gcc", "-xc", "-fsyntax-only", "-"], input=program,
                          text=True, capture_output=True).stderr


def types():
    return [f"struct {name}" for name in re.findall(
        r"^struct (\w+) {", Path(calls.__file__).with_name("uapi.h").read_text(), re.M)]


@pytest.mark.skipif(not shutil.which("gcc") or not UNISTD, reason="needs gcc and headers")
def test_types_and_constants_are_the_kernels():
    """Each assertion by itself, since older headers lack the newest names."""
    checks = [f'_Static_assert(sizeof({name}) == {abi.ffi().sizeof(name)}, "");'
              for name in types()]
    checks += [f'_Static_assert({name} == {value}UL, "");'
               for name, value in calls.constants().items()]
    checks += [f'_Static_assert({name} == {getattr(calls, name)}, "");' for name in MMAN]
    wrong = [line for line in compiles(checks).splitlines() if "assertion failed" in line]
    assert not wrong


@pytest.mark.parametrize("name", [name for name in calls.NOT_RAW])
def test_calls_that_would_lose_the_task(name):
    with pytest.raises(UsageError, match="use "):
        calls.number_of(name)


def test_a_pid_is_shown_in_decimal_and_an_address_in_hex():
    assert call_text("process_vm_mmap", 32767, 0x7000, 8192, 0, 0) == "process_vm_mmap(32767, 0x7000, 0x2000, 0, 0)"
    assert call_text("process_vm_mmap", TASK, 0x7000) == "process_vm_mmap(server, 0x7000)"
    assert call_text("tgkill", 5000, 5001, 9) == "tgkill(5000, 5001, 9)"


# ---- arguments ---------------------------------------------------------------

values = st.one_of(st.integers(-2**63, 2**64 - 1), st.none(), st.binary(max_size=200),
                   st.text(max_size=50).filter(lambda text: "\0" not in text),
                   st.binary(max_size=200).map(bytearray))


@given(st.lists(values, max_size=6))
def test_what_is_laid_down_can_be_found(args):
    laid = lay_out(args, TASK.scratch, "a call")
    assert len(laid.values) == 6
    for arg, value in zip(args, laid.values):
        if isinstance(arg, int):
            assert value == arg % 2**64
        elif arg is None:
            assert value == 0
        else:
            data = arg.encode() + b"\0" if isinstance(arg, str) else bytes(arg)
            at = value - TASK.scratch
            assert value % 16 == 0 and laid.payload[at:at + len(data)] == data


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=5))
def test_only_what_may_change_comes_back(buffers):
    args = [bytearray(buffer) for buffer in buffers] + ["constant"]
    laid = lay_out(args, TASK.scratch, "a call")
    laid.bring_back(bytes(byte ^ 0xFF for byte in laid.payload[:laid.want]))
    assert [bytes(arg) for arg in args[:-1]] == [
        bytes(byte ^ 0xFF for byte in buffer) for buffer in buffers]


def test_the_same_object_has_one_place():
    value = calls.new("struct iovec *")
    laid = lay_out([value, value], TASK.scratch, "a call")
    assert laid.values[0] == laid.values[1] and laid.want == 16


def test_a_struct_by_value_a_null_pointer_and_a_number():
    ffi, value = abi.ffi(), calls.new("struct iovec *", {"iov_len": 5})
    laid = lay_out([value[0], ffi.NULL, ffi.cast("uint32_t", 9)], TASK.scratch, "a call")
    assert laid.values[:3] == (TASK.scratch, 0, 9)
    assert laid.payload == bytes(8) + (5).to_bytes(8, "little")


@given(st.one_of(st.integers(max_value=-2**63 - 1), st.integers(min_value=2**64)))
def test_what_64_bits_cannot_express_is_refused(value):
    with pytest.raises(UsageError, match="64 bits"):
        unsigned(value, "a call")


@given(st.integers(-2**63, 2**64 - 1))
def test_any_64_bit_length_reaches_the_kernel(length):
    request = BUILDERS["munmap"](TASK, 0x1000, len=length)
    assert request.args[:2] == (0x1000, length % 2**64)


@given(st.integers(), st.integers())
def test_touch_is_bounded(addr, pages):
    try:
        request = BUILDERS["touch"](TASK, addr, pages)
    except UsageError:
        return
    assert request.args[0] + request.args[1] * 4096 <= 2**64
    assert request.args[1] <= 1 << 24
