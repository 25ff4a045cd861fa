# SPDX-License-Identifier: MIT
"""What is missing on this computer, and the exact command that mends it.

    python -m pvmlab doctor          or, when not even that starts:
    python3 lib/pvmlab/doctor.py

Adds: one check for each thing the lab stands on, and at the end a machine that
really boots.
Leaves out: mending (binder/setup does). Only the standard library is imported
at the top, and the rest inside the checks, so that it can speak of what is not there.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
#: Seconds until a machine that has not come up is given up, and bytes the cache and a machine take.
BOOT_LIMIT, ROOM, MEMORY = 150, 128 * MIB, 256 * MIB
_LIB = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: "ok", "note" (can stay so) or "missing" (nothing works until it is mended)."""

    state: str
    text: str
    mend: str = ""

    def __str__(self) -> str:
        line = "\n".join(textwrap.wrap(f"{self.state:8} {self.text}", 88, subsequent_indent=" " * 9,
                                       break_long_words=False, break_on_hyphens=False))
        return f"{line}\n         → {self.mend}" if self.mend else line


def main() -> int:
    """Print every finding as it comes; return 1 if anything is missing, else 0."""
    missing = 0
    for finding in findings():
        print(finding, flush=True)
        missing += finding.state == "missing"
    print(f"\n{missing} missing: mend them from the top" if missing else "\nAll is there.")
    return 1 if missing else 0


def findings() -> Iterator[Finding]:
    """Yield what each check finds. The machine is booted only when nothing is missing."""
    found: set[Finding] = set()  # several checks can fail for one reason: it is said once
    for check in CHECKS:
        for finding in _answers(check):
            if finding not in found:
                yield finding
            found.add(finding)
    if any(finding.state == "missing" for finding in found):
        yield Finding("note", "no machine was booted: it needs what is missing above")
    else:
        yield from _answers(machine)


def _answers(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run one check; whatever it raises is a finding too."""
    try:
        yield from check()
    except ImportError as e:
        yield Finding("missing", f"pvmlab does not import: {e}", "make lab")
    except Exception as e:
        what = f"{e.what}: {e.why}" if hasattr(e, "why") else f"{check.__name__}: {type(e).__name__}: {e}"
        yield Finding("missing", what, getattr(e, "mend", ""))


def _install(package: str) -> str:
    """Say how to install a Debian package here."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install -y --no-install-recommends {package}"


# --- the checks -------------------------------------------------------------------------------------------------------

def computer() -> Iterator[Finding]:
    """The bundled kernels are x86-64's, and memfd, pdeathsig and /proc are Linux's."""
    here = f"{platform.system()} on {platform.machine()}"
    fits = here == "Linux on x86_64"
    yield Finding("ok", here) if fits else \
        Finding("missing", f"{here}: the lab needs Linux on x86_64", "use such a computer, or a virtual one")


def python() -> Iterator[Finding]:
    """The interpreter that runs this."""
    here = f"Python {platform.python_version()} ({sys.executable})"
    fits = sys.version_info >= (3, 11)
    yield Finding("ok", here) if fits else Finding("missing", f"{here}: the lab needs 3.11 or newer", "make lab")


def programs() -> Iterator[Finding]:
    """What is run as a process: QEMU, Graphviz and setpriv."""
    for name, package, flag in (("qemu-system-x86_64", "qemu-system-x86", "--version"), ("dot", "graphviz", "-V"),
                                ("setpriv", "util-linux", "--version")):
        if shutil.which(name) is None:
            yield Finding("missing", f"{name} is not on the PATH", _install(package))
            continue
        done = subprocess.run([name, flag], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        said = (done.stdout + done.stderr).strip().splitlines() or ["it says nothing"]
        yield Finding("missing", f"{name} does not run: {said[-1]}", _install(f"--reinstall {package}")) \
            if done.returncode else Finding("ok", f"{name}: {said[0]}")


def packages() -> Iterator[Finding]:
    """What lib/pyproject.toml pins against what is installed."""
    from importlib.metadata import PackageNotFoundError, version
    wanted = _project()["dependencies"]
    others = 0
    for name, pinned in (line.split("==") for line in wanted):
        try:
            have = version(name)
        except PackageNotFoundError:
            others += 1
            yield Finding("missing", f"Python package {name} {pinned}", "make lab")
            continue
        if have != pinned:
            others += 1
            yield Finding("note", f"Python package {name} is {have}, tested with {pinned}", "make lab")
    if not others:
        yield Finding("ok", f"Python packages: {', '.join(wanted)}")


def _project() -> dict:
    import tomllib
    return tomllib.loads((_LIB / "pyproject.toml").read_text())["project"]


def own_version() -> str:
    """The version of this checkout."""
    return _project()["version"]


def compiled_walk() -> Iterator[Finding]:
    """lib/pvmlab/walk.c, built by cffi."""
    from pvmlab import _walk
    yield Finding("ok", f"the C walk: {_walk.__file__}")


def image_files() -> Iterator[Finding]:
    """Every bundled file against the manifest's sha256."""
    from pvmlab import image
    files, bad = image.manifest()["files"], 0
    for name, about in files.items():
        path = image.prebuilt() / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != about["sha256"]:
            bad += 1
            yield Finding("missing", f"{path} is {'damaged' if path.is_file() else 'not there'}",
                          "git checkout vm-image/prebuilt, or `make image`")
    if not bad:
        size = sum((image.prebuilt() / name).stat().st_size for name in files)
        yield Finding("ok", f"image: kernels {', '.join(image.kernels())}, {len(files)} files, {size / 1e6:.1f} MB")


def cache_room() -> Iterator[Finding]:
    """Where unpacked images and saved machines lie."""
    from pvmlab import image
    path = image.cache()
    free = shutil.disk_usage(path).free
    text = f"cache {path}: {free // MIB} MiB free"
    yield Finding("ok", text) if free >= ROOM else \
        Finding("missing", f"{text}, {ROOM // MIB} are needed", "make room, or set PVMLAB_CACHE to another directory")


def memory() -> Iterator[Finding]:
    """The memory a machine takes, and that it can be a file (memfd_create(2)) which is mapped."""
    from pvmlab import vm
    free = vm.available_memory()
    text = f"memory: {free // MIB} MiB available"
    yield Finding("ok", text) if free >= MEMORY else \
        Finding("missing", f"{text}, a machine wants {MEMORY // MIB}", "end other programs, or raise the container's limit")
    fd = os.memfd_create("pvmlab-doctor")
    try:
        os.ftruncate(fd, MIB)
        with mmap.mmap(fd, MIB) as shared:
            shared[:5] = b"hello"
        yield Finding("ok", "memfd: files in memory can be made and mapped")
    finally:
        os.close(fd)


CHECKS = (computer, python, programs, packages, compiled_walk, image_files, cache_room, memory)


# --- the machine ------------------------------------------------------------------------------------------------------

def machine() -> Iterator[Finding]:
    """Boot one, in a process of its own so that the limit holds whatever happens."""
    try:
        done = subprocess.run([sys.executable, __file__, "--boot"], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=BOOT_LIMIT)
    except subprocess.TimeoutExpired:
        yield Finding("missing", f"a machine did not come up within {BOOT_LIMIT} s", "PVMLAB_ACCEL=tcg make doctor")
        return
    if done.returncode:
        why = (done.stderr.strip() or "it says nothing").replace("\n", "\n         ")
        yield Finding("missing", f"a machine does not boot: {why}")
        return
    yield from (Finding(*row) for row in json.loads(done.stdout))


def _boot() -> None:
    """Boot a machine of each kernel from nothing, then make a Lab from a saved one; print what came as findings."""
    from pvmlab import Lab, image, vm
    from pvmlab.guest import Guest
    found = []
    for kernel in image.kernels():
        config, img = vm.Config(kernel), image.image(kernel)
        accel = vm.acceleration(config, img, Guest)
        cold = _timed(lambda: vm.booted(config, accel, img, Guest))
        Lab(kernel).close()
        warm = _timed(lambda: Lab(kernel))
        found.append(("ok", f"a machine with Linux {img.release} booted in {cold:.2f} s and came back from its saved "
                            f"state in {1000 * warm:.0f} ms"))
    print(json.dumps([_kvm(accel), *found]))


def _timed(make: Callable) -> float:
    start = time.perf_counter()
    made = make()
    taken = time.perf_counter() - start
    made.close()
    return taken


def _kvm(accel: str) -> tuple[str, ...]:
    """Say what came of /dev/kvm. Emulation is the default that has to be quick enough, so this is never missing."""
    if os.environ.get("PVMLAB_ACCEL"):
        return "note", f"acceleration: {accel}, because PVMLAB_ACCEL says so"
    if accel == "kvm":
        return "ok", "KVM: probed, it runs a guest"
    if not os.path.exists("/dev/kvm"):
        return "ok", "KVM: there is no /dev/kvm, so machines are emulated, which is quick enough"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ("ok", "KVM: /dev/kvm is not yours to open, so machines are emulated, which is quick enough",
                "for still quicker ones: sudo usermod -aG kvm $USER")
    return "ok", "KVM: probed, /dev/kvm opens but runs no guest, so machines are emulated, which is quick enough"


if __name__ == "__main__":
    sys.path[0] = str(_LIB)  # run as a plain file: this directory holds modules that no other program may find
    if sys.argv[1:] == ["--boot"]:
        try:
            _boot()
        except Exception as e:
            sys.exit(str(e))
    else:
        sys.exit(main())
