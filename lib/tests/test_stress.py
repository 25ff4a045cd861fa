# SPDX-License-Identifier: MIT
"""The referee: would it catch us, and does it say how little it takes?"""

from __future__ import annotations

import argparse
import re

import pytest

from pvmlab import Lab, defects, stress
from pvmlab.console import complaints
from pvmlab.errors import UsageError
from pvmlab.stress import Plan


@pytest.mark.parametrize("guilty", [{7}, {3, 90}, {0, 1, 2, 99}, {10, 40, 41, 80}])
def test_what_is_left_fails_and_none_of_it_can_be_spared(guilty):
    """The sequence fails when all the guilty are in it: the shortest one is these."""
    assert set(stress.shrink(range(100), lambda ops: guilty <= set(ops))) == guilty


def test_shrinking_ends_with_its_time():
    assert stress.shrink(range(100), lambda ops: True, seconds=0) == tuple(range(100))


def _main(*words: str) -> int:
    parser = argparse.ArgumentParser()
    stress.add_arguments(parser)
    return stress.main(parser.parse_args(words))


def test_a_race_that_fails_says_how_to_see_it_again(monkeypatch, capsys):
    monkeypatch.setattr(stress, "race", lambda kernel, name, *_: stress.Race(name, 1, 0, "bad" * (name == "pin")))
    assert _main("--kernel", "v3", "--seed", "7", "--race", "pin,move", "--race-seconds", "1.5") == 1
    first, *_, command, _ = capsys.readouterr().out.splitlines()
    assert first == "[stress] seed 7, on v3"
    assert command.endswith('make stress ARGS="--kernel v3 --seed 7 --race pin --race-seconds 1.5"')


def test_a_race_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="--race mvoe"):
        _main("--race", "mvoe")


@pytest.mark.parametrize("said, status", [("BUG: KASAN: slab-use-after-free in x", 0), ("", 1)])
def test_where_nothing_is_asked_for_v2_has_to_be_caught(said, status, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(stress.image, "build_on_demand", built.append)
    monkeypatch.setattr(stress, "over_itself", lambda kernel: stress.Race("over-itself", 1, 0, said))
    assert _main("--seconds", "0", "--samples", "0", "--race-seconds", "0") == status
    assert built == ["v3-debug", "v2-debug"] and ("FAILED" in capsys.readouterr().out) == bool(status)
    assert _main("--seconds", "0", "--samples", "0", "--race-seconds", "0", "--no-v2") == 0


def test_numbers_in_a_row_are_told_as_one():
    assert stress.runs([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


def test_a_kernels_complaint_counts_before_the_models():
    told, console = "FAIL round 5 op 3: page 1\n", "[ 1.0] mix: round 4\n[ 2.0] BUG: KASAN: x\n[ 3.0] mix: round 5\n"
    failure = stress._failure(told, console, Plan(4, rounds=2), "")
    assert (failure.seed, failure.op, failure.what) == (4, None, "BUG: KASAN: x")
    assert complaints(console) == ["[ 2.0] BUG: KASAN: x"]


@pytest.mark.parametrize("line", [
    "WARNING: CPU: 0 PID: 1 at mm/mmap.c:1", "WARN at lib/maple_tree.c:1, 0", "UBSAN: shift-out-of-bounds in mm/x.c:1:2",
    "mm/pgtable-generic.c:54: bad pmd 00000000d4e1b2f0(0000000000000001)", "BUG: Bad rss-counter state mm:x val:1",
    "_swap_info_get: Unused swap offset entry 00000004", "get_swap_device: Bad swap file entry 3800000000000000",
    "rcu: INFO: rcu_preempt self-detected stall on CPU", "INFO: trying to register non-static key.",
    "turning off the locking correctness validator.", "watchdog: Watchdog detected hard LOCKUP on cpu 0",
    "map_count 4 vma iterator 5", "WARNING: suspicious RCU usage", "INFO: task x:1 blocked for more than 120 seconds."])
def test_what_a_kernel_says_when_something_is_wrong_with_it(line):
    assert complaints(f"[    1.000000] {line}\n[    2.000000] mix: round 1\n") == [f"[    1.000000] {line}"]


def test_the_mix_goes_with_its_model_on_v3():
    with stress.machine("v3") as lab:
        outcome = stress.run(lab, Plan(seed=1, rounds=3, ops=1000))
    assert outcome.failure is None
    assert outcome.ops == 3000 and outcome.cloned > 50 and outcome.moved > 10 and outcome.refused > 50
    assert outcome.saw.keys() == {"thp_fault_alloc", "thp_zero_page_alloc", "thp_collapse_alloc", "thp_split_pmd",
                                  "pswpout", "pswpin", "cow_ksm", "pgmigrate_success"}
    assert all(outcome.saw.values()), outcome.saw


def test_the_model_holds_for_everything_after_each_operation():
    with stress.machine("v3") as lab:
        outcome = stress.run(lab, Plan(seed=1, ops=200, check=1))
    assert outcome.failure is None and outcome.ops == 200


def test_a_sample_is_the_same_from_outside():
    found = stress.sample("v3", Plan(4, ops=1500))
    assert found.differences == () and found.failure is None
    assert found.pages > 1000 and found.walks > 50 and found.slots and found.merged


def test_a_look_from_outside_sees_what_the_model_has_wrong():
    """The model is told wrong: one of its pages holds something else, and of another it does not know."""
    with stress.machine("v3") as lab:
        outcome = stress.run(lab, Plan(5, ops=600, stay=True))
        first, *others = re.split(r"(?m)(?<=^model)(?= \d+ 0x\w+ 1 3 0x\w{9,}$)", outcome.told)
        told = first.removesuffix("model") + others[0].partition("\n")[2] + "".join(
            re.sub("$", "0", other, count=1, flags=re.M) for other in others[1:])
        found = stress.look_at(lab, told, 5)
    assert sum("the model has nothing there" in line for line in found.differences) == 1
    assert sum(" holds " in line for line in found.differences) > 10


def test_a_merged_page_is_seen_where_ksm_does_not_come():
    """D6 on v2: the consumer has it, in a VMA that is not mergeable; the server has it by right."""
    with Lab(kernel="v2") as lab:
        cloned = defects.d6(lab).snapshots[1]
    [pfn] = [pfn for pfn, page in cloned.pages.items() if page.kind == "ksm"]
    walk = cloned.rmap(pfn)
    assert walk.missed and all(stress._stray(cloned.task(name), addr) for name, addr in walk.missed)
    assert walk.hits and not any(stress._stray(cloned.task("server"), hit.address) for hit in walk.hits)


def test_a_sample_that_differs_is_made_short_like_a_round_that_fails(monkeypatch):
    """Seen from outside only: an operation in the plan that, here, is said to have been harmful."""
    def sample(kernel, plan):
        bad = ("0x1000 of 17 holds 0x1, the model says 0x2",) if 6 in (plan.keep or range(plan.ops)) else ()
        return stress.Sample(1, 1, 0, 0, bad, stress.Failure(plan.seed, None, bad[0]) if bad else None)
    monkeypatch.setattr(stress, "sample", sample)
    plan = Plan(3, ops=20, stay=True)
    assert stress.shortest("v3", sample("v3", plan).failure, plan).keep == (6,)
    assert stress._command("v3", stress.shortest("v3", sample("v3", plan).failure, plan)).endswith("--keep 6 --look\"")


def test_a_model_that_is_wrong_is_caught_and_told_in_three_operations():
    """The planted mistake: the model's fork() forgets MADV_DONTFORK. It takes a mapping, the advice, a fork."""
    plan = Plan(seed=49, ops=100, plant=1)
    with stress.machine("v3") as lab:
        failure = stress.run(lab, plan).failure
    found = stress.shortest("v3", failure, plan, seconds=300)
    with stress.machine("v3") as lab:
        told = stress.run(lab, Plan(49, ops=found.ops, keep=found.keep, tell=True, plant=1)).told
    assert [line for line in told.splitlines() if line.startswith("op ")][-1].endswith("fork() = process 3")
    assert len(found.keep) == 3 and "mmap(" in told and "advice 10)" in told


def test_a_change_in_another_process_is_seen_at_once():
    """The planted mistake: a write shows in another process, on a page that the operation has nothing to do with."""
    with stress.machine("v3") as lab:
        outcome = stress.run(lab, Plan(seed=5, check=2000, tell=True, plant=2))
    [*_, last] = [line for line in outcome.told.splitlines() if line.startswith("op ")]
    assert last.startswith(f"op {outcome.failure.op}: ") and " write pages " in last
    assert " of process " in outcome.failure.what and outcome.failure.op < 1000


@pytest.mark.parametrize("name", stress.RACES)
def test_a_race_ends_well_on_v3(name):
    found = stress.race("v3", name, seconds=1)
    least = 1 if name.startswith("sweep") else 0 if name == "stack" else 20      # of an execve() nothing is to be had
    assert found.failure == "" and found.clones >= least
    assert all(found.saw.values()), found.saw


def test_v3_refuses_to_take_a_process_over_itself():
    """D3. That KASAN sees v2 do it takes v2-debug: `python -m pvmlab stress --kernel v2-debug`."""
    assert stress.over_itself("v3") == stress.Race("over-itself", clones=0, refused=1, failure="")


def test_the_missing_flush_of_v2_is_seen():
    """D1: a writer on the other CPU changes what was cloned."""
    assert "changes from" in stress.race("v2", "writer", seconds=5).failure


def test_v2_is_caught_too():
    """A clone of MADV_DONTFORK memory, an error of another number, a self-call: the model is one of v3."""
    with stress.machine("v2") as lab:
        failure = stress.run(lab, Plan(seed=1, rounds=2, ops=1000), limit=30).failure
    assert failure is not None and re.search("gives|holds", failure.what), failure


def test_a_move_that_flushes_nothing_is_seen():
    """Planted in the running kernel: flush_tlb_mm_range() returns at once, so that a writer goes on writing."""
    with stress.machine("v3") as lab:
        with lab.machine.frozen():
            address = lab.kernel.prog.symbol("flush_tlb_mm_range").address
            lab._stops.gdb._ask(f"M{address:x},1:c3", "OK")
        found = stress.race_in(lab, "give", seconds=5)
    assert re.search("changes from|the last that was written to it is|a writer faults", found.failure)
