# SPDX-License-Identifier: MIT
"""What the 64 bits of an x86-64 page-table entry say.

Adds: the decoding of leaf entries, present or not, as names.
Leaves out: walking the tables (pagetable.py) and entries of other machines.
The bits are the processor's and arch/x86's own; no debug information has
them, so they stand here as tables, and the tests hold them against what the
guest's /proc/PID/pagemap says.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
#: Bytes that one entry of each level translates, lowest level first.
LEVEL_SIZE = {"pte": 1 << 12, "pmd": 1 << 21, "pud": 1 << 30, "p4d": 1 << 39, "pgd": 1 << 39}
LEVELS = ("pte", "pmd", "pud", "pgd")

#: arch/x86/include/asm/pgtable_types.h, _PAGE_BIT_*
PRESENT_BITS = {
    0: ("P", "present"),
    1: ("RW", "writable"),
    2: ("US", "user may access"),
    3: ("PWT", "write-through"),
    4: ("PCD", "cache disabled"),
    5: ("A", "accessed"),
    6: ("D", "dirty"),
    7: ("PSE", "huge page (at pmd and pud level)"),
    8: ("G", "global; in an entry that is not present: PROT_NONE"),
    9: ("SPECIAL", "handled as if it had no struct page"),
    10: ("UFFD_WP", "userfaultfd write-protect"),
    11: ("SOFT_DIRTY", "written since clear_refs"),
    57: ("DEVMAP", "device memory"),
    58: ("SAVED_DIRTY", "dirty, kept while read-only"),
    63: ("NX", "no execute"),
}
_PRESENT, _RW, _PSE, _PROTNONE = 1 << 0, 1 << 1, 1 << 7, 1 << 8
_PFN_MASK = ((1 << 52) - 1) & ~(PAGE_SIZE - 1)

#: arch/x86/include/asm/pgtable_64.h: an entry that is not present.
#:   63..59 type | 58..9 ~offset | 3 exclusive | 2 uffd-wp | 1 soft-dirty
_SWP_TYPE_SHIFT, _SWP_OFFSET_SHIFT = 59, 9
_SWP_OFFSET_MASK = (1 << 50) - 1
SWAP_BITS = {
    1: ("SOFT_DIRTY", "written since clear_refs"),
    2: ("UFFD_WP", "userfaultfd write-protect"),
    3: ("EXCLUSIVE", "the page belonged to this process alone"),
}
#: include/linux/swap.h: types past the swap files, with CONFIG_MIGRATION and
#: CONFIG_MEMORY_FAILURE and without CONFIG_DEVICE_PRIVATE.
SPECIAL_SWAP_TYPES = {
    27: "hwpoison",
    28: "migration, read",
    29: "migration, read, exclusive",
    30: "migration, write",
    31: "marker",
}


def is_present(raw: int) -> bool:
    """Whether the kernel counts the entry as present (pte_present(): P or PROT_NONE)."""
    return bool(raw & (_PRESENT | _PROTNONE))


def is_huge(raw: int) -> bool:
    """Whether a pmd or pud entry maps memory itself instead of naming a table (pmd_leaf())."""
    return is_present(raw) and bool(raw & _PSE)


def pfn_of(raw: int) -> int:
    """Return the page frame number a present entry names.

    A PROT_NONE entry (not present for the processor) has its frame bits
    inverted against L1TF: arch/x86/include/asm/pgtable-invert.h.
    """
    if not raw & _PRESENT:  # of a huge one only the bits from 2 MiB up: pfn_pmd() clears those below
        raw = ~raw & -LEVEL_SIZE["pmd"] if raw & _PSE else ~raw
    return (raw & _PFN_MASK) >> PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class SwapEntry:
    """A swap entry as it stands in a page table (include/linux/swapops.h).

    type:   index of the swap area, or a special type
    offset: page slot in that area (in a migration entry: the PFN)
    kind:   "swap", or the special type's name
    """

    type: int
    offset: int
    kind: str


def swap_of(raw: int) -> SwapEntry | None:
    """Decode an entry that is neither empty nor present; None for the others."""
    if not raw or is_present(raw):
        return None
    kind = raw >> _SWP_TYPE_SHIFT
    offset = (~raw >> _SWP_OFFSET_SHIFT) & _SWP_OFFSET_MASK
    return SwapEntry(kind, offset, SPECIAL_SWAP_TYPES.get(kind, "swap"))


def flags_of(raw: int) -> tuple[str, ...]:
    """Return the names of the bits that are set, lowest bit first."""
    table = PRESENT_BITS if is_present(raw) else SWAP_BITS
    return tuple(name for bit, (name, _) in table.items() if raw >> bit & 1)


def explain(raw: int) -> tuple[tuple[str, str], ...]:
    """Return (name, meaning) of every bit that is set, lowest bit first."""
    table = PRESENT_BITS if is_present(raw) else SWAP_BITS
    return tuple(row for bit, row in table.items() if raw >> bit & 1)


def indices(addr: int) -> dict[str, int]:
    """Split a virtual address into its four table indices and the byte offset."""
    at = {level: addr >> (12 + 9 * i) & 511 for i, level in enumerate(LEVELS)}
    return {**at, "offset": addr & (PAGE_SIZE - 1)}
