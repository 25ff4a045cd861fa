# SPDX-License-Identifier: MIT
"""The set-up is complete, pinned, and names no registry and no place of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What git does not track, where there is no git to ask.
UNTRACKED = {".git", ".venv", "__pycache__", "work", "build", ".hypothesis", ".pytest_cache", ".ipynb_checkpoints"}
TARGETS = ("lab", "test", "image", "reproduce", "patches", "bench", "screenshots", "doctor", "site", "review", "stress",
           "selftests", "clean", "help")
#: In two parts, so that this file does not name them either.
REGISTRIES = [a + b for a, b in (("pypi", ".org"), ("python", "hosted.org"), ("deb.", "debian.org"),
                                 ("archive.", "ubuntu.com"), ("registry.", "npmjs"), ("conda.", "anaconda.org"),
                                 ("crates", ".io"), ("docker", ".io"), ("quay", ".io"), ("ghcr", ".io"))]


def tracked_texts():
    """Yield (path, text) of every file of the project that is text."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in UNTRACKED and not name.endswith(".egg-info")]
        for path in (Path(folder) / name for name in files if not name.startswith("_walk.")):
            try:
                yield path.relative_to(ROOT), path.read_text()
            except UnicodeDecodeError:
                continue


def lines(path):
    return (ROOT / path).read_text().splitlines()


def pins():
    found = [line for line in lines("binder/requirements.txt") if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.+]*", line) for line in found)
    return found


def test_no_registry_is_named():
    assert [(str(path), name) for path, text in tracked_texts() for name in REGISTRIES if name in text] == []


def test_no_place_of_ours_is_named():
    """Absolute paths into somebody's home, or to where this very checkout lies."""
    ours = re.compile(r"/(home|Users)/[a-z]|/root/|(?<![\w./-])" + re.escape(str(ROOT)) + r"\b")
    assert [(str(path), found[0]) for path, text in tracked_texts() if (found := ours.search(text))
            and path.parts[-1] != "test_setup.py"] == []


@pytest.mark.parametrize("path", ["binder/apt.txt", "lib/tests/apt.txt", "vm-image/apt.txt"])
def test_package_lists(path):
    names = lines(path)
    assert names and len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in names)


def test_every_python_package_is_pinned():
    assert len(pins()) == len({pin.lower().split("==")[0] for pin in pins()})


def test_pins_are_those_of_the_library():
    project = tomllib.loads((ROOT / "lib/pyproject.toml").read_text())
    direct = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    assert set(direct) <= set(pins())
    assert [name for name in project["build-system"]["requires"] if name.startswith("cffi")][0] in pins()


def test_the_environment_is_the_pinned_one():
    """Nothing that was installed asks for something that is not pinned."""
    from importlib.metadata import PackageNotFoundError, version
    try:
        version("pvmlab")
    except PackageNotFoundError:
        pytest.skip("pvmlab is not installed: this is not the environment of binder/setup")
    have = {pin: f"{pin.split('==')[0]}=={version(pin.split('==')[0])}" for pin in pins()}
    assert {pin: found for pin, found in have.items() if pin != found} == {}


def test_make_alone_lists_the_targets():
    done = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(TARGETS)


@pytest.mark.parametrize("script", ["binder/setup", "binder/postBuild", "binder/start", ".ci/run", "vm-image/build"])
def test_scripts_can_be_run(script):
    assert os.access(ROOT / script, os.X_OK)
    interpreter = lines(script)[0]
    if interpreter.endswith("sh"):
        subprocess.run([interpreter.split()[-1].removeprefix("#!"), "-n", ROOT / script], check=True, timeout=30)


def test_the_licences_are_there():
    for name in ("MIT", "GPL-2.0-only"):
        assert f"LICENSES/{name}.txt" in (ROOT / "README.md").read_text() and lines(f"LICENSES/{name}.txt")


# --- what the set-up says where something is missing --------------------------------------------------------------------

def set_up_in(folder, *, uid="1000", apt="exit 99", programs=()):
    """Run a copy of the set-up where next to no program exists; apt: what apt-get does there, or None."""
    for name in ("binder/setup", "binder/apt.txt", "binder/requirements.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    programs_here = folder / "bin"
    programs_here.mkdir()
    for name in ("sh", "cat", "sort", "dirname", "grep", "tail", *programs):
        (programs_here / name).symlink_to(shutil.which(name))
    for name, does in (("id", f"echo {uid}"), ("apt-get", apt)):
        if does:
            (programs_here / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs_here / name).chmod(0o755)
    return subprocess.run([folder / "binder/setup"], env={"PATH": str(programs_here)}, capture_output=True, text=True,
                          timeout=60)


def test_without_root_it_prints_the_command(tmp_path):
    done = set_up_in(tmp_path / "a checkout")
    assert done.returncode == 1 and not (tmp_path / "a checkout/.venv").exists()
    [command] = [line for line in done.stderr.splitlines() if "sudo apt-get update && sudo apt-get install" in line]
    assert "--no-install-recommends" in command and "qemu-system-x86" in command and "graphviz" in command


def test_what_is_there_is_not_asked_for(tmp_path):
    done = set_up_in(tmp_path, programs=("dot", "setpriv"))
    assert "qemu-system-x86" in done.stderr and "graphviz" not in done.stderr and "util-linux" not in done.stderr


def test_as_root_it_installs_and_says_what_failed(tmp_path):
    done = set_up_in(tmp_path, uid="0", apt='echo "E: no such archive for $1"; exit 100')
    assert done.returncode == 1 and "[set-up] installing" in done.stdout
    assert "no such archive for" in done.stderr and "failed: apt-get" in done.stderr


def test_where_there_is_no_apt(tmp_path):
    done = set_up_in(tmp_path, apt=None)
    assert done.returncode == 1 and "here is no apt-get" in done.stderr
