# SPDX-License-Identifier: MIT
"""Imports go one way, and importing starts nothing.

Each module of the package is read with ast; imports inside functions count
too. What a module may import is written down here, so that a new edge is a
decision and not an accident.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pvmlab

PACKAGE = Path(pvmlab.__file__).parent

#: What each module may import of the package, beside errors. Lower modules never know the higher ones.
MAY = {
    "errors": set(),
    "console": set(),
    "entry": set(),
    "model": {"entry"},
    # the machine
    "image": set(),
    "qmp": set(),
    "vm": {"image", "qmp"},
    # stopping it inside a call
    "gdb": set(),
    "patches": {"image", "model", "series"},
    "series": {"errors", "image", "model"},
    "places": {"image", "model", "patches"},
    "stops": {"gdb", "model", "vm"},
    "film": {"model"},
    # talking to the guest
    "abi": set(),
    "calls": {"abi"},
    "arguments": {"abi", "calls"},
    "meanings": {"calls"},
    "requests": {"abi", "arguments", "calls"},
    "wire": {"abi"},
    "guest": {"abi", "arguments", "calls", "meanings", "requests", "wire"},
    # seeing
    "memory": {"_walk"},
    "kernel": {"_walk", "memory", "model"},
    "pagetable": {"_walk", "entry", "memory", "model"},
    "rmap": {"model"},
    "look": {"entry", "kernel", "model", "pagetable", "rmap"},
    "stack": {"kernel", "model", "patches"},
    "lab": {"film", "image", "guest", "identity", "kernel", "look", "memory", "model", "places", "stack", "stops", "vm"},
    # comparing
    "identity": {"entry", "model"},
    "diff": {"entry", "identity", "model"},
    "words": {"diff", "entry", "identity", "model"},
}
#: Imports the other way round, inside a function: (who, whom, in which function) and why they are needed.
LAZY = {
    ("model", "rmap", "rmap"): "Snapshot.rmap(): rmap is made of the model's classes",
    ("model", "diff", "__sub__"): "after - before: diff is made of the model's classes",
    ("diff", "words", "lines"): "Diff.lines: words is made of diff's classes",
}
#: Everything that may know a running lab.
TOP = {"__init__", "__main__", "lab", "doctor", "bench", "defects", "frontispiece", "selftests", "stress"}
#: What compares and draws knows frozen values only.
PURE = {"model", "entry", "errors", "identity", "diff", "words", "draw", "figure"}
#: What the specification may know: names and numbers of calls, and what a Snapshot is; no machine, no reader.
SPEC = {"spec", "calls", "entry", "errors", "meanings", "model"}


def modules():
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def top_of(name):
    return name.split("/")[0]


class Imports(ast.NodeVisitor):
    """Collects (module of the package, function it stands in or None), type-checking blocks left out."""

    def __init__(self, name):
        self.package = ["pvmlab", *name.split("/")[:-1]]
        self.function, self.found = None, set()

    def visit_FunctionDef(self, node):
        outer, self.function = self.function, self.function or node.name
        self.generic_visit(node)
        self.function = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node):
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node):
        for alias in node.names:
            self._note(alias.name.split("."))

    def visit_ImportFrom(self, node):
        base = self.package[:len(self.package) - node.level + 1] if node.level else []
        path = base + (node.module.split(".") if node.module else [])
        if path == ["pvmlab"]:
            for alias in node.names:
                self._note([*path, alias.name])
        else:
            self._note(path)

    def _note(self, path):
        if path[0] == "pvmlab":
            self.found.add((path[1] if len(path) > 1 else "__init__", self.function))


def imports_of(name, path):
    visitor = Imports(name)
    visitor.visit(ast.parse(path.read_text()))
    return visitor.found


ALL = {name: imports_of(name, path) for name, path in modules().items()}


@pytest.mark.parametrize("name", sorted(MAY))
def test_a_module_imports_only_what_is_below_it(name):
    allowed = MAY[name] | {"errors"}
    lazy = {(whom, function) for who, whom, function in LAZY if who == name}
    assert {found for found in ALL[name] if found[0] not in allowed and found not in lazy} == set()


def test_every_lazy_import_is_still_there():
    assert {edge for edge in LAZY if edge[1:] not in ALL[edge[0]]} == set()


def test_the_allowed_edges_make_no_circle():
    done: list[str] = []
    while left := set(MAY) - set(done):
        ready = {name for name in left if MAY[name] <= {*done, "_walk"}}
        assert ready, f"these import each other: {sorted(left)}"
        done += sorted(ready)


def test_only_the_top_knows_the_lab():
    knowing = {name for name, found in ALL.items() if any(module == "lab" for module, _ in found)}
    assert knowing <= TOP


def test_comparing_and_drawing_know_frozen_values_only():
    for name, found in ALL.items():
        if top_of(name) in PURE - {"model"}:
            assert {top_of(module) for module, _ in found} <= PURE, name


def test_the_specification_knows_no_machine():
    for name, found in ALL.items():
        if top_of(name) == "spec":
            assert {top_of(module) for module, _ in found} <= SPEC, name


def test_every_module_has_its_place_here():
    """Those above the lab (views, commands) are free to import; the others stand in MAY."""
    free = TOP | {"widgets", "view", "figure", "lesson", "walk_build", "draw", "spec"}
    assert {top_of(name) for name in ALL} - set(MAY) <= free


def test_importing_starts_nothing():
    """No process, no thread, no machine, no cache directory."""
    code = """if True:
        import os, sys, threading, subprocess
        def refuse(*args, **kw): raise AssertionError(f"importing started {args}")
        subprocess.Popen.__init__ = os.posix_spawn = os.fork = refuse
        threading.Thread.start = refuse
        import pvmlab, pvmlab.lab, pvmlab.vm, pvmlab.look, pvmlab.draw
        assert threading.active_count() == 1
        children = open(f"/proc/self/task/{os.getpid()}/children").read()
        assert children == "", children
        assert not os.path.exists(os.environ["PVMLAB_CACHE"])
        """
    environment = {"PVMLAB_CACHE": "/nonexistent/pvmlab", "PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
