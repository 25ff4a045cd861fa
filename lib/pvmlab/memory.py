# SPDX-License-Identifier: MIT
"""The guest's physical memory, read at memory speed.

Adds: bounds, and the C walk's view of the same bytes.
Leaves out: what the bytes mean (kernel.py, pagetable.py).
"""

from __future__ import annotations

import mmap
import struct

from ._walk import ffi, lib
from .errors import MachineDied


class Memory:
    """The RAM of one machine, byte 0 at physical address 0.

    ram: anything with the buffer protocol; `bytes` in tests, the shared mapping in a lab.
    """

    def __init__(self, ram: mmap.mmap | bytes | bytearray) -> None:
        self.ram = ram
        self.size = len(ram)
        self.pointer = ffi.from_buffer("uint8_t[]", ram, require_writable=False)

    def read(self, phys: int, size: int) -> bytes:
        """Return `size` bytes at a physical address. Raises MachineDied outside the RAM."""
        if not 0 <= phys <= self.size - size:
            raise MachineDied(f"physical address {phys:#x} is not in RAM", f"the machine has {self.size:#x} bytes",
                              "the kernel's structures look damaged: start a new Lab")
        return self.ram[phys:phys + size]

    def u64(self, phys: int) -> int:
        """Return the little-endian 64-bit word at a physical address."""
        return struct.unpack("<Q", self.read(phys, 8))[0]

    def translate(self, pgd: int, addr: int) -> int | None:
        """Return the physical address behind a virtual one, None where nothing is mapped.

        pgd: physical address of the top table.
        """
        found = lib.pvm_translate(self.pointer, self.size, pgd, addr)
        return None if found < 0 else found

    def close(self) -> None:
        """Let go of the mapping, so that it can be unmapped."""
        ffi.release(self.pointer)
