# SPDX-License-Identifier: MIT
"""All that is known of one part of a figure at one step, as (term, words).

Adds: an entry's address split into its table indices and its bits by name, at
every level of the tables; a VMA's flags in words, a frame's flags and whoever maps it, an anon_vma's
counts with what they count.
Leaves out: what belongs together (belonging.py), what is folded (inventory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from .. import entry as _entry
from ..diff import Steps
from ..model import PAGE_SHIFT, AnonVma, Mm, Page, Pte, RmapWalk, Table, Vma
from .parts import Box, Row, ref
from .strips import bytes_of

Detail = tuple[str, str]

#: So many of those that map a frame are named; its list has them all.
MOST = 4

#: What the bits of vm_flags say (include/linux/mm.h), by the names of kernel.py.
VM_WORDS = {
    "READ": "may be read", "WRITE": "may be written", "EXEC": "may be executed", "SHARED": "writes reach the others",
    "MAYREAD": "mprotect() may allow reading", "MAYWRITE": "mprotect() may allow writing",
    "MAYEXEC": "mprotect() may allow executing", "MAYSHARE": "a shared mapping", "GROWSDOWN": "grows down, as a stack",
    "UFFD_MISSING": "userfaultfd hears of missing pages", "PFNMAP": "frames without a struct page to count",
    "UFFD_WP": "userfaultfd hears of writes", "LOCKED": "mlock()ed: its pages stay in memory",
    "IO": "memory of a device",
    "SEQ_READ": "will be read in order", "RAND_READ": "will be read at random", "DONTCOPY": "fork() leaves it out",
    "DONTEXPAND": "mremap() may not enlarge it", "LOCKONFAULT": "locked page by page, as they are touched",
    "ACCOUNT": "counts towards Committed_AS", "NORESERVE": "no memory is set aside for it",
    "HUGETLB": "huge pages of hugetlbfs",
    "SYNC": "synchronous faults", "WIPEONFORK": "a child finds it empty", "DONTDUMP": "left out of core dumps",
    "SOFTDIRTY": "new since clear_refs", "MIXEDMAP": "frames with and without a struct page",
    "HUGEPAGE": "huge pages are wanted", "NOHUGEPAGE": "huge pages are not wanted",
    "MERGEABLE": "KSM may merge its pages",
    "FORKED": "was there at a fork, or comes from one (v3)",
    "SHADOW_STACK": "the processor's own stack of return addresses", "UFFD_MINOR": "userfaultfd hears of minor faults",
    "DROPPABLE": "may be dropped under pressure", "SEALED": "mseal()ed: cannot be unmapped or changed",
    **{f"PKEY_BIT{i}": "part of its protection key" for i in range(4)},
}
#: Bits that say nothing in an entry that names a table; _PAGE_TABLE (pgtable_types.h) sets them all the same.
_IGNORED = {"D": "of no effect here: the processor looks at it in entries that map memory"}
#: What the folio's flags say (include/linux/page-flags.h).
PAGE_WORDS = {
    "locked": "somebody works on it", "referenced": "used of late", "uptodate": "its content is valid",
    "dirty": "newer than its copy on disk", "lru": "on an LRU list", "active": "on the list of those in use",
    "workingset": "came back soon after it was evicted", "reserved": "not for the page allocator",
    "swapbacked": "goes to swap, not to a file", "unevictable": "cannot be reclaimed", "mlocked": "mlock()ed",
    "swapcache": "in the swap cache too", "writeback": "being written out", "reclaim": "to be reclaimed soon",
    "anon_exclusive": "belongs to one process alone", "hwpoison": "its memory is broken",
    "head": "head of a larger folio",
    "mappedtodisk": "has blocks on disk", "private": "has private data of its file system", "owner_2": "of its owner",
}
#: What an mm's counters count (struct mm_struct) and some of the machine's.
COUNTER_WORDS = {
    "total_vm": "pages of all VMAs", "locked_vm": "pages of mlock()ed VMAs", "pinned_vm": "pages pinned for good",
    "data_vm": "pages of private writable VMAs", "exec_vm": "pages of executable VMAs", "stack_vm": "pages of stacks",
    "map_count": "number of VMAs", "pgtables_bytes": "bytes of page tables", "rss_file": "mapped pages of files",
    "rss_anon": "mapped anonymous pages, each mapping counted", "rss_shmem": "mapped pages of shared memory",
    "swapents": "entries that name a swap slot", "Committed_AS": "pages promised to everybody",
    "pgfault": "page faults", "pgmajfault": "faults that had to wait for IO", "pgreuse": "writes that needed no copy",
    "pswpin": "pages read from swap", "pswpout": "pages written to swap", "pgfree": "pages freed",
}


class Details:
    """Looks things up in the snapshot of one step, by the refs of the parts that show them."""

    def __init__(self, steps: Steps, step: int, mapped: Callable[[int], dict[int, list[tuple[Mm, int]]]],
                 walk: RmapWalk | None = None) -> None:
        self.steps, self.step, self.at, self.walk = steps, step, steps.at[step], walk
        self.who, self.snapshot = steps.identity, steps.snapshots[step]
        self._mapped = mapped

    @cached_property
    def _things(self) -> dict[str, object]:
        return {ref(kind, key): thing for kind in ("mm", "vma", "anon_vma") for key, thing in
                self.who.at(kind, self.at).items()} | {
                    ref("link", key): (key, link) for key, link in self.who.links(self.at).items()} | {
                    ref("table", key): table for key, table in self.who.tables(self.at).items()}

    @cached_property
    def _frames(self) -> dict[int, list[tuple[Mm, int]]]:
        return self._mapped(self.step)

    def of(self, box: Box, row: Row) -> list[Detail]:
        """All that is known of a part."""
        first = row.refs[0]
        if row.cls == "fold":
            return []
        if row.cls == "visit" and self.walk is not None:
            return list(self._visit(first))
        if row.cls == "counter":
            name = row.seen[self.step].lines[0].split()[0]
            return [(name, COUNTER_WORDS[name])] if name in COUNTER_WORDS else []
        if row.cls == "pte":
            return list(self._entry(entry_at(self._things, first), len(row.refs)))
        if row.cls == "index":
            tables = (self._things.get(name) for name in row.refs)
            return [detail for table in tables if table for detail in self._index(table)]
        if first.startswith("page-"):
            return list(self._frame(self.snapshot.pages.get(int(first.split("-")[1], 16))))
        thing = self._things.get(first)
        say = {Vma: self._vma, AnonVma: self._anon_vma, Mm: self._mm, tuple: self._link}.get(type(thing))
        return list(say(thing)) if say else []

    def _name(self, kind: str, place: int) -> str:
        names = self.who.anon_vma_names if kind == "anon_vma" else self.who.mm_names
        return names.get(self.who.key(kind, self.at, place), f"{kind} {place:#x}")

    def _entry(self, pte: Pte | None, count: int) -> Iterator[Detail]:
        if pte is None:
            return
        more = f", the first of {count}" if count > 1 else ""
        yield "address", f"{pte.addr:#x}{more}"
        yield "its indices", split(pte.addr, pte.level)
        yield "the entry", f"{pte.raw:#018x}, at {pte.phys:#x}"
        yield from _entry.explain(pte.raw)
        if pte.present:
            yield "frame", f"{pte.pfn:#x}" + (f", {pte.size >> PAGE_SHIFT} pages" if pte.level != "pte" else "")
        else:
            yield pte.swap.kind, f"area {pte.swap.type}, offset {pte.swap.offset}"

    def _index(self, table: Table) -> Iterator[Detail]:
        """The entry that names a table."""
        yield "address", f"{table.start:#x}: the first that it leads to"
        yield "the entry", f"{table.raw:#018x}, at {table.parent:#x}"
        yield from ((bit, _IGNORED.get(bit, words)) for bit, words in _entry.explain(table.raw))
        yield "names", f"the {table.level} table at {table.phys:#x}"

    def _vma(self, vma: Vma) -> Iterator[Detail]:
        yield "range", (f"{vma.vm_start:#x}–{vma.vm_end:#x}, {_pages(vma)} ({bytes_of(vma.vm_end - vma.vm_start)})"
                        f" of {self._name('mm', vma.mm)}" + (f", {vma.name}" if vma.name else ""))
        yield "vm_start", split(vma.vm_start, "pte")
        yield "vm_pgoff", f"{vma.vm_pgoff:#x}: the page offset of vm_start"
        yield "->anon_vma", (f"{self._name('anon_vma', vma.anon_vma.addr)}: where its new pages go" if vma.anon_vma
                             else "none yet: no page was written")
        if vma.chain:
            yield "chain", "newest first: " + ", ".join(self._name("anon_vma", c.anon_vma) for c in vma.chain)
        yield "entries", self._count(vma)
        yield from ((flag, VM_WORDS.get(flag, "")) for flag in vma.flags)

    def _count(self, vma: Vma) -> str:
        mm = next(mm for mm in self.snapshot.mms if mm.addr == vma.mm)
        entries = [_entry.is_present(pte.raw) for pte in mm.entries.between(vma.vm_start, vma.vm_end)]
        return f"{sum(entries)} present, {len(entries) - sum(entries)} not present (swapped out, …)"

    def _frame(self, page: Page | None) -> Iterator[Detail]:
        if page is None:
            return
        yield "frame", f"{page.pfn:#x}, at {page.pfn << PAGE_SHIFT:#x}, {page.kind}"
        mappers = self._mappers(page.pfn)
        for mm, addresses in [*mappers.items()][:MOST]:
            twice = f" ({len(addresses)} times in one process)" if len(addresses) > 1 else ""
            yield "mapped by", f"{mm} at {', '.join(map(hex, addresses))}{twice}"
        if len(mappers) > MOST:
            yield "mapped by", f"{len(mappers) - MOST} more processes: Enter lists them"
        yield from frame_facts(page, self._name("anon_vma", page.anon_vma) if page.anon_vma else "")
        yield "index", f"{page.index:#x}: its page offset; it lies at vm_start + (index − vm_pgoff) × 4096"

    def _mappers(self, pfn: int) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for mm, addr in self._frames.get(pfn, ()):
            found.setdefault(self._name("mm", mm.addr), []).append(addr)
        return found

    def _anon_vma(self, av: AnonVma) -> Iterator[Detail]:
        yield "anon_vma", f"{self._name('anon_vma', av.addr)}, struct anon_vma at {av.addr:#x}"
        yield "root", ("itself" if av.is_root else
                       f"{self._name('anon_vma', av.root)}: its lock guards the whole tree of forks")
        yield "parent", "itself: a root has no other" if av.parent == av.addr else self._name("anon_vma", av.parent)
        yield "num_active_vmas", f"{av.num_active_vmas}: VMAs whose new pages go here"
        itself = " (a root counts itself)" if av.is_root else ""
        yield "num_children", f"{av.num_children}: anon_vmas whose parent it is{itself}"
        yield "refcount", f"{av.refcount}"
        yield "rb_root", f"an interval tree of {len(av.tree)} VMAs, by page offset"
        yield "rwsem", "held" if av.locked else "free"

    def _link(self, found: tuple) -> Iterator[Detail]:
        (vma, anon_vma), link = found
        yield "anon_vma_chain", (f"ties the VMA of {self._vma_name(vma)} to "
                                 f"{self.who.anon_vma_names.get(anon_vma, 'an anon_vma')}")
        yield "same_vma", "it is in the VMA's list" if link.in_chain else "it is not in the VMA's list"
        yield "rb", (f"it is in the interval tree, for page offsets {link.start:#x}–{link.last:#x}" if link.in_tree
                     else "it is not in the interval tree")

    def _vma_name(self, key: tuple) -> str:
        vma = self.who.at("vma", self.at).get(key)
        return f"{self._name('mm', vma.mm)} at {vma.vm_start:#x}" if vma else "a process that was not looked at"

    def _mm(self, mm: Mm) -> Iterator[Detail]:
        users = [t for t in (*self.snapshot.tasks, *self.snapshot.others) if t.mm.addr == mm.addr]
        for task in users:
            yield task.name, f"pid {task.pid}" + (f", {len(task.tids)} threads" if len(task.tids) > 1 else "")
        yield "mmap_lock", f"held for {mm.locked}" if mm.locked else "free"
        yield "pgd", f"at {mm.pgd:#x}"
        yield "tables", f"{len(mm.tables)} pages of page tables, {len(mm.entries)} entries that are not empty"
        yield "VMAs", f"{len(mm.vmas)}"

    def _visit(self, name: str) -> Iterator[Detail]:
        """The sum that the walk does in a VMA."""
        vma, page = self._things.get(name), self.snapshot.pages.get(self.walk.pfn)
        if vma is None or page is None:
            return
        there = vma.vm_start + ((page.index - vma.vm_pgoff) << PAGE_SHIFT)
        yield "where to look", "vm_start + (index − vm_pgoff) × 4096"
        yield f"= {there:#x}", f"{vma.vm_start:#x} + ({page.index:#x} − {vma.vm_pgoff:#x}) × 4096"
        for visit in self.walk.steps:
            if visit.vma == vma.addr:
                yield "hit" if visit.hit else "miss", visit.why


def frame_facts(page: Page, owner: str) -> Iterator[Detail]:
    """What frames may have in common. owner: what its anon_vma is called."""
    yield "mapcount", f"{page.mapcount}: entries that map it"
    yield "refcount", f"{page.refcount}: all that holds on to it"
    if owner:
        yield "mapping", f"{page.mapping:#x}: anon_vma {owner}, bit 0 says anonymous"
    yield from ((flag, PAGE_WORDS.get(flag, "")) for flag in page.flags)


def _pages(vma: Vma) -> str:
    return f"{vma.pages} page{'' if vma.pages == 1 else 's'}"


def split(addr: int, level: str) -> str:
    """Say an address as its table indices: "pgd 254 · pud 232 · pmd 225 · pte 0 · offset 0x0"."""
    at, span = _entry.indices(addr), _entry.LEVEL_SIZE[level]
    names = _entry.LEVELS[::-1][:4 - _entry.LEVELS.index(level)]
    return " · ".join([*(f"{name} {at[name]}" for name in names), f"offset {addr & (span - 1):#x}"])


def entry_at(things: dict[str, object], name: str) -> Pte | None:
    """The entry that a ref names."""
    mm, addr, level = name.removeprefix("entry-").rsplit("-", 2)
    found = things.get(f"mm-{mm}")
    pte = found.entries.at(int(addr, 16)) if isinstance(found, Mm) else None
    return pte if pte and pte.level == level else None
