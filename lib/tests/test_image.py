# SPDX-License-Identifier: MIT
"""The bundled image: found, held against its manifest, unpacked once, and each way it can be wrong is said."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pvmlab import Lab, bench, image
from pvmlab.errors import ImageError, SetupError, UsageError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PVMLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path, monkeypatch, cache):
    """A copy of the bundle that a test may damage, and an empty cache."""
    copy = tmp_path / "prebuilt"
    shutil.copytree(image.prebuilt(), copy)
    monkeypatch.setenv("PVMLAB_IMAGE", str(copy))
    return copy


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def change(bundle, edit):
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def bundled(name):
    """The file of the bundle that holds one part of v2."""
    return image.INITRAMFS if name == "initramfs" else image.manifest()["kernels"]["v2"][name]["file"]


def test_a_good_image_is_unpacked_once_and_private(bundle, cache):
    first = image.image("v2")
    assert first.name == "v2" and first.release.startswith("6.12")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {first.vmlinux, first.initramfs, first.debug} == set(cache.iterdir())
    assert first.vmlinux.read_bytes()[:4] == first.debug.read_bytes()[:4] == b"\x7fELF"
    files = {path: path.stat().st_ino for path in cache.iterdir()}
    assert image.image("v2") == first
    assert {path: path.stat().st_ino for path in cache.iterdir()} == files


def test_what_an_older_checkout_left_is_swept_and_what_is_used_stays(bundle, cache):
    first = image.image("v2")
    old = cache / "0123456789abcdef-vmlinux-v2"
    old.write_bytes(b"of a checkout long gone")
    for path in (old, first.vmlinux):
        os.utime(path, (0, 0))
    assert image.image("v2") == first  # touches what it uses
    image.sweep(cache)
    assert not old.exists() and first.vmlinux.exists()


def test_no_image(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PVMLAB_IMAGE", str(tmp_path / "nothing"))
    with pytest.raises(ImageError, match="no image in .*make image"):
        Lab(kernel="v2")


def test_an_unknown_kernel_names_the_known_ones():
    with pytest.raises(UsageError, match="no kernel is called 'v9': bundled are .*v2"):
        Lab(kernel="v9")


@pytest.mark.parametrize("part", ["vmlinux", "initramfs", "debug"])
def test_one_bit_flipped(bundle, part):
    flip(bundle / bundled(part))
    with pytest.raises(ImageError, match="is damaged.*→"):
        Lab(kernel="v2")


@pytest.mark.parametrize("part", ["vmlinux", "initramfs", "debug"])
def test_cut_short(bundle, part):
    path = bundle / bundled(part)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ImageError, match="is damaged"):
        Lab(kernel="v2")


@pytest.mark.parametrize("part", ["vmlinux", "initramfs", "debug"])
def test_a_file_missing(bundle, part):
    (bundle / bundled(part)).unlink()
    with pytest.raises(ImageError, match="cannot read.*make image"):
        Lab(kernel="v2")


@pytest.mark.parametrize("edit", [lambda m: m.update(format=1), lambda m: m.pop("format")])
def test_another_format(bundle, edit):
    change(bundle, edit)
    with pytest.raises(ImageError, match="another version.*format 2"):
        Lab(kernel="v2")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", '{"format": 2'])
def test_a_manifest_that_is_none(bundle, text):
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(ImageError, match="manifest.json"):
        Lab(kernel="v2")


@pytest.mark.parametrize("edit", [lambda m: m.pop("kernels"), lambda m: m.pop("files"),
                                  lambda m: m["kernels"]["v2"].pop("debug"), lambda m: m["kernels"]["v2"].pop("symbols"),
                                  lambda m: m["kernels"]["v2"]["vmlinux"].pop("offset"),
                                  lambda m: m["files"].clear()])
def test_a_manifest_with_a_hole(bundle, edit):
    change(bundle, edit)
    with pytest.raises(ImageError, match="manifest.json"):
        Lab(kernel="v2")


def test_an_unpacked_file_that_was_cut_is_unpacked_again(bundle):
    whole = image.image("v2").vmlinux.read_bytes()
    os.truncate(image.image("v2").vmlinux, 4096)
    assert image.image("v2").vmlinux.read_bytes() == whole


def test_what_a_killed_writer_left_is_swept(cache):
    cache.mkdir()
    old, young = cache / ".half", cache / ".young"
    for path in (old, young, cache / "kept"):
        path.write_bytes(b"x")
        os.utime(path, (0, 0) if path is old else None)
    (cache / ".directory").mkdir()
    os.utime(cache / ".directory", (0, 0))
    image.write_whole(cache / "new", b"all of it")
    assert sorted(p.name for p in cache.iterdir()) == [".young", "kept", "new"]
    assert (cache / "new").read_bytes() == b"all of it"


@pytest.mark.parametrize("kernel", image.kernels())
def test_every_kernel_comes_up_anew_and_from_its_saved_machine(cache, kernel):
    for _ in range(2):
        with Lab(kernel=kernel) as lab:
            utsname = bytearray(6 * 65)
            lab.task("server").syscall("uname", utsname)
            assert utsname[2 * 65:].partition(b"\0")[0].decode() == image.image(kernel).release
            assert lab.look().task("server").mm.vmas


def test_the_kernels_share_their_initramfs_and_no_more():
    unpacked = [image.image(kernel) for kernel in image.kernels()]
    assert len({one.initramfs for one in unpacked}) == 1
    assert len({path for one in unpacked for path in (one.vmlinux, one.debug)}) == 2 * len(unpacked)


@pytest.mark.parametrize("kernel", image.kernels())
def test_each_part_is_the_one_that_was_packed(kernel):
    """The manifest has the hash of what went in, of a time before it was compressed with the others."""
    about, one = image.manifest()["kernels"][kernel], image.image(kernel)
    for part in ("vmlinux", "debug"):
        assert hashlib.sha256(getattr(one, part).read_bytes()).hexdigest() == about[part]["sha256"]


def test_the_bundle_is_within_its_budget():
    [(unit, budget)] = [(unit, budget) for what, unit, budget, *_ in bench.BUDGETS if what == "bundled image"]
    assert unit == "MB" and sum(path.stat().st_size for path in image.prebuilt().iterdir()) <= budget * 1e6


# --- a cache that cannot take it ----------------------------------------------------------------------------------------

def mounted(path, options):
    """Mount a tmpfs for a test; skip where that is not allowed."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "pvmlab-test", str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small tmpfs: {done.stderr.strip()}")
    return path


@pytest.fixture
def small(tmp_path, monkeypatch):
    made: list[Path] = []

    def make(options):
        made.append(mounted(tmp_path / "small", options))
        monkeypatch.setenv("PVMLAB_CACHE", str(made[-1]))
        return made[-1]
    yield make
    for path in made:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_cache(small):
    path = small("size=8m")
    with pytest.raises(SetupError, match="cannot write.*No space left.*PVMLAB_CACHE"):
        Lab(kernel="v2")
    assert [p.name for p in path.iterdir() if p.name.startswith(".")] == []


def test_a_cache_without_a_single_inode_left(small):
    small("size=1m,nr_inodes=1")
    with pytest.raises(SetupError, match="PVMLAB_CACHE"):
        Lab(kernel="v2")


def test_a_cache_with_room_for_the_image_only(small):
    """Then there is no saved machine, and each Lab boots."""
    path = small("size=64m")
    with Lab(kernel="v2") as lab:
        assert lab.task("server").syscall("getpid") > 1
    assert list((path / "machines").iterdir()) == []


def test_a_read_only_cache(small):
    path = small("size=64m")
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
    with pytest.raises(SetupError, match="no room for unpacked images.*PVMLAB_CACHE"):
        Lab(kernel="v2")


def test_a_cache_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PVMLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(SetupError, match="PVMLAB_CACHE"):
        Lab(kernel="v2")
