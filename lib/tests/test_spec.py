# SPDX-License-Identifier: MIT
"""The executable specification against the real kernel.

Random programs run on both, with the same calls in the same words, and after every call the two have to give the
same description: all VMAs, entries, frames and anon_vmas up to renaming. The usual run is the same every time;
`pytest lib/tests/test_spec.py --hypothesis-profile=long` makes a long random one. Each says how many operations it
compared.
"""

from __future__ import annotations

import difflib
import errno
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_rmap import found, mapped

from pvmlab import Lab, calls, spec
from pvmlab.calls import PVMMAP_FIXED, PVMMAP_FIXED_NOREPLACE, PVMMAP_MOVE
from pvmlab.defects import MADV_SOFT_OFFLINE
from pvmlab.errors import GuestError, TaskFault, TaskGone, UsageError
from pvmlab.guest import expect
from pvmlab.spec.describe import mapped_here
from pvmlab.spec.mm_types import ACCESS, VM
from pvmlab.spec.rule import RULES

pytestmark = pytest.mark.kernels("v2", "v3")

PAGE = 4096
#: Sixteen pages on both sides of a page table's end: where mappings begin that ask for an address of their own.
ARENA = 0x10_0020_0000 - 8 * PAGE
ANY = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS
READ, WRITE, EXEC = calls.PROT_READ, calls.PROT_WRITE, calls.PROT_EXEC
#: How many pages of a program's last world are migrated.
MOST_MIGRATED = 4
#: More live tasks than these make no new kind of anon_vma tree.
MOST_TASKS = 5
EXAMPLES = {"default": 60, "long": 500}


# --- programs ---------------------------------------------------------------------------------------------------------

class Step(NamedTuple):
    """One call, as small numbers of which hypothesis finds the smallest that matter.

    task, source: which of the live tasks; area, page: which of its mappings, and where in it; pages: how many;
    to: a place for something new (see Words.place); choice: of flags, a protection, an advice or a rule;
    move: PVMMAP_MOVE, or 0.
    """

    call: str
    task: int = 0
    area: int = 0
    page: int = 0
    pages: int = 1
    choice: int = 0
    source: int = 0
    to: int = 0
    move: int = 0


class Call(NamedTuple):
    """A Step in the words of lab and specification; tasks are named. A rule is the world's: it has no task."""

    task: str
    method: str
    args: tuple
    kwargs: dict

    def __str__(self):
        shown = [hex(a) if isinstance(a, int) and a >= PAGE else str(a) for a in self.args]
        shown += [f"{k}={hex(v) if v >= PAGE else v}" for k, v in self.kwargs.items()]
        return f"{self.task or 'world'}.{self.method}({', '.join(shown)})"


PROTECTIONS = (READ | WRITE, READ, READ | WRITE | EXEC, calls.PROT_NONE, WRITE)
MAPPINGS = (calls.MAP_FIXED, calls.MAP_FIXED, 0, calls.MAP_FIXED_NOREPLACE, calls.MAP_FIXED | calls.MAP_NORESERVE)
ADVICE = (calls.MADV_DONTNEED, calls.MADV_DONTFORK, calls.MADV_DOFORK, calls.MADV_WIPEONFORK, calls.MADV_KEEPONFORK)
CLONES = (PVMMAP_FIXED, PVMMAP_FIXED, 0, PVMMAP_FIXED_NOREPLACE, PVMMAP_FIXED | PVMMAP_FIXED_NOREPLACE)

KINDS = (["mmap"] * 3 + ["munmap"] + ["mprotect"] * 4 + ["mend", "fill"] * 2 + ["madvise"] + ["stamp"] * 5
         + ["read"] * 3 + ["fork"] * 2 + ["kill", "succeed"] + ["process_vm_mmap"] * 5 + ["halves"] * 3)
#: What v3 has beside: a third of its calls move; what was got is given back; the rule in force changes.
KINDS_V3 = KINDS + ["back"] * 2 + ["rule"]


def programs(series):
    """A program begins with memory that was written, or it would spend most of its calls on nothing."""
    small, is_v3 = st.integers(0, 4), series == "v3"
    steps = st.builds(Step, st.sampled_from(KINDS_V3 if is_v3 else KINDS), task=small, area=small, page=small,
                      pages=st.integers(1, 6), choice=st.integers(0, 24), source=small, to=st.integers(0, 23),
                      move=st.sampled_from([0, 0, PVMMAP_MOVE]) if is_v3 else st.just(0))
    return st.lists(steps, min_size=10, max_size=30).map(
        lambda steps: [Step("mmap", pages=6, to=1), Step("stamp", page=1, pages=3), *steps])


class Words:
    """Says Steps as Calls, from what the specification's tasks have mapped; both sides get the same Call."""

    def __init__(self, tasks):
        self.tasks, self.born = tasks, len(tasks)

    def calls(self, step):
        """Yield the Calls of a Step; the next one is made up when the one before has been made.

        Some kinds of step are what rarely happens by chance: a fork whose parent ends before the child forks; a
        clone in two halves, side by side; one that goes back to where it came from; filling the gap between two
        mappings; making a mapping like the next.
        """
        if step.call == "succeed":
            yield from (self._call(step._replace(call=call)) for call in ("fork", "kill"))
            yield self._call(step._replace(call="fork", task=-1))
        elif step.call == "halves":
            first = self._call(step._replace(call="process_vm_mmap", pages=3, choice=0))
            yield first
            (source, start), more = first.args, first.kwargs
            dst = more["dst_addr"] + more["len"]
            if dst + more["len"] <= self.tasks[first.task].mm.mmap_base:
                yield first._replace(args=(source, start + more["len"]), kwargs=more | {"dst_addr": dst})
        elif step.call == "back":
            yield (there := self._call(step._replace(call="process_vm_mmap", choice=0)))
            (source, start), more = there.args, there.kwargs
            yield Call(source, there.method, (there.task, more["dst_addr"]), more | {"dst_addr": start})
        elif step.call == "rule":
            yield Call("", "rule", ([*RULES][step.choice % len(RULES)],), {})
        elif step.call in ("fill", "mend"):
            yield self._between(step)
        else:
            yield self._call(step)

    def _between(self, step):
        """Map what lies between two mappings of a task, or give the first the protection of the second."""
        task = self._task(step.task, True)
        if len(task.mm.vmas) < 2:
            return None
        low = step.area % (len(task.mm.vmas) - 1)
        vma, next = task.mm.vmas[low:low + 2]
        gap = (next.vm_start - vma.vm_end) // PAGE
        if step.call == "mend":
            return Call(task.name, "mprotect", (vma.vm_start, int(next.vm_flags & ACCESS)), {"pages": vma.pages})
        if 0 < gap <= 16:
            return Call(task.name, "mmap", (vma.vm_end,), {"pages": gap, "flags": ANY | calls.MAP_FIXED})
        return None

    def _call(self, step):
        """The Call of a Step, or None if it would end the last task, or begin too many."""
        task = self._task(step.task, step.call not in ("mmap", "process_vm_mmap"))
        start, left = self._range(task, step)
        step = step._replace(pages=min(step.pages, left))
        build = getattr(self, "_" + step.call, None)
        args, kwargs = build(step, task, start) if build else ((start,), {"pages": step.pages})
        return None if args is None else Call(task.name, step.call, args, kwargs)

    def _task(self, number, with_memory):
        """One of the tasks, or of those that have something mapped."""
        names = sorted(name for name, task in self.tasks.items() if task.mm.vmas or not with_memory)
        return self.tasks[names[number % len(names)]] if names else self._task(number, False)

    def _range(self, task, step):
        """A page of one of the task's mappings, and how many are left up to mmap_base, where others begin."""
        vmas = task.mm.vmas
        vma = vmas[step.area % len(vmas)] if vmas else None
        start = vma.vm_start + step.page % vma.pages * PAGE if vma else ARENA
        return start, (task.mm.mmap_base - start) // PAGE

    def place(self, task, step):
        """Somewhere in the arena; or else right before, right after or over one of the task's mappings."""
        vmas = task.mm.vmas
        if step.to < 8 or not vmas:
            return ARENA + step.to % 8 * 2 * PAGE
        vma = vmas[(step.to - 8) // 4 % len(vmas)]
        at = (vma.vm_end, vma.vm_start - step.pages * PAGE, vma.vm_start, vma.vm_start + PAGE)[step.to % 4]
        return min(at, task.mm.mmap_base - step.pages * PAGE)

    def _mmap(self, step, task, start):
        flags, prot = MAPPINGS[step.choice // 5], PROTECTIONS[step.choice % 5]
        return (self.place(task, step) if flags else 0,), {"pages": step.pages, "prot": prot, "flags": ANY | flags}

    def _mprotect(self, step, task, start):
        return (start, PROTECTIONS[step.choice % 5]), {"pages": step.pages}

    def _madvise(self, step, task, start):
        return (start, ADVICE[step.choice % 5]), {"pages": step.pages}

    def _read(self, step, task, start):
        return (start, step.pages * PAGE), {}

    def _stamp(self, step, task, start):
        return (start,), {"pages": step.pages, "first": step.choice}

    def _fork(self, step, task, start):
        if len(self.tasks) >= MOST_TASKS:
            return None, None
        self.born += 1
        return (f"{chr(ord('A') + self.born % 26)}{self.born // 26 or ''}",), {}

    def _kill(self, step, task, start):
        return (None, None) if len(self.tasks) == 1 else ((), {})

    def _process_vm_mmap(self, step, task, start):
        """Most ranges end in their VMA; choice 20 to 22 makes them unaligned, 23 and 24 leaves them as they are."""
        source, odd = self._task(step.source, True), 0x123 if step.choice // 5 == 4 else 0
        start, _ = self._range(source, step)
        vma = source.mm.at(start)
        inside = (vma.vm_end - start) // PAGE if vma and step.choice < 23 else step.pages
        step = step._replace(pages=min(step.pages, inside))
        return ((source.name, start + odd), {"len": step.pages * PAGE - odd, "dst_addr": self.place(task, step),
                                             "flags": CLONES[step.choice % 5] | step.move})


def moves(call):
    return call.method == "process_vm_mmap" and bool(call.kwargs["flags"] & PVMMAP_MOVE)


def do(world, tasks, call):
    """Make a call; return its result, or its error as far as both sides can have the same."""
    args = [tasks[a] if call.method == "process_vm_mmap" and isinstance(a, str) else a for a in call.args]
    try:
        result = getattr(tasks[call.task] if call.task else world, call.method)(*args, **call.kwargs)
    except GuestError as e:
        return e.name
    except TaskFault as e:
        return e.signal, e.code, e.address
    if call.method == "fork":
        tasks[args[0]] = result
        return None
    if call.method == "kill":
        del tasks[call.task]
    return result


# --- both sides -------------------------------------------------------------------------------------------------------

def identities(seen):
    """(kind, what names it over time) of all that describe() names, in its order."""
    for task in sorted(seen.tasks, key=lambda task: task.name):
        for vma in filter(mapped_here, task.mm.vmas):
            yield "VMA", vma.id
            yield from (("anon_vma", seen.anon_vma(link.anon_vma).id) for link in vma.chain)
            yield from (("frame", seen.page(pte.pfn).id) for pte in task.mm.entries.between(vma.vm_start, vma.vm_end))


class Pair:
    """A machine and the specification, side by side; tasks are new for each program, the machine is not."""

    def __init__(self, lab):
        self.lab, self.series = lab, lab.config.kernel
        self.operations = self.moved = self.refused = self.migrated = 0

    def start(self, *names):
        """New tasks on both sides, whose mappings begin below the same address."""
        self.tasks, self.done = {name: self.lab.task(name) for name in names}, []
        seen = self.lab.look(inside=True)
        bases = {name: min(v.vm_start for v in seen.task(name).mm.vmas if v.name == "[vvar]") for name in names}
        self.world, self.same = spec.World(self.series), {}
        self.models = {name: self.world.task(name, base) for name, base in bases.items()}
        if self.series == "v3":
            self.lab.rule("any")
        return Words(self.models)

    def end(self):
        for task in self.tasks.values():
            task.kill()

    def both(self, call):
        """Make a call on both sides and compare what it returns and what it leaves; return the result."""
        try:
            said = do(self.world, self.models, call)
        except UsageError:              # v2 would hang, or worse: nobody makes this call
            return
        self.done.append(call)
        found = do(self.lab, self.tasks, call)
        assert found == said, f"{self._program()}\nthe kernel: {found}\nthe specification: {said}"
        self.compare()
        self.operations += 1
        self.moved += moves(call) and isinstance(said, int)
        self.refused += said == "EBUSY"
        return said

    def compare(self):
        seen = self.lab.look(inside=True)
        while seen.held:
            seen = self.lab.look()
        model = self.world.look()
        expected, found = spec.describe(model), spec.describe(seen)
        if expected != found:
            lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "the specification", "the kernel",
                                         lineterm="", n=2)
            pytest.fail("\n".join([self._program(), *lines]), pytrace=False)
        self._survivors(model, seen)

    def _survivors(self, model, seen):
        """What is still the same thing on one side has to be on the other.

        The kernel's stamps tell frames apart for good, but structures only from one jiffy to the next.
        """
        for (what, ours), (_, its) in zip(identities(model), identities(seen), strict=True):
            kept = self.same.setdefault((what, ours), its)
            assert kept == its, f"{self._program()}\nfor the specification this is the same {what} as before"
            if what == "frame":
                kept = self.same.setdefault(("its", its), ours)
                assert kept == ours, f"{self._program()}\nfor the kernel this is the same frame as before"

    def migrate(self):
        """Have the kernel migrate some of the pages: its own walks have to unmap what ours find, all of it and no more.

        soft_offline_page(), mm/memory-failure.c: EBUSY where a walk comes by too few entries.
        """
        for pfn, task, addr in self._migratable(self.lab.look())[:MOST_MIGRATED]:
            before = self.lab.look()
            walk = before.rmap(pfn)
            assert walk.missed == () and found(walk) == mapped(before, pfn), self._program()
            self.tasks[task].madvise(addr, MADV_SOFT_OFFLINE, pages=1)
            after = self.lab.look()
            now = after.task(task).pte(addr).pfn
            assert now != pfn and mapped(after, pfn) == [], self._program()
            assert found(after.rmap(now)) == found(walk) == mapped(after, now), self._program()
            self.migrated += 1

    def _migratable(self, seen):
        """(frame, task, address) of each anonymous page that a task can read; the most shared first."""
        pages = {}
        for task in seen.tasks:
            for vma in (vma for vma in filter(mapped_here, task.mm.vmas) if "r" in vma.prot):
                pages |= {pte.pfn: (pte.pfn, task.name, pte.addr) for pte in task.mm.entries.between(
                    vma.vm_start, vma.vm_end) if seen.page(pte.pfn).kind == "anon"}
        return sorted(pages.values(), key=lambda place: (-seen.page(place[0]).mapcount, place))

    def _program(self):
        return "\n".join(["after", *map(str, self.done)])


def run(pair, program):
    """Run a program on both sides, with two tasks to begin with."""
    words = pair.start("A", "B")
    try:
        for step in program:
            for call in filter(None, words.calls(step)):
                pair.both(call)
        pair.migrate()
    finally:
        pair.end()


@pytest.fixture
def pair(lab):
    return Pair(lab)


def test_random_programs_leave_kernel_and_specification_alike(pair, capsys):
    profile = settings.get_current_profile_name()
    count = EXAMPLES.get(profile, EXAMPLES["default"])

    @settings(max_examples=count, deadline=None, derandomize=profile != "long", database=None, print_blob=True,
              phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck))
    @given(program=programs(pair.series))
    def check(program):
        run(pair, program)

    check()
    with capsys.disabled():
        print(f"\n[spec] {pair.series}: {pair.operations} operations in {count} random programs, {pair.moved} moves, "
              f"{pair.refused} refused by a rule, compared after each; {pair.migrated} pages migrated by the kernel, "
              "whose walks unmapped what ours found", flush=True)


# --- programs worth a name --------------------------------------------------------------------------------------------

@pytest.fixture
def call(pair):
    """call("A", "mmap", ARENA, pages=4): on both sides, compared; tasks A and B are there."""
    pair.start("A", "B")
    yield lambda task, method, *args, **kwargs: pair.both(Call(task, method, args, kwargs))
    pair.end()


@pytest.fixture
def written(call):
    """Four pages of A, each with another number in it."""
    call("A", "mmap", ARENA, pages=4, flags=ANY | calls.MAP_FIXED)
    call("A", "stamp", ARENA, pages=4)
    return ARENA


def mappings(pair, task):
    return pair.models[task].mm.vmas


def clone(call, task, source, addr, *, pages=4, to=ARENA, flags=PVMMAP_FIXED):
    return call(task, "process_vm_mmap", source, addr, pages=pages, dst_addr=to, flags=flags)


def test_a_chain_of_four_forks_uses_an_anon_vma_again(pair, call, written):
    for parent, child in ("AC", "CD", "DE"):
        call(parent, "fork", child)
        call(child, "stamp", written, pages=1, first=ord(child))
        if parent != "A":
            call(parent, "kill")
    [of_e] = mappings(pair, "E")
    call("E", "fork", "F")
    [of_f] = mappings(pair, "F")
    assert of_f.anon_vma in of_e.chain and of_f.chain == of_e.chain


def test_a_child_s_page_in_its_parent_is_in_one_tree_three_times(pair, call, written):
    call("A", "fork", "C")
    clone(call, "A", "C", written, to=ARENA + 8 * PAGE)
    [src, dst], [of_child] = mappings(pair, "A"), mappings(pair, "C")
    assert dst.anon_vma is of_child.anon_vma is not src.anon_vma and src.anon_vma.tree == [src, of_child, dst]
    frame = pair.models["A"].mm.ptes[written].frame
    assert frame is pair.models["A"].mm.ptes[ARENA + 8 * PAGE].frame and frame.mapcount == 3
    call("C", "kill")
    call("A", "stamp", ARENA + 8 * PAGE, pages=4)
    assert dst.anon_vma.parent is src.anon_vma


def test_two_halves_become_one_mapping(pair, call, written):
    clone(call, "B", "A", written, pages=2)
    clone(call, "B", "A", written + 2 * PAGE, pages=2, to=ARENA + 2 * PAGE)
    [whole] = mappings(pair, "B")
    assert whole.pages == 4 and whole.anon_vma is mappings(pair, "A")[0].anon_vma


def test_a_mapping_beside_forked_memory_merges_into_it_silently(pair, call, written):
    """Message 17: in the parent, whose chain a fork does not change. In the child nothing merges."""
    call("A", "fork", "C")
    for task, mapped in ("A", 1), ("C", 2):
        call(task, "mmap", written + 4 * PAGE, pages=2, flags=ANY | calls.MAP_FIXED)
        assert len(mappings(pair, task)) == mapped
    assert mappings(pair, "A")[0].anon_vma.num_children == 2
    clone(call, "B", "A", written + 4 * PAGE, pages=2)
    assert mappings(pair, "B")[0].anon_vma is mappings(pair, "A")[0].anon_vma


def test_an_unaligned_source_is_rounded(pair, call, written):
    """v2 leaves out the page that holds the last bytes; v3 maps it."""
    call("B", "process_vm_mmap", "A", written + 0x123, len=PAGE, dst_addr=ARENA, flags=PVMMAP_FIXED)
    assert sum(v.pages for v in mappings(pair, "B")) == (1 if pair.series == "v2" else 2)


def test_mprotect_splits_what_a_clone_has_to_lie_in(pair, call, written):
    call("A", "mprotect", written + PAGE, READ, pages=2)
    assert len(mappings(pair, "A")) == 3
    assert clone(call, "B", "A", written) == "EFAULT"
    clone(call, "B", "A", written + PAGE, pages=2)
    call("B", "mprotect", ARENA, READ | WRITE, pages=2)
    call("B", "stamp", ARENA, pages=1)
    call("A", "mprotect", written + PAGE, READ | WRITE, pages=2)
    assert len(mappings(pair, "A")) == 1


def test_part_of_a_clone_is_unmapped(pair, call, written):
    clone(call, "B", "A", written)
    call("B", "munmap", ARENA + PAGE, pages=2)
    assert [v.pages for v in mappings(pair, "B")] == [1, 1]
    assert len(mappings(pair, "A")[0].anon_vma.tree) == 3
    call("A", "stamp", written, pages=4)
    call("B", "stamp", ARENA, pages=1)


def test_a_neighbour_s_anon_vma_is_borrowed_at_the_first_write(pair, call):
    call("A", "mmap", ARENA, pages=4, flags=ANY | calls.MAP_FIXED)
    call("A", "mprotect", ARENA, READ | WRITE | EXEC, pages=2)
    call("A", "stamp", ARENA, pages=1)
    call("A", "stamp", ARENA + 2 * PAGE, pages=1)
    low, high = mappings(pair, "A")
    assert low.anon_vma is high.anon_vma and low.anon_vma.num_active_vmas == 2


def test_the_next_mapping_s_anon_vma_is_borrowed_before_the_previous_one_s(pair, call):
    """Three mappings that mprotect() could make one; the outer ones were written first, each on its own."""
    call("A", "mmap", ARENA, pages=1, flags=ANY | calls.MAP_FIXED)
    call("A", "stamp", ARENA, pages=1)
    call("A", "mmap", ARENA + 2 * PAGE, pages=1, flags=ANY | calls.MAP_FIXED)
    call("A", "stamp", ARENA + 2 * PAGE, pages=1)
    call("A", "mmap", ARENA + PAGE, pages=1, prot=READ | WRITE | EXEC, flags=ANY | calls.MAP_FIXED)
    call("A", "stamp", ARENA + PAGE, pages=1)
    low, middle, high = mappings(pair, "A")
    assert middle.anon_vma is high.anon_vma is not low.anon_vma


@pytest.mark.parametrize("written, left", [((0, 2), 2), ((2,), 1), ((0,), 1), ((), 1)])
def test_a_gap_is_filled(pair, call, written, left):
    """Two mappings and what goes between them: one, unless each has an anon_vma of its own."""
    for page in 0, 2:
        call("A", "mmap", ARENA + page * PAGE, pages=1, flags=ANY | calls.MAP_FIXED)
    for page in written:
        call("A", "stamp", ARENA + page * PAGE, pages=1)
    call("A", "mmap", ARENA + PAGE, pages=1, flags=ANY | calls.MAP_FIXED)
    assert len(mappings(pair, "A")) == left
    call("A", "stamp", ARENA, pages=3)


@pytest.mark.parametrize("written, left", [((0, 2), 2), ((2,), 1), ((1,), 3), ((), 1)])
def test_a_wall_is_taken_down(pair, call, written, left):
    """One mapping with its middle page made executable, then plain again.

    A middle that was written by itself stays alone: an older mapping that has no anon_vma never merges with one
    that has.
    """
    call("A", "mmap", ARENA, pages=3, flags=ANY | calls.MAP_FIXED)
    call("A", "mprotect", ARENA + PAGE, READ | WRITE | EXEC, pages=1)
    for page in written:
        call("A", "stamp", ARENA + page * PAGE, pages=1)
    call("A", "mprotect", ARENA + PAGE, READ | WRITE, pages=1)
    assert len(mappings(pair, "A")) == left


def test_zero_pages_are_not_copied_from_memory_that_was_only_read(pair, call):
    call("A", "mmap", ARENA, pages=2, flags=ANY | calls.MAP_FIXED)
    call("A", "read", ARENA, PAGE)
    call("A", "fork", "C")
    clone(call, "B", "A", ARENA, pages=2)
    assert not pair.models["B"].mm.ptes and not pair.models["C"].mm.ptes


@pytest.mark.kernels("v2")
def test_v2_merges_memory_never_written_with_its_own_copy(pair, call):
    """v3 refuses the caller's own memory."""
    call("A", "mmap", ARENA, pages=2, flags=ANY | calls.MAP_FIXED)
    clone(call, "A", "A", ARENA, pages=2, to=ARENA + 2 * PAGE)
    clone(call, "A", "A", ARENA, pages=1, to=ARENA - PAGE)
    assert [v.pages for v in mappings(pair, "A")] == [5]


# --- what v3 adds -----------------------------------------------------------------------------------------------------

on_v3 = pytest.mark.kernels("v3")


@on_v3
def test_what_moves_stays_exclusive_and_leaves_nothing(pair, call, written):
    av, frame = mappings(pair, "A")[0].anon_vma, pair.models["A"].mm.ptes[written].frame
    clone(call, "B", "A", written, flags=PVMMAP_FIXED | PVMMAP_MOVE)
    [moved] = mappings(pair, "B")
    assert not mappings(pair, "A") and moved.anon_vma is av and av.tree == [moved]
    call("B", "stamp", ARENA, pages=4)
    assert pair.models["B"].mm.ptes[ARENA].frame is frame


@on_v3
def test_a_part_moves_there_and_back_and_is_one_mapping_again(pair, call, written):
    clone(call, "B", "A", written + PAGE, pages=2, flags=PVMMAP_FIXED | PVMMAP_MOVE)
    assert [vma.pages for vma in mappings(pair, "A")] == [1, 1]
    clone(call, "A", "B", ARENA, pages=2, to=written + PAGE, flags=PVMMAP_FIXED | PVMMAP_MOVE)
    assert [vma.pages for vma in mappings(pair, "A")] == [4] and not mappings(pair, "B")


@on_v3
def test_a_child_s_memory_moves_over_its_parent_s(pair, call, written):
    """The parent's own mapping goes, with the child's last use of its anon_vma; the child's takes the place."""
    call("A", "fork", "C")
    call("C", "stamp", written, pages=2, first=7)
    clone(call, "A", "C", written, to=written, flags=PVMMAP_FIXED | PVMMAP_MOVE)
    [moved] = mappings(pair, "A")
    assert len(moved.chain) == 2 and moved.anon_vma.tree == [moved]
    call("A", "stamp", written, pages=4)


@on_v3
def test_zero_pages_move(pair, call):
    call("A", "mmap", ARENA, pages=2, flags=ANY | calls.MAP_FIXED)
    call("A", "read", ARENA, PAGE)
    clone(call, "B", "A", ARENA, pages=2, flags=PVMMAP_FIXED | PVMMAP_MOVE)
    assert len(pair.models["B"].mm.ptes) == 1 and not pair.models["A"].mm.ptes


@on_v3
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("move", [0, PVMMAP_MOVE])
def test_a_rule_refuses_the_same_on_both_sides(pair, call, written, rule, move):
    """Its own memory, after a fork, back to the parent, and a clone of a clone."""
    pair.both(Call("", "rule", (rule,), {}))
    first = clone(call, "B", "A", written, pages=2)
    call("A", "mmap", ARENA + 32 * PAGE, pages=2, flags=ANY | calls.MAP_FIXED)
    call("A", "stamp", ARENA + 32 * PAGE, pages=2)
    call("A", "fork", "C")
    back = clone(call, "A", "C", ARENA + 32 * PAGE, pages=2, to=ARENA + 16 * PAGE, flags=PVMMAP_FIXED | move)
    clone(call, "B", "A", written, to=ARENA + 8 * PAGE, flags=PVMMAP_FIXED | move)
    clone(call, "C", "B", ARENA, pages=2, to=ARENA + 24 * PAGE, flags=PVMMAP_FIXED | move)
    assert first == ("EBUSY" if rule == "never-forked" else ARENA)      # half of a VMA
    assert (back == "EBUSY") == (rule != "any")


# --- the specification alone ------------------------------------------------------------------------------------------

def test_flags_have_the_kernel_s_bits():
    from pvmlab.kernel import VM_FLAGS
    assert {1 << bit: name for bit, name in VM_FLAGS.items() if 1 << bit in set(VM)} == {f.value: f.name for f in VM}


def test_v2_s_disasters_are_refused_before_anything_changes():
    world = spec.World("v2")
    task = world.task("A")
    buf = task.mmap(ARENA, pages=4)
    task.stamp(buf, 4)
    before = world.describe()
    for to in buf + 4 * PAGE, buf + 2 * PAGE:
        with pytest.raises(UsageError):
            task.process_vm_mmap(task, buf, pages=2, dst_addr=to, flags=PVMMAP_FIXED)
    assert world.describe() == before
    far = task.process_vm_mmap(task, buf, pages=4, dst_addr=buf + (4 << 20), flags=PVMMAP_FIXED)
    assert task.read(far + PAGE, 8) == (2).to_bytes(8, "little")


def test_v3_refuses_what_v2_clones():
    world = spec.World("v3")
    a, b = world.tasks("A", "B")
    buf = a.mmap(pages=2)
    with expect(errno.EINVAL):
        a.process_vm_mmap(a, buf, pages=1)
    a.madvise(buf, calls.MADV_DONTFORK, pages=1)
    with expect(errno.EFAULT):
        b.process_vm_mmap(a, buf, pages=1)


def test_the_rules_are_the_kernel_s():
    from pvmlab.lab import RULES as KERNELS
    assert tuple(RULES) == tuple(KERNELS) and spec.World("v3").rule() == "any"
    for world, name in (spec.World("v3"), "forked"), (spec.World("v2"), "any"):
        with pytest.raises(UsageError):
            world.rule(name)


def test_what_it_looks_like_can_be_compared_and_walked():
    world = spec.World("v2")
    server, consumer = world.tasks("server", "consumer")
    buf = server.mmap(pages=4)
    server.write(buf, b"hello")
    before = world.look()
    dst = consumer.process_vm_mmap(server, buf, pages=4)
    after = world.look()
    assert consumer.read(dst, 5) == b"hello" and (after - before).lines
    pfn = after.task("server").pte(buf).pfn
    assert after.task("consumer").pte(dst).pfn == pfn and len(after.rmap(pfn).hits) == after.page(pfn).mapcount == 2
    assert "frame 1: mapcount 2, anon" in spec.describe(after)


def test_a_call_that_is_not_modelled_says_so():
    task = spec.World().task("A")
    for refused in (lambda: task.mmap(pages=1, flags=calls.MAP_SHARED), lambda: task.madvise(0, calls.MADV_HUGEPAGE, pages=1),
                    lambda: task.mmap(pages=1, prot=EXEC), lambda: spec.World("v9"), lambda: task.munmap(0)):
        with pytest.raises(UsageError):
            refused()
    task.kill()
    with pytest.raises(TaskGone):
        task.mmap(pages=1)
