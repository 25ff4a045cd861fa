# SPDX-License-Identifier: MIT
"""What the selftests print, as cases; two kernels held against each other; the table. No machine is started."""

from __future__ import annotations

import re
from datetime import date

import pytest

from pvmlab import image, selftests
from pvmlab.selftests import Case, Difference, Known, Run, differences, page, read, table

TAP = """\
TAP version 13
1..6
# Mremap: Returned address is 0x7faa40000000
ok 1 5MB mremap - Source 1MB-aligned
not ok 2 2GB mremap
ok 3 # XFAIL mremap - overlapping
	Expected mremap failure
ok 4 mdwe.arm64_BTI # SKIP HWCAP2_BTI not supported
# [RUN] vmsplice() + unmap ... with swapped-out page
ok 5 No leak from parent into child
# [RUN] R/O pin ... with memfd
ok 6 # SKIP gup_test not available
# Totals: pass:2 fail:1 xfail:1 xpass:0 skip:2 error:0
"""
UFFD = """\
Testing UFFDIO_API (with syscall)... done
Testing register-ioctls on hugetlb... skipped [reason: memory allocation failed]
Testing wp-fork on anon... failed [reason: wr-protect lost]
Userfaults unit tests: pass=1, skip=1, fail=1 (total=3)
"""
KHUGEPAGED = """\
Save THP and khugepaged settings... \x1b[32mOK\x1b[0m

Run test: collapse_full (khugepaged:anon)
Collapse multiple fully populated PTE table.... \x1b[32mOK\x1b[0m

Run test: collapse_swapin_single_pte (khugepaged:anon)
Swapout one page... \x1b[33mSkip\x1b[0m

Run test: collapse_fork (madvise:anon)
Share small page over fork()... \x1b[32mOK\x1b[0m
Check if parent still has huge page... \x1b[31mFail\x1b[0m
"""


def results(cases):
    return [case.result for case in cases]


def test_tap():
    found = read(TAP, 1)
    assert results(found) == ["pass", "fail", "xfail", "skip", "pass", "skip"]
    assert [case.name for case in found] == [
        "5MB mremap - Source 1MB-aligned", "2GB mremap", "mremap - overlapping", "mdwe.arm64_BTI",
        "vmsplice() + unmap ... with swapped-out page", "R/O pin ... with memfd"]


def test_the_counts_are_those_the_test_itself_says():
    """kselftest.h counts too."""
    said = dict(pair.split(":") for pair in TAP.splitlines()[-1].partition("Totals: ")[2].split())
    counted = results(read(TAP, 1))
    assert {word: counted.count(word) for word in selftests.RESULTS} == \
        {word: int(said[word]) for word in selftests.RESULTS}


def test_those_that_do_not_speak_tap():
    assert read(UFFD, 1) == (Case("UFFDIO_API (with syscall)", "pass"), Case("register-ioctls on hugetlb", "skip"),
                             Case("wp-fork on anon", "fail"))
    assert read(KHUGEPAGED, 1) == (Case("collapse_full (khugepaged:anon)", "pass"),
                                   Case("collapse_swapin_single_pte (khugepaged:anon)", "skip"),
                                   Case("collapse_fork (madvise:anon)", "fail"))


@pytest.mark.parametrize("status, result", [(0, "pass"), (4, "skip"), (1, "fail"), (127, "fail"), (-9, "fail")])
def test_one_that_tells_no_cases_is_one(status, result):
    assert read("Starting the writes:\n....\n", status) == (Case("the whole test", result),)


def test_an_end_that_no_case_speaks_of():
    assert results(read("ok 1 a\nok 2 b\n", -9)) == ["pass", "pass", "fail"]
    assert results(read("ok 1 a\nok 2 b\n", 1)) == ["pass", "pass", "fail"]
    assert results(read("ok 1 a\nnot ok 2 b\n", 1)) == ["pass", "fail"]
    assert results(read("ok 1 a\nok 2 # SKIP b\n", 4)) == ["pass", "skip"]


BASE = (Case("a", "pass"), Case("b", "skip"), Case("c", "fail"))


def test_the_same_is_no_difference():
    assert differences("v2", "t", BASE, BASE) == []


@pytest.mark.parametrize("other, found", [
    (("fail", "skip", "fail"), [("a", "pass", "fail")]),
    (("pass", "pass", "fail"), [("b", "skip", "pass")]),        # a skip that is none on the other
    (("pass", "skip", "pass"), [("c", "fail", "pass")]),        # better is different too
    (("pass", "skip"), [("c", "fail", "")]),
    (("pass", "skip", "fail", "pass"), [("d", "", "pass")]),
])
def test_what_differs(other, found):
    cases = [Case(name, result) for name, result in zip("abcd", other)]
    assert [(d.case, d.before, d.after) for d in differences("v2", "t", BASE, cases)] == found


def test_a_known_difference_is_of_one_kernel_test_case_and_result():
    worse = (Case("a", "fail"), *BASE[1:])

    def reason(kernel="v2", test="t", cases=worse):
        return differences(kernel, test, BASE, cases, [Known("v2", "t", "a|z.*", "fail", "why")])[0].why
    assert reason() == "why"
    assert reason(kernel="v3") == reason(test="u") == ""
    assert reason(cases=(Case("a", "skip"), *BASE[1:])) == ""
    assert reason(cases=(BASE[0], Case("b", "fail"), BASE[2])) == ""


def runs(v2):
    return {"t -x 1": {"base-selftests": Run(BASE, ""), "v2-selftests": Run(v2, "")}}


def test_the_table_counts_and_marks():
    row = "| `t -x 1` | 1 pass, 1 fail, 1 skip | 1 pass, 1 fail, 1 skip | same |"
    assert row in table(runs(BASE), []).splitlines()
    worse = (Case("a", "fail"), *BASE[1:])
    found = differences("v2", "t -x 1", BASE, worse)
    assert "| `t -x 1` | 1 pass, 1 fail, 1 skip | 2 fail, 1 skip | **differs** |" in table(runs(worse), found)
    known = [Difference("v2", "t -x 1", "a", "pass", "fail", "why")]
    assert "| known |" in table(runs(worse), known)


def test_the_page_has_reasons_and_the_rest():
    worse = (Case("a", "fail"), Case("b", "pass"), BASE[2])
    found = [Difference("v2", "t -x 1", "a", "pass", "fail", "It has to be."),
             Difference("v2", "t -x 1", "b", "skip", "pass")]
    text = page(runs(worse), found, ["base: Linux 6.12"], date(2019, 5, 20))
    assert "on 20 May 2019" in text and "`vm-image/kernel.config` and `vm-image/selftests.config`." in text
    assert "* It has to be.\n  * v2, `t -x 1`, pass → fail: a\n" in text
    assert text.index("## Others") < text.index("v2: t -x 1, b: skip on the unpatched kernel, pass here")


def test_the_page_says_which_configuration_was_measured():
    bundled = {"t": {"base": Run(BASE, ""), "v2": Run(BASE, "")}}
    text = page(bundled, [], ["v2: Linux 6.12"], date(2019, 5, 20))
    assert "built with `vm-image/kernel.config`. These are not the kernels that `make selftests` builds" in text


def test_the_page_names_what_was_not_measured():
    one = {selftests.TESTS[0].command: {"base": Run(BASE, ""), "v2": Run(BASE, "")}}
    missing = page(one, [], [], date(2019, 5, 20)).partition("Not measured this time: ")[2].splitlines()[0]
    assert missing == ", ".join(f"`{test.command}`" for test in selftests.TESTS[1:]) + "."


def test_many_known_differences_of_one_kind_are_counted():
    many = [Difference("v3", "t -x 1", str(n), "skip", "pass", "New.") for n in range(7)]
    assert "* New.\n  * v3, `t -x 1`, skip → pass: 7 cases\n" in page(runs(BASE), many, [], date(2019, 5, 20))


@pytest.mark.parametrize("whole, kept", [(True, True), (False, False)])
def test_the_status_and_the_file(tmp_path, monkeypatch, capsys, whole, kept):
    (tmp_path / "kernel-patches").mkdir()
    monkeypatch.setattr(selftests.image, "root", lambda: tmp_path)
    monkeypatch.setattr(selftests.image, "image", lambda kernel: type("I", (), {"release": "6.12"}))
    kernels = ["base-selftests", "v2-selftests"]
    assert selftests.report(kernels, runs(BASE), [], tmp_path, whole) == 0
    found = [Difference("v2", "t -x 1", "a", "pass", "fail")]
    assert selftests.report(kernels, runs(BASE), found, tmp_path, whole) == 1
    assert selftests.report(kernels, runs(BASE), [Difference(*["x"] * 5, "why")], tmp_path, whole) == 0
    assert (tmp_path / "kernel-patches" / "SELFTESTS.md").exists() == kept


def test_each_test_starts_with_what_it_needs():
    for test in selftests.TESTS:
        lines = selftests.script(test).splitlines()
        assert lines[0] == "#!/tmp/busybox sh" and lines[-1].endswith(f"./{test.command}")
        assert f"echo {test.hugepages} > /proc/sys/vm/nr_hugepages" in lines
    assert len({test.command for test in selftests.TESTS}) == len(selftests.TESTS)


def test_the_known_differences_are_of_tests_that_are_run():
    for known in selftests.KNOWN:
        assert known.test in {test.command for test in selftests.TESTS} and known.result in selftests.RESULTS
        assert known.kernel in map(selftests.short, selftests.KERNELS[1:]) and known.why.endswith(".")


def test_the_table_is_of_the_series_as_they_are():
    """Whoever adds a patch has to run `make selftests` again."""
    table = (image.root() / "kernel-patches" / "SELFTESTS.md").read_text()
    for series in ("v2", "v3"):
        assert re.search(rf"{series}: Linux \S+{selftests.with_patches(series)}[,;]", table)


def test_a_series_that_skips_its_own_test_is_found_out():
    base = [Case("pvm.moved", "skip"), Case("pvm.merged_by_mprotect", "skip")]
    assert [d.case for d in selftests.differences("v3", selftests._PVM, base, base)] == ["pvm.moved"]
    assert selftests.differences("v2", selftests._PVM, base, base) == []
