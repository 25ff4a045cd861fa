# SPDX-License-Identifier: MIT
"""The man page says what the library says, renders clean, and its example does what it prints."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pvmlab import calls
from pvmlab.errors import errno_text
from pvmlab.lab import RULES
from pvmlab.meanings import errno_meaning

PAGE = Path(__file__).resolve().parents[2] / "kernel-patches/man/process_vm_mmap.2"


def section(name):
    """The source of one section."""
    return re.search(rf"^\.SH {name}\n(.*?)(?=^\.SH )", PAGE.read_text(), re.M | re.S)[1]


def test_every_errno_is_the_librarys():
    """… and the other way round; ENOSYS is for kernels without the call, of which the page does not speak."""
    named = {getattr(errno, name) for name in re.findall(r"^\.TP\n\.B (E\w+)$", section("ERRORS"), re.M)}
    known = {number for number in errno.errorcode
             if errno_meaning("process_vm_mmap", number, "v3") != errno_text(number)}
    assert named == known - {errno.ENOSYS} and len(named) > 8


def test_errors_are_in_order():
    named = re.findall(r"^\.TP\n\.B (E\w+)$", section("ERRORS"), re.M)
    assert named == sorted(named)


def test_every_errno_in_the_text_has_its_entry():
    entries = set(re.findall(r"^\.TP\n\.B (E\w+)$", section("ERRORS"), re.M))
    assert set(re.findall(r"\bE[A-Z]{3,}\b", section("DESCRIPTION"))) <= entries


def test_every_rule_and_flag_is_there():
    text = section("DESCRIPTION")
    assert [name for name in RULES if not re.search(rf"^\.TP\n\.BR? {name}\b", text, re.M)] == []
    flags = {name for name in dir(calls) if name.startswith("PVMMAP_")}
    assert set(re.findall(r"^\.TP\n\.B (PVMMAP_\w+)$", text, re.M)) == flags


@pytest.mark.parametrize("command", [
    ["mandoc", "-T", "lint", str(PAGE)], ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", str(PAGE)]],
    ids=lambda c: c[0])
def test_it_renders_clean(command):
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "MANPAGER": "cat"})
    assert (done.returncode, done.stderr) == (0, "")
    if command[0] == "mandoc":
        assert done.stdout == ""


@pytest.fixture
def example(tmp_path):
    """The example of the page, compiled."""
    if not shutil.which("cc"):
        pytest.skip("needs cc")
    text = re.search(r"^\.EX\n(.*?)^\.EE$", section("EXAMPLES"), re.M | re.S)[1]
    for coded, plain in (("\\&\n", "\n"), ("\\-", "-"), ("\\[rs]", "\\")):
        text = text.replace(coded, plain)
    source, program = tmp_path / "process_vm_mmap.c", tmp_path / "process_vm_mmap"
    source.write_text(text)
    done = subprocess.run(["cc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-o", program, source],
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return program


def test_the_example_does_what_the_page_says(new_lab, example):
    with new_lab("v3") as lab:
        lab.guest.write_file("/tmp/example", example.read_bytes(), mode=0o755)
        done = lab.guest.run("/tmp/example")
    assert done.status == 0 and done.output.splitlines() == [
        b"parent: written by the child", b"parent: written by the parent", b"child:  written by the child"]
