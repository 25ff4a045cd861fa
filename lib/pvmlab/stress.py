# SPDX-License-Identifier: MIT
"""The referee: races, and random operations held against a model, in the guest.

Adds: building the guest's programs (vm-image/stress), running them in pristine
machines on a kernel that checks itself, reading the console, looking at samples
from outside, and making a failing sequence as short as it gets.
Leaves out: what the operations are and what they have to mean (mix.c, race.c).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as _once
from functools import partial
from pathlib import Path

from . import image
from .calls import MAP_PRIVATE, MAP_SHARED, PAGE_SIZE, PVMMAP_FIXED
from .console import complaints
from .errors import MachineDied, MachineTimeout, SetupError, UsageError
from .guest import errno_of
from .lab import Lab

#: Seconds after which a round that has not ended hangs.
ROUND_LIMIT = 120.0
#: Where the program in the guest finds its plan, and where it is put itself.
_PLAN, _PROGRAM, _OUTPUT = "/tmp/plan", "/tmp/mix", "/tmp/output"
#: Stamps of pages and objects cost a debug kernel half of its speed; nobody compares snapshots here.
_NO_STAMPS = "page_owner=off slub_debug=-"


@dataclass(frozen=True)
class Plan:
    """What the program in the guest shall do: the words of its plan, in vm-image/stress/mix.c.

    seed: of the first round; rounds: how many; ops: operations of a round;
    check: compare everything after so many; keep: the operations to do (None: all).
    """

    seed: int
    rounds: int = 1
    ops: int = 2000
    check: int = 250
    keep: tuple[int, ...] | None = None
    tell: bool = False
    stay: bool = False
    plant: int = 0

    def text(self) -> str:
        """Return the plan as the program reads it."""
        words = ("seed", "rounds", "ops", "check", "tell", "stay", "plant")
        lines = [f"{word} {int(getattr(self, word))}" for word in words]
        lines += [f"keep {first} {last + 1}" for first, last in runs(self.keep or ())]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Failure:
    """seed: of the round; op: in the round, None where only the console tells; what: in the program's or the kernel's
    words."""

    seed: int
    op: int | None
    what: str

    @property
    def kind(self) -> str:
        """What it is without the numbers: a shorter sequence fails alike if this is the same."""
        return re.sub(r"0x[0-9a-f]+|-?\d+", "#", self.what)


@dataclass(frozen=True)
class Outcome:
    """ops, cloned, moved, refused: how many; failure: None where all went well; told: what the program printed.

    saw: what the kernel did in that time, by its name in /proc/vmstat: huge pages made and split, pages swapped, …
    """

    ops: int
    cloned: int
    moved: int
    refused: int
    failure: Failure | None
    told: str
    saw: dict[str, int] = field(default_factory=dict)


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return numbers in rising order as (first, last) of each unbroken run."""
    found: list[tuple[int, int]] = []
    for n in numbers:
        if found and found[-1][1] + 1 == n:
            found[-1] = (found[-1][0], n)
        else:
            found.append((n, n))
    return found


# --- one run in one machine -------------------------------------------------------------------------------------------

@_once
def program(name: str) -> bytes:
    """Return a guest program of vm-image/stress, compiled now. Raises SetupError without a compiler."""
    with tempfile.TemporaryDirectory() as out:          # another checkout's must not be taken for this one's
        done = subprocess.run(["make", "-s", "-C", str(image.root() / "vm-image" / "stress"), f"OUT={out}"],
                              capture_output=True, text=True)
        if done.returncode:
            raise SetupError("the stress programs do not compile", done.stderr[-1000:],
                             "apt-get install build-essential")
        return (Path(out) / name).read_bytes()


@contextlib.contextmanager
def machine(kernel: str, cpus: int = 2) -> Iterator[Lab]:
    """A pristine machine with what the mix stirs: swap, KSM and khugepaged at work all the time."""
    with Lab(kernel=kernel, cpus=cpus, ram=512 if "-" in kernel else 256, append=_NO_STAMPS) as lab:
        lab.guest.write_file("/proc/sys/kernel/printk", "8")
        lab.swap(64 << 20)
        lab.ksm(True, pages_to_scan=100, sleep_ms=20)
        lab.guest.write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "50")
        yield lab


@dataclass(frozen=True)
class Race:
    """How one race of vm-image/stress/race.c ended. clones, refused: how many; failure: in words, or "".

    saw: how often what the race is about happened, by its name in /proc/vmstat.
    """

    name: str
    clones: int
    refused: int
    failure: str
    saw: dict[str, int] = field(default_factory=dict)


#: The races of race.c, in its order.
RACES = ("writer", "kill", "exec", "ring", "swapoff", "collapse", "compaction", "move", "give", "pin", "truncate",
         "poison", "busy", "sweep", "sweep-swapped", "sweep-file", "sweep-whole", "sweep-pieces", "sweep-move",
         "sweep-move-swapped", "sweep-move-whole", "sweep-move-pieces")


def race(kernel: str, name: str, seconds: float = 2.0, seed: int = 1) -> Race:
    """Run one race in a pristine machine for so long; a failure is in what comes back, not raised."""
    with machine(kernel, cpus=4 if name == "busy" else 2) as lab:
        lab.guest.write_file("/tmp/race", program("race"), 0o755)
        lab.guest.write_file(_PLAN, f"race {RACES.index(name)}\nms {int(seconds * 1000)}\nseed {seed}\n")
        try:
            told, ended = lab.guest.run("/tmp/race", output=_OUTPUT, timeout=seconds + ROUND_LIMIT).output.decode(), ""
        except (MachineDied, MachineTimeout) as e:
            told, ended = _what_was_told(lab), f"{e.what}: {e.why}"
        bad = complaints(lab.machine.console_text())
    counts = re.search(rf"^{name}: (\d+) clones, (\d+) refused, status 0x0$", told, re.M)
    said = re.search(r"^FAIL (.*)$", told, re.M)
    failure = bad[0] if bad else said[1] if said else ended if ended else "" if counts else told.strip()[-200:]
    return Race(name, *(map(int, counts.groups()) if counts else (0, 0)), failure, _saw(told))


def over_itself(kernel: str, pages: int = 4, elsewhere: int = 1 << 14) -> Race:
    """D3: let a process take its own memory over itself, so that the call unmaps its own source.

    The unmapped VMA is freed after a grace period of RCU, and KASAN sees who uses it then. The call is made to wait
    for so long: the source is a file, whose i_mmap lock copy_vma() takes to link the new VMA. The call is held before
    that, until another process truncates the file and has the lock, with `elsewhere` pages of its own to unmap.
    """
    with Lab(kernel=kernel, cpus=3, ram=512, append=_NO_STAMPS) as lab:
        task = lab.task("self")
        fd = task.syscall("memfd_create", b"file\0", 0)
        task.syscall("ftruncate", fd, elsewhere * PAGE_SIZE)
        buf = task.mmap(pages=pages, flags=MAP_PRIVATE, fd=fd)
        task.touch(buf, pages, write=True)
        if errno_of(task.process_vm_mmap, task, buf, pages=pages, dst_addr=1 << 40) == "EINVAL":
            return Race("over itself", 0, 1, "")
        other = task.fork("other")
        task.pin(1), other.pin(2)
        other.touch(other.mmap(pages=elsewhere, flags=MAP_SHARED, fd=fd), elsewhere, write=True)
        with lab.stop_at("copy_vma", task=task) as before:
            call = task.start("process_vm_mmap", task, buf, pages=pages, dst_addr=buf, flags=PVMMAP_FIXED)
            before.wait()
            with lab.stop_at("unmap_page_range", task=other) as locked:
                other.start("ftruncate", fd, 0)
                locked.wait()
                before.go_on()
                lab.run_for(20)                         # it comes to the lock, and sleeps
        with contextlib.suppress(MachineDied, MachineTimeout):
            call.wait()
        bad = complaints(lab.machine.console_text())
    return Race("over itself", 1, 0, bad[0] if bad else "")


def run(lab: Lab, plan: Plan, limit: float = ROUND_LIMIT) -> Outcome:
    """Do a plan in a machine, in at most `limit` seconds a round. A failure is in the outcome, not raised."""
    lab.guest.write_file(_PROGRAM, program("mix"), 0o755)
    lab.guest.write_file(_PLAN, plan.text())
    try:
        told = lab.guest.run(_PROGRAM, output=_OUTPUT, timeout=limit * plan.rounds).output.decode()
    except (MachineDied, MachineTimeout) as e:
        return _outcome(_what_was_told(lab), lab.machine.console_text(), plan, f"{e.what}: {e.why}")
    return _outcome(told, lab.machine.console_text(), plan)


def _what_was_told(lab: Lab) -> str:
    with contextlib.suppress(MachineDied, MachineTimeout):
        return lab.guest.read_file(_OUTPUT).decode()
    return ""


def _outcome(told: str, console: str, plan: Plan, ended: str = "") -> Outcome:
    counts = re.search(r"^done (\d+) ops, (\d+) cloned, (\d+) moved, (\d+) refused$", told, re.M)
    ops, cloned, moved, refused = map(int, counts.groups()) if counts else (0, 0, 0, 0)
    return Outcome(ops, cloned, moved, refused, _failure(told, console, plan, ended), told, _saw(told))


def _saw(told: str) -> dict[str, int]:
    return {name: int(times) for name, times in re.findall(r"^saw (\w+) (-?\d+)$", told, re.M)}


def _failure(told: str, console: str, plan: Plan, ended: str) -> Failure | None:
    """The kernel's own complaint counts before what the model says, and that before what became of the machine."""
    if bad := complaints(console):
        before = console[:console.index(bad[0])]
        rounds = re.findall(r"mix: round (\d+)$", before, re.M)
        return Failure(int(rounds[-1]) if rounds else plan.seed, None, re.sub(r"^\[[\d. ]+\] ", "", bad[0]))
    if said := re.search(r"^FAIL round (\d+) op (\d+): (.*)$", told, re.M):
        return Failure(int(said[1]), int(said[2]), said[3])
    if ended or "done " not in told:
        rounds = re.findall(r"mix: round (\d+)$", console, re.M)
        return Failure(int(rounds[-1]) if rounds else plan.seed, None, ended or "the program did not end")
    return None


# --- looking at a sample from outside ---------------------------------------------------------------------------------

#: Where mix.c leaves its mark in a page.
_MARKS = (0, 2048, 4088)
_ANON = 1


@dataclass(frozen=True)
class Sample:
    """A world that was looked at from outside. pages: compared; walks: reverse-map walks held against the mapcount."""

    pages: int
    walks: int
    differences: tuple[str, ...]


def sample(kernel: str, seed: int, ops: int = 400) -> Sample:
    """Stop a random world after `ops` operations, and hold the kernel's tables and RAM against the model of mix.c."""
    with machine(kernel) as lab:
        outcome = run(lab, Plan(seed, ops=ops, stay=True))
        if outcome.failure:
            return Sample(0, 0, (outcome.failure.what,))
        claims = re.findall(r"^model (\d+) 0x(\w+) (\d+) (\d+) 0x(\w+)$", outcome.told, re.M)
        seen = lab.look()
        tasks = {task.pid: task for task in seen.others}
        found = [_differs(lab, tasks[int(pid)], int(addr, 16), int(prot), int(tag, 16))
                 for pid, addr, _, prot, tag in claims]
        walked = sorted({pfn for pid, addr, kind, _, _ in claims if int(kind) == _ANON
                         and (pfn := _frame(tasks[int(pid)], int(addr, 16))) and seen.page(pfn).kind == "anon"})
        found += [_lost(seen, pfn) for pfn in walked]
        return Sample(len(claims), len(walked), tuple(filter(None, found)))


def _frame(task, addr: int) -> int | None:
    pte = task.pte(addr)
    return pte.pfn_at(addr) if pte and pte.present else None


def _differs(lab: Lab, task, addr: int, prot: int, tag: int) -> str:
    """Say how a page differs from what the model claims of it, or "". Pages that are not in RAM are not read."""
    vma = task.mm.vma(addr)
    if vma is None:
        return f"{addr:#x} of {task.pid} is not mapped"
    if [(c in vma.prot) for c in "rw"] != [bool(prot & 1), bool(prot & 2)]:
        return f"{addr:#x} of {task.pid} is {vma.prot}, the model says {prot}"
    pfn = _frame(task, addr)
    marks = [lab._memory.u64(pfn * 4096 + at) for at in _MARKS] if pfn else [tag] * 3
    return "" if marks == [tag] * 3 else f"{addr:#x} of {task.pid} holds {marks[0]:#x}, the model says {tag:#x}"


def _lost(seen, pfn: int) -> str:
    hits, mapcount = len(seen.rmap(pfn).hits), seen.page(pfn).mapcount
    return "" if hits == mapcount else f"frame {pfn} is mapped {mapcount} times, a reverse-map walk finds {hits}"


# --- the shortest sequence --------------------------------------------------------------------------------------------

def shrink(ops: Sequence[int], fails: Callable[[tuple[int, ...]], bool], seconds: float = 120.0) -> tuple[int, ...]:
    """Leave out operations as long as what is left fails (delta debugging, ddmin): the shortest found in the time.

    fails(ops): whether doing only these fails as the whole did.
    """
    kept, parts, end = tuple(ops), 2, time.monotonic() + seconds
    while len(kept) > 1 and time.monotonic() < end:
        shorter = next((rest for rest in _without_a_part(kept, parts) if time.monotonic() < end and fails(rest)), None)
        if shorter is not None:
            kept, parts = shorter, max(parts - 1, 2)
        elif parts >= len(kept):
            break
        else:
            parts = min(2 * parts, len(kept))
    return kept


def _without_a_part(ops: tuple[int, ...], parts: int) -> Iterator[tuple[int, ...]]:
    """Yield `ops` with one of `parts` equal parts left out, each in turn."""
    edges = [len(ops) * i // parts for i in range(parts + 1)]
    for first, last in zip(edges[:-1], edges[1:]):
        yield ops[:first] + ops[last:]


def shortest(kernel: str, failure: Failure, plan: Plan, seconds: float = 120.0) -> Plan | None:
    """Find the shortest plan that fails alike, in pristine machines; None if not even the whole round does."""
    tried = 0

    def fails(keep: tuple[int, ...]) -> bool:
        nonlocal tried
        tried += 1
        with machine(kernel) as lab:
            again = run(lab, replace(whole, keep=keep)).failure
        same = again is not None and again.kind == failure.kind
        say(f"shrinking: {len(keep)} operations {'fail' if same else 'do not fail'} (try {tried})")
        return same

    last = plan.ops if failure.op is None else min(failure.op + 1, plan.ops)
    whole = replace(plan, seed=failure.seed, rounds=1, ops=last, check=plan.check)
    everything = tuple(plan.keep or range(last))
    if not fails(everything):
        return None
    return replace(whole, keep=shrink(everything, fails, seconds))


# --- the command --------------------------------------------------------------------------------------------------------

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `python -m pvmlab stress`."""
    parser.add_argument("--kernel", default="v3-debug", help="bundled, or built on demand (default: v3-debug)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round (default: the clock's)")
    parser.add_argument("--seconds", type=float, default=150.0, help="how long to go on (default: 150)")
    parser.add_argument("--ops", type=int, default=2000, help="operations of a round (default: 2000)")
    parser.add_argument("--check", type=int, default=250, help="after each operation what it concerns is compared, and "
                        "after so many everything (default: 250)")
    parser.add_argument("--rounds", type=int, default=None, help="so many rounds, however long they take")
    parser.add_argument("--keep", default="", metavar="1-4,9", help="replay: these operations of the one round only")
    parser.add_argument("--race-seconds", type=float, default=2.0, help="for each race; 0: none (default: 2)")
    parser.add_argument("--samples", type=int, default=2, help="worlds to look at from outside (default: 2)")


def main(args: argparse.Namespace) -> int:
    """Build what is missing, stress, sample, say what was found; return the exit status."""
    if not 1 <= args.ops <= 65536:
        raise UsageError(f"--ops {args.ops}", "a round has 1 to 65536 operations", "--ops 2000")
    if args.check < 1:
        raise UsageError(f"--check {args.check}", "everything is compared after so many operations", "--check 250")
    if "-" in args.kernel:
        image.build_on_demand(args.kernel)
    if args.keep:
        return _replay(args)
    seed = int(time.time()) if args.seed is None else args.seed
    if args.race_seconds and not _raced(args.kernel, args.race_seconds, seed):
        return 1
    for n in range(args.samples):
        if not _sampled(args.kernel, seed + n):
            return 1
    return _rounds(args, seed)


def _raced(kernel: str, seconds: float, seed: int) -> bool:
    """All races are run, whatever the first says."""
    fine = True
    for one in (*(partial(race, kernel, name, seconds, seed) for name in RACES), partial(over_itself, kernel)):
        found = one()
        say(f"race {found.name}: " + (f"FAILED: {found.failure}" if found.failure else
                                      f"{found.clones} clones, {found.refused} refused"))
        fine = fine and not found.failure
    return fine


def _sampled(kernel: str, seed: int) -> bool:
    found = sample(kernel, seed)
    say(f"seed {seed}, looked at from outside: {found.pages} pages and {found.walks} reverse-map walks compared")
    for line in found.differences[:10]:
        say(f"  {line}")
    return not found.differences


def _rounds(args: argparse.Namespace, seed: int) -> int:
    """Rounds in one machine after another until the time is over."""
    start, first, at_once = time.monotonic(), seed, 1
    done = cloned = moved = 0
    saw: Counter[str] = Counter()
    while (seed - first < args.rounds) if args.rounds else (time.monotonic() - start < args.seconds):
        begun, plan = time.monotonic(), Plan(seed, at_once, args.ops, args.check)
        with machine(args.kernel) as lab:
            outcome = run(lab, plan)
        if outcome.failure:
            return _report(args.kernel, outcome.failure, plan)
        seed, done = seed + at_once, done + outcome.ops
        cloned, moved = cloned + outcome.cloned, moved + outcome.moved
        saw.update(outcome.saw)
        took = time.monotonic() - begun
        say(f"seeds {first} to {seed - 1}: {done:,} operations, {cloned:,} clones, {moved:,} of them moves; "
            f"{outcome.ops / took:,.0f} a second")
        at_once = max(1, min(50, int(at_once * 15 / took)))
        if args.rounds:
            at_once = min(at_once, max(1, args.rounds - (seed - first)))
    say("meanwhile " + ", ".join(f"{name} {times:,}" for name, times in saw.items()))
    say(f"{args.kernel}: {done:,} operations, no difference from the model, nothing on the console")
    return 0


def _report(kernel: str, failure: Failure, plan: Plan) -> int:
    say(f"FAILED, seed {failure.seed}: {failure.what}")
    found = shortest(kernel, failure, plan)
    if found is None:
        say("the round alone does not fail again: it takes what ran at the same time, or before")
        say(_command(kernel, replace(plan, seed=failure.seed, rounds=1)))
        return 1
    with machine(kernel) as lab:
        outcome = run(lab, replace(found, tell=True))
        console = lab.machine.console_text()
    say(f"the shortest sequence found, {len(found.keep or ())} operations:")
    print(outcome.told, *complaints(console)[:5], sep="\n", flush=True)
    say(_command(kernel, found))
    return 1


def _command(kernel: str, plan: Plan) -> str:
    keep = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(plan.keep or ()))
    return (f'to replay: make stress ARGS="--kernel {kernel} --seed {plan.seed} --ops {plan.ops}'
            f'{" --keep " + keep if keep else " --rounds 1"}"')


def _replay(args: argparse.Namespace) -> int:
    """Do the operations of --keep and tell them."""
    if args.seed is None:
        raise UsageError("--keep without --seed", "operations are those of a seed", "--seed N --keep 1-4,9")
    keep = tuple(n for part in args.keep.split(",") for a, _, b in [part.partition("-")]
                 for n in range(int(a), int(b or a) + 1))
    with machine(args.kernel) as lab:
        outcome = run(lab, Plan(args.seed, ops=args.ops, check=args.check, keep=keep, tell=True))
        console = lab.machine.console_text()
    print(outcome.told, *complaints(console), sep="\n")
    return 1 if outcome.failure else 0


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[stress] {text}", flush=True)
