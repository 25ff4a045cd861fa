# SPDX-License-Identifier: MIT
"""The notebooks: each runs on its own, asks, answers and checks as it says, and names what the kernel has."""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import json
from pathlib import Path
from random import Random

import kernel_names
import pytest

import pvmlab
from pvmlab import calls
from pvmlab.guest import Guest, Task
from pvmlab.image import root
from pvmlab.lab import Lab
from pvmlab.lesson import Lesson, questions, scenes
from pvmlab.lesson.course import pages
from pvmlab.lesson.exercises import ALL as EXERCISES

BOOKS = sorted((root() / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in BOOKS if "Lesson(" in path.read_text()]
#: At least so many in each.
PREDICTIONS = 3


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PVMLAB_STATE", str(tmp_path))


def read(path):
    return json.loads(path.read_text())


def code(path, tag=None):
    """Source of each code cell, or of those with a tag; commands for a shell left out."""
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "code" and (tag is None or tag in cell["metadata"].get("tags", ())):
            yield "".join(line for line in cell["source"] if not line.startswith("!"))


def run(source, names):
    """Run a cell as a notebook does: what its last line gives is shown."""
    body = ast.parse(source)
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, "<cell>", "exec"), names)
    shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    if hasattr(shown, "_repr_mimebundle_"):
        shown._repr_mimebundle_()
    return shown


@contextlib.contextmanager
def world(*sources):
    """The names after some cells ran; machines end with it."""
    names = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for source in sources:
                run(source, names)
        yield names
    finally:
        for lab in (lab for thing in names.values() for lab in (thing.values() if isinstance(thing,
                                                                                             dict) else [thing])):
            if isinstance(lab, Lab):
                lab.close()


@pytest.fixture(scope="module", params=LESSONS, ids=lambda path: path.stem)
def done(request, tmp_path_factory):
    """One lesson, run from top to bottom: its path and its Lesson."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVMLAB_STATE", str(tmp_path_factory.mktemp("state")))
        with world(*code(request.param)) as names:
            yield request.param, next(thing for thing in names.values() if isinstance(thing, Lesson))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs_and_says_what_it_is(path):
    book = read(path)
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in book["cells"] if c["cell_type"] == "code")
    about = book["metadata"]["pvmlab"]
    assert about["part"] and about["question"].endswith("?") and about["minutes"] > 0


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_map_knows_its_predictions(path):
    page = next(page for page in pages() if page.file == path.name)
    assert list(page.predictions) == list(questions.read(page.number)), "each is asked once, in the order of the file"


def test_a_lesson_asks_enough_and_answers_all(done):
    path, lesson = done
    assert len(lesson.questions) >= PREDICTIONS and lesson.tasks, path.name
    assert lesson.reveals.keys() == lesson.questions.keys() == questions.read(lesson.number).keys()


def test_right_and_wrong_predictions_are_told_so(done):
    """Every answer that a reader can give, against what the kernel answered in this run."""
    _, lesson = done
    for name, shown in lesson.reveals.items():
        question = shown.question
        options = set(question.options)
        assert question.kind != "number" or shown.answer in options, f"{name}: no text for {shown.answer}"
        for given in {*question.every(), shown.answer}:
            told = question.told(given, shown.answer)
            assert told.right == (given == shown.answer) and len(told.text) > 40, (name, given)
        assert "pvl-reveal" in shown.html()


def test_nothing_is_given_away(done):
    """Run from top to bottom without an answer, no text shows one."""
    _, lesson = done
    for shown in lesson.reveals.values():
        assert shown.told is None and shown.text().startswith("Predict first")


@pytest.mark.parametrize("path", [path for path in BOOKS if '"alone"' in path.read_text()], ids=lambda path: path.stem)
def test_cells_that_stand_alone_run_right_after_the_set_up(path):
    [first] = code(path, "set-up")
    for source in code(path, "alone"):
        with world(first, source):
            pass


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_exercise_knows_missing_almost_and_correct(path, seed):
    """What a learner might write below the notebook's own lines."""
    page = next(page for page in pages() if page.file == path.name)
    for name, start in zip(page.exercises, code(path, "exercise"), strict=True):
        task = Lesson(page.number).exercise(name, seed)
        for state, calls_made in (("missing", ""), ("almost", task.nearly), ("correct", task.solution)):
            [first] = code(path, "set-up")
            with world(first) as names:
                names["task"] = task
                run(f"{start}\n{calls_made}", names)
                found = task.check(names["lab"].look())
            assert found.state == state and len(found.reason) > 10, (name, seed, str(found))


@pytest.mark.parametrize("name", EXERCISES)
def test_a_fresh_variant_is_another(name):
    variants = {tuple(EXERCISES[name].vary(Random(seed)).items()) for seed in range(20)}
    assert len(variants) > 3


@pytest.mark.parametrize("path", [path for path in BOOKS if path not in LESSONS], ids=lambda path: path.stem)
def test_a_notebook_without_questions_runs_too(path):
    with world(*code(path)):
        pass


def test_the_template_tells_the_kernels_apart():
    path = root() / "notebooks" / "template.ipynb"
    with world(*list(code(path))[:3]) as names:
        shown = run(list(code(path))[3], names)
    assert shown.differs and {"v2", "v3"} == set(names["told"])


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_verdict_is_computed(path):
    """No verdict is typed in: what it rests on has a name or a call in it."""
    for call in (node for source in code(path) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "verdict":
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            for value in (given[name] for name in ("holds", "evidence", "sides") if name in given):
                assert any(isinstance(node, (ast.Call, ast.Name, ast.Attribute)) for node in ast.walk(value))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path):
    text = kernel_names.prose()[path.name]
    for target in kernel_names.re.findall(r"\]\((\d\d-[^)#]+)\)", text):
        assert (path.parent / target).exists(), target


# --- what the prose says of the kernel ---


def patches():
    return "".join(p.read_text() for p in (root() / "kernel-patches").glob("v*/*.patch"))


def ours():
    """Functions that our patches add."""
    return {name for line in patches().splitlines() if line.startswith("+")
            for name in kernel_names.re.findall(r"\b(\w+)[(,]", line)}


def our_files():
    """Files that our patches add."""
    return set(kernel_names.re.findall(r"^--- /dev/null\n\+\+\+ b/(\S+)$", patches(), kernel_names.re.M))


def spoken_of_here():
    """What else may stand with brackets: system calls, the C library's fork(), and this library's own methods."""
    own = {name for thing in (pvmlab, Lab, Task, Guest, pvmlab.Snapshot, Lesson, builtins)
           for name in dir(thing)} | set(dir(scenes))
    return own | set(calls.NUMBERS) | {"visit", "swapoff", "exec"}


@pytest.mark.parametrize("where", kernel_names.prose())
def test_every_kernel_function_and_file_it_names_exists(where):
    text = kernel_names.prose()[where]
    version, defined, there = kernel_names.index()
    mend = "python lib/tests/kernel_names.py /path/to/linux-source-6.12"
    assert version == kernel_names.base(), mend
    assert kernel_names.files(text) - there - our_files() == set(), mend
    assert kernel_names.names(text) - set(defined) - ours() - spoken_of_here() == set(), mend
    assert {(name, file) for name, file in kernel_names.places(text)
            if file not in defined[name] and name not in ours()} == set(), mend


def test_the_index_knows_what_is_not_there():
    _, defined, there = kernel_names.index()
    text = "`no_such_function()` in `mm/memory.c`, `mm/nowhere.c`"
    assert kernel_names.names(text) - set(defined) == {"no_such_function"}
    assert kernel_names.files(text) - there == {"mm/nowhere.c"}
    assert kernel_names.places(text) == {("no_such_function", "mm/memory.c")}
