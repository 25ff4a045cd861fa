# SPDX-License-Identifier: MIT
"""Where a function or a line of the kernel lies in its memory.

Adds: places by name, inlined functions among them (copy_pte_range() has no
symbol: it is part of copy_page_range()), from the image's debug information.
Leaves out: stopping there (stops.py).

    "copy_pte_range"                       its beginning, wherever it was inlined
    "copy_pte_range:1163"                  what was made of that line of it
    "copy_pte_range: copy_present_ptes("   the one line of it with that text, of those our patches show

Reading one file's debug information takes half a second, so it is said how far
that is, and answers are kept in the user's cache, by the image's digest.
"""

from __future__ import annotations

import bisect
import contextlib
import difflib
import json
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from elftools.elf.elffile import ELFFile

from .errors import UsageError
from .image import Image, cache, write_whole
from .model import Place
from .patches import Touched, touched

_PLACE = re.compile(r"^\s*(\w+)\s*(?::\s*(.*\S)\s*)?$")
_STT_FUNC = 2       # elf.h: a symbol's type, the low half of st_info
#: What the compiler adds to the name of a function that it changed; code it put apart (.cold) is no beginning.
_RENAMED = re.compile(r"(\.(isra|constprop|part)\.\d+)+$")


@dataclass
class Instance:
    """One copy of a function in the machine code. entry: None where it is inlined; ranges: [(from, to)]."""

    entry: int | None
    ranges: list[tuple[int, int]]

    def __contains__(self, address: int) -> bool:
        return any(start <= address < end for start, end in self.ranges)


@dataclass
class Function:
    """A function of one source file: the lines from its head to the next function's, and its copies."""

    name: str
    file: str
    line: int
    unit: object = field(repr=False)
    last: int = 0
    instances: list[Instance] = field(default_factory=list)


def find(image: Image, *texts: str, lacking: bool = False) -> list[Place]:
    """Return the places that these texts name (see above); lacking: leave out those that are not there.

    Raises UsageError for an unknown function, naming near ones, and for a line
    that the compiler made nothing of.
    """
    asked = [":".join(_parsed(text)) for text in texts]
    memory = cache() / f"places-{image.digest[:16]}.json"
    kept = json.loads(memory.read_text()) if memory.exists() else {}
    new = [key for key in asked if not (kept.get(key) or lacking and key in kept)]
    if new:
        with open(image.debug, "rb") as f:
            debug = Debug(f)
            for i, key in enumerate(new):
                _tell(f"\r[places] reading {image.name}'s debug information, kept from then on: "
                      f"{i + 1} of {len(new)}, {key.partition(':')[0]:<24}")
                kept[key] = None            # it is not there, unless it is found
                with contextlib.suppress(*[UsageError] if lacking else []):
                    kept[key] = _find(image.name, debug, *key.split(":", 1))
        _tell("\n")
        write_whole(memory, json.dumps(kept).encode())
    return [_place(image.name, *kept[key]) for key in asked if kept[key]]


def _tell(text: str) -> None:
    """Say on one line of stderr, written over and over, how far it is."""
    print(text, end="", file=sys.stderr, flush=True)


def _parsed(text: str) -> tuple[str, str]:
    match = _PLACE.match(text)
    if not match:
        raise UsageError(f"{text!r} is no place", "a place is a function's name, perhaps with a line",
                         'such as "copy_vma", "copy_pte_range:1163" or "copy_pte_range: copy_present_ptes("')
    return match[1], match[2] or ""


def _place(kernel: str, function: str, file: str, line: int, last: int, addresses: list[int]) -> Place:
    shown = touched(kernel).get(file)
    return Place(function, file, line, shown.patch(line, last) if shown else None, tuple(addresses))


def _find(kernel: str, debug: Debug, name: str, where: str) -> tuple[str, str, int, int, list[int]]:
    """Return function, file, first and last line of what is meant, and the addresses."""
    functions = debug.functions(name)
    if not functions:
        raise _unknown(name, debug)
    function = functions[0]
    if not where:
        entries = sorted({a for f in functions for a in debug.entries(f)})
        return name, function.file, function.line, function.last, entries
    line = int(where) if where.isdigit() else _line_with(where, function, touched(kernel).get(function.file))
    addresses = sorted({a for f in functions for a in debug.addresses(f, line)})
    if not addresses:
        raise UsageError(f"{function.file}:{line} is no place in {name}()",
                         f"the compiler made no instruction of its own of that line; {name}() is in lines "
                         f"{function.line} to {function.last}", "name a line near it")
    return name, function.file, line, line, addresses


def _line_with(text: str, function: Function, shown: Touched | None) -> int:
    """Return the one line of a function that has the text, of those that patches show."""
    found = [n for n, line, _ in shown.between(function.line, function.last) if text in line] if shown else []
    if len(found) == 1:
        return found[0]
    why = f"it is in lines {', '.join(map(str, found))}" if found else "no line that our patches show has it"
    raise UsageError(f"{text!r} is not one line of {function.name}()", why, f'name the line: "{function.name}:LINE"')


def _unknown(name: str, debug: Debug) -> UsageError:
    known = debug.symbols
    if name in known:
        return UsageError(f"{name}() has no debug information", f"it is at {known[name][0]:#x}, and none of its lines "
                          "is known", "name a function of mm/, or one that calls it")
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.7)
    why = "it may be a macro, or from a header and inlined everywhere"
    return UsageError(f"this kernel has no function {name}()", why,
                      f"did you mean {', '.join(near)}?" if near else "name the function that uses it, with a line")


class Debug:
    """The debug information of one kernel."""

    def __init__(self, file) -> None:
        self.elf = ELFFile(file)
        self.dwarf = self.elf.get_dwarf_info()
        self._tables: dict[int, dict[str, Function]] = {}
        self._statements: dict[int, list[tuple[int, int]]] = {}

    @cached_property
    def symbols(self) -> dict[str, list[int]]:
        """{name: addresses} of all functions, the compiler's additions to their names taken off."""
        names, found = self._section(".strtab"), {}
        for name, info, _, _, address, _ in struct.iter_unpack("<IBBHQQ", self._section(".symtab")):
            if info & 15 == _STT_FUNC:
                text = names[name:names.index(b"\0", name)].decode()
                found.setdefault(_RENAMED.sub("", text), []).append(address)
        return found

    def _section(self, name: str) -> bytes:
        return self.elf.get_section_by_name(name).data()

    def functions(self, name: str) -> list[Function]:
        """Return a function as each source file has it that makes code of it; a system call by its plain name too."""
        for known in (name, f"__x64_sys_{name}"):
            found = [f for unit in self._units_making(known) if (f := self._table(unit).get(known)) and f.instances]
            if found:
                return found
        return []

    def _units_making(self, name: str) -> list:
        """Return the units that may hold a function: of one with a symbol, those its code belongs to."""
        units, addresses = self._units_naming(name), self.symbols.get(name, [])
        return [unit for unit in units if not addresses or any(a in self._code(unit) for a in addresses)]

    def _code(self, unit) -> Instance:
        return Instance(None, list(self._ranges(unit.get_top_DIE(), unit)))

    def entries(self, function: Function) -> Iterator[int]:
        """Yield where each copy begins: an inlined one with what was made of the first of its lines.

        DW_AT_entry_pc names the lowest address instead, which may be code that was moved there. A copy that begins
        with a loop may be held at the loop's condition only, which it need not come to: there, name a line.
        """
        for instance in function.instances:
            rows = (row for row in self._rows(function, instance) if function.line <= row[0] <= function.last)
            first = min(rows, default=None) if instance.entry is None else (0, instance.entry)
            if first:
                yield first[1]

    def addresses(self, function: Function, line: int) -> Iterator[int]:
        """Yield where each copy of a function begins with what was made of a line."""
        for instance in function.instances:
            if inside := [address for n, address in self._rows(function, instance) if n == line]:
                yield min(inside)

    def _rows(self, function: Function, instance: Instance) -> list[tuple[int, int]]:
        """Return (line, address) where statements of the function's own file begin in one copy of it."""
        rows, unit = self._statements, function.unit
        if unit.cu_offset not in rows:
            own = self._own_file(unit)
            states = (entry.state for entry in self.dwarf.line_program_for_CU(unit).get_entries())
            rows[unit.cu_offset] = [(row.line, row.address) for row in states
                                    if row and row.is_stmt and not row.end_sequence and row.file in own]
        return [row for row in rows[unit.cu_offset] if row[1] in instance]

    def _own_file(self, unit) -> set[int]:
        """Return the numbers under which a unit's line table has the source file itself: entry 0, and its doubles."""
        files = self.dwarf.line_program_for_CU(unit)["file_entry"]
        first = (files[0].name, files[0].dir_index)
        return {i for i, entry in enumerate(files) if (entry.name, entry.dir_index) == first}

    def _units_naming(self, name: str) -> list:
        """Return the units in which something may have this name: its offset in .debug_str stands there somewhere.

        A name may be the end of a longer one in .debug_str: the linker folds them.
        """
        strings, info = (s.stream.getvalue() for s in (self.dwarf.debug_str_sec, self.dwarf.debug_info_sec))
        offsets = [m.start() for m in re.finditer(re.escape(name.encode()) + b"\0", strings)]
        places = [m.start() for at in offsets for m in re.finditer(re.escape(struct.pack("<I", at)), info, re.S)]
        return [self._units[i] for i in sorted({bisect.bisect_right(self._starts, p) - 1 for p in places})]

    @cached_property
    def _units(self) -> list:
        return list(self.dwarf.iter_CUs())

    @cached_property
    def _starts(self) -> list[int]:
        return [unit.cu_offset for unit in self._units]

    def _table(self, unit) -> dict[str, Function]:
        """Return the functions of one source file by name."""
        if unit.cu_offset not in self._tables:
            self._tables[unit.cu_offset] = dict(self._read(unit))
        return self._tables[unit.cu_offset]

    def _read(self, unit) -> Iterator[tuple[str, Function]]:
        top = unit.get_top_DIE()
        if top.tag != "DW_TAG_compile_unit":
            return
        file = top.attributes["DW_AT_name"].value.decode().removeprefix("./")
        copies = [die for die in unit.iter_DIEs() if die.tag in ("DW_TAG_subprogram", "DW_TAG_inlined_subroutine")]
        numbers = self._own_file(unit)
        own = {die.offset: function for die in copies if (function := _head(die, unit, file, numbers))}
        for die in copies:
            if (function := own.get(_origin(die))) and (instance := self._instance(die, unit)):
                function.instances.append(instance)
        _end(own.values())
        yield from ((f.name, f) for f in own.values())

    def _instance(self, die, unit) -> Instance | None:
        ranges = list(self._ranges(die, unit))
        low = die.attributes.get("DW_AT_low_pc")
        entry = None if die.tag == "DW_TAG_inlined_subroutine" else low.value if low else ranges and ranges[0][0]
        return Instance(entry, ranges) if ranges else None

    def _ranges(self, die, unit) -> Iterator[tuple[int, int]]:
        low, high = (die.attributes.get(name) for name in ("DW_AT_low_pc", "DW_AT_high_pc"))
        if low and high:
            yield low.value, high.value + (0 if high.form == "DW_FORM_addr" else low.value)
        elif ranges := die.attributes.get("DW_AT_ranges"):
            base = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
            entries = self.dwarf.range_lists().get_range_list_at_offset(ranges.value, unit)
            yield from _listed(entries, base.value if base else 0)


def _head(die, unit, file: str, numbers: set[int]) -> Function | None:
    """Return the function that a DIE defines in the file of these numbers, None for a copy or a mere declaration."""
    has = die.attributes
    if not {"DW_AT_name", "DW_AT_decl_line"} <= has.keys() or "DW_AT_declaration" in has:
        return None
    own = has["DW_AT_decl_file"].value in numbers
    return Function(has["DW_AT_name"].value.decode(), file, has["DW_AT_decl_line"].value, unit) if own else None


def _listed(entries: Iterable, base: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a range list, whose entries may be relative to a base that comes before them."""
    for entry in entries:
        if hasattr(entry, "base_address"):
            base = entry.base_address
        else:
            start = 0 if entry.is_absolute else base
            yield start + entry.begin_offset, start + entry.end_offset


def _origin(die) -> int:
    """Where the function is described whose copy this is: elsewhere for what is inlined, here for a plain one."""
    origin = die.attributes.get("DW_AT_abstract_origin")
    if origin is None:
        return die.offset
    return origin.value + (0 if origin.form == "DW_FORM_ref_addr" else die.cu.cu_offset)


def _end(functions: Iterable[Function]) -> None:
    """A function ends where the next one of its file begins."""
    order = sorted(functions, key=lambda f: f.line)
    for function, following in zip(order, [*order[1:], None]):
        function.last = following.line - 1 if following else function.line + 1000
