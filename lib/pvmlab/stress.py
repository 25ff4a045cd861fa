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
from pathlib import Path

from drgn import container_of
from drgn.helpers.linux.mm import page_to_phys, vmalloc_to_page

from . import image
from .calls import MAP_PRIVATE, MAP_SHARED, PAGE_SIZE, PVMMAP_FIXED
from .console import complaints
from .errors import MachineDied, MachineTimeout, SetupError, UsageError
from .guest import errno_of
from .lab import Lab

#: Seconds after which a round that has not ended hangs.
ROUND_LIMIT = 120.0
#: Seconds that a race may take beside its own: it goes on for one minute to get where it has to (race.c), and a sweep
#: has a hundred calls to do, all of which takes its time where a debug kernel shares a CPU.
RACE_LIMIT = 300.0
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
        lab.ksm(True, pages_to_scan=500, sleep_ms=20)
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
RACES = ("writer", "kill", "exec", "stack", "ring", "swapoff", "collapse", "compaction", "move", "give", "pin",
         "truncate", "poison", "busy", "sweep", "sweep-swapped", "sweep-file", "sweep-whole", "sweep-pieces", "sweep-move",
         "sweep-move-swapped", "sweep-move-whole", "sweep-move-pieces")
#: The race that is arranged from outside.
OVER_ITSELF = "over-itself"


def race(kernel: str, name: str, seconds: float = 2.0, seed: int = 1) -> Race:
    """Run one race in a pristine machine for so long, or as long as it needs; a failure is in what comes back."""
    if name == OVER_ITSELF:
        return over_itself(kernel)
    with machine(kernel, cpus=4 if name == "busy" else 2) as lab:
        return race_in(lab, name, seconds, seed)


def race_in(lab: Lab, name: str, seconds: float = 2.0, seed: int = 1) -> Race:
    """Run one race of race.c in a machine."""
    lab.guest.write_file("/tmp/race", program("race"), 0o755)
    lab.guest.write_file(_PLAN, f"race {RACES.index(name)}\nms {int(seconds * 1000)}\nseed {seed}\n")
    try:
        told, ended = lab.guest.run("/tmp/race", output=_OUTPUT, timeout=seconds + RACE_LIMIT).output.decode(), ""
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
            return Race(OVER_ITSELF, 0, 1, "")
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
    return Race(OVER_ITSELF, 1, 0, bad[0] if bad else "")


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

#: The memory cgroup of mix.c's processes.
_GROUP = "/sys/fs/cgroup/mix"
#: include/linux/swap.h
_SWAP_HAS_CACHE, _COUNT_CONTINUED, _SWAP_MAP_MAX, _SWAP_CONT_MAX = 0x40, 0x80, 0x3e, 0x7f
#: Where mix.c leaves its mark in a page.
_MARKS = (0, 2048, 4088)
#: Frames that are walked from at most: for each of them all entries are looked through for what the walk missed.
_WALKS = 100


@dataclass(frozen=True)
class Sample:
    """A world that was looked at from outside.

    pages: read in RAM and compared; walks: reverse-map walks held against the mapcount; slots: of swap, held against
    the entries that name them; merged: entries of pages that KSM has; failure: the first of the differences, or what
    the mix found itself; None where all is as the model says.
    """

    pages: int
    walks: int
    slots: int
    merged: int
    differences: tuple[str, ...]
    failure: Failure | None


@dataclass(frozen=True)
class _Claim:
    """What the model says of a page. own: its content is an anonymous page's, so that it has an entry once written."""

    own: bool
    prot: int
    tag: int


def sample(kernel: str, plan: Plan) -> Sample:
    """Stop a random world at the end of a plan; hold the kernel's tables and RAM against the model of mix.c."""
    with machine(kernel) as lab:
        outcome = run(lab, replace(plan, stay=True))
        if outcome.failure:
            return Sample(0, 0, 0, 0, (outcome.failure.what,), outcome.failure)
        lab.reclaim(_GROUP, 4 << 20)                      # it has just read all that it has
        return look_at(lab, outcome.told, plan.seed)


def look_at(lab: Lab, told: str, seed: int) -> Sample:
    """Compare processes that stay with the model that mix.c printed, in both directions."""
    claims = {(int(pid), int(addr, 16)): _Claim(own == "1", int(prot), int(tag, 16))
              for pid, addr, own, prot, tag in re.findall(r"^model (\d+) 0x(\w+) (\d) (\d+) 0x(\w+)$", told, re.M)}
    arenas = [(int(pid), range(int(start, 16), int(end, 16), PAGE_SIZE))
              for pid, start, end in re.findall(r"^arena (\d+) 0x(\w+) 0x(\w+)$", told, re.M)]
    seen = lab.look()
    tasks = {task.pid: task for task in seen.others}
    frames = {(pid, addr): pfn for pid, addr in claims if (pfn := _frame(tasks[pid], addr)) is not None}
    walked = sorted({pfn for pfn in frames.values() if seen.page(pfn).kind in ("anon", "file")})
    walked = walked[::-(-len(walked) // _WALKS) or 1]
    merged = [at for at, pfn in frames.items() if seen.page(pfn).kind == "ksm"]
    slots = Counter((pte.swap.type, pte.swap.offset) for mm in seen.mms for pte in mm.entries
                    if pte.swap and pte.swap.kind == "swap")
    found = [_differs(lab, tasks[at[0]], at[1], claim, frames.get(at)) for at, claim in claims.items()]
    found += [_unknown(tasks[pid], arena, claims) for pid, arena in arenas]
    found += [_lost(seen, pfn) for pfn in walked]
    found += [_stray(tasks[pid], addr) for pid, addr in merged]
    found += [_miscounted_slot(lab, slot, entries) for slot, entries in slots.items()]
    found += [_miscounted(seen, task.mm) for task in tasks.values()]
    differences = tuple(filter(None, found))
    failure = Failure(seed, None, differences[0]) if differences else None
    return Sample(len(frames), len(walked), len(slots), len(merged), differences, failure)


def _frame(task, addr: int) -> int | None:
    pte = task.pte(addr)
    return pte.pfn_at(addr) if pte and pte.present else None


def _differs(lab: Lab, task, addr: int, claim: _Claim, pfn: int | None) -> str:
    """Say how a page differs from what the model claims of it, or "". What is in swap is not read."""
    vma = task.mm.vma(addr)
    if vma is None:
        return f"{addr:#x} of {task.pid} is not mapped"
    if [(c in vma.prot) for c in "rw"] != [bool(claim.prot & 1), bool(claim.prot & 2)]:
        return f"{addr:#x} of {task.pid} is {vma.prot}, the model says {claim.prot}"
    if pfn is None:
        gone = claim.own and claim.tag and task.pte(addr) is None
        return f"{addr:#x} of {task.pid} has no entry, the model says it holds {claim.tag:#x}" if gone else ""
    marks = [lab._memory.u64(pfn * PAGE_SIZE + at) for at in _MARKS]
    wrong = marks != [claim.tag] * len(_MARKS)
    return f"{addr:#x} of {task.pid} holds {marks[0]:#x}, the model says {claim.tag:#x}" if wrong else ""


def _unknown(task, arena: range, claims: dict) -> str:
    """Say what is mapped where the model has nothing, or ""."""
    found = [addr for vma in task.mm.vmas for addr in range(vma.vm_start, vma.vm_end, PAGE_SIZE)
             if addr in arena and (task.pid, addr) not in claims]
    return f"{found[0]:#x} of {task.pid} is mapped, the model has nothing there" if found else ""


def _lost(seen, pfn: int) -> str:
    hits, mapcount = len(seen.rmap(pfn).hits), seen.page(pfn).mapcount
    return "" if hits == mapcount else f"frame {pfn} is mapped {mapcount} times, a reverse-map walk finds {hits}"


def _stray(task, addr: int) -> str:
    """Say that a page of KSM's is where ksmd never comes, or "": walks find it where KSM knows of it (9, 25, 26)."""
    known = "MERGEABLE" in task.mm.vma(addr).flags
    return "" if known else f"{addr:#x} of {task.pid} maps a page of KSM's, in a VMA that is not mergeable"


def slot_users(lab: Lab, kind: int, offset: int) -> int:
    """Return how many entries name a slot of swap, as the kernel counts (mm/swapfile.c, swp_swapcount()).

    A byte has not enough room for a slot that many have: the number's higher digits stand at the same place of pages
    that hang on the page of the byte.
    """
    swap_map = lab.kernel.prog["swap_info"][kind].swap_map
    digit = swap_map[offset].value_() & ~_SWAP_HAS_CACHE
    users, weight = digit & ~_COUNT_CONTINUED, _SWAP_MAP_MAX + 1
    page = vmalloc_to_page(swap_map + offset)
    while digit & _COUNT_CONTINUED:
        page = container_of(page.lru.next, "struct page", "lru")
        digit = lab._memory.read(page_to_phys(page).value_() + offset % PAGE_SIZE, 1)[0]
        users += (digit & ~_COUNT_CONTINUED) * weight
        weight *= _SWAP_CONT_MAX + 1
    return users


def _miscounted_slot(lab: Lab, slot: tuple[int, int], entries: int) -> str:
    """Hold a slot's count against the entries that name it, or ""."""
    kind, offset = slot
    users = slot_users(lab, kind, offset)
    return "" if users == entries else f"slot {offset} of swap counts {users} users, and {entries} entries name it"


def _miscounted(seen, mm) -> str:
    """Hold an mm's own counters against its entries, or "". Zero pages count nowhere."""
    held = Counter()
    for pte in mm.entries:
        if pte.swap:
            held["swapents"] += pte.swap.kind == "swap"
            continue
        kinds = [seen.pages[pfn].kind for pfn in range(pte.pfn, pte.pfn + pte.size // PAGE_SIZE) if pfn in seen.pages]
        held["rss_anon"] += kinds.count("anon") + kinds.count("ksm")
    wrong = [f"{name} is {mm.counters[name]}, and it has {held[name]}" for name in ("rss_anon", "swapents")
             if mm.counters[name] != held[name]]
    return f"mm {mm.addr:#x}: {wrong[0]}" if wrong else ""


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


def failure_of(kernel: str, plan: Plan) -> Failure | None:
    """Do a plan in a pristine machine; where its processes stay, look at them from outside, too."""
    if plan.stay:
        return sample(kernel, plan).failure
    with machine(kernel) as lab:
        return run(lab, plan).failure


def shortest(kernel: str, failure: Failure, plan: Plan, seconds: float = 120.0) -> Plan | None:
    """Find the shortest plan that fails alike, in pristine machines; None if not even the whole round does."""
    tried = 0

    def fails(keep: tuple[int, ...]) -> bool:
        nonlocal tried
        tried += 1
        again = failure_of(kernel, replace(whole, keep=keep))
        same = again is not None and again.kind == failure.kind
        say(f"shrinking: {len(keep)} operations {'fail' if same else 'do not fail'} (try {tried})")
        return same

    last = plan.ops if failure.op is None else min(failure.op + 1, plan.ops)
    whole = replace(plan, seed=failure.seed, rounds=1, ops=last, check=plan.check)
    everything = tuple(plan.keep or range(last))
    if not fails(everything):
        return None
    return replace(whole, keep=shrink(everything, fails, seconds))


# --- the command ------------------------------------------------------------------------------------------------------

#: What is stressed, and what has to be caught where nothing else is asked for.
_KERNEL, _V2 = "v3-debug", "v2-debug"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `python -m pvmlab stress`."""
    parser.add_argument("--kernel", default=None, help="bundled, or built on demand (default: v3-debug; and v2-debug "
                        "is shown to be caught)")
    parser.add_argument("--no-v2", action="store_true", help="do not show that v2-debug is caught")
    parser.add_argument("--seed", type=int, default=None, help="of the first round (default: the clock's)")
    parser.add_argument("--seconds", type=float, default=150.0, help="how long to go on (default: 150)")
    parser.add_argument("--ops", type=int, default=2000, help="operations of a round (default: 2000)")
    parser.add_argument("--check", type=int, default=250, help="after each operation what it concerns is compared, and "
                        "after so many everything (default: 250)")
    parser.add_argument("--rounds", type=int, default=None, help="so many rounds, however long they take")
    parser.add_argument("--keep", default="", metavar="1-4,9", help="replay: these operations of the one round only")
    parser.add_argument("--look", action="store_true", help="replay: at the end of --keep look from outside")
    parser.add_argument("--race", default="", metavar="NAME,NAME", help="these races only, no samples and no rounds: "
                        + ", ".join((*RACES, OVER_ITSELF)))
    parser.add_argument("--race-seconds", type=float, default=2.0, help="for each race, at least; 0: none (default: 2)")
    parser.add_argument("--samples", type=int, default=2, help="worlds to look at from outside (default: 2)")


def main(args: argparse.Namespace) -> int:
    """Build what is missing, race, sample, go on in rounds, say what was found; return the exit status."""
    names = _checked(args)
    show_v2, args.kernel = args.kernel is None and not args.no_v2, args.kernel or _KERNEL
    seed = int(time.time()) if args.seed is None else args.seed
    say(f"seed {seed}, on {args.kernel}")
    if "-" in args.kernel:
        image.build_on_demand(args.kernel)
    if args.keep:
        return _replay(args)
    if args.race_seconds and not _raced(args.kernel, names, args.race_seconds, seed):
        return 1
    if args.race:
        return 0
    for n in range(args.samples):
        if not _sampled(args.kernel, Plan(seed + n, ops=min(args.ops, 1500), check=args.check, stay=True)):
            return 1
    return _rounds(args, seed) or (show_v2 and not _v2_is_caught())


def _checked(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the names of the races to run. Raises UsageError for what cannot be done."""
    if not 1 <= args.ops <= 65536:
        raise UsageError(f"--ops {args.ops}", "a round has 1 to 65536 operations", "--ops 2000")
    if args.check < 1:
        raise UsageError(f"--check {args.check}", "everything is compared after so many operations", "--check 250")
    if args.keep and args.seed is None:
        raise UsageError("--keep without --seed", "operations are those of a seed", "--seed N --keep 1-4,9")
    known = (*RACES, OVER_ITSELF)
    names = tuple(args.race.split(",")) if args.race else known
    for name in names:
        if name not in known:
            raise UsageError(f"--race {name}", f"there are {', '.join(known)}", "--race move,sweep")
    return names


def _raced(kernel: str, names: Sequence[str], seconds: float, seed: int) -> bool:
    """All races are run, whatever the first says."""
    fine = True
    for name in names:
        found = race(kernel, name, seconds, seed)
        say(f"race {name}: " + (f"FAILED: {found.failure}" if found.failure else _counted(found)))
        if found.failure:
            say(f'to replay: make stress ARGS="--kernel {kernel} --seed {seed} --race {name} '
                f'--race-seconds {seconds:g}"')
        fine = fine and not found.failure
    return fine


def _counted(found: Race) -> str:
    saw = [f"{name} {times:,}" for name, times in found.saw.items() if name != "refused"]
    return ", ".join([f"{found.clones:,} clones", f"{found.refused:,} refused", *saw])


def _sampled(kernel: str, plan: Plan) -> bool:
    found = sample(kernel, plan)
    say(f"seed {plan.seed}, looked at from outside: {found.pages:,} pages in RAM, {found.merged:,} of them merged, "
        f"{found.slots:,} slots of swap and {found.walks:,} reverse-map walks compared")
    for line in found.differences[:10]:
        say(f"  {line}")
    return found.failure is None or _report(kernel, found.failure, plan) == 0


def _v2_is_caught() -> bool:
    """D3: a referee of this kind has to see that v2 uses what it has freed."""
    image.build_on_demand(_V2)
    failure = over_itself(_V2).failure
    caught = "KASAN" in failure
    say(f"{_V2} takes a process over itself, and is caught, as it has to be: {failure}" if caught else
        f"FAILED: {_V2} takes a process over itself, and KASAN does not say so ({failure or 'nothing does'}): "
        "then it would not see what v3 does, either")
    return caught


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
    say(f"the shortest sequence found, {len(found.keep or ())} operations:")
    _tell(kernel, found)
    say(_command(kernel, found))
    return 1


def _tell(kernel: str, plan: Plan) -> bool:
    """Do a plan, print each operation and what is wrong in the end; return whether nothing is."""
    with machine(kernel) as lab:
        outcome = run(lab, replace(plan, tell=True))
        failure = outcome.failure
        if plan.stay and not failure:
            failure = look_at(lab, outcome.told, plan.seed).failure
        console = lab.machine.console_text()
    print(*(line for line in outcome.told.splitlines() if not line.startswith(("model ", "arena "))),
          *complaints(console)[:5], failure.what if failure else "nothing is wrong", sep="\n", flush=True)
    return failure is None


def _command(kernel: str, plan: Plan) -> str:
    keep = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(plan.keep or range(plan.ops)))
    look = " --look" if plan.stay else ""
    return (f'to replay: make stress ARGS="--kernel {kernel} --seed {plan.seed} --ops {plan.ops} --check {plan.check} '
            f'--keep {keep}{look}"')


def _replay(args: argparse.Namespace) -> int:
    """Do the operations of --keep and tell them."""
    keep = tuple(n for part in args.keep.split(",") for a, _, b in [part.partition("-")]
                 for n in range(int(a), int(b or a) + 1))
    plan = Plan(args.seed, ops=args.ops, check=args.check, keep=keep, stay=args.look)
    return 0 if _tell(args.kernel, plan) else 1


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[stress] {text}", flush=True)
