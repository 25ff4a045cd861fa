# SPDX-License-Identifier: MIT
"""What the course's prose says about the kernel's source, held against the source.

    python lib/tests/kernel_names.py /path/to/linux-source-6.12

writes kernel-names.txt: for every function, structure and file of the kernel
that the notebooks name, where the source has it. The tests read that file, for
they have no source. Run it when a notebook names something new, on the
tarball that kernel-patches/BASE names, unpacked and without our patches.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INDEX = HERE / "kernel-names.txt"
FOLDERS = ("mm", "kernel", "fs", "include", "arch/x86", "lib")
_FILE = re.compile(r"`((?:mm|kernel|fs|include|arch|lib|Documentation|tools)/[\w./-]+\.\w+)`")
_CALL = re.compile(r"`([a-z_][a-z_0-9]*)\(\)`")
_STRUCT = re.compile(r"`(struct [a-z_0-9]+)`")
#: "`name()` in `file`", with a link around the name or without.
_IN = re.compile(r"`([\w ]+?)(?:\(\))?`\]?(?:\([^)]*\))? (?:in|\()? ?`((?:mm|kernel|fs|include|arch|lib)/[\w./-]+)`")
#: What begins a definition at the begin of a line; a call is indented.
_DEFINES = re.compile(r"^(?:SYSCALL_DEFINE\d\((\w+)|#define (\w+)\("
                      r"|(?:[A-Za-z_][\w \t*]*[ \t*])?(\w+)\((?!.*;\s*$)|(struct \w+) \{"
                      r"|typedef .*\b(\w+);|.*\} (\w+_t);)", re.M)


def prose() -> dict[str, str]:
    """{where it stands: text} of all that a learner reads: notebooks, questions, exercises."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        found[path.name] = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for path in sorted((ROOT / "lib/pvmlab/lesson").glob("questions/*.toml")):
        found[path.name] = path.read_text()
    return found


def files(text: str) -> set[str]:
    return set(_FILE.findall(text))


def names(text: str) -> set[str]:
    """Functions and structures that a text names."""
    return set(_CALL.findall(text)) | set(_STRUCT.findall(text))


def places(text: str) -> set[tuple[str, str]]:
    """(name, file) of all that a text says to be in a file."""
    return set(_IN.findall(text))


def base() -> str:
    """The version of the source, as kernel-patches/BASE has it."""
    return re.search(r"^version=(.*)$", (ROOT / "kernel-patches/BASE").read_text(), re.M)[1]


def index() -> tuple[str, dict[str, set[str]], set[str]]:
    """The version that kernel-names.txt is of, {name: files that define it}, and the files."""
    version, *lines = INDEX.read_text().splitlines()
    where, there = defaultdict(set), set()
    for line in lines:
        name, *of = line.split("\t")
        where[name] |= set(of)
        there |= set(of) or {name}
    return version, where, there


def main(source: Path) -> None:
    text = "\n\n".join(prose().values())
    wanted, defined = names(text) | {name for name, _ in places(text)}, defaultdict(set)
    for path in (p for folder in FOLDERS for p in (source / folder).rglob("*.[ch]")):
        for found in _DEFINES.findall(path.read_text(errors="replace")):
            for name in wanted & set(found):
                defined[name].add(path.relative_to(source).as_posix())
    rows = ["\t".join([name, *sorted(of)]) for name, of in defined.items()]
    rows += [name for name in files(text) if (source / name).exists()]
    INDEX.write_text("\n".join([base(), *sorted(rows)]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
