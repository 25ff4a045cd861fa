# SPDX-License-Identifier: MIT
"""Each mistake of v2 is shown on v2, and is not there on v3."""

from __future__ import annotations

import functools

import pytest

from pvmlab import Lab
from pvmlab.console import complaints
from pvmlab.defects import DEFECTS, Evidence, d1, d2, d7
from pvmlab.errors import UsageError

EXPERIMENTS = DEFECTS | {f"D2, {who}": functools.partial(d2, who=who) for who in ("thread", "vfork child")}


def run(kernel, name):
    with Lab(kernel=kernel, cpus=3 if name in ("D1", "D7") else 2) as lab:
        evidence = EXPERIMENTS[name](lab)
        return evidence, lab.machine.console_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_shown_on_v2(name):
    evidence, _ = run("v2", name)
    assert evidence.shown and not evidence.gone, str(evidence)
    assert evidence.defect == name.split(",")[0] and " ".join(evidence.words.split()) in " ".join(str(evidence).split())
    assert bool(evidence.hang) == (evidence.defect in ("D2", "D3"))
    assert evidence.snapshots[-1].tasks


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_gone_on_v3(name):
    evidence, console = run("v3", name)
    assert evidence.gone and not evidence.shown, str(evidence)
    assert evidence.hang is None and not complaints(console), console


def test_where_the_deadlock_is():
    evidence, _ = run("v2", "D2, thread")
    stuck = evidence.hang.stuck
    assert (stuck.task, stuck.number) == ("task", 1) and "copy_pte_range" in [place.function for place in stuck.stack]
    assert stuck.waits.startswith("the lock of task's pte table") and "does not end" in evidence.words


@pytest.mark.parametrize("race", [d1, d7])
def test_the_races_need_three_cpus(lab, race):
    with pytest.raises(UsageError, match="on 2 CPUs"):
        race(lab)


def test_evidence_is_printed_in_lines_that_fit_a_notebook():
    words = "a write through a stale translation " * 8
    said = str(Evidence("D1", {"the server's later write is seen by the consumer, and " + words: True}, words))
    assert max(map(len, said.splitlines())) <= 88
    assert " ".join(said.split()).startswith(f"D1: {words}yes the server's")
