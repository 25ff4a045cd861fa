# SPDX-License-Identifier: MIT
"""The bundled image: kernels, initramfs and debug information as files to use.

Adds: finding `vm-image/prebuilt`, checking it against its manifest, unpacking
it once into the user's cache; finding kernels that were built on demand there.
Leaves out: making them (vm-image/build) and running them (vm.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import ImageError, SetupError, UsageError

#: What `manifest.json` calls the layout this module understands.
FORMAT = 2
#: The one file of the bundle that every kernel shares as it is.
INITRAMFS = "initramfs.cpio.lz4"


@dataclass(frozen=True)
class Image:
    """One kernel of the bundle with what belongs to it, ready to be opened.

    name: "v2", "v3" or "base", which has no patch; release: what uname -r says; vmlinux, initramfs, debug:
    unpacked files; digest: sha256 over the three, names a saved machine;
    symbols: virtual addresses from which a reader starts.
    """

    name: str
    release: str
    vmlinux: Path
    initramfs: Path
    debug: Path
    digest: str
    symbols: dict[str, int]


def root() -> Path:
    """Return the top of the checkout (PVMLAB_ROOT, or found from this file)."""
    return Path(os.environ.get("PVMLAB_ROOT") or Path(__file__).resolve().parents[2])


def prebuilt() -> Path:
    """Return the directory of the bundled image (PVMLAB_IMAGE, or vm-image/prebuilt)."""
    return Path(os.environ.get("PVMLAB_IMAGE") or root() / "vm-image" / "prebuilt")


def cache() -> Path:
    """Return this user's cache directory, made private (0700) if it was not there.

    PVMLAB_CACHE, else XDG_CACHE_HOME/pvmlab, else ~/.cache/pvmlab. Raises
    SetupError when it cannot be made or written.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("PVMLAB_CACHE") or Path(base) / "pvmlab")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("it is not writable")
    except OSError as e:
        raise SetupError(f"no room for unpacked images in {path}", str(e),
                         "set PVMLAB_CACHE to a directory you may write to") from e
    return path


def manifest() -> dict:
    """Read the bundle's manifest. Raises ImageError when it is missing, damaged or of another format."""
    path = prebuilt() / "manifest.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as e:
        raise ImageError(f"no image in {path.parent}", "manifest.json is not there",
                         "run `make image`, or unset PVMLAB_IMAGE") from e
    except (OSError, ValueError) as e:
        raise ImageError(f"cannot read {path}", str(e), "git checkout vm-image/prebuilt, or `make image`") from e
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ImageError(f"{path} is of another version", f"this pvmlab reads format {FORMAT}",
                         "use the image and the library of one checkout, or `make image`")
    return found


def kernels() -> tuple[str, ...]:
    """Return the names of the bundled kernels."""
    return tuple(manifest()["kernels"])


def patch_series(kernel: str) -> tuple[str, ...]:
    """Return the series a kernel is made of, one on top of another: ("v2", "v3") for "v3" and for "v3-debug"."""
    return tuple(manifest()["kernels"].get(kernel.partition("-")[0], {}).get("series", ()))


def image(kernel: str) -> Image:
    """Return a bundled kernel, unpacked, or one that was built on demand, such as "v3-debug".

    Raises UsageError for a name that is not bundled, ImageError for a file
    that is missing or damaged, SetupError when there is no room for it.
    """
    bundle = manifest()
    try:
        if "-" in kernel:
            return _on_demand(kernel, _image(next(iter(bundle["kernels"])), bundle))
        if kernel not in bundle["kernels"]:
            raise UsageError(f"no kernel is called {kernel!r}", f"bundled are {', '.join(bundle['kernels'])}",
                             'Lab(kernel="v2")')
        return _image(kernel, bundle)
    except (KeyError, TypeError) as e:
        raise ImageError(f"{prebuilt() / 'manifest.json'} is damaged", f"it lacks {e}",
                         "git checkout vm-image/prebuilt, or `make image`") from e


def _image(kernel: str, bundle: dict) -> Image:
    about, files = bundle["kernels"][kernel], bundle["files"]
    paths = {part: _member(f"{part}-{kernel}", about[part], files) for part in ("vmlinux", "debug")}
    initramfs = _kept(INITRAMFS, files[INITRAMFS]["sha256"], lambda: _checked(INITRAMFS, files))
    sums = about["vmlinux"]["sha256"] + files[INITRAMFS]["sha256"] + about["debug"]["sha256"]
    return Image(kernel, about["release"], initramfs=initramfs, digest=hashlib.sha256(sums.encode()).hexdigest(),
                 symbols=about["symbols"], **paths)


def build_on_demand(kernel: str) -> None:
    """Build a kernel that is not bundled, unless it is there: some minutes, said on the way. Raises ImageError."""
    command = [sys.executable, str(root() / "vm-image" / "build"), "kernel", kernel]
    if status := subprocess.run(command).returncode:
        raise ImageError(f"{kernel} could not be built", f"vm-image/build ended with status {status}", "see above")


def _on_demand(kernel: str, bundled: Image) -> Image:
    """A kernel that vm-image/build made of the checkout's present inputs; its initramfs is the bundle's."""
    command = [sys.executable, str(root() / "vm-image" / "build"), "where", kernel]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 2:
        raise UsageError(f"no kernel is called {kernel!r}", done.stderr.strip(), 'Lab(kernel="v3-debug")')
    if done.returncode:
        raise ImageError(f"the kernel {kernel} is not built", "it is not bundled", f"vm-image/build kernel {kernel}")
    home = Path(done.stdout.splitlines()[-1])
    about = json.loads((home / "manifest.json").read_text())
    sums = "".join(about["files"].values()) + bundled.digest
    return Image(kernel, about["release"], home / "vmlinux", bundled.initramfs, home / "debug",
                 hashlib.sha256(sums.encode()).hexdigest(), about["symbols"])


def _member(name: str, about: dict, files: dict) -> Path:
    """Return one of the files that are compressed together, because they are much alike (vm-image/build, pack())."""
    def unpack() -> bytes:
        whole = lzma.decompress(_checked(about["file"], files))
        return whole[about["offset"]:][:about["size"]]
    return _kept(name, about["sha256"], unpack, about["size"])


def _kept(name: str, digest: str, make: Callable[[], bytes], size: int | None = None) -> Path:
    """Return a file of the cache, made now if it is not there, or has not its size."""
    target = cache() / f"{digest[:16]}-{name}"
    if not target.exists() or target.stat().st_size != (size or target.stat().st_size):
        write_whole(target, make())
    with contextlib.suppress(OSError):
        os.utime(target)  # still in use: see sweep()
    return target


def _checked(name: str, files: dict) -> bytes:
    """Read a bundled file and hold it against the manifest."""
    path = prebuilt() / name
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ImageError(f"cannot read {path}", str(e), "git checkout vm-image/prebuilt, or `make image`") from e
    if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
        raise ImageError(f"{path} is damaged", f"its sha256 is not the manifest's ({len(data)} bytes)",
                         "git checkout vm-image/prebuilt, or `make image`")
    return data


def write_whole(target: Path, data: bytes) -> None:
    """Write a file so that others see all of it or nothing. Raises SetupError when there is no room."""
    part = None
    try:
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.replace(part, target)
    except OSError as e:
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)
        raise SetupError(f"cannot write {target}", e.strerror or str(e),
                         "make room there, or set PVMLAB_CACHE to another directory") from e
    sweep(target.parent)


def sweep(directory: Path, half_made: float = 600.0, unused: float = 30 * 86400.0) -> None:
    """Remove what nobody will miss: hidden names older than `half_made` seconds, whose writers were killed,
    and what was not touched for `unused` seconds: images and machines of older checkouts."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            age = time.time() - path.lstat().st_mtime
            if age > (half_made if path.name.startswith(".") else unused):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
