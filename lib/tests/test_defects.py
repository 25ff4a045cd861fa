# SPDX-License-Identifier: MIT
"""Each mistake of v2 is shown on v2, and is not there on v3."""

from __future__ import annotations

import functools

import pytest

from pvmlab import Lab
from pvmlab.console import complaints
from pvmlab.defects import DEFECTS, d1, d2, d7
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
    assert evidence.defect == name.split(",")[0] and evidence.words in str(evidence)
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
