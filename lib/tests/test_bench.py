# SPDX-License-Identifier: MIT
"""bench measures every row of the budget table. No number is judged here: a busy computer is no failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pvmlab import Lab, bench
from pvmlab.bench import Row


@pytest.fixture(scope="module")
def report():
    done = subprocess.run([sys.executable, "-m", "pvmlab", "bench", "--json", "--peers", "--rounds", "1"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_every_budget_is_measured(report):
    rows = {row["what"]: row for row in report[0]["rows"]}
    for what, unit, budget, *_ in bench.BUDGETS:
        assert rows[what]["why"] == "" and rows[what]["median"] > 0, rows[what]
        assert (rows[what]["unit"], rows[what]["budget"]) == (unit, budget)
        assert rows[what]["verdict"] in ("within", "over")


def test_peers_have_a_number_or_a_reason(report):
    rows = [row for row in report[0]["rows"] if not row["budget"]]
    assert any("follow_pfn" in row["what"] and row["median"] for row in rows)
    assert all(row["median"] or row["why"] for row in rows)


def test_a_fork_is_counted_on_every_kernel(report):
    rows = {row["what"].partition(": ")[2]: row["median"] for row in report[0]["rows"] if "fork()" in row["what"]}
    assert rows.keys() == {"base", "v2", "v2, more than base", "v3", "v3, more than base"}
    assert rows["base"] > bench.FORKED / 1e3            # at least one instruction a page
    for kernel in "v2", "v3":
        assert rows[f"{kernel}, more than base"] == pytest.approx(100 * (rows[kernel] / rows["base"] - 1))


def test_a_count_of_instructions_is_nearly_the_same_each_time():
    counts = list(bench._counted("base", 4))
    assert max(counts) < 1.02 * min(counts)


def test_progress_goes_to_stderr(report):
    assert all(f"[bench] {what} …" in report[1] for what, *_ in bench.BUDGETS)


def test_the_world_is_what_its_row_says():
    with Lab() as lab:
        bench._world(lab)
        tasks = lab.look().tasks
    assert (len(tasks), sum(len(task.mm.entries) for task in tasks)) == (3, bench.ENTRIES)


@pytest.mark.parametrize("row, verdict", [
    (Row("a", "s", 0.5, True, (0.4, 0.5, 9.0)), "within"), (Row("a", "s", 0.5, True, (0.6,)), "over"),
    (Row("a", "M/s", 50, False, (51.0,)), "within"), (Row("a", "M/s", 50, False, (49.0,)), "over"),
    (Row("a", "s", 0.5, why="no QEMU"), "not measured"), (Row("a peer", "ms", samples=(1.0,)), "")])
def test_verdicts(row, verdict):
    assert row.verdict == verdict
    assert bench._line(row).endswith(verdict if row.samples else "not measured: no QEMU")


def test_what_cannot_be_measured_says_why():
    """Without QEMU the table still comes, with a reason in each row that needs one."""
    done = subprocess.run([sys.executable, "-c", "from pvmlab import bench\nfor row in bench.measure(1): print(row)"],
                          env=os.environ | {"PATH": "/nowhere"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("qemu-system-x86_64") >= 7 and done.stdout.count("Row(") == len(bench.BUDGETS) + 3


def test_no_rounds_is_refused():
    done = subprocess.run([sys.executable, "-m", "pvmlab", "bench", "--rounds", "0"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and "--rounds 1" in done.stderr
