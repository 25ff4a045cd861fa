# SPDX-License-Identifier: MIT
"""An executable specification: what calls do to anonymous memory, in plain Python, for predicting and for checking.

    from pvmlab import spec
    world = spec.World("v2")
    server, consumer = world.tasks("server", "consumer")
    buf = server.mmap(pages=4); server.write(buf, b"hello")
    dst = consumer.process_vm_mmap(server, buf, pages=4)
    print(world.describe())

Adds: a model of mmap, munmap, mprotect, madvise, loads and stores, fork, exit and process_vm_mmap, with v3's move and
rules, on the private anonymous memory of small tasks: the VMAs with all merging and splitting, entries and frames, and
the anon_vma forest. Its tasks have the lab's method names, and look() gives the same Snapshot, so whatever reads one
reads the other: after - before, picture(), describe().
Leaves out: files, shared memory, swap, huge pages, KSM, limits, locks, and TLBs; a task has nothing but what it
mapped. What the kernel does with those, see on the kernel.

Each file is one file of the kernel, each function says which one of the kernel's (6.12) it stands for; the tests run
random programs on both and compare all that look() sees.
"""

from .describe import describe
from .world import Task, World

__all__ = ["Task", "World", "describe"]
