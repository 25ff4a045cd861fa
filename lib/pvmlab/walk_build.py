# SPDX-License-Identifier: MIT
"""Builds pvmlab._walk from walk.c, by cffi in API mode (setup.py names this file)."""

from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).parent
_DECLARATIONS = (_HERE / "walk.h").read_text()

ffibuilder = FFI()
ffibuilder.cdef(_DECLARATIONS)
ffibuilder.set_source("pvmlab._walk", '#include <stdint.h>\n#include "walk.c"', include_dirs=[str(_HERE)],
                      extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"])

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(_HERE.parent), verbose=True)
