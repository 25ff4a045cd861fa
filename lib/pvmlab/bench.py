# SPDX-License-Identifier: MIT
"""The budgets of the design, as measured on this computer, and what the patches cost a fork.

Adds: one function for each row, and a table that says within or over.
Leaves out: judging. A busy computer is slower, so nothing fails on a number;
the median and the spread are there to be read.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from . import calls, image, pagetable, stress, vm
from ._walk import ffi, lib
from .diff import Diff
from .errors import PvmlabError
from .figure import figure as data
from .guest import Guest, Task
from .lab import Lab
from .model import Snapshot

if TYPE_CHECKING:
    from .draw import Picture

MB = 1e6
#: The world of the look and figure rows: page-table entries in three tasks together.
ENTRIES = 2224
#: Pages of the parent in the rows about fork().
FORKED = 4096
#: With Lab(icount=True) an instruction is 8 ns long (vm.py, -icount shift=3), and the TSC ticks once each.
TICKS = 8
#: Pages touched for the C walk: enough that the time is the walk's and not the call's.
WALKED = 1 << 15

_FIRST_LOOK = """
import time
from pvmlab import Lab
with Lab() as lab:
    lab.tasks("server", "consumer")
    start = time.perf_counter()
    lab.look()
    print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Row:
    """One thing measured. budget: 0 for a peer, which has none; at_most: or at least; why: why there is no number."""

    what: str
    unit: str
    budget: float = 0
    at_most: bool = True
    samples: tuple[float, ...] = ()
    why: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def verdict(self) -> str:
        """"within", "over", "not measured", or "" where there is no budget."""
        if self.median is None:
            return "not measured"
        if not self.budget:
            return ""
        over = self.median > self.budget if self.at_most else self.median < self.budget
        return "over" if over else "within"


# --- the rows ---------------------------------------------------------------------------------------------------------

Samples = Iterator[float]


def cold_boot(rounds: int) -> Samples:
    """From starting QEMU to the agent's greeting."""
    config, img = vm.Config(), image.image("v2")
    accel = vm.acceleration(config, img, Guest)
    for _ in range(rounds):
        yield _seconds(lambda: vm.booted(config, accel, img, Guest), _closed)


def saved_lab(rounds: int) -> Samples:
    """Lab(), its agent greeted, once a machine was saved."""
    Lab().close()
    for _ in range(rounds):
        yield 1e3 * _seconds(Lab, _closed)


def round_trip(rounds: int) -> Samples:
    """A system call that does nothing; the machine is woken for each and stopped after it."""
    with Lab() as lab:
        task = lab.task("server")
        for _ in range(rounds):
            yield 1e3 * _seconds(lambda: task.syscall("getppid"))


def first_look(rounds: int) -> Samples:
    """look() in a process that has loaded no debug information yet."""
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", _FIRST_LOOK], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise PvmlabError("the first look failed", done.stderr.strip().splitlines()[-1])
        yield float(done.stdout)


def looks(rounds: int) -> Samples:
    """look() at three tasks, one of them a child of another."""
    with Lab() as lab:
        _world(lab)
        lab.look()
        for _ in range(rounds):
            yield 1e3 * _seconds(lab.look)


def c_walk(rounds: int) -> Samples:
    """pvm_walk() alone, into arrays that are there, in millions of entries a second."""
    with Lab() as lab:
        task = lab.task("server")
        task.touch(task.mmap(pages=WALKED, prot=calls.PROT_READ), WALKED)  # every entry maps the zero page
        pgd, memory = lab.look().task("server").mm.pgd, lab.kernel.memory
        entries, tables = ffi.new("struct pvm_entry[]", 2 * WALKED), ffi.new("struct pvm_table[]", WALKED)
        found = ffi.new("uint64_t *")

        def walk() -> int:
            return lib.pvm_walk(memory.pointer, memory.size, pgd, entries, 2 * WALKED, tables, WALKED, found)
        for _ in range(rounds):
            yield walk() / _seconds(walk) / 1e6


def figure(rounds: int) -> Samples:
    """The difference that one process_vm_mmap() made in that world, drawn: diff, DOT, layout, SVG."""
    from .draw import picture
    with Lab() as lab:
        server, consumer, buffer = _world(lab)
        before = lab.look("before")
        consumer.process_vm_mmap(server, buffer, pages=4)
        after = lab.look("after")
        for _ in range(rounds):
            yield 1e3 * _seconds(lambda: picture(_difference(before, after)).svg())


def payload(rounds: int) -> Samples:
    """What that figure sends to the browser."""
    from .draw import picture
    with Lab() as lab:
        server, consumer, buffer = _world(lab)
        before = lab.look("before")
        dst = consumer.process_vm_mmap(server, buffer, pages=4)
        after = lab.look("after")
        shown = picture(after - before, walk=after.task("consumer").pte(dst).pfn)
        yield len(json.dumps(data(shown), ensure_ascii=False, separators=(",", ":")).encode()) / 1e3


def large_figure(rounds: int) -> Samples:
    """All that a notebook gets of one call in the large world: drawings, words, what belongs together."""
    from .draw import picture
    from .view import bundle as notebook_gets
    before, after = _large_world()
    for _ in range(rounds):
        yield _seconds(lambda: notebook_gets(picture(_difference(before, after))))


def line_figure(rounds: int) -> Samples:
    """The same of a line of fifty processes, each the child of the one before."""
    from .frontispiece import lineage
    from .view import bundle as notebook_gets
    made = lineage()
    for _ in range(rounds):
        yield _seconds(lambda: notebook_gets(_drawn_anew(made)))


def stepping(rounds: int) -> Samples:
    """One step of the large world's figure in Chromium, script and layout, to a stop that was shown before."""
    yield from _in_browser(rounds, _large_picture(), f"{STEP}('again')")


def first_visit(rounds: int) -> Samples:
    """One step of it to a stop for the first time, once the browser was idle."""
    yield from _in_browser(rounds, _large_picture(), f"{STEP}('first')")


def line_stepping(rounds: int) -> Samples:
    """One step of the line of forks."""
    from .frontispiece import lineage
    yield from _in_browser(rounds, lineage(), f"{STEP}('again')")


def _large_picture() -> Picture:
    from .draw import PANELS, picture
    before, after = _large_world()
    pfn = next(pte.pfn for pte in after.task("task0").mm.entries if pte.present)
    return picture(_difference(before, after), panels=PANELS, walk=pfn)


def _drawn_anew(made: Picture) -> Picture:
    """The picture of the same snapshots, with nothing of it done yet."""
    from .draw import PANELS, picture
    before, after = made.steps.snapshots
    return picture(_difference(before, after), panels=PANELS, walk=made.walks[-1].pfn)


def _in_browser(rounds: int, shown: Picture, script: str) -> Samples:
    """Evaluate a script in a page with the figure, opened anew for each round."""
    from playwright.sync_api import sync_playwright

    from .view import page
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise PvmlabError("no step was measured", "there is no Chromium here", "apt-get install chromium")
    source = f"<!doctype html><html lang=en><title>figure</title>{page(shown)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(rounds):
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            tab.set_content(source)
            yield tab.evaluate(script)
            tab.close()
        browser.close()


#: With every panel shown, a frame chosen and the walk begun: milliseconds of script and layout for one step, to a stop
#: seen before ("again") or not ("first"). Between steps the browser is idle for a moment, as it is between two keys.
STEP = """(async (which) => {
    const root = document.querySelector('.pvmlab-view'), idle = () => new Promise((done) => setTimeout(done, 300));
    const press = (key) => {
        const start = performance.now();
        document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        root.getBoundingClientRect();
        return performance.now() - start;
    };
    root.querySelectorAll('.pv-shows [aria-pressed=false]').forEach((button) => button.click());
    root.querySelector('.pv-bar button').focus();
    ['w', 'w', 'w'].forEach(press);
    root.querySelector('[data-panel=translation] .row.frame')?.focus();
    await idle();
    const first = press('ArrowLeft');
    await idle();
    const again = press('ArrowRight');
    return which === 'first' ? first : again;
})"""


def stopped_machine(rounds: int) -> Samples:
    """What one learner's stopped machine takes of the computer's memory: QEMU's own share and the RAM file."""
    for _ in range(rounds):
        with Lab() as lab:
            lab.tasks("server", "consumer")
            lab.look()
            yield _taken(lab.machine.qmp.process.pid) / MB


def bundle(rounds: int) -> Samples:
    """The files of vm-image/prebuilt."""
    yield sum(path.stat().st_size for path in image.prebuilt().iterdir()) / MB


#: (what, unit, budget, at most it, rounds, how)
BUDGETS = (
    ("cold boot to a working agent", "s", 0.5, True, 7, cold_boot),
    ("Lab() from the saved machine", "ms", 60, True, 15, saved_lab),
    ("one call into a task, round trip", "ms", 0.5, True, 500, round_trip),
    ("first look() of a notebook", "s", 0.4, True, 5, first_look),
    (f"look(): 3 tasks, {ENTRIES:,} entries, pages, chains", "ms", 6, True, 50, looks),
    ("the C walk, million entries a second", "M/s", 50, False, 50, c_walk),
    ("diff + DOT + layout + SVG of that world", "ms", 150, True, 9, figure),
    ("what that figure sends to the browser", "KB", 300, True, 1, payload),
    ("a figure of 64 tasks, 20,000 entries, 1 GiB", "s", 2, True, 3, large_figure),
    ("one step of it in the browser, all panels", "ms", 16, True, 9, stepping),
    ("the same, to a stop not seen before", "ms", 16, True, 9, first_visit),
    ("a figure of a line of 50 forks", "s", 2, True, 3, line_figure),
    ("one step of it in the browser, all its panels", "ms", 16, True, 9, line_stepping),
    ("resident memory of one stopped VM", "MB", 64, True, 3, stopped_machine),
    ("bundled image", "MB", 12, True, 1, bundle),
)


# --- the world they look at -------------------------------------------------------------------------------------------

def _world(lab: Lab) -> tuple[Task, Task, int]:
    """Make three tasks with ENTRIES entries in all; return two of them and a buffer of the first."""
    server, consumer = lab.tasks("server", "consumer")
    buffer = server.mmap(pages=700)
    server.touch(buffer, 700, write=True)
    server.fork("child")
    have = sum(len(task.mm.entries) for task in lab.look().tasks)
    rest = ENTRIES - have
    consumer.touch(consumer.mmap(pages=rest), rest, write=True)
    return server, consumer, buffer


def _large_world() -> tuple[Snapshot, Snapshot]:
    """14 tasks with 20,000 entries, one with a mapping of 1 GiB, another with 50 children; before and after a call."""
    with Lab(ram=512) as lab:
        tasks = lab.tasks(*(f"task{i}" for i in range(14)))
        buffers = [task.mmap(pages=1500) for task in tasks]
        for task, buffer in zip(tasks, buffers):
            task.touch(buffer, 1500, write=True)
        tasks[2].mmap(pages=1 << 18, flags=calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_NORESERVE)
        parent = tasks[3]
        parent.munmap(buffers[3], pages=1490)
        for i in range(50):
            parent.fork(f"child{i}")
        before = lab.look("before")
        tasks[1].process_vm_mmap(tasks[0], buffers[0], pages=300)
        return before, lab.look("after")


def _difference(before: Snapshot, after: Snapshot) -> Diff:
    return after - before


def _taken(pid: int) -> int:
    """Bytes: the process's proportional share, with its memory files counted in full whether it maps them or not."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        pss = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in f)
               if name.startswith("Pss")}
    fds = f"/proc/{pid}/fd"
    files = {(s.st_dev, s.st_ino): s.st_blocks * 512 for fd in os.listdir(fds)
             if os.readlink(f"{fds}/{fd}").startswith("/memfd:") and (s := os.stat(f"{fds}/{fd}"))}
    return pss["Pss"] - pss.get("Pss_Shmem", 0) + sum(files.values())


def _seconds(do: Callable, then: Callable | None = None) -> float:
    start = time.perf_counter()
    done = do()
    taken = time.perf_counter() - start
    if then:
        then(done)
    return taken


def _closed(made: Lab | vm.Machine) -> None:
    made.close()


# --- what a fork costs ------------------------------------------------------------------------------------------------

def forks(rounds: int | None) -> Iterator[Row]:
    """Count what fork() and the child's exit take on each kernel; compare with the unpatched one.

    Instructions, not time: they see no caches. copy_page_range() is in both, and v2's third patch changed it.
    """
    what = f"fork() and exit, {FORKED:,} pages"
    base, *patched = (_row(f"{what}: {kernel}", "k instr", 0, True, lambda: _counted(kernel, rounds or 9))
                      for kernel in ("base", "v2", "v3"))
    yield base
    for row in patched:
        yield row
        if base.median and row.median:
            more = tuple(100 * (sample / base.median - 1) for sample in row.samples)
            yield Row(f"{row.what}, more than base", "%", samples=more)


def _counted(kernel: str, rounds: int) -> Samples:
    """Thousands of instructions of each round, after one that warms the kernel's caches."""
    with Lab(kernel=kernel, icount=True) as lab:
        lab.guest.write_file("/tmp/fork", stress.program("fork"), 0o755)
        lab.guest.write_file("/tmp/plan", f"pages {FORKED}\nrounds {rounds + 1}\n")
        ticks = lab.guest.run("/tmp/fork", timeout=120).output.split()
    yield from (int(n) / TICKS / 1e3 for n in ticks[1:])


# --- peers: other ways to the same, on the same memory ----------------------------------------------------------------

def peers(rounds: int | None) -> Iterator[Row]:
    """Walk the world's entries by every means there is; say which other tools are not installed."""
    with Lab() as lab:
        _world(lab)
        seen = lab.look()
        kernel = lab.kernel
        pgds = [task.mm.pgd for task in seen.tasks]
        present = [(task.mm.addr, pte.addr) for task in seen.tasks for pte in task.mm.entries if pte.present]
        yield _peer(f"our C walk as Python objects, {ENTRIES:,} entries", rounds,
                    lambda: [pagetable.quick_walk(kernel.memory, pgd) for pgd in pgds])
        yield _peer(f"our Python walk, {ENTRIES:,} entries", rounds,
                    lambda: [pagetable.walk(kernel.memory, pgd) for pgd in pgds])
        yield _peer(f"drgn's follow_pfn, {len(present):,} pages", rounds, lambda: _follow(kernel.prog, present))
    for tool, program, why in (("virtme-ng", "vng", "our kernel has neither 9p nor virtiofs for it"),
                               ("gdb-pt-dump", "gdb", "it needs gdb attached to QEMU, which nothing here does")):
        yield Row(tool, "ms", why=why if shutil.which(program) else f"not installed (no {program})")


def _follow(prog, present: list[tuple[int, int]]) -> None:
    from drgn import Object
    from drgn.helpers.linux.mm import follow_pfn
    mms = {addr: Object(prog, "struct mm_struct", address=addr).address_of_() for addr, _ in present}
    for mm, addr in present:
        follow_pfn(mms[mm], addr)


def _peer(what: str, rounds: int | None, do: Callable) -> Row:
    return _row(what, "ms", 0, True, lambda: (1e3 * _seconds(do) for _ in range(rounds or 9)))


# --- measuring and printing -------------------------------------------------------------------------------------------

def measure(rounds: int | None = None, with_peers: bool = False) -> list[Row]:
    """Measure every row (rounds: instead of each row's own number), with progress on stderr."""
    rows = []
    for what, unit, budget, at_most, usual, how in BUDGETS:
        print(f"[bench] {what} …", file=sys.stderr, flush=True)
        rows.append(_row(what, unit, budget, at_most, lambda: how(rounds or usual)))
    print("[bench] fork() …", file=sys.stderr, flush=True)
    rows += forks(rounds)
    if with_peers:
        print("[bench] peers …", file=sys.stderr, flush=True)
        rows += peers(rounds)
    return rows


def _row(what: str, unit: str, budget: float, at_most: bool, samples: Callable[[], Iterator[float]]) -> Row:
    """Collect the samples; what could not be measured becomes a row that says why."""
    try:
        return Row(what, unit, budget, at_most, tuple(samples()))
    except (PvmlabError, ImportError, LookupError, ValueError, OSError, subprocess.SubprocessError) as e:
        return Row(what, unit, budget, at_most, why=str(e).partition("\n")[0] or type(e).__name__)


def as_json(rows: list[Row]) -> str:
    """All samples, with where they were taken."""
    return json.dumps({"computer": _computer(), "rows": [asdict(row) | {"median": row.median, "verdict": row.verdict}
                                                         for row in rows]}, indent=1)


def as_text(rows: list[Row]) -> str:
    """A table: what, budget, median, spread, number of samples, verdict."""
    lines = [_computer(), "", f"{'what':<52} {'budget':>10} {'median':>12} {'min – max':>19} {'n':>4}"]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: Row) -> str:
    budget = f"{'≤' if row.at_most else '≥'} {row.budget:g} {row.unit}" if row.budget else ""
    if row.median is None:
        return f"{row.what:<52} {budget:>10} not measured: {row.why}"
    spread = f"{_number(min(row.samples))} – {_number(max(row.samples))}"
    return (f"{row.what:<52} {budget:>10} {f'{_number(row.median)} {row.unit}':>12} {spread:>19} "
            f"{len(row.samples):>4}  {row.verdict}").rstrip()


def _number(value: float) -> str:
    """Three digits are what a timing is worth."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _computer() -> str:
    return (f"{os.cpu_count()} CPUs ({vm.host_cpu() or 'unknown'}), load {os.getloadavg()[0]:.1f}, "
            f"{vm.qemu_version()}, Python {sys.version.split()[0]}")
