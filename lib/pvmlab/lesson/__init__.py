# SPDX-License-Identifier: MIT
"""What makes a notebook a lesson: predictions, exercises, patches, verdicts, progress.

    from pvmlab.lesson import Lesson, patch
    lesson = Lesson("05")
    lesson.predict("mapcount")
    lesson.reveal("mapcount", lambda before, after: after.page(pfn).mapcount, before, after)
    lesson.exercise("two pages").check(lab.look())
    patch("v2", 3, function="copy_pmd_range")
    lesson.verdict(15, "…", holds=…, evidence={"…": …}, seen=after)

To write a lesson: a notebook NN-name.ipynb whose metadata say part, question
and minutes (course.py); its first code cell, tagged "set-up", makes the
Lesson and the Lab. Questions stand in questions/NN.toml, in the order in which
they are asked, each before its call; exercises in exercises/. The cell in which
a learner writes is tagged "exercise"; cells that run right after the set-up
are tagged "alone", and those to try things in, with no check, "yours". What a
reading means stands in the question's file ([name.seen]), so that no cell below
a question names its answer. lib/tests/test_notebooks.py holds all of it, and
lib/tests/kernel_names.py notes what the prose names of the kernel's source.
"""

from .cells import changed
from .compare import compare
from .course import course
from .lesson import Lesson
from .patches import patch

__all__ = ["Lesson", "changed", "compare", "course", "patch"]
