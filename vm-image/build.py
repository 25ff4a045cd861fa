#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make the bundled image: kernels, agent, initramfs, debug information, manifest.

    vm-image/build image       build everything and write prebuilt/
    vm-image/build reproduce   build everything again and compare with prebuilt/, bit for bit
    vm-image/build check       has one of our inputs changed since prebuilt/ was made?
    vm-image/build kernel v3-debug     build a kernel that is not bundled, unless it is there, and print its directory:
                                       base, v2 or v3, a dash, and the NAME.config that goes on top of kernel.config
    vm-image/build where v3-debug      print its directory if it was built from our present inputs

Exit status: 0 fine, 1 differs or failed, 3 cannot compare (another compiler
or Debian source than the manifest names). Only the standard library, so that
it runs before anything is installed.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = Path(os.environ.get("PVMLAB_WORK") or HERE / "work")
PREBUILT = HERE / "prebuilt"
PATCHES = ROOT / "kernel-patches"
#: Kernel name -> series on top of one another. base: Debian's source as it is, to compare with.
KERNELS = {"base": (), "v2": ("v2",), "v3": ("v2", "v3")}
CANNOT_COMPARE = 3

#: What makes two builds of one source give the same bytes.
SAME = {"KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_USER": "pvmlab",
        "KBUILD_BUILD_HOST": "pvmlab", "KBUILD_BUILD_VERSION": "1", "LC_ALL": "C", "TZ": "UTC",
        "SOURCE_DATE_EPOCH": "0"}
#: The whole vmlinux has 60 MB of debug information; the readers need mm and what makes a process, and drgn's
#: helpers where the memory map, the run queues and the cgroups are. Stacks want the frame of a task that sleeps
#: (process) and lines for what calls end in (entry, locks).
DEBUG_FILES = ("mm/% arch/x86/mm/init_64 arch/x86/mm/fault arch/x86/mm/tlb kernel/fork kernel/exit kernel/pid "
               "kernel/cpu kernel/sched/core kernel/cgroup/cgroup kernel/locking/rwsem init/init_task "
               "init/version-timestamp lib/maple_tree lib/percpu_counter fs/namespace fs/kernfs/dir "
               "arch/x86/kernel/setup_percpu kernel/time/timer arch/x86/kernel/process arch/x86/entry/common "
               "kernel/locking/qspinlock kernel/locking/spinlock")

INITRAMFS = """\
dir /dev 755 0 0
nod /dev/console 600 0 0 c 5 1
nod /dev/null 666 0 0 c 1 3
dir /proc 755 0 0
dir /sys 755 0 0
dir /tmp 1777 0 0
file /init {agent}/init 755 0 0
file /task {agent}/task 755 0 0
"""


class Stop(Exception):
    """The build cannot go on: (message, exit status)."""


def main(words: list[str]) -> int:
    actions = {"image": make_image, "reproduce": reproduce, "check": check}
    named = {"kernel": kernel_on_demand, "where": where}
    if not (len(words) == 1 and words[0] in actions or len(words) == 2 and words[0] in named):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return named[words[0]](words[1]) if words[0] in named else actions[words[0]]()
    except Stop as stop:
        message, status = stop.args
        print(f"{words[0]}: {message}", file=sys.stderr)
        return status


# --- the commands -----------------------------------------------------------------------------------------------------

def make_image() -> int:
    manifest = build_all(WORK / "out")
    PREBUILT.mkdir(exist_ok=True)
    for old in PREBUILT.iterdir():
        old.unlink()
    for name in manifest["files"]:
        shutil.copy(WORK / "out" / name, PREBUILT / name)
    (PREBUILT / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    total = sum(f.stat().st_size for f in PREBUILT.iterdir())
    say(f"prebuilt/ is ready: {total / 1e6:.2f} MB")
    return 0


def reproduce() -> int:
    global WORK
    want = json.loads((PREBUILT / "manifest.json").read_text())
    same_tools(want)
    WORK = WORK / "again"  # from nothing, and in another place: neither may matter
    shutil.rmtree(WORK, ignore_errors=True)
    have = build_all(WORK / "out")
    differ = [name for name, about in want["files"].items() if have["files"].get(name) != about]
    if differ:
        raise Stop(f"not the same bytes: {', '.join(differ)} (the new ones are in {WORK / 'out'})", 1)
    say(f"reproduced: {len(want['files'])} files, bit for bit")
    return 0


def check() -> int:
    path = PREBUILT / "manifest.json"
    if not path.exists():
        raise Stop("there is no prebuilt/manifest.json → run `make image`", 1)
    want, have = json.loads(path.read_text())["inputs"], inputs(bundle_inputs())
    changed = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
    if changed:
        raise Stop(f"the image is older than its inputs: {', '.join(changed)} → run `make image` and commit "
                   "vm-image/prebuilt", 1)
    for name, about in json.loads(path.read_text())["files"].items():
        if not (PREBUILT / name).exists() or sha256(PREBUILT / name) != about["sha256"]:
            raise Stop(f"prebuilt/{name} is not the file the manifest names → git checkout vm-image/prebuilt", 1)
    say(f"prebuilt/ was made from these {len(have)} inputs")
    return 0


def kernel_on_demand(name: str) -> int:
    """Build a kernel with one more fragment of configuration; keep it in the user's cache, under its inputs' hash."""
    home = on_demand_home(name)
    if not (home / "manifest.json").exists():
        start = time.monotonic()
        tools()
        build_kernel(name, prepare(name, series_patches(name)), config=fragments(name))
        keep(name, home)
        say(f"{name}: built in {time.monotonic() - start:.0f} s")
    return where(name)


def where(name: str) -> int:
    home = on_demand_home(name)
    if not (home / "manifest.json").exists():
        raise Stop(f"{name} was not built from these inputs → vm-image/build kernel {name}", 1)
    os.utime(home)  # still in use: the library removes what was not touched for a month
    print(home)
    return 0


# --- the steps --------------------------------------------------------------------------------------------------------

def build_all(out: Path) -> dict:
    """Build every kernel and the initramfs into `out`; return the manifest."""
    tools()
    out.mkdir(parents=True, exist_ok=True)
    kernels = {}
    for name in KERNELS:
        build_kernel(name, prepare(name, series_patches(name)))
        kernels[name] = {"series": KERNELS[name], "release": release(name), "symbols": symbols(name)}
    initramfs(next(iter(KERNELS)), out / "initramfs.cpio.lz4")
    files = {"initramfs.cpio.lz4": {"sha256": sha256(out / "initramfs.cpio.lz4")},
             "vmlinux.xz": pack(list(map(strip, KERNELS)), out / "vmlinux.xz", [{"id": lzma.FILTER_X86}]),
             "debug.xz": pack(list(map(debug, KERNELS)), out / "debug.xz", [])}
    for part in ("vmlinux", "debug"):
        for name, member in zip(KERNELS, files[f"{part}.xz"].pop("members"), strict=True):
            kernels[name][part] = member
    return {"format": 2, "base": base(), "kernels": kernels, "inputs": inputs(bundle_inputs()), "tools": versions(),
            "files": files}


def prepare(name: str, patches: list[Path]) -> Path:
    """Lay out the patched source for one kernel.

    Only files whose content is to change are written, and those are newer than every object then, whether a patch
    came or went: make builds what a change of the series asks for, and no more. An interrupted run is mended by the
    next, for what is there is compared, not remembered; the note holds every file that a patch ever touched.
    """
    pristine, source, note = unpacked(), WORK / name / "source", WORK / name / "source.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("base") != base()["sha256"]:
        for old in (source, WORK / name / "obj"):
            shutil.rmtree(old, ignore_errors=True)
        (WORK / name).mkdir(parents=True, exist_ok=True)
        run(["cp", "-al", str(pristine), str(source)])  # links: put() breaks those it has to
        known = {"base": base()["sha256"], "touched": []}
    scratch = WORK / name / "patched"
    touched = patched(patches, pristine, scratch)
    known["touched"] = sorted(touched | set(known["touched"]))
    note.write_text(json.dumps(known))
    for path in known["touched"]:
        put((scratch if path in touched else pristine) / path, source / path)
    return source


def unpacked() -> Path:
    """Unpack the pinned source once; every kernel's tree is made of links to it."""
    target, part = WORK / f"linux-{base()['sha256'][:16]}", WORK / "linux-part"
    if not target.exists():
        say(f"unpacking {base()['tarball']}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        run(["tar", "xf", str(tarball()), "--strip-components=1", "-C", str(part)])
        part.rename(target)
    return target


def patched(patches: list[Path], pristine: Path, scratch: Path) -> set[str]:
    """Apply the patches to copies of the files they touch, in `scratch`; return the names of those files."""
    shutil.rmtree(scratch, ignore_errors=True)
    names = {name for patch in patches for pair in re.findall(r"^diff --git a/(\S+) b/(\S+)$", patch.read_text(), re.M)
             for name in pair}
    for name in names:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        if (pristine / name).exists():
            shutil.copy2(pristine / name, scratch / name)
    for patch in patches:
        run(["patch", "-p1", "-s", "-i", str(patch)], cwd=scratch)
    return names


def put(wanted: Path, target: Path) -> None:
    """Make `target` what `wanted` is, with a new mtime; leave it alone where it is that already."""
    if wanted.exists() and target.exists() and filecmp.cmp(wanted, target, shallow=False):
        return
    target.unlink(missing_ok=True)
    if wanted.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(wanted, target)


def build_kernel(name: str, source: Path, log: Path | None = None, config: tuple[Path, ...] = (HERE / "kernel.config",)) -> None:
    """Configure and build one kernel; what make says goes to `log`."""
    obj = WORK / name / "obj"
    obj.mkdir(parents=True, exist_ok=True)
    make = ["make", "-s", "-C", str(source), f"O={obj}", f"-j{os.cpu_count()}", f"LOCALVERSION=-pvm-{name}"]
    say(f"{name}: configuring")
    run([*make, "tinyconfig"])
    run([str(source / "scripts/kconfig/merge_config.sh"), "-m", "-O", str(obj), str(obj / ".config"),
         *map(str, config)])
    run([*make, "olddefconfig"])
    refused(obj / ".config", config)
    say(f"{name}: building, some {'four' if len(config) == 1 else 'six'} minutes on two cores if nothing is there yet")
    flags = f"-g -gdwarf-5 -fno-var-tracking -ffile-prefix-map={source}=. -ffile-prefix-map={obj}=."
    make.remove("-s")
    watched([*make, f"CFLAGS_KERNEL=$(if $(filter {DEBUG_FILES},$(obj)/$(target-stem)),{flags})", "vmlinux"], name, log)


def refused(config: Path, fragments: tuple[Path, ...]) -> None:
    """Fail if Kconfig dropped a line of our fragments (a dependency that is not met). A later fragment wins."""
    says = re.compile(r"^(?:# )?(CONFIG_\w+)(?:=.*| is not set)$", re.M)
    have = {said[1]: said[0] for said in says.finditer(config.read_text())}
    wanted = {said[1]: said[0] for path in fragments for said in says.finditer(path.read_text())}
    missing = [line for option, line in wanted.items() if have.get(option, f"# {option} is not set") != line]
    if missing:
        raise Stop(f"Kconfig did not take {', '.join(missing)}", 1)


def release(name: str) -> str:
    return (WORK / name / "obj/include/config/kernel.release").read_text().strip()


def symbols(name: str) -> dict[str, int]:
    """Where a reader starts, before it has any debug information."""
    listing = subprocess.run(["nm", str(WORK / name / "obj/vmlinux")], check=True, stdout=subprocess.PIPE, text=True)
    found = {line.split()[-1]: int(line.split()[0], 16) for line in listing.stdout.splitlines() if line[0] != " "}
    return {wanted: found[wanted] for wanted in ("init_top_pgt", "vmcoreinfo_data", "vmcoreinfo_size")}


def strip(name: str) -> Path:
    target = WORK / name / "vmlinux"
    run(["strip", "-o", str(target), str(WORK / name / "obj/vmlinux")])
    return target


def debug(name: str) -> Path:
    """Keep symbols and DWARF only, without what no reader opens, and fold what repeats."""
    target = WORK / name / "debug"
    run(["objcopy", "--only-keep-debug", "-R", ".debug_frame", "-R", ".debug_aranges",
         str(WORK / name / "obj/vmlinux"), str(target)])
    run(["dwz", str(target)])
    return target


def initramfs(name: str, target: Path) -> None:
    agent, listing = WORK / "agent", WORK / "initramfs.list"
    run(["make", "-s", "-C", str(HERE / "agent"), f"OUT={agent}"])
    listing.write_text(INITRAMFS.format(agent=agent))
    cpio = subprocess.run([WORK / name / "obj/usr/gen_init_cpio", "-t", "0", str(listing)], check=True,
                          stdout=subprocess.PIPE).stdout
    packed = subprocess.run(["lz4", "-l", "-9", "-c"], input=cpio, check=True, stdout=subprocess.PIPE).stdout
    target.write_bytes(packed)


def pack(sources: list[Path], target: Path, first: list[dict]) -> dict:
    """Compress files as one stream, which says once what the kernels have in common; return where each begins.

    The window holds two of them, so each is found in the one before. What was compressed before is not again.
    """
    sums = [sha256(source) for source in sources]
    known = WORK / "packed" / hashlib.sha256("".join(sums).encode()).hexdigest()
    if not known.exists():
        known.parent.mkdir(parents=True, exist_ok=True)
        part = known.with_suffix(".part")
        lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}
        part.write_bytes(lzma.compress(b"".join(source.read_bytes() for source in sources), check=lzma.CHECK_CRC32,
                                       filters=[*first, lzma2]))
        part.replace(known)
    shutil.copy(known, target)
    sizes = [source.stat().st_size for source in sources]
    return {"sha256": sha256(target),
            "members": [{"file": target.name, "offset": sum(sizes[:n]), "size": size, "sha256": digest}
                        for n, (size, digest) in enumerate(zip(sizes, sums, strict=True))]}


def keep(name: str, home: Path) -> None:
    """Put a kernel that is not bundled where the library finds it, not packed; the initramfs is the bundle's."""
    part = home.with_name(f".{home.name}.{os.getpid()}")
    part.mkdir(mode=0o700, parents=True)
    shutil.move(strip(name), part / "vmlinux")
    shutil.move(debug(name), part / "debug")
    manifest = {"base": base(), "release": release(name), "symbols": symbols(name), "tools": versions(),
                "inputs": inputs(on_demand_inputs(name)), "files": {f.name: sha256(f) for f in part.iterdir()}}
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(home, ignore_errors=True)
    part.rename(home)


# --- what goes in -----------------------------------------------------------------------------------------------------

def base() -> dict[str, str]:
    """Read kernel-patches/BASE: package, version, tarball, sha256."""
    lines = (PATCHES / "BASE").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def patch_files(series: str) -> list[Path]:
    return sorted(p for p in (PATCHES / series).glob("0*.patch") if not p.name.startswith("0000"))


def bundle_inputs() -> list[Path]:
    """Everything of ours that decides what the bundled image is."""
    return [HERE / "build", HERE / "kernel.config", PATCHES / "BASE",
            *(p for name in KERNELS for p in series_patches(name)),
            *(p for p in sorted((HERE / "agent").iterdir()) if p.suffix in (".c", ".h") or p.name == "Makefile")]


def on_demand_inputs(name: str) -> list[Path]:
    """Everything of ours that decides what a kernel built on demand is. This script is left out: it changes more
    often than what it does to a kernel."""
    return [*fragments(name), PATCHES / "BASE", *series_patches(name)]


def series_patches(name: str) -> list[Path]:
    """The patches of "v3-debug": those of v2, then those of v3."""
    series = KERNELS.get(name.split("-")[0])
    if series is None:
        raise Stop(f"{name}: its first part is {' or '.join(KERNELS)}", 2)
    return [p for s in series for p in patch_files(s)]


def fragments(name: str) -> tuple[Path, ...]:
    """The configuration of "v3-debug": kernel.config, then debug.config."""
    extra = HERE / f"{name.partition('-')[2]}.config"
    if not extra.exists():
        raise Stop(f"{name}: there is no vm-image/{extra.name}", 2)
    return HERE / "kernel.config", extra


def on_demand_home(name: str) -> Path:
    """A directory of the user's cache (lib/pvmlab/image.py, cache()), named by the kernel's inputs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("PVMLAB_CACHE") or base / "pvmlab")
    digest = hashlib.sha256(json.dumps(inputs(on_demand_inputs(name))).encode()).hexdigest()
    return cache / f"{name}-{digest[:16]}"


def inputs(ours: list[Path]) -> dict[str, str]:
    """Hash files of ours: path in the checkout -> sha256."""
    return {str(p.relative_to(ROOT)): sha256(p) for p in ours}


def tarball() -> Path:
    """Find the pinned source, from /usr/src or from Debian's archive. Stops with 3 when only another is to be had."""
    want = base()
    fetched = WORK / "debian" / "usr/src" / want["tarball"]
    for path in (Path("/usr/src") / want["tarball"], fetched):
        if path.exists() and sha256(path) == want["sha256"]:
            return path
    fetch(want)
    if not fetched.exists() or sha256(fetched) != want["sha256"]:
        raise Stop(f"cannot compare: want {want['tarball']} with sha256 {want['sha256'][:16]}…, have another",
                   CANNOT_COMPARE)
    return fetched


def fetch(want: dict[str, str]) -> None:
    pinned = f"{want['package']}={want['version']}"
    say(f"fetching {pinned}")
    folder = WORK / "debian"
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["apt-get", "download", pinned], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        offered = subprocess.run(["apt-cache", "madison", want["package"]], capture_output=True, text=True).stdout
        have = ", ".join(line.split("|")[1].strip() for line in offered.splitlines()) or "none"
        raise Stop(f"cannot compare: want {pinned}, have {have} (Debian's snapshot archive keeps every version)",
                   CANNOT_COMPARE)
    run(["dpkg-deb", "-x", str(next(folder.glob(f"{want['package']}_*.deb"))), str(folder)])


def versions() -> dict[str, str]:
    """The tools whose version decides the bytes."""
    return {tool: subprocess.run([tool, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
            for tool in ("gcc", "ld", "lz4", "dwz")} | {"liblzma": lzma_version()}


def lzma_version() -> str:
    return subprocess.run(["xz", "--version"], capture_output=True, text=True).stdout.splitlines()[-1]


def same_tools(want: dict) -> None:
    tools()
    for tool, version in versions().items():
        if want["tools"].get(tool) != version:
            raise Stop(f"cannot compare: want {want['tools'].get(tool)}, have {version}", CANNOT_COMPARE)


def tools() -> None:
    """Install what the build needs, or say the exact command."""
    if " " in str(WORK):
        raise Stop(f"the kernel's build cannot work in {WORK}: the path has a space → set PVMLAB_WORK to another", 1)
    wanted = (HERE / "apt.txt").read_text().split()
    have = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n", *wanted],
                          capture_output=True, text=True).stdout
    missing = [p for p in wanted if f"ii  {p}" not in have]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid():
        raise Stop(f"missing packages → sudo {' '.join(command)}", 1)
    say(f"installing {' '.join(missing)}")
    run(["apt-get", "update", "-q"])
    run(command)


# --- small things -----------------------------------------------------------------------------------------------------

def run(command: list[str], cwd: Path | None = None) -> None:
    """Run a command quietly; its output is shown when it fails."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **SAME, "DEBIAN_FRONTEND": "noninteractive"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise Stop(f"`{' '.join(command[:6])} …` failed:\n{done.stdout[-3000:]}", 1)


def watched(command: list[str], name: str, log: Path | None = None, every: float = 30.0) -> None:
    """Run make, and say now and then how far it is; what it said is kept in `log`, its last lines are shown when it fails."""
    make = subprocess.Popen(command, env={**os.environ, **SAME}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, errors="replace")
    lines, compiled, said = [], 0, time.monotonic()
    for line in make.stdout:
        lines.append(line)
        compiled += line.startswith("  CC ")
        if time.monotonic() - said >= every:
            said = time.monotonic()
            say(f"{name}: {compiled} files compiled")
    status = make.wait()
    if log:
        log.write_text("".join(lines))
    if status:
        raise Stop(f"`{' '.join(command[:6])} …` failed:\n{''.join(lines[-40:])}", 1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(text: str) -> None:
    print(f"[image] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
