# SPDX-License-Identifier: MIT
"""What an errno is said to mean. The kernels themselves are asked in test_call_errors.py."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmlab.errors import errno_text
from pvmlab.meanings import _FAULTS, _MEANINGS, errno_meaning

PAGE = 4096
GOOD = (41, 0x7F0000000000, PAGE, 0, 0, 0)
anything = st.tuples(*[st.integers(0, 2**64 - 1)] * 6)


def test_meanings_depend_on_the_call_and_the_series():
    v2, v3 = (errno_meaning("process_vm_mmap", errno.EACCES, series) for series in ("v2", "v3"))
    assert "ptrace" in v2 and "MDWE" in v3
    assert "userfaultfd" in errno_meaning("process_vm_mmap", 524)
    assert errno_meaning("close", errno.EBADF) == "Bad file descriptor"
    assert "does not have" in errno_meaning("mseal", errno.ENOSYS)


@pytest.mark.parametrize("at, value, words", [
    (4, 0x18, "flags 0x18 are unknown"), (4, 1 << 63, "flags 0x8000000000000000 are unknown"),
    (2, 0, "len is 0"), (2, 2**64 - 1, "wraps to 0"), (2, (1 << 47) - PAGE + 1, "more than an address space"),
    (1, PAGE - 1, "src_addr rounds down to 0"), (3, (1 << 47) - PAGE, "too high for len"),
    (0, 0, "the pid is 0"), (0, 2**64 - 1, "the pid is -1")])
@pytest.mark.parametrize("series", ["v2", "v3"])
def test_the_arguments_own_fault_is_named_alone(series, at, value, words):
    args = [*GOOD[:at], value, *GOOD[at + 1:]]
    assert words in errno_meaning("process_vm_mmap", errno.EINVAL, series, args)


def test_good_arguments_are_not_to_blame():
    for series in ("v2", "v3"):
        assert errno_meaning("process_vm_mmap", errno.EINVAL, series, GOOD) == \
            errno_meaning("process_vm_mmap", errno.EINVAL, series)


@pytest.mark.parametrize("call, args, words", [
    ("munmap", (PAGE + 1, PAGE), "not page aligned"), ("munmap", (PAGE, 0), "len is 0"),
    ("mmap", (0, 0), "len is 0"), ("mmap", (0, PAGE, 1, 2, 3, 1), "offset is not page aligned"),
    ("mmap", (1, PAGE, 1, 0x12), "addr is not page aligned"), ("mprotect", (1, 0), "addr is not page aligned"),
    ("madvise", (1, PAGE, 4), "not page aligned"), ("mremap", (PAGE, PAGE, 0), "the new length is 0")])
def test_other_calls_arguments(call, args, words):
    assert words in errno_meaning(call, errno.EINVAL, args=(args + (0,) * 6)[:6])


@given(st.sampled_from(sorted(_FAULTS)), anything, st.sampled_from(["v2", "v3"]))
def test_any_arguments_have_a_meaning(call, args, series):
    assert errno_meaning(call, errno.EINVAL, series, args)


@given(st.sampled_from(sorted(_FAULTS)), anything)
def test_other_errnos_do_not_depend_on_the_arguments(call, args):
    assert errno_meaning(call, errno.ENOMEM, args=args) == errno_meaning(call, errno.ENOMEM)


def test_no_sentence_says_only_what_the_c_library_says():
    for call, known in _MEANINGS.items():
        for number, text in known.items():
            assert text != errno_text(number), call
