# SPDX-License-Identifier: MIT
"""The machinery of a lesson: questions, answers, exercises, patches, verdicts, progress. No machine."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import worlds

from pvmlab.errors import UsageError
from pvmlab.image import root
from pvmlab.lesson import Lesson, changed, compare, patch, progress, questions
from pvmlab.lesson.course import Course, pages
from pvmlab.lesson.exercise import Exercise, Task, almost, correct, missing
from pvmlab.lesson.markup import inline, plain
from pvmlab.lesson.question import Question
from pvmlab.lesson.verdict import MIME
from pvmlab.series import read, subjects

BEFORE, AFTER = worlds.clone()
CHOICE = Question("c", "which?", "choice", {"a": "text of a", "b": "text of b"})
NUMBER = Question("n", "how many?", "number", {0: "text of 0", 4: "text of 4", None: "text of others"})
WHICH = Question("w", "which of these?", "which", {"x": "text of x", "y": "text of y", "z": "text of z"})


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PVMLAB_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def lesson():
    made = Lesson("test")
    made._all = {q.name: q for q in (CHOICE, NUMBER, WHICH)}
    for name in made._all:
        made.predict(name)
    return made


# --- questions ---


@pytest.mark.parametrize("question, answers", [(CHOICE, ["a", "b"]), (NUMBER, [0, 4, 17]),
                                               (WHICH, [frozenset(), frozenset("x"), frozenset("xz")])])
def test_exactly_the_answer_is_right(question, answers):
    for answer in answers:
        right = [given for given in (*question.every(), answer) if question.told(given, answer).right]
        assert set(right) == {answer}


def test_a_wrong_answer_is_told_its_own_misconception_and_then_what_is_so():
    told = CHOICE.told("a", "b").text
    assert told.index("text of a") < told.index("text of b")
    assert "text of a" not in CHOICE.told("b", "b").text
    assert "text of others" in NUMBER.told(9, 4).text and "text of 4" in NUMBER.told(9, 4).text


def test_of_a_set_each_wrong_box_is_explained():
    told = WHICH.told(frozenset("xy"), frozenset("yz")).text.split("\n\n")[0]
    assert "x: text of x" in told and "text of y" not in told and "Missing: z. text of z" in told


def test_of_a_set_the_first_box_that_is_missing_is_explained_once():
    told = WHICH.told(frozenset("x"), frozenset("xyz")).text
    assert told.startswith("Missing: y. text of y\n\nAnswer: **x, y and z**. ") and "text of z" in told
    assert told.count("text of y") == 1
    assert WHICH.told(frozenset("y"), frozenset()).text.startswith("y: text of y\n\nAnswer: **none of these**.")


def test_an_answer_reads_as_a_sentence():
    assert WHICH.answered(frozenset("xyz")).startswith("Answer: **x, y and z**. ")
    assert WHICH.answered(frozenset("xz")).startswith("Answer: **x and z**. ")
    assert WHICH.answered(frozenset()).startswith("Answer: **none of these**. ")
    assert CHOICE.told("a", "b").text.startswith("You said “a”. ")


def test_what_was_read_means_an_answer():
    options = {"a": "text of a", "b": "text of b"}
    made = Question("s", "which?", "choice", options, {"True": "a", "0, 1": "a", None: "b"})
    assert [made.means(seen) for seen in (True, (0, 1), False)] == ["a", "a", "b"]
    assert CHOICE.means("a") == "a" and NUMBER.means(4) == 4
    with pytest.raises(UsageError):
        Question("s", "which?", "choice", options, {"True": "c"})


@pytest.mark.parametrize("question, given", [(CHOICE, "c"), (NUMBER, "4"), (NUMBER, 1.5), (WHICH, {"x", "other"}),
                                             (WHICH, "x")])
def test_what_cannot_be_answered_is_refused(question, given):
    with pytest.raises(UsageError):
        question.understand(given)


@pytest.mark.parametrize("kind, options", [("choice", {"a": "one only"}), ("choice", {"a": "", "b": "text"}),
                                           ("number", {}),
                                           ("which", {str(i): "text" for i in range(7)})])
def test_a_question_that_cannot_be_asked_is_refused(kind, options):
    with pytest.raises(UsageError):
        Question("q", "?", kind, options)


@pytest.mark.parametrize("lesson", sorted(p.stem for p in Path(questions.__file__).parent.glob("*.toml")))
def test_the_course_s_questions_can_be_read(lesson):
    assert questions.read(lesson)


# --- predictions ---


def test_nothing_is_revealed_before_the_commitment(lesson):
    shown = lesson.reveal("n", lambda before, after: len(after.task("server").mm.vmas), BEFORE, AFTER)
    assert shown.told is None and "text of" not in shown.text()
    assert "<details><summary>" in shown.html() and "<details open" not in shown.html()
    lesson.commit("n", 4)
    assert shown.told and "text of" in shown.text()


def test_the_snapshots_decide_and_are_shown(lesson):
    lesson.commit("n", 4)
    shown = lesson.reveal("n", lambda before, after: sum(p.mapcount == 2 for p in after.pages.values()), BEFORE, AFTER)
    assert shown.answer == 4 and shown.told.right
    assert AFTER.kernel in shown.source and "pvmlab-view" in shown.html()


def test_the_first_answer_counts(lesson):
    lesson.commit("c", "a")
    lesson.commit("c", "b")
    assert not lesson.reveal("c", lambda seen: "b", AFTER).told.right
    assert progress.read()["test"]["c"]["result"] == "wrong"


def test_the_page_s_form_is_understood(lesson):
    for name, form, given in (("c", "1", "b"), ("n", "-3", -3), ("w", "0,2", frozenset("xz")), ("w", "", frozenset())):
        lesson.given.clear()
        lesson._heard(name, form)
        assert lesson.given == {name: given}
    lesson.given.clear()
    for name, form in (("c", "7"), ("c", "x"), ("n", ""), ("nobody", "1")):
        lesson._heard(name, form)
    assert lesson.given == {}


def test_a_kernel_s_answer_that_no_option_has_is_an_error(lesson):
    with pytest.raises(UsageError):
        lesson.reveal("c", lambda seen: "neither", AFTER)


def test_an_answer_before_its_question_is_refused():
    with pytest.raises(UsageError, match="asked"):
        Lesson("test").reveal("c", lambda seen: "a", AFTER)


def test_a_reviewer_sees_the_answer_at_once(monkeypatch):
    monkeypatch.setenv("PVMLAB_REVIEW", "1")
    made = Lesson("test")
    made._all = {"c": CHOICE}
    made.predict("c")
    shown = made.reveal("c", lambda seen: "b", AFTER)
    assert "<details open" in shown.html() and "text of b" in shown.text()


def test_changed_names_what_differs():
    probes = {"entries": lambda seen: len(seen.task("consumer").mm.entries),
              "pid": lambda seen: seen.task("consumer").pid}
    assert changed(probes)(BEFORE, AFTER) == {"entries"}


# --- progress ---


def test_progress_is_kept_and_forgotten(state):
    progress.note("01", "a", "almost")
    progress.note("01", "a", "correct")
    progress.note("01", "a", "almost")
    progress.note("02", "b", "wrong")
    progress.note("02", "b", "right")
    assert {name: note["result"] for notes in progress.read().values() for name, note in notes.items()} == \
        {"a": "correct", "b": "wrong"}
    progress.reset()
    assert progress.read() == {}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"01": '])
def test_a_damaged_file_is_no_progress(state, content):
    state.mkdir()
    progress.path().write_text(content)
    assert progress.read() == {}
    progress.note("01", "a", "right")
    assert progress.read()["01"]["a"]["result"] == "right"


def test_a_place_that_cannot_be_written_stops_nothing(monkeypatch):
    monkeypatch.setenv("PVMLAB_STATE", "/proc/nowhere")
    progress.note("01", "a", "right")
    assert progress.read() == {}


def test_the_map_says_how_far_one_has_come():
    first = next(page for page in pages() if page.predictions)
    note = {"result": "right", "when": "2026-01-01"}
    shown = Course(pages(), {first.number: {first.predictions[0]: note}})
    assert f"1 of {len(first.predictions)} predictions, 1 right" in shown.html()
    assert all(f'href="{page.file}"' in shown.html() for page in pages())


# --- exercises ---


def _judge(seen, variant):
    count = len(seen.tasks)
    return missing("no `task`") if count == 0 else correct("all") if count == variant["tasks"] else almost("some")


COUNT = Exercise("Start **{tasks}** tasks.", lambda random: {"tasks": random.randint(2, 9)}, _judge, ("1", "2", "3"),
                 "{tasks}", "1")


def test_a_check_says_why_and_is_remembered():
    told = []
    task = Task(COUNT, 0, told.append)
    for snapshot, state in ((worlds.World().look(), "missing"), (worlds.World().task("A").look(), "almost")):
        assert task.check(snapshot).state == state
    assert told == ["almost"]
    with pytest.raises(UsageError):
        task.check(BEFORE.tasks)


def test_a_seed_gives_the_same_variant_and_another_gives_another():
    variants = {seed: COUNT.vary(Random(seed))["tasks"] for seed in range(8)}
    assert len(set(variants.values())) > 2
    task = Task(COUNT, 3, print)
    assert task.variant["tasks"] == variants[3] and task.again(5).variant["tasks"] == variants[5]
    assert task.html().count("<summary>Hint") == 3 and f"<strong>{variants[5]}</strong>" in task.html()


# --- patches ---


def test_a_patch_is_read_whole():
    whole = read("v2", 3)
    assert whole.subject == "mm: Let copy_page_range() copy to another address"
    assert {h.file for h in whole.hunks} >= {"mm/memory.c", "kernel/fork.c"}


def each_patch():
    for path in sorted((root() / "kernel-patches").glob("v*/0*.patch")):
        if not path.name.startswith("0000"):
            yield path.parent.name, int(path.name[:4]), path


@pytest.mark.parametrize("series, number, path", list(each_patch()))
def test_every_changed_line_of_a_patch_is_kept(series, number, path):
    """Against a count that knows only where the diff begins and ends."""
    diff = path.read_text().split("\ndiff --git", 1)[1].rsplit("\n-- \n", 1)[0].splitlines()
    wanted = [line for line in diff if line[:1] in "+-" and line[:4] not in ("+++ ", "--- ") and line]
    kept = [line for hunk in read(series, number).hunks for line in hunk.lines if line[0] in "+-"]
    assert kept == wanted


def test_a_function_is_cut_out_of_its_hunk():
    shown = patch("v2", 3, function="copy_pmd_range")
    [piece] = shown.pieces
    assert piece.file == "mm/memory.c" and piece.lines[0] == " static inline int" and piece.lines[-1] == " }"
    assert "copy_huge_pmd(" in "".join(piece.lines) and "copy_pud_range(struct" not in "".join(piece.lines)
    assert 'class="l add"' in shown.html() and 'class="l del"' in shown.html()


def test_some_lines_are_cut_out_of_a_function():
    [piece] = patch("v2", 7, function="mmap_process_vm", between=("PVMMAP_FIXED_NOREPLACE) {", "may_mmap_overlapped")).pieces
    assert "PVMMAP_FIXED_NOREPLACE) {" in piece.lines[0] and "may_mmap_overlapped_region" in piece.lines[-1]
    for wrong in (("no such text", "may_mmap_overlapped"), ("may_mmap_overlapped", "no such text")):
        with pytest.raises(UsageError, match="no lines"):
            patch("v2", 7, function="mmap_process_vm", between=wrong)


def test_a_system_call_is_a_function():
    assert patch("v2", 7, function="process_vm_mmap").pieces[0].lines[0].startswith("+SYSCALL_DEFINE5(process_vm_mmap")


def test_the_words_beside_it_are_the_patch_s_own():
    shown = patch("v2", 3, function="copy_pmd_range", about=("walk both page table trees together",))
    assert len(shown.said) == 1 and "boundary on either side" in shown.said[0]
    for wrong in (dict(about="words that no patch has"), dict(function="no_such_function"),
                  dict(file="no/such/file.c")):
        with pytest.raises(UsageError):
            patch("v2", 3, **wrong)
    with pytest.raises(UsageError, match="1 to 7"):
        patch("v2", 8)


@pytest.mark.parametrize("number, about, said", [
    (1, "entry for kernels built without it", ["Give", "    process_vm_mmap(pid"]),
    (3, "What 6.12 has", ["What 6.12 has", "- Entries", "- A page", "- A partly", "- A huge"]),
    (7, "What a user sees", ["dst_addr is a hint", "    EINVAL  unknown flag"]),
    (2, "Tell it the mm", ["Tell it the mm"])])
def test_what_a_colon_announces_is_not_cut_off(number, about, said):
    shown = patch("v2", number, about=about)
    assert len(shown.said) == len(said) and all(map(str.startswith, shown.said, said))
    assert not shown.said[-1].endswith(":")


def test_a_table_keeps_its_columns():
    assert "<pre>EINVAL  unknown flag, " in patch("v2", 7, about="What a user sees").html()


def test_it_can_stand_without_the_message_s_words():
    shown = patch("v2", 1, file="init/Kconfig", about=None)
    assert shown.said == () and "<div class=pvl-said>" not in shown.html() and shown.text().endswith(shown.pieces[-1].lines[-1])


def test_the_subjects_of_a_series_are_its_files():
    files = sorted((root() / "kernel-patches/v2").glob("000[1-9]*.patch"))
    assert list(subjects("v2")) == [1, 2, 3, 4, 5, 6, 7] == [int(path.name[:4]) for path in files]
    assert subjects("v2")[7] == "Add process_vm_mmap()"


def test_what_did_not_change_is_folded():
    html = patch("v2", 3, file="mm/memory.c").html()
    assert "unchanged lines</summary>" in html


# --- verdicts ---


def test_a_verdict_is_what_was_computed(lesson):
    made = lesson.verdict(15, "a claim", holds=len(AFTER.tasks) == 1, evidence={"tasks": len(AFTER.tasks)}, seen=AFTER)
    assert made.verdict == "does not hold" and "Shutemov, 24 May" in made.who
    data = made._repr_mimebundle_()[MIME]
    assert json.loads(json.dumps(data))["evidence"] == [[what, value] for what, value in made.rows()] == [["tasks",
                                                                                                           "3"]]


def test_an_argument_has_sides_and_an_open_one_says_what_is_missing(lesson):
    weighed = lesson.verdict("cover", "c", sides={"for": {"a": 1}, "against": {"b": 2}}, seen=AFTER)
    assert weighed.verdict == "a matter of judgement" and weighed.means
    assert weighed.means in weighed._repr_mimebundle_()["text/html"] and weighed.means in weighed._repr_mimebundle_()["text/plain"]
    assert lesson.verdict(1, "c", open="a real machine", evidence={"a": 1}, seen=AFTER).verdict == "open"


@pytest.mark.parametrize("wrong", [dict(message=25, holds=True, evidence={"a": 1}), dict(message=1, evidence={"a": 1}),
                                   dict(message=1, holds=True), dict(message=1, holds=True, open="x",
                                                                     evidence={"a": 1})])
def test_a_verdict_that_says_nothing_is_refused(lesson, wrong):
    with pytest.raises(UsageError):
        lesson.verdict(wrong.pop("message"), "claim", seen=AFTER, **wrong)


# --- side by side ---


def test_a_comparison_says_what_differs():
    told = compare({"v2": 1, "v3": 2}, {"twice": lambda n: n * 2, "type": lambda n: type(n).__name__})
    assert told.differs == ("twice",)
    assert told._repr_mimebundle_()["text/plain"] == "twice: v2 2, v3 4 (differs)\ntype: v2 int, v3 int"


# --- markup ---


def test_marks_become_html_and_nothing_else_does():
    assert inline("**bold** `a < b` *so* 2 * 3 * 4 <i>") == \
        "<strong>bold</strong> <code>a &lt; b</code> <em>so</em> 2 * 3 * 4 &lt;i&gt;"
    assert plain("**bold** `a_b` *so*") == "bold a_b so"
