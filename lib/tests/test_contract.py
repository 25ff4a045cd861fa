# SPDX-License-Identifier: MIT
"""The table of experiments in README.md names tests and cases that are there, and says where the kernels differ."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_call_errors import ANSWERS

from pvmlab.defects import DEFECTS
from pvmlab.stress import RACES

TESTS = Path(__file__).parent


def rows():
    """The cells of the table's rows: number, experiment, what differs, tests."""
    lines = (TESTS / "README.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]


def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_experiment_has_its_row():
    assert [int(number) for number, *_ in rows()] == list(range(1, 35))


@pytest.mark.parametrize("number, tests", [(row[0], row[3]) for row in rows()])
def test_what_a_row_names_is_there(number, tests):
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
    cases = re.findall(r'case "([^"]+)"', tests)
    defects = re.findall(r'defect "([^"]+)"', tests)
    races = re.findall(r'race "([^"]+)"', tests)
    assert named or cases or defects or races or tests == "not yet"
    assert set(defects) <= DEFECTS.keys() and set(races) <= set(RACES)
    assert [name for file, name in named if name not in functions(TESTS / file)] == []
    assert [case for case in cases if case not in ANSWERS] == []
    rest = re.sub(r'`test_\w+\.py::test_\w+`|(case|defect|race) "[^"]+"|not yet|[ ,;]', "", tests)
    assert re.fullmatch(r"([a-z]+:)*", rest), rest


def test_where_the_table_says_that_the_kernels_differ_they_do():
    """And a row that names cases in which they differ says so."""
    for number, _, differs, tests in rows():
        cases = re.findall(r'case "([^"]+)"', tests)
        if cases:
            assert bool(differs) == any(v2 != v3 for v2, v3 in map(ANSWERS.get, cases)) or "gone" in differs, number
