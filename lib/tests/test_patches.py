# SPDX-License-Identifier: MIT
"""Whose line is it: random edits made into patches, and the lines kept beside them as the answer."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmlab.image import patch_series
from pvmlab.model import Patch
from pvmlab.patches import Touched, touched
from pvmlab.series import hunks

EDITS = st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4),
                 min_size=1, max_size=4)


@given(EDITS)
def test_each_line_has_its_last_patch(series):
    text = [(f"line {i}", None) for i in range(40)]
    shown = Touched()
    for number, edits in enumerate(series, 1):
        patch, old = Patch("v", number, len(series), ""), text
        for at, cut, put in edits:
            text = [*text[:at], *((f"{number}.{at}.{i}", patch) for i in range(put)), *text[at + cut:]]
        diff = difflib.unified_diff([t for t, _ in old], [t for t, _ in text], lineterm="", n=3)
        shift = 0
        for hunk in hunks("diff --git a/f b/f\n" + "\n".join(diff)):
            shown.apply(hunk.before + shift, hunk, patch)
            shift += hunk.grows
    known = list(shown.between(1, len(text)))
    assert [(t, bool(p)) for n, t, p in known] == [(text[n - 1][0], bool(text[n - 1][1])) for n, _, _ in known]
    new = {n for n, (_, p) in enumerate(text, 1) if p}
    assert new <= {n for n, _, _ in known}
    assert all(shown.text(n) == text[n - 1][0] for n in new)


@pytest.mark.parametrize("kernel", ["v2", "v3"])
def test_our_own_patches_are_understood(kernel):
    files = touched(kernel)
    whole = files["mm/memory.c"].patch(1, 10**6)
    assert (whole.series, whole.number <= whole.count) == (kernel if kernel == "v2" else whole.series, True)
    head = next(n for n, text, _ in files["mm/mmap.c"].between(1, 10**6)
                if text.startswith("unsigned long mmap_process_vm("))
    assert files["mm/mmap.c"].patch(head, head).series in patch_series(kernel)
    assert files["mm/memory.c"].patch(1, 5) is None


def test_the_unpatched_kernel_has_nothing_of_ours_and_a_debug_kernel_all_of_its_own():
    assert patch_series("base") == () and touched("base") == {}
    assert patch_series("v3-debug") == patch_series("v3") == ("v2", "v3")
