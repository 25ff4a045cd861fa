# SPDX-License-Identifier: MIT
"""What makes a notebook a lesson: predictions, exercises, patches, verdicts, progress.

    from pvmlab.lesson import Lesson, patch
    lesson = Lesson("05")
    lesson.predict("mapcount")
    lesson.reveal("mapcount", lambda before, after: after.page(pfn).mapcount, before, after)
    lesson.exercise("two pages").check(lab.look())
    patch("v2", 3, function="copy_pmd_range")
    lesson.verdict(15, "…", holds=…, evidence={"…": …}, seen=after)
"""

from .cells import changed
from .compare import compare
from .course import course
from .lesson import Lesson
from .patches import patch

__all__ = ["Lesson", "changed", "compare", "course", "patch"]
