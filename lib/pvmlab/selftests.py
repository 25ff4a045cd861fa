# SPDX-License-Identifier: MIT
"""The kernel's own mm selftests, on the unpatched kernel and on both patched ones.

Adds: running each test in a pristine machine, reading what it printed as cases,
comparing the cases of two kernels, and the table of kernel-patches/SELFTESTS.md.
Leaves out: building the tests (vm-image/selftests) and the kernels (vm-image/build).

What a kernel says is held against what the unpatched one says, case by case: a
test that fails on all of them tells something about this machine or about the
test, and nothing about the patches.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest
from pathlib import Path

from . import image
from .console import complaints
from .errors import MachineDied, MachineTimeout, SetupError, UsageError
from .lab import Lab
from .series import patches

#: The kernels, the unpatched one first; all are built with the same configuration (vm-image/selftests.config).
KERNELS = ("base-selftests", "v2-selftests", "v3-selftests")
#: What a case may say, in the order of the table.
RESULTS = ("pass", "fail", "skip", "xfail")
#: Seconds that a test may run in the guest.
LIMIT = 150
#: Nobody compares snapshots here.
_NO_STAMPS = "page_owner=off slub_debug=-"
_MIB = 1 << 20
#: Seconds after a test's limit until a machine hangs, and where the test's output goes.
_GRACE, _OUTPUT = 30.0, "/tmp/output"


@dataclass(frozen=True)
class Test:
    """One program of tools/testing/selftests/mm.

    command: with its arguments, as run_vmtests.sh has it or shorter; hugepages: of 2 MiB, set aside before;
    before: shell commands; limit: seconds that it may take; cpus: one of them is the agent's; append: to the kernel's
    command line.
    """

    command: str
    hugepages: int = 0
    before: str = ""
    limit: int = LIMIT
    cpus: int = 3
    append: str = ""

    @property
    def program(self) -> str:
        return self.command.split()[0]


#: The test that v3 adds, without its case that hangs a CPU of v2 for good (v3's patch 1).
_PVM = "process_vm_mmap_test -T own_memory"

#: Left out: what this machine lacks something for (map_populate: sockets; hmm-tests: a module; va_high_addr_switch:
#: five levels; on-fault-limit: a user beside root), what races for minutes (hugetlb_fault_after_madv) or only takes
#: the time (gup_test, ksm_tests -P and -H), and what nobody tried here yet (protection_keys, compaction_test,
#: virtual_address_range, hugetlb-soft-offline, hugetlb-read-hwpoison).
TESTS = (
    Test("cow", hugepages=8, limit=400),
    Test("droppable"),
    Test("gup_longterm", hugepages=8),
    Test("hugepage-mmap", hugepages=128),
    Test("hugepage-mremap", hugepages=128),
    Test("hugepage-shm", hugepages=128, before="echo 268435456 > /proc/sys/kernel/shmmax"),
    Test("hugepage-vmemmap", hugepages=128),
    Test("hugetlb-madvise", hugepages=128),
    Test("hugetlb_dio", hugepages=8),
    Test("hugetlb_madv_vs_map", hugepages=1),
    Test("khugepaged", limit=400),
    Test("ksm_functional_tests"),
    Test("ksm_tests -M -p 10"),
    Test("ksm_tests -U"),
    Test("ksm_tests -Z -p 10 -z 0"),
    Test("ksm_tests -Z -p 10 -z 1"),
    Test("madv_populate"),
    Test("map_fixed_noreplace"),
    Test("map_hugetlb", hugepages=128),
    Test("mdwe_test"),
    Test("memfd_secret", before="echo 0 > /proc/sys/kernel/yama/ptrace_scope"),
    Test("migration", hugepages=8, limit=200, cpus=4, append="numa=fake=2"),
    Test("mkdirty", hugepages=8),
    Test("mlock-random-test"),
    Test("mlock2-tests"),
    Test("mrelease_test"),
    Test("mremap_dontunmap"),
    Test("mremap_test"),
    Test("mseal_test"),
    Test("pagemap_ioctl", hugepages=8),
    Test("pkey_sighandler_tests_64"),
    Test(_PVM, hugepages=8, limit=90),
    Test("seal_elf"),
    Test("soft-dirty"),
    Test("split_huge_page_test", limit=600),
    Test("thuge-gen", hugepages=128, before="echo 4294967296 > /proc/sys/kernel/shmmax"),
    Test("transhuge-stress -d 10"),
    Test("uffd-stress anon 20 4"),
    Test("uffd-stress shmem 20 4"),
    Test("uffd-stress hugetlb 64 4", hugepages=128),
    Test("uffd-unit-tests", hugepages=128, limit=900),
)


# --- one test on one kernel -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Case:
    """One thing that a test looked at. name: in the test's words; result: one of RESULTS."""

    name: str
    result: str


@dataclass(frozen=True)
class Run:
    """What one test did on one kernel. cases: in its order; said: what it printed, and the kernel's complaints."""

    cases: tuple[Case, ...]
    said: str


def run(kernel: str, test: Test, programs: Path) -> Run:
    """Run a test in a pristine machine; a machine that dies or hangs is in what comes back, not raised."""
    with Lab(kernel=kernel, cpus=test.cpus, ram=2048, append=f"{_NO_STAMPS} {test.append}".strip()) as lab:
        lab.swap(256 * _MIB)
        for name in ("busybox", test.program):
            lab.guest.write_file(f"/tmp/{name}", _program(programs, name), 0o755)
        lab.guest.write_file("/tmp/start", script(test), 0o755)
        try:
            done = lab.guest.run("/tmp/start", output=_OUTPUT, timeout=test.limit + _GRACE)
            status, said = done.status, done.output.decode(errors="replace")
        except (MachineDied, MachineTimeout) as e:
            status, said = -9, f"{_what_was_told(lab)}\n{e.what}: {e.why}\n"
        console = complaints(lab.machine.console_text())
    found = read(said, status) + (Case("the kernel's own complaints", "fail"),) * bool(console)
    return Run(found, "\n".join([said, f"status {status}", *console, ""]))


def _what_was_told(lab: Lab) -> str:
    """A test that hangs its CPU leaves the agent's alone, so that what it printed before can be read."""
    with contextlib.suppress(MachineDied, MachineTimeout):
        return lab.guest.read_file(_OUTPUT).decode(errors="replace")
    return ""


def _program(programs: Path, name: str) -> bytes:
    try:
        return (programs / name).read_bytes()
    except OSError as e:
        raise SetupError(f"the selftest {name} was not built", str(e), f"see {programs}.log") from e


def script(test: Test) -> str:
    """Return what begins a test: first a shell, because some tests call system(). CPU 0 is the agent's."""
    return "\n".join([
        "#!/tmp/busybox sh", "/tmp/busybox mkdir -p /bin", "/tmp/busybox --install -s /bin",
        "export PATH=/bin HOME=/tmp", f"echo {test.hugepages} > /proc/sys/vm/nr_hugepages", test.before, "cd /tmp",
        f"exec timeout -s KILL {test.limit} taskset e ./{test.command}", ""])


# --- what a test printed ----------------------------------------------------------------------------------------------

_TAP = re.compile(r"^(?P<bad>not )?ok \d+ ?-? ?(?P<name>.*)$|^# \[RUN\] (?P<run>.*)$", re.M)
_DIRECTIVE = re.compile(r"^(.*?)\s*# (SKIP|XFAIL)\b\s*(.*)$")
_UFFD = re.compile(r"^Testing (.*)\.\.\. (done|skipped|failed)", re.M)
_KHUGEPAGED = re.compile(r"^Run test: (.*)\n((?:(?!Run test: ).*\n?)*)", re.M)


def read(said: str, status: int) -> tuple[Case, ...]:
    """Return the cases of a test's output; one for the whole where it tells none (run_vmtests.sh: 0, 4: skipped).

    A test that ends badly, and says so in none of its cases, has one more for its end.
    """
    found = _tap(said) or _uffd(said) or _khugepaged(said)
    whole = {0: "pass", 4: "skip"}.get(status, "fail")
    if not found:
        return (Case("the whole test", whole),)
    if status < 0 or whole == "fail" and all(case.result != "fail" for case in found):
        found += (Case("its end", "fail"),)
    return found


def _tap(said: str) -> tuple[Case, ...]:
    """TAP as kselftest.h and kselftest_harness.h write it; cow's cases have their names in the line before."""
    found, running = [], ""
    for line in _TAP.finditer(said):
        if line["run"]:
            running = line["run"]
            continue
        name, word, why = m.groups() if (m := _DIRECTIVE.match(line["name"])) else (line["name"], "", "")
        result = word.lower() or ("fail" if line["bad"] else "pass")
        found.append(Case(running or name or why, result))
        running = ""
    return tuple(found)


def _uffd(said: str) -> tuple[Case, ...]:
    words = {"done": "pass", "skipped": "skip", "failed": "fail"}
    return tuple(Case(name, words[word]) for name, word in _UFFD.findall(said))


def _khugepaged(said: str) -> tuple[Case, ...]:
    """Its steps say OK, Fail or Skip in colour; a case is as good as its worst step."""
    def worst(steps: str) -> str:
        return "fail" if "Fail" in steps or "Timeout" in steps else "skip" if "Skip" in steps else "pass"
    return tuple(Case(name.strip(), worst(steps)) for name, steps in _KHUGEPAGED.findall(said))


# --- two kernels ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Known:
    """A difference from the unpatched kernel that is meant. kernel: v2 or v3; case: a regular expression of the whole
    name; result: what it has to be there, one of RESULTS; why: for the reader of the table."""

    kernel: str
    test: str
    case: str
    result: str
    why: str


@dataclass(frozen=True)
class Difference:
    """A case that is not the same on the unpatched kernel; a result is "" where the case is missing."""

    kernel: str
    test: str
    case: str
    before: str
    after: str
    why: str = ""

    def __str__(self) -> str:
        return (f"{self.kernel}: {self.test}, {self.case}: {self.before or 'not there'} on the unpatched kernel, "
                f"{self.after or 'not there'} here")


#: What a kernel of ours is meant to say otherwise. The unpatched one skips all of v3's test.
KNOWN = (
    *(Known(kernel, _PVM, ".*", "pass", "The unpatched kernel does not have the call.") for kernel in ("v2", "v3")),
    Known("v2", _PVM, r"pvm\.bad_arguments", "fail",
          "v2 takes the caller's own process as the source (v3, patch 1)."),
    Known("v2", _PVM, r"pvm\.(copy_on_write|snapshot)", "fail",
          "On v2 the source writes on through old TLB entries, into the clone (v3, patch 2)."),
    Known("v2", _PVM, r"pvm\.(sealed_destination|address_space_limit)", "fail",
          "v2 unmaps the destination before it knows whether the call can be done (v3, patch 3)."),
    Known("v2", _PVM, r"pvm\.(not_permitted|userfaultfd)", "fail",
          "v2 has errors that users do not know: EACCES, and the kernel's own 524 (v3, patch 6)."),
    Known("v2", _PVM, r"pvm\.(secret_memory|droppable_memory|dontfork|wipeonfork|protection_key)", "fail",
          "v2 clones memory that is not for anybody else (v3, patch 7)."),
    Known("v2", _PVM, r"pvm\.write_and_execute", "fail",
          "v2 lets a process get round its PR_SET_MDWE (v3, patch 11)."),
    Known("v2", _PVM, r"pvm\.ranges", "fail",
          "v2 leaves the end of an unaligned range unmapped (v3, patch 15)."),
)


def differences(kernel: str, test: str, base: Sequence[Case], other: Sequence[Case],
                known: Sequence[Known] = KNOWN) -> list[Difference]:
    """Hold the cases of one kernel against those of the unpatched one, in order."""
    found = []
    for a, b in zip_longest(base, other):
        if a and b and a.result == b.result and not (test == _PVM and kernel == "v3" and _is_skipped(b)):
            continue
        name, result = (b or a).name, b.result if b else ""
        why = next((k.why for k in known if (k.kernel, k.test, k.result) == (kernel, test, result)
                    and re.fullmatch(k.case, name)), "")
        found.append(Difference(kernel, test, name, a.result if a else "", result, why))
    return found


def _is_skipped(case: Case) -> bool:
    """Whether v3 passed over a case of its own test, which the unpatched kernel does as well. Four are not for it."""
    return case.result == "skip" and not case.name.endswith(".merged_by_mprotect")


# --- the table --------------------------------------------------------------------------------------------------------

def counts(cases: Sequence[Case]) -> str:
    """Say how many cases ended how: "428 pass, 4 xfail"."""
    number = Counter(case.result for case in cases)
    return ", ".join(f"{number[result]} {result}" for result in RESULTS if number[result])


def table(runs: Mapping[str, Mapping[str, Run]], found: Sequence[Difference]) -> str:
    """The table in Markdown. runs: command -> kernel -> Run, the unpatched kernel first."""
    kernels = list(next(iter(runs.values())))
    lines = [f"| test | {' | '.join(map(short, kernels))} | |", "|---" * (len(kernels) + 2) + "|"]
    for command, by_kernel in runs.items():
        mine = [d for d in found if d.test == command]
        verdict = "same" if not mine else "known" if all(d.why for d in mine) else "**differs**"
        lines.append(f"| `{command}` | {' | '.join(counts(by_kernel[k].cases) for k in kernels)} | {verdict} |")
    whole = [counts([case for by_kernel in runs.values() for case in by_kernel[k].cases]) for k in kernels]
    return "\n".join([*lines, f"| **all {len(runs)}** | {' | '.join(whole)} | |"])


def short(kernel: str) -> str:
    """ "v2" of "v2-selftests"."""
    return kernel.partition("-")[0]


def _configuration(runs: Mapping[str, Mapping[str, Run]]) -> str:
    """With which fragments the kernels were built; without our own, the cases that want it are skips."""
    extra = sorted({kernel.partition("-")[2] for by_kernel in runs.values() for kernel in by_kernel} - {""})
    files = " and ".join(f"`vm-image/{name}.config`" for name in ("kernel", *extra))
    less = "" if extra else (" These are not the kernels that `make selftests` builds: what "
                             "`vm-image/selftests.config` adds is not there, so cases that want it skip.")
    return f"all built with {files}.{less}"


def _reasons(found: Sequence[Difference]) -> list[str]:
    """The known differences, under each reason; many of one kind are counted, few are named."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for d in found:
        if d.why:
            kind = f"{d.kernel}, `{d.test}`, {d.before or 'not there'} → {d.after or 'not there'}"
            kinds.setdefault(d.why, {}).setdefault(kind, []).append(d.case)
    return [line for why, of in kinds.items() for line in
            (f"* {why}", *(f"  * {kind}: {', '.join(names) if len(names) < 7 else f'{len(names)} cases'}"
                           for kind, names in of.items()))]


def _not_run(runs: Mapping[str, Mapping[str, Run]]) -> list[str]:
    missing = [f"`{test.command}`" for test in TESTS if test.command not in runs]
    return [f"Not measured this time: {', '.join(missing)}.", ""] if missing else []


def page(runs: Mapping[str, Mapping[str, Run]], found: Sequence[Difference], releases: Sequence[str],
         when: date) -> str:
    """The text of kernel-patches/SELFTESTS.md."""
    return "\n".join([
        "# The kernel's own mm selftests", "",
        f"Measured and written by `lib/pvmlab/selftests.py` on {when:%d %B %Y}, in an emulated "
        f"machine with 3 CPUs (migration: 4), 2 GiB and swap on zram. {', '.join(releases)}; {_configuration(runs)}", "",
        "Each program of `tools/testing/selftests/mm` runs in a pristine machine. What counts is that a case says",
        "the same on all three; one that fails on the unpatched kernel too tells of this machine or of the test,",
        "or did not end in its time here.", "",
        table(runs, found), "", *_not_run(runs), "## Known differences", "", *(_reasons(found) or ["None."]), "",
        "## Others", "",
        *([f"* {d}" for d in found if not d.why] or ["None."]), ""])


# --- the command -----------------------------------------------------------------------------------------------------

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `python -m pvmlab selftests`."""
    parser.add_argument("tests", nargs="*", help="programs to run (default: all, and the table is written)")
    parser.add_argument("--kernels", default=",".join(KERNELS),
                        help=f"the unpatched one first (default: {','.join(KERNELS)})")


def main(args: argparse.Namespace) -> int:
    """Build what is missing, run every test on every kernel, write the table; return the exit status."""
    kernels = args.kernels.split(",")
    for kernel in kernels:
        if "-" in kernel:
            image.build_on_demand(kernel)
    programs, tests = built(), [t for t in TESTS if not args.tests or t.program in args.tests]
    if not tests:
        raise UsageError(f"no test is called {', '.join(args.tests)}", "nothing would be run",
                         " ".join(sorted({t.program for t in TESTS})))
    output = image.cache() / "selftests"
    runs, found = {}, []
    for n, test in enumerate(tests, 1):
        runs[test.command], new = on_each(kernels, test, programs, output)
        found += new
        say(f"{n} of {len(tests)}: {test.command}: {counts(runs[test.command][kernels[0]].cases)}; {verdict(new)}")
    return report(kernels, runs, found, output, whole=not args.tests)


def built() -> Path:
    """Build the tests' programs; return their directory. Raises SetupError."""
    command = [sys.executable, str(image.root() / "vm-image" / "selftests")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SetupError("the selftests could not be built", f"it ended with status {done.returncode}", "see above")
    return Path(done.stdout.strip())


def on_each(kernels: Sequence[str], test: Test, programs: Path,
            output: Path) -> tuple[dict[str, Run], list[Difference]]:
    """Run one test on every kernel, and keep what it printed.

    Tests that race or wait for a daemon do not say the same each time, on the unpatched kernel either: what differs
    is run again on all, and counts when something differs again.
    """
    runs, found = _once_on_each(kernels, test, programs, output)
    if odd := [d.kernel for d in found if not d.why]:
        say(f"{test.command}: {odd[0]} differs; once more, on all")
        runs, found = _once_on_each(kernels, test, programs, output)
    return runs, found


def _once_on_each(kernels: Sequence[str], test: Test, programs: Path,
                  output: Path) -> tuple[dict[str, Run], list[Difference]]:
    runs = {kernel: _kept(kernel, test, programs, output) for kernel in kernels}
    base, *others = kernels
    return runs, [d for kernel in others
                  for d in differences(short(kernel), test.command, runs[base].cases, runs[kernel].cases)]


def _kept(kernel: str, test: Test, programs: Path, output: Path) -> Run:
    done = run(kernel, test, programs)
    home = output / short(kernel)
    home.mkdir(parents=True, exist_ok=True)
    (home / test.command.replace(" ", "_")).write_text(done.said)
    return done


def verdict(found: Sequence[Difference]) -> str:
    """Say in a few words how the kernels differ."""
    unknown = sum(not d.why for d in found)
    return f"{unknown} DIFFER" if unknown else f"{len(found)} known differences" if found else "the same on all"


def report(kernels: Sequence[str], runs: Mapping[str, Mapping[str, Run]], found: Sequence[Difference], output: Path,
           whole: bool) -> int:
    """Print the table, write it down where it is of all tests; return the exit status."""
    unknown = [d for d in found if not d.why]
    print(table(runs, found), *unknown, sep="\n")
    if whole:
        releases = [f"{short(kernel)}: Linux {image.image(kernel).release}{with_patches(short(kernel))}"
                    for kernel in kernels]
        target = image.root() / "kernel-patches" / "SELFTESTS.md"
        target.write_text(page(runs, found, releases, date.today()))
        say(f"written to {target}")
    say(f"{verdict(found)}; what the tests printed is in {output}")
    return 1 if unknown else 0


def with_patches(series: str) -> str:
    """Say how many patches a series has now: ", 7 patches"; nothing of the unpatched kernel."""
    return f", {len(patches(series))} patches" if patches(series) else ""


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[selftests] {text}", flush=True)
