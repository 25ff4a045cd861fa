# SPDX-License-Identifier: MIT
"""One consistent picture of the guest's kernel: a Snapshot.

Adds: putting together what kernel.py, pagetable.py and rmap.py read, for every
process with memory, while the machine stands still.
Leaves out: stopping it (lab.py) and comparing (diff.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from drgn import Object, cast
from drgn.helpers.linux.cgroup import cgroup_path, css_for_each_descendant_pre
from drgn.helpers.linux.list import hlist_for_each_entry

from . import pagetable
from .entry import LEVEL_SIZE, PAGE_SIZE, is_present, pfn_of
from .kernel import Kernel
from .model import AnonVma, Entries, KsmItem, Mm, Page, Place, Snapshot, Task


def look(kernel: Kernel, names: Mapping[int, str], label: str = "", place: Place | None = None,
         inside: bool = False) -> Snapshot:
    """Read everything once. The machine must stand still.

    names: {pid: name} of the processes a lesson speaks of; the others are
    called by their comm. label: what figures call this moment; place: where
    in a call it is. inside: name the page-table locks that are held, too.
    """
    anon_vmas: dict[int, AnonVma] = {}
    mms: dict[int, Mm] = {}
    tasks = sorted((_task(kernel, t, names, mms, anon_vmas) for t in kernel.tasks()), key=lambda t: t.id[::-1])
    named = tuple(t for t in tasks if t.pid in names)
    pages = _pages(kernel, mms.values())
    held = (*_held(named, mms, anon_vmas), *(_held_tables(kernel, named, mms) if inside else ()))
    return Snapshot(named, tuple(t for t in tasks if t.pid not in names), _fixed(pages), _fixed(anon_vmas),
                    _fixed(_files(kernel, mms.values())), _fixed(_ksm(kernel, pages)), _fixed(_counters(kernel)),
                    kernel.release, held, label, place)


def _fixed(found: dict) -> Mapping:
    return MappingProxyType(found)


def _task(kernel: Kernel, task: Object, names: Mapping[int, str], mms: dict[int, Mm],
          anon_vmas: dict[int, AnonVma]) -> Task:
    """Read one process; its mm is read once, however many share it."""
    pid, mm = task.pid.value_(), task.mm.read_()
    if mm.value_() not in mms:
        mms[mm.value_()] = _mm(kernel, mm, anon_vmas)
    name = names.get(pid) or task.comm.string_().decode(errors="replace")
    return Task(name, pid, task.start_boottime.value_(), mms[mm.value_()], kernel.threads(task))


def _mm(kernel: Kernel, mm: Object, anon_vmas: dict[int, AnonVma]) -> Mm:
    pgd = kernel.memory.translate(kernel.pgd, mm.pgd.value_())
    entries, tables = pagetable.quick_walk(kernel.memory, pgd)
    vmas = tuple(kernel.vma(vma, anon_vmas) for vma in kernel.vmas(mm))
    return Mm(mm.value_(), kernel.born(mm), pgd, vmas, entries, tables, _fixed(kernel.mm_counters(mm)),
              kernel.rwsem(mm.mmap_lock))


def _pages(kernel: Kernel, mms: Iterable[Mm]) -> dict[int, Page]:
    """Read the struct page of every frame that some entry maps."""
    pfns = {pfn for mm in mms for pfn in _frames(mm.entries)}
    zero, huge_zero = kernel.zero_frames()
    flag_names = (kernel.page_flags, kernel.anon_page_flags)
    found = pagetable.pages(kernel.memory, kernel.layout, flag_names, zero, huge_zero, sorted(pfns))
    return {page.pfn: page for page in found}


def _frames(entries: Entries) -> Iterator[int]:
    """Yield the frames that present entries map; the rows are not made into Ptes for it, there are thousands."""
    for _, raw, _, level in entries.rows():
        if is_present(raw):
            yield from (pfn_of(raw),) if level == "pte" else range(pfn_of(raw), pfn_of(raw) + LEVEL_SIZE[level] // PAGE_SIZE)


def _files(kernel: Kernel, mms: Iterable[Mm]) -> dict[int, tuple[int, ...]]:
    mappings = {vma.file for mm in mms for vma in mm.vmas if vma.file}
    return {mapping: kernel.file_tree(mapping) for mapping in mappings}


def _ksm(kernel: Kernel, pages: Mapping[int, Page]) -> dict[int, tuple[KsmItem, ...]]:
    return {page.pfn: tuple(_ksm_items(kernel, page)) for page in pages.values() if page.kind == "ksm"}


def _ksm_items(kernel: Kernel, page: Page) -> Iterator[KsmItem]:
    """Read the rmap_items of a KSM page: folio_stable_node(), then its hlist (mm/ksm.c)."""
    node = Object(kernel.prog, "struct ksm_stable_node", address=page.mapping & ~3)
    for item in hlist_for_each_entry("struct ksm_rmap_item", node.hlist.address_of_(), "hlist"):
        yield KsmItem(item.anon_vma.value_(), item.mm.value_(), item.address.value_() & ~0xFFF)


def _counters(kernel: Kernel) -> dict[str, int]:
    """The machine's counters, and "memcg:/path memory" and "… swap" in pages for each cgroup but the root."""
    found = kernel.counters()
    root = kernel.prog["root_mem_cgroup"].css.address_of_()
    for css in css_for_each_descendant_pre(root):
        memcg = cast("struct mem_cgroup *", css)
        path = cgroup_path(css.cgroup).decode()
        if path != "/":
            found[f"memcg:{path} memory"] = memcg.memory.usage.counter.value_()
            found[f"memcg:{path} swap"] = memcg.swap.usage.counter.value_()
    return found


def _held(named: tuple[Task, ...], mms: Mapping[int, Mm], anon_vmas: Mapping[int, AnonVma]) -> Iterator[str]:
    """Say which locks were held: what they guard may be half done."""
    for mm in mms.values():
        if mm.locked:
            yield f"mmap_lock of {_owners(named, mm)}: {mm.locked}"
    for root in sorted({av.root for av in anon_vmas.values() if av.locked}):
        yield anon_vma_lock(root)


def anon_vma_lock(root: int, name: str = "") -> str:
    """Say which anon_vma's rwsem is held: by what its lab calls it, where that is known."""
    return f"rwsem of {name}" if name else f"rwsem of the anon_vma at {root:#x}"


def _held_tables(kernel: Kernel, named: tuple[Task, ...], mms: Mapping[int, Mm]) -> Iterator[str]:
    """Name the page tables whose spinlock is held (pte_lockptr() and pmd_lockptr(), include/linux/mm.h)."""
    for mm in mms.values():
        if kernel.spinlock(mm.addr + kernel.mm_table_lock):
            yield f"page_table_lock of {_owners(named, mm)}"
        for table in mm.tables:
            if table.level in ("pte", "pmd") and kernel.spinlock(kernel.table_lock(table.phys)):
                yield f"lock of {_owners(named, mm)}'s {table.level} table for {table.start:#x}"


def _owners(named: tuple[Task, ...], mm: Mm) -> str:
    return "/".join(t.name for t in named if t.mm.addr == mm.addr) or f"an mm at {mm.addr:#x}"
