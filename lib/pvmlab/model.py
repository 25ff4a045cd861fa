# SPDX-License-Identifier: MIT
"""What was seen of the guest's kernel at one moment, as frozen values.

Adds: the nouns of every lesson. They carry the kernel's own names
(vm_start, anon_vma, num_active_vmas, …) and hold no live object: a Snapshot
can be kept, compared and drawn long after its machine is gone.
Leaves out: reading them from memory (kernel.py, pagetable.py, rmap.py),
comparing (diff.py), drawing (draw.py).

Identity. A kernel address or a PFN is only a place; the kernel hands places
out again. `born` is the stamp the kernel put on the thing when it was
allocated (page_owner for frames, SLUB's track for objects), so (place, born)
names one thing for its whole life. 0 means the kernel keeps no stamps.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from . import entry as _entry
from .errors import UsageError

if TYPE_CHECKING:
    from .diff import Diff

PAGE_SHIFT, PAGE_SIZE = _entry.PAGE_SHIFT, _entry.PAGE_SIZE


class Pte(NamedTuple):
    """One page-table entry that is not empty, at the level where the walk ended.

    addr:  first virtual address it translates
    raw:   its 64 bits
    phys:  physical address of the entry itself
    level: "pte", "pmd" or "pud"
    Source: arch/x86/include/asm/pgtable.h; the bits in entry.py.
    """

    addr: int
    raw: int
    phys: int
    level: str

    @property
    def size(self) -> int:
        """Bytes it translates."""
        return _entry.LEVEL_SIZE[self.level]

    @property
    def present(self) -> bool:
        return _entry.is_present(self.raw)

    @property
    def pfn(self) -> int | None:
        """Frame of its first page, or None when it is not present."""
        return _entry.pfn_of(self.raw) if self.present else None

    @property
    def swap(self) -> _entry.SwapEntry | None:
        return _entry.swap_of(self.raw)

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the bits that are set, such as ("P", "RW", "US", "A", "D")."""
        return _entry.flags_of(self.raw)

    @property
    def writable(self) -> bool:
        """Whether the processor would let a store through."""
        return "RW" in self.flags and self.raw & 1 == 1

    def pfn_at(self, addr: int) -> int | None:
        """Return the frame that `addr` translates to inside this entry, or None."""
        if self.pfn is None or not self.addr <= addr < self.addr + self.size:
            return None
        return self.pfn + ((addr - self.addr) >> PAGE_SHIFT)


class Entries:
    """The entries of one mm in address order: a frozen sequence of Pte."""

    __slots__ = ("_rows", "_addrs")

    def __init__(self, rows: Iterable[tuple[int, int, int, str]] = ()) -> None:
        self._rows = tuple(rows)
        self._addrs = [row[0] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Pte]:
        return (Pte(*row) for row in self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entries) and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} page-table entries>"

    def rows(self) -> tuple[tuple[int, int, int, str], ...]:
        """Return (addr, raw, phys, level) of every entry: quick to compare, nothing decoded."""
        return self._rows

    def at(self, addr: int) -> Pte | None:
        """Return the entry that translates `addr`, or None where nothing is."""
        i = bisect_right(self._addrs, addr) - 1
        if i < 0:
            return None
        found = Pte(*self._rows[i])
        return found if addr < found.addr + found.size else None

    def between(self, start: int, end: int) -> tuple[Pte, ...]:
        """Return the entries whose first address lies in [start, end), plus a huge one that covers `start`."""
        first = self.at(start)
        rows = self._rows[bisect_left(self._addrs, start):bisect_left(self._addrs, end)]
        inside = tuple(Pte(*row) for row in rows)
        return (first, *inside) if first and first.addr < start else inside


class Table(NamedTuple):
    """One page of a page table: what level, where it lies, what it spans.

    level: "pgd", "pud", "pmd" or "pte"; phys: physical address of the page;
    start: first virtual address it translates; parent: physical address of
    the entry that names it, raw: that entry's 64 bits (0 for the pgd).
    """

    level: str
    phys: int
    start: int
    parent: int
    raw: int = 0


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One anon_vma_chain: ties a VMA to an anon_vma (include/linux/rmap.h).

    addr, vma, anon_vma: kernel addresses; start, last: the page offsets under
    which the anon_vma's interval tree holds the VMA (vma_start_pgoff() and
    vma_last_pgoff(), mm/interval_tree.c).
    """

    addr: int
    vma: int
    anon_vma: int
    start: int
    last: int


@dataclass(frozen=True, slots=True)
class AnonVma:
    """struct anon_vma (include/linux/rmap.h).

    root and parent are kernel addresses (a root names itself). refcount,
    num_children (a root counts itself) and num_active_vmas (VMAs whose
    ->anon_vma is this one) are as read. `tree` is the interval tree, in
    order: every VMA that may map a page of this anon_vma. `locked` says
    that the root's rwsem was held.
    """

    addr: int
    born: int
    root: int
    parent: int
    refcount: int
    num_children: int
    num_active_vmas: int
    tree: tuple[ChainLink, ...]
    locked: bool = False

    @property
    def id(self) -> tuple[int, int]:
        return (self.addr, self.born)

    @property
    def is_root(self) -> bool:
        return self.root == self.addr


@dataclass(frozen=True, slots=True)
class Vma:
    """struct vm_area_struct (include/linux/mm_types.h).

    Addresses in bytes, vm_pgoff in pages; `flags` are the names of vm_flags'
    bits; `name` is the file's path, "[heap]", "[stack]", … or "" for plain
    anonymous memory, as /proc/PID/maps has it; `file` is the kernel address
    of the file's address_space, 0 without one. `chain` is the same_vma list,
    newest first; `anon_vma` is where its own new pages go.
    """

    addr: int
    born: int
    mm: int
    vm_start: int
    vm_end: int
    vm_flags: int
    flags: tuple[str, ...]
    vm_pgoff: int
    name: str
    anon_vma: AnonVma | None
    chain: tuple[ChainLink, ...]
    file: int = 0
    dev: str = "00:00"
    inode: int = 0

    @property
    def id(self) -> tuple[int, int]:
        return (self.addr, self.born)

    @property
    def pages(self) -> int:
        """Length in pages."""
        return (self.vm_end - self.vm_start) >> PAGE_SHIFT

    @property
    def prot(self) -> str:
        """The letters of /proc/PID/maps, such as "rw-p"."""
        has = self.flags.__contains__
        return (("r" if has("READ") else "-") + ("w" if has("WRITE") else "-")
                + ("x" if has("EXEC") else "-") + ("s" if has("MAYSHARE") else "p"))

    def __contains__(self, addr: int) -> bool:
        return self.vm_start <= addr < self.vm_end

    def address_of(self, index: int) -> int | None:
        """Return where a page with this index would lie in the VMA, or None.

        vma_address() in mm/internal.h: vm_start + ((index − vm_pgoff) << 12).
        """
        addr = self.vm_start + ((index - self.vm_pgoff) << PAGE_SHIFT)
        return addr if addr in self else None


@dataclass(frozen=True, slots=True)
class Mm:
    """struct mm_struct (include/linux/mm_types.h), with its VMAs and entries.

    pgd: physical address of the top table. counters: total_vm, locked_vm,
    pinned_vm, data_vm, exec_vm, stack_vm, map_count (pages or VMAs),
    pgtables_bytes, and rss_file, rss_anon, rss_shmem, swapents in pages.
    locked: "" or "read" or "write": who held mmap_lock when we looked.
    """

    addr: int
    born: int
    pgd: int
    vmas: tuple[Vma, ...]
    entries: Entries
    tables: tuple[Table, ...]
    counters: Mapping[str, int]
    locked: str = ""

    @property
    def id(self) -> tuple[int, int]:
        return (self.addr, self.born)

    def vma(self, addr: int) -> Vma | None:
        """Return the VMA that covers `addr`, or None."""
        starts = [v.vm_start for v in self.vmas]
        i = bisect_right(starts, addr) - 1
        return self.vmas[i] if i >= 0 and addr in self.vmas[i] else None


@dataclass(frozen=True, slots=True)
class Task:
    """One process of the guest that has memory (struct task_struct).

    start: nanoseconds of boot time at which it began, so that (pid, start)
    names it even when the pid comes round again. tids: its threads.
    """

    name: str
    pid: int
    start: int
    mm: Mm
    tids: tuple[int, ...] = ()

    @property
    def id(self) -> tuple[int, int]:
        return (self.pid, self.start)

    def vma(self, addr: int) -> Vma:
        """Return the VMA that covers `addr`; UsageError where nothing is mapped."""
        found = self.mm.vma(addr)
        if found is None:
            raise UsageError(f"{self.name} has no VMA at {addr:#x}", "nothing is mapped there",
                             f"its VMAs are in snapshot.task({self.name!r}).mm.vmas")
        return found

    def pte(self, addr: int) -> Pte | None:
        """Return the entry that translates `addr`, or None: never touched."""
        return self.mm.entries.at(addr)


class Page(NamedTuple):
    """struct page and the folio it belongs to (include/linux/mm_types.h).

    mapcount:  page-table entries that map this very page, huge ones included
               (folio_precise_page_mapcount(), include/linux/mm.h)
    refcount:  of the folio
    mapping:   folio->mapping, raw; index: page offset in it, of this page
    head:      PFN of the folio's first page; order: its size is 2^order pages
    exclusive: PG_anon_exclusive of this page
    kind:      "anon", "ksm", "file", "zero", "huge zero" or "other"
    flags:     names of the folio's page flags, lowest bit first
    """

    pfn: int
    born: int
    flags: tuple[str, ...]
    mapcount: int
    refcount: int
    mapping: int
    index: int
    exclusive: bool
    head: int
    order: int
    kind: str

    @property
    def id(self) -> tuple[int, int]:
        return (self.pfn, self.born)

    @property
    def anon_vma(self) -> int | None:
        """Kernel address of the anon_vma it belongs to (mapping without its low bits)."""
        return self.mapping & ~3 if self.kind == "anon" else None


@dataclass(frozen=True, slots=True)
class KsmItem:
    """One ksm_rmap_item of a KSM page (mm/ksm.c): where KSM itself merged it."""

    anon_vma: int
    mm: int
    address: int


class RmapStep(NamedTuple):
    """One VMA a reverse-map walk visits.

    vma: kernel address; mm: of its mm; tasks: names of the processes that use it;
    address: where the page would be in it (None: outside the VMA); hit: the
    entry there maps the page; why: in words.
    """

    vma: int
    mm: int
    tasks: tuple[str, ...]
    address: int | None
    hit: bool
    why: str


@dataclass(frozen=True, slots=True, repr=False)
class RmapWalk:
    """What rmap_walk() would do for one page (mm/rmap.c, mm/ksm.c).

    via: "anon", "ksm", "file" or "none" (zero pages and what has no rmap).
    start: kernel address of the anon_vma or file it begins at; name: what the
    lab calls that anon_vma, "" for what has no name. missed: (task name,
    address) of entries that map the page all the same.
    """

    pfn: int
    via: str
    start: int
    steps: tuple[RmapStep, ...]
    missed: tuple[tuple[str, int], ...] = ()
    name: str = ""

    def __str__(self) -> str:
        begin = f"{self.via} {self.name or hex(self.start)}" if self.start else self.via
        visits = (f"  {i}. {'hit ' if s.hit else 'miss'} {'/'.join(s.tasks) or 'nobody'}"
                  f"{f' at {s.address:#x}' if s.address is not None else ''}: {s.why}" for i, s in enumerate(self.steps, 1))
        missed = (f"  not found, yet mapped: {name} at {address:#x}" for name, address in self.missed)
        return "\n".join((f"frame {self.pfn:#x}, from {begin}: visited {len(self.steps)}, hit {len(self.hits)}",
                          *visits, *missed))

    def __repr__(self) -> str:
        return f"<RmapWalk: {str(self).splitlines()[0]}>"

    @property
    def hits(self) -> tuple[RmapStep, ...]:
        return tuple(s for s in self.steps if s.hit)

    @property
    def twice(self) -> tuple[str, ...]:
        """Names of processes in which the walk finds the page more than once."""
        mms = [s.mm for s in self.hits]
        return tuple(sorted({"/".join(s.tasks) for s in self.hits if mms.count(s.mm) > 1}))


class Patch(NamedTuple):
    """One of our patches: series ("v2"), its number of how many, and its subject."""

    series: str
    number: int
    count: int
    subject: str

    def __str__(self) -> str:
        return f"{self.series} {self.number}/{self.count}"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the kernel's code.

    function, file ("mm/memory.c"), line: file is "" and line 0 where the
    debug information does not reach. patch: the latest of ours that touched
    the line (of a whole function: any of its lines). addresses: where the
    machine code lies, more than one where a function was inlined more than once.
    """

    function: str
    file: str = ""
    line: int = 0
    patch: Patch | None = None
    addresses: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.function + (f" ({self.file}:{self.line})" if self.file else "")


@dataclass(frozen=True)
class Cpu:
    """What one CPU was at.

    task: its process's name; pid of the process, tid of the thread; mode:
    "user", "kernel" or "idle"; registers by gdb's names; stack: in the
    kernel, innermost place first; held: the stop that holds it, or None;
    waits: the lock it spins on, in words, "" where that is not known.
    """

    number: int
    task: str
    pid: int
    tid: int
    mode: str
    registers: Mapping[str, int]
    stack: tuple[Place, ...]
    held: Place | None = None
    waits: str = ""

    @property
    def spins(self) -> bool:
        """Whether it is in the code of a spinlock that somebody has."""
        return any("spin_lock" in place.function for place in self.stack[:3])

    def __str__(self) -> str:
        modes = {"kernel": "in the kernel", "user": "in user mode", "idle": "idle"}
        state = f"held at {self.held}" if self.held else modes[self.mode]
        task = f"{self.task}, " if self.mode != "idle" else ""
        return _stack_text(f"CPU {self.number}: {task}{state}", self.waits, self.stack)

    __repr__ = __str__

    def registers_text(self) -> str:
        """The registers as an oops prints them: three in a row, from rip on."""
        words = [f"{name.upper():>8}: {self.registers[name]:016x}" for name in _OOPS if name in self.registers]
        return "\n".join("".join(words[i:i + 3]) for i in range(0, len(words), 3))


#: The order of __show_regs(), arch/x86/kernel/process_64.c.
_OOPS = ("rip", "rsp", "eflags", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12",
         "r13", "r14", "r15")


@dataclass(frozen=True)
class Sleeper:
    """A task that sleeps in the kernel and cannot be woken by an ordinary signal; stack and waits as of a Cpu."""

    task: str
    tid: int
    stack: tuple[Place, ...]
    waits: str = ""

    def __str__(self) -> str:
        return _stack_text(f"{self.task}: asleep in the kernel", self.waits, self.stack)

    __repr__ = __str__


def _stack_text(head: str, waits: str, stack: tuple[Place, ...]) -> str:
    head += f", waiting for {waits}" if waits else ""
    return "\n".join([head, *(f"    {place}{f'  [{place.patch}]' if place.patch else ''}" for place in stack)])


@dataclass(frozen=True)
class Hang:
    """A call that does not end: where it was found, several times in the same place.

    call: as text; stuck: the Cpu that runs it or the Sleeper that waits in it;
    cpus: all of them; seen: the Snapshot of that moment, its locks in .held.
    """

    call: str
    stuck: Cpu | Sleeper
    cpus: tuple[Cpu, ...]
    seen: Snapshot

    def __str__(self) -> str:
        registers = f"\n{self.stuck.registers_text()}" if isinstance(self.stuck, Cpu) else ""
        return f"{self.call} does not end\n{self.stuck}{registers}"

    __repr__ = __str__


def _frozen(mapping: Mapping | None = None) -> Mapping:
    return MappingProxyType(dict(mapping or {}))


@dataclass(frozen=True)
class Snapshot:
    """All that one look() saw. Nothing in it changes any more.

    tasks:     the processes the lab named, oldest first
    others:    further processes with memory (PID 1, unnamed children)
    pages:     {pfn: Page} for every frame an entry of theirs maps
    anon_vmas: {kernel address: AnonVma}, all that is reachable
    files:     {kernel address of an address_space: VMAs in its i_mmap, in order}
    ksm:       {pfn: KsmItems} for KSM pages
    counters:  the machine's: vmstat event and zone names, Committed_AS, memcg …
    kernel:    release string; held: locks that were held ("mmap_lock of server: write")
    label:     what the figure calls this step
    place:     where in a call it was taken, for the frames of a film
    anon_vma_names: {(address, born): what its lab calls an anon_vma since it first saw it}; empty without a lab.
               A name is nothing the kernel has: snapshots are equal without it
    """

    tasks: tuple[Task, ...]
    others: tuple[Task, ...] = ()
    pages: Mapping[int, Page] = field(default_factory=_frozen)
    anon_vmas: Mapping[int, AnonVma] = field(default_factory=_frozen)
    files: Mapping[int, tuple[int, ...]] = field(default_factory=_frozen)
    ksm: Mapping[int, tuple[KsmItem, ...]] = field(default_factory=_frozen)
    counters: Mapping[str, int] = field(default_factory=_frozen)
    kernel: str = ""
    held: tuple[str, ...] = ()
    label: str = ""
    place: Place | None = None
    anon_vma_names: Mapping[tuple[int, int], str] = field(default_factory=_frozen, compare=False, repr=False)

    def task(self, name: str) -> Task:
        """Return the task of that name; UsageError with the names there are."""
        for task in (*self.tasks, *self.others):
            if task.name == name:
                return task
        names = ", ".join(t.name for t in self.tasks) or "none"
        raise UsageError(f"no task is called {name!r}", f"this snapshot has {names}",
                         "a task that had exited when the snapshot was taken is not in it")

    def page(self, pfn: int | None) -> Page:
        """Return the page of a frame; UsageError if no entry mapped it at that moment."""
        if pfn in self.pages:
            return self.pages[pfn]
        raise UsageError(f"frame {pfn if pfn is None else hex(pfn)} is not in this snapshot",
                         "no page-table entry of these processes mapped it",
                         "take the PFN from an entry: snapshot.task(...).pte(addr).pfn")

    def anon_vma(self, addr: int) -> AnonVma:
        """Return the anon_vma at a kernel address; UsageError if there is none."""
        if addr in self.anon_vmas:
            return self.anon_vmas[addr]
        raise UsageError(f"no anon_vma at {addr:#x}", "none of these VMAs' chains leads there")

    def vma_at(self, addr: int) -> Vma | None:
        """Return the VMA whose vm_area_struct is at a kernel address, or None."""
        return next((v for mm in self.mms for v in mm.vmas if v.addr == addr), None)

    @property
    def mms(self) -> tuple[Mm, ...]:
        """Each mm once, although several tasks may share it."""
        return tuple({t.mm.addr: t.mm for t in (*self.tasks, *self.others)}.values())

    def users(self, mm: int) -> tuple[str, ...]:
        """Return the names of the processes that use the mm at a kernel address."""
        return tuple(t.name for t in (*self.tasks, *self.others) if t.mm.addr == mm)

    def mapped(self, pfn: int) -> tuple[tuple[Mm, int], ...]:
        """Return (mm, address) of every entry that maps the frame, found without any rmap."""
        return tuple((mm, e.addr + ((pfn - e.pfn) << PAGE_SHIFT)) for mm in self.mms for e in mm.entries
                     if e.present and e.pfn <= pfn < e.pfn + (e.size >> PAGE_SHIFT))

    def __sub__(self, before: Snapshot) -> Diff:
        """`after - before`: what changed between two looks (diff.py)."""
        from .diff import Diff  # here, because diff imports the model
        return Diff(before, self) if isinstance(before, Snapshot) else NotImplemented

    def rmap(self, pfn: int) -> RmapWalk:
        """Return what a reverse-map walk for the frame visits and finds (rmap.py)."""
        from .rmap import walk  # here, because rmap imports the model
        return walk(self, pfn)
