# SPDX-License-Identifier: MIT
"""Only what pyproject.toml cannot say: the C walk is built by cffi."""

from setuptools import setup

setup(cffi_modules=["pvmlab/walk_build.py:ffibuilder"])
