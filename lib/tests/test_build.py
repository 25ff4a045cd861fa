# SPDX-License-Identifier: MIT
"""vm-image/build lays out patched sources so that make builds what changed; vm-image/patches goes patch by patch.

On a source of a few lines: the kernel itself is built by `make image`. What
decides is the time a file was written last, as it is for make.
"""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import random
import subprocess
import sys

import pytest

from pvmlab.image import root

SOURCE = {"mm/mmap.c": "a\nb\nc\n", "mm/vma.c": "1\n2\n3\n", "mm/rmap.c": "x\ny\nz\n"}


def script(name, monkeypatch):
    """A program of vm-image as a module, for as long as the test lasts."""
    loader = importlib.machinery.SourceFileLoader(name, str(root() / "vm-image" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, name, module)      # dataclasses look there
    loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path, monkeypatch):
    """vm-image/build as a module, with a source of three files to work on."""
    module = script("build", monkeypatch)
    for name, text in SOURCE.items():
        put(tmp_path / "top/linux" / name, text)
    subprocess.run(["tar", "cJf", tmp_path / "linux.tar.xz", "-C", tmp_path / "top", "linux"], check=True)
    pinned = {"tarball": "linux.tar.xz", "sha256": module.sha256(tmp_path / "linux.tar.xz")}
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(module, "base", lambda: pinned)
    monkeypatch.setattr(module, "tarball", lambda: tmp_path / "linux.tar.xz")
    return module


@pytest.fixture
def patch(tmp_path):
    """Makes a patch that turns one text of a file into another ("": not there)."""
    made = []

    def make(name, old, new):
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True),
                                     f"a/{name}" if old else "/dev/null", f"b/{name}" if new else "/dev/null")
        mode = "" if old else "new file mode 100644\n"
        path = put(tmp_path / f"{len(made)}.patch", f"why\n---\n\ndiff --git a/{name} b/{name}\n{mode}{''.join(lines)}")
        made.append(path)
        return path
    return make


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def texts(source):
    return {str(path.relative_to(source)): path.read_text() for path in source.rglob("*") if path.is_file()}


def written(source):
    return {str(path.relative_to(source)): path.stat().st_mtime_ns for path in source.rglob("*") if path.is_file()}


def newer(before, after):
    """The files that make would find changed."""
    assert all(after[name] >= time for name, time in before.items() if name in after)
    return {name for name, time in after.items() if time > before.get(name, 0)}


def test_the_source_is_patched_and_what_was_unpacked_stays_pristine(build, patch):
    source = build.prepare("v2", [patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n"), patch("mm/new.c", "", "n\n")])
    assert texts(source) == SOURCE | {"mm/mmap.c": "a\nB\nc\n", "mm/new.c": "n\n"}
    assert texts(build.unpacked()) == SOURCE


def test_the_same_again_writes_nothing(build, patch):
    series = [patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n")]
    before = written(build.prepare("v2", series))
    assert written(build.prepare("v2", series)) == before


def test_a_patch_more_makes_its_files_newer_and_no_others(build, patch):
    first = patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n")
    before = written(build.prepare("v2", [first]))
    source = build.prepare("v2", [first, patch("mm/vma.c", "1\n2\n3\n", "1\n2\n4\n")])
    assert newer(before, written(source)) == {"mm/vma.c"}


def test_a_patch_less_makes_its_files_newer_though_they_are_pristine(build, patch):
    """Their objects hold the patch."""
    first, second = patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n"), patch("mm/vma.c", "1\n2\n3\n", "1\n2\n4\n")
    before = written(build.prepare("v2", [first, second]))
    source = build.prepare("v2", [first])
    assert texts(source) == SOURCE | {"mm/mmap.c": "a\nB\nc\n"}
    assert newer(before, written(source)) == {"mm/vma.c"}


def test_a_file_that_a_patch_brought_goes_with_it(build, patch):
    build.prepare("v2", [patch("mm/new.c", "", "n\n")])
    assert texts(build.prepare("v2", [])) == SOURCE


def test_a_file_that_two_patches_change(build, patch):
    first, second = patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n"), patch("mm/mmap.c", "a\nB\nc\n", "a\nC\nc\n")
    before = written(build.prepare("v2", [first]))
    source = build.prepare("v2", [first, second])
    assert texts(source)["mm/mmap.c"] == "a\nC\nc\n" and newer(before, written(source)) == {"mm/mmap.c"}


def test_an_interrupted_run_is_mended_by_the_next(build, patch, monkeypatch):
    series = [patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n"), patch("mm/vma.c", "1\n2\n3\n", "1\n2\n4\n")]
    build.prepare("v2", [])
    real = build.put

    def interrupted(wanted, target):
        if target.name == "vma.c":
            raise KeyboardInterrupt
        real(wanted, target)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(build, "put", interrupted)
        build.prepare("v2", series)
    assert texts(build.prepare("v2", [])) == SOURCE
    assert texts(build.prepare("v2", series))["mm/vma.c"] == "1\n2\n4\n"


def test_another_base_begins_anew(build, patch, monkeypatch, tmp_path):
    build.prepare("v2", [])
    old = put(tmp_path / "work/v2/obj/mmap.o", "built of another source")
    monkeypatch.setattr(build, "base", lambda: {"tarball": "linux.tar.xz", "sha256": "of another"})
    assert texts(build.prepare("v2", [])) == SOURCE and not old.exists()


def test_a_patch_that_does_not_apply_is_named(build, patch):
    with pytest.raises(build.Stop, match="patch -p1"):
        build.prepare("v2", [patch("mm/mmap.c", "q\nr\ns\n", "q\nR\ns\n")])


def test_what_was_packed_before_is_not_packed_again(build, tmp_path, monkeypatch):
    one, two = put(tmp_path / "one", "the same\n" * 999), put(tmp_path / "two", "the same\n" * 999)
    build.pack([one], tmp_path / "one.xz", [])
    with monkeypatch.context() as patched:
        patched.setattr(build.lzma, "compress", None)
        build.pack([two], tmp_path / "two.xz", [])
    assert build.lzma.decompress((tmp_path / "two.xz").read_bytes()) == one.read_bytes()
    build.pack([put(tmp_path / "two", "another")], tmp_path / "two.xz", [])
    assert build.lzma.decompress((tmp_path / "two.xz").read_bytes()) == b"another"


def test_what_is_packed_together_is_found_again_and_what_is_alike_costs_little(build, tmp_path):
    alike = random.Random(1).randbytes(100_000)
    paths = [tmp_path / str(i) for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(b"head %d" % i * i + alike)
    members = build.pack(paths, tmp_path / "all.xz", [{"id": build.lzma.FILTER_X86}])["members"]
    whole = build.lzma.decompress((tmp_path / "all.xz").read_bytes())
    assert [whole[m["offset"]:][:m["size"]] for m in members] == [path.read_bytes() for path in paths]
    assert (tmp_path / "all.xz").stat().st_size < 110_000


def test_every_patch_decides_what_the_image_is(build):
    """Numbered without a gap, and each one an input: a change of it makes the image stale."""
    for series in ("v2", "v3"):
        paths = sorted((root() / "kernel-patches" / series).glob("*.patch"))
        assert [int(path.name[:4]) for path in paths] == list(range(len(paths)))
        assert {f"kernel-patches/{series}/{path.name}" for path in paths[1:]} <= build.inputs(build.bundle_inputs()).keys()


# --- the kernel after every patch -------------------------------------------------------------------------------------

@pytest.fixture
def patches(build, tmp_path, monkeypatch):
    """vm-image/patches as a module, on top of that build."""
    monkeypatch.syspath_prepend(root() / "vm-image")
    module = script("patches", monkeypatch)
    monkeypatch.setattr(module, "build", build)
    return module


def fine(done, bad=()):
    """A stand-in for building and booting: notes the patch, and lets those in `bad` complain."""
    def do(row, series):
        done.append(series[-1].stem)
        row.built, row.boot = True, "complains" if series[-1].stem in bad else "quiet"
    return do


def test_every_patch_gets_its_row_though_one_is_bad(patches, patch):
    series = [patch("mm/mmap.c", f"{i}\n", f"{i + 1}\n") for i in range(3)]
    rows = patches.each_patch(series, fine([], bad=["1"]))
    assert [row.fine for row in rows] == [True, False, True]


def test_what_was_fine_is_not_done_again(patches, patch):
    """A longer series costs its new patches; a change in the middle costs all from there on."""
    series, done = [patch("mm/mmap.c", f"{i}\n", f"{i + 1}\n") for i in range(3)], []
    patches.each_patch(series[:2], fine(done, bad=["1"]))
    patches.each_patch(series, fine(done))
    assert done == ["0", "1", "1", "2"]
    series[1].write_text(series[1].read_text().replace("why", "another why"))
    patches.each_patch(series, fine(done))
    assert done[4:] == ["1", "2"]


def test_it_can_begin_with_a_later_patch(patches, patch, monkeypatch, capsys):
    series, done = [patch("mm/mmap.c", f"{i}\n", f"{i + 1}\n") for i in range(3)], []
    patches.each_patch(series, fine(done), first=1)
    assert done == ["1", "2"]
    monkeypatch.setattr(patches.sys, "argv", ["patches", "v3/9999"])
    assert patches.main() == 2 and "ARGS=" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_stopped(patches, patch):
    series, done = [patch("mm/mmap.c", f"{i}\n", f"{i + 1}\n") for i in range(3)], []

    def interrupted(row, so_far):
        if len(so_far) == 2:
            raise KeyboardInterrupt
        fine(done)(row, so_far)
    with pytest.raises(KeyboardInterrupt):
        patches.each_patch(series, interrupted)
    patches.each_patch(series, fine(done))
    assert done == ["0", "1", "2"]


def test_a_kernel_that_does_not_build_leaves_its_log(patches, build, patch, monkeypatch):
    def broken(name, source, log):
        log.write_text("mm/mmap.c:1: warning: odd\nmm/mmap.c:2: error: no\n")
        raise build.Stop("`make …` failed:\nmm/mmap.c:2: error: no", 1)
    monkeypatch.setattr(build, "build_kernel", broken)
    [row] = patches.each_patch([patch("mm/mmap.c", "a\nb\nc\n", "a\nB\nc\n")], patches.one_patch)
    assert (row.built, row.warnings, row.fine) == (False, 1, False)
    assert "error: no" in row.lines[-1] and row.boot == ""
    [log] = patches.logs().rglob("*.build.log")
    assert "error: no" in log.read_text()
