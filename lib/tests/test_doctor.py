# SPDX-License-Identifier: MIT
"""doctor, as a process, on computers that lack something.

What is missing is really missing there: a PATH without QEMU, an image with
one byte changed, an interpreter without our packages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pvmlab import doctor, image


def run(*command, **changed):
    """Run the doctor with a changed environment; return (status, what it printed, each finding on one line)."""
    done = subprocess.run(command or (sys.executable, "-m", "pvmlab", "doctor"), env=os.environ | changed,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    return done.returncode, re.sub(r"\n {9}(?!→)", " ", done.stdout)


def path_of(folder, *names):
    """Make a directory that can stand as PATH and has only these programs."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_a_good_computer():
    status, said = run()
    assert status == 0, said
    assert "booted in" in said and "KVM" in said and said.endswith("All is there.\n")
    assert not [line for line in said.splitlines() if line.startswith("missing")]


@pytest.mark.parametrize("lost, package", [("qemu-system-x86_64", "qemu-system-x86"), ("dot", "graphviz"),
                                           ("setpriv", "util-linux")])
def test_a_program_is_missing(tmp_path, lost, package):
    programs = {"qemu-system-x86_64", "dot", "setpriv"} - {lost}
    status, said = run(PATH=path_of(tmp_path / "bin", *programs))
    assert status == 1
    assert f"missing  {lost} is not on the PATH" in said
    assert f"apt-get install -y --no-install-recommends {package}" in said
    assert "no machine was booted" in said and "1 missing" in said


def test_a_damaged_image(tmp_path):
    copy = tmp_path / "prebuilt"
    shutil.copytree(image.prebuilt(), copy)
    victim = copy / "vmlinux.xz"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    status, said = run(PVMLAB_IMAGE=str(copy))
    assert status == 1
    assert f"missing  {victim} is damaged" in said and "make image" in said


def test_no_image_at_all(tmp_path):
    status, said = run(PVMLAB_IMAGE=str(tmp_path))
    assert status == 1
    assert "manifest.json is not there" in said and "make image" in said


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    status, said = run(PVMLAB_CACHE=str(tmp_path / "file" / "cache"))
    assert status == 1
    assert "missing  no room for unpacked images" in said and "set PVMLAB_CACHE" in said


def test_it_speaks_without_our_packages():
    """Run as a plain file by an interpreter that has only its standard library."""
    status, said = run(sys.executable, "-I", "-S", doctor.__file__)
    assert status == 1
    assert "Python package drgn" in said and "→ make lab" in said
    assert said.count("pvmlab does not import") == 1
    assert "Traceback" not in said


def test_a_machine_that_never_comes_up(tmp_path, monkeypatch):
    """A QEMU that starts and does nothing: the limit holds, and the finding says how to go on."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\nexec sleep 60\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "BOOT_LIMIT", 2)
    [finding] = doctor.machine()
    assert finding.state == "missing" and "within 2 s" in finding.text and "PVMLAB_ACCEL=tcg" in finding.mend


def test_standard_library_only_at_the_top():
    """Otherwise it could not say that a package is missing."""
    lines = Path(doctor.__file__).read_text().splitlines()
    names = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert names <= set(sys.stdlib_module_names)


def test_a_finding_is_printed_in_lines_that_fit_a_notebook_and_its_command_in_one():
    command = "sudo apt-get install -y --no-install-recommends " + "package " * 12
    said = str(doctor.Finding("missing", "a sentence that goes on " * 9, command)).splitlines()
    assert max(map(len, said[:-1])) <= 88 and said[-1] == f"         → {command}" and said[1].startswith(" " * 9)
