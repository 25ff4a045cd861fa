# SPDX-License-Identifier: MIT
"""The kernel's own structures, read from outside: tasks, mms, VMAs, anon_vmas.

Adds: one reader a structure, with the kernel's names; drgn and the image's
debug information say where each member lies.
Leaves out: page tables and struct pages (pagetable.py), the reverse map
(rmap.py), one consistent picture of all (look.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import drgn
from drgn import Object, Program
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import for_each_vma, vma_name
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

from ._walk import ffi
from .errors import ImageError
from .memory import Memory
from .model import AnonVma, ChainLink, Vma

#: include/linux/mm.h: VM_*. Macros leave no trace in debug information, so they stand here, and the
#: tests hold them against the VmFlags line of /proc/PID/smaps.
VM_FLAGS = {
    0: "READ", 1: "WRITE", 2: "EXEC", 3: "SHARED", 4: "MAYREAD", 5: "MAYWRITE", 6: "MAYEXEC", 7: "MAYSHARE",
    8: "GROWSDOWN", 9: "UFFD_MISSING", 10: "PFNMAP", 12: "UFFD_WP", 13: "LOCKED", 14: "IO", 15: "SEQ_READ",
    16: "RAND_READ", 17: "DONTCOPY", 18: "DONTEXPAND", 19: "LOCKONFAULT", 20: "ACCOUNT", 21: "NORESERVE",
    22: "HUGETLB", 23: "SYNC", 25: "WIPEONFORK", 26: "DONTDUMP", 27: "SOFTDIRTY", 28: "MIXEDMAP", 29: "HUGEPAGE",
    30: "NOHUGEPAGE", 31: "MERGEABLE", 32: "PKEY_BIT0", 33: "PKEY_BIT1", 34: "PKEY_BIT2", 35: "PKEY_BIT3",
    37: "SHADOW_STACK", 38: "UFFD_MINOR", 40: "DROPPABLE", 41: "FORKED", 63: "SEALED",
}
#: arch/x86/include/asm/page_64_types.h: where the kernel's image is mapped, without KASLR.
_START_KERNEL_MAP, _IMAGE_SPAN = 0xFFFFFFFF80000000, 512 << 20
#: vm.Config allows no machine more RAM than this.
_MOST_RAM = 2 << 30
#: arch/x86/include/asm/sparsemem.h: a section of the memory map spans 2^27 bytes.
_PFNS_PER_SECTION = 1 << (27 - 12)
#: include/linux/mm_types.h: the order of mm->rss_stat.
_RSS = ("rss_file", "rss_anon", "swapents", "rss_shmem")


class Kernel:
    """One kernel's debug information, pointed at the memory of a machine that runs it.

    debug: ELF file with symbols and DWARF; symbols: virtual addresses of
    init_top_pgt, vmcoreinfo_data and vmcoreinfo_size (from the manifest).
    Raises ImageError when they do not fit each other. Loading takes some 0.2 s,
    so one Kernel serves all machines of an image, one after the other: at(), under `lock`.

    prog: the drgn Program, for probes of one's own: lab.kernel.prog["init_mm"].
    """

    def __init__(self, debug: Path, symbols: dict[str, int], memory: Memory) -> None:
        self.memory, self.lock = memory, threading.RLock()
        self.pgd = symbols["init_top_pgt"] - _START_KERNEL_MAP
        self.prog = Program(drgn.Platform(drgn.Architecture.X86_64, drgn.PlatformFlags.IS_64_BIT
                                          | drgn.PlatformFlags.IS_LITTLE_ENDIAN))
        self.prog.add_memory_segment(0, 1 << 52, self._read, physical=True)
        self.prog.set_linux_kernel_custom(self._vmcoreinfo(symbols), True)
        self._add_direct_map(symbols["vmcoreinfo_data"])
        try:
            self.prog.load_debug_info([str(debug)], main=True)
            self.layout = _layout(self)
            self._vmstat = _vmstat_names(self.prog)
        except (LookupError, drgn.MissingDebugInfoError) as e:
            raise ImageError(f"the debug information in {debug} does not fit the kernel", str(e).splitlines()[0],
                             "git checkout vm-image/prebuilt, or `make image`") from e
        self.page_flags, self.anon_page_flags = _page_flags(self.prog)
        ptdesc, mm = self.prog.type("struct ptdesc"), self.prog.type("struct mm_struct")
        self._vmemmap, self._ptdesc_size = self.prog["vmemmap"].value_(), drgn.sizeof(self.prog.type("struct page"))
        self._ptdesc_lock = drgn.offsetof(ptdesc, "ptl")
        self.mm_table_lock = drgn.offsetof(mm, "page_table_lock")

    def at(self, memory: Memory) -> Kernel:
        """Point it at another machine of the same image."""
        if memory is not self.memory:
            self.memory = memory
            self.prog.cache.clear()  # what drgn's helpers remembered of the machine before
        return self

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Serve drgn from the RAM; every segment begins at physical address 0."""
        if offset + count > self.memory.size:
            raise drgn.FaultError("not in the machine's RAM", address)
        return self.memory.read(offset, count)

    def _add_direct_map(self, pointer: int) -> None:
        """Let drgn read the direct map and the kernel's image without walking page tables for each read.

        pointer: of a variable that points into the direct map; the tables say where that map begins.
        """
        page = self._word(pointer)
        phys = self.memory.translate(self.pgd, page)
        if phys is not None:
            self.prog.add_memory_segment(page - phys, _MOST_RAM, self._read)
            self.prog.add_memory_segment(_START_KERNEL_MAP, _IMAGE_SPAN, self._read)

    def _vmcoreinfo(self, symbols: dict[str, int]) -> bytes:
        """Read what the kernel says of itself (kernel/vmcore_info.c)."""
        page = self._word(symbols["vmcoreinfo_data"])
        text = self.memory.translate(self.pgd, page) if page else None
        if text is None:
            raise ImageError("the kernel in memory is not the image's", "there is no vmcoreinfo where it should be",
                             "start a new Lab; if it comes again, `make image`")
        return self.memory.read(text, self._word(symbols["vmcoreinfo_size"]))

    def _word(self, address: int) -> int:
        return self.memory.u64(address - _START_KERNEL_MAP)

    def syscall_name(self, number: int) -> str:
        """Return the function behind a system call's number, as "process_vm_mmap", or "" beyond the table.

        Source: sys_call_table, arch/x86/entry/syscall_64.c.
        """
        table = self.prog.symbol("sys_call_table")
        if not 0 <= number < table.size // 8:
            return ""
        return self.prog.symbol(self.prog.read_u64(table.address + 8 * number)).name.removeprefix("__x64_sys_")

    # --- processes ---

    def tasks(self) -> Iterator[Object]:
        """Yield the thread group leaders that have user memory (init_task.tasks, include/linux/sched/signal.h)."""
        for task in list_for_each_entry("struct task_struct", self.prog["init_task"].tasks.address_of_(), "tasks"):
            if task.mm:
                yield task

    def threads(self, task: Object) -> tuple[int, ...]:
        """Return the thread ids of a process, oldest first (signal->thread_head)."""
        head = task.signal.thread_head.address_of_()
        return tuple(t.pid.value_() for t in list_for_each_entry("struct task_struct", head, "thread_node"))

    def cpus(self) -> list[int]:
        """Return the numbers of the CPUs that are online."""
        return _online_cpus(self.prog)

    def current(self, cpu: int) -> Object:
        """Return the task_struct that a CPU runs (rq->curr, kernel/sched/sched.h)."""
        return per_cpu(self.prog["runqueues"], cpu).curr.read_()

    def mm_counters(self, mm: Object) -> dict[str, int]:
        """Return what the mm counts of itself, in pages, VMAs (map_count) or bytes (pgtables_bytes).

        mm->rss_stat are percpu counters: summed here over every CPU.
        """
        counts = {name: getattr(mm, name).value_() for name in ("total_vm", "locked_vm", "data_vm", "exec_vm", "stack_vm")}
        counts |= {"pinned_vm": mm.pinned_vm.counter.value_(), "map_count": mm.map_count.value_(),
                   "pgtables_bytes": mm.pgtables_bytes.counter.value_()}
        return counts | {name: _percpu_sum(mm.rss_stat[i]) for i, name in enumerate(_RSS)}

    # --- locks ---

    def rwsem(self, sem: Object) -> str:
        """Say who holds a rw_semaphore: "", "read" or "write" (kernel/locking/rwsem.c, RWSEM_WRITER_LOCKED)."""
        count = sem.count.counter.value_()
        return "write" if count & 1 else "read" if count >> 8 > 0 else ""

    def spinlock(self, address: int) -> bool:
        """Whether a spinlock_t at a kernel address is held (include/asm-generic/qspinlock_types.h: the low byte)."""
        return bool(self.memory_at(address) & 0xFF)

    def table_lock(self, phys: int) -> int:
        """Return the kernel address of the spinlock of a page table (struct ptdesc, include/linux/mm_types.h)."""
        return self._vmemmap + (phys >> 12) * self._ptdesc_size + self._ptdesc_lock

    # --- VMAs and anon_vmas ---

    def vma(self, vma: Object, anon_vmas: dict[int, AnonVma]) -> Vma:
        """Read one vm_area_struct; `anon_vmas` is filled with all that its chain leads to."""
        flags = vma.vm_flags.value_()
        chain = tuple(self._links(vma))
        for link in chain:
            self._anon_vma_into(anon_vmas, link.anon_vma)
        file, own = vma.vm_file.read_(), vma.anon_vma.value_()
        dev, inode, mapping = _file(file) if file else ("00:00", 0, 0)
        return Vma(vma.value_(), self.born(vma), vma.vm_mm.value_(), vma.vm_start.value_(), vma.vm_end.value_(), flags,
                   flag_names(flags), vma.vm_pgoff.value_(), _name(vma, file),
                   self._anon_vma_into(anon_vmas, own) if own else None, chain, mapping, dev, inode)

    def vmas(self, mm: Object) -> Iterator[Object]:
        """Yield the VMAs of an mm in address order (mm->mm_mt)."""
        return for_each_vma(mm)

    def _links(self, vma: Object) -> Iterator[ChainLink]:
        """Yield a VMA's chain, newest first (vma->anon_vma_chain, linked by same_vma)."""
        head = vma.anon_vma_chain.address_of_()
        for avc in list_for_each_entry("struct anon_vma_chain", head, "same_vma"):
            yield _link(avc)

    def _anon_vma_into(self, known: dict[int, AnonVma], address: int) -> AnonVma:
        """Read an anon_vma and everything above it into `known`; return it."""
        if address in known:
            return known[address]
        known[address] = self.anon_vma(address)
        for above in (known[address].parent, known[address].root):
            if above:
                self._anon_vma_into(known, above)
        return known[address]

    def anon_vma(self, address: int) -> AnonVma:
        """Read one struct anon_vma and its interval tree (anon_vma->rb_root, by vm_pgoff)."""
        av = Object(self.prog, "struct anon_vma", address=address)
        tree = rbtree_inorder_for_each_entry("struct anon_vma_chain", av.rb_root.rb_root.address_of_(), "rb")
        return AnonVma(address, self.born(av.address_of_()), av.root.value_(), av.parent.value_(),
                       av.refcount.counter.value_(), av.num_children.value_(), av.num_active_vmas.value_(),
                       tuple(_link(avc) for avc in tree), bool(self.rwsem(av.root.rwsem)))

    def file_tree(self, mapping: int) -> tuple[int, ...]:
        """Return the VMAs of a file, in the order of its i_mmap tree (fs/inode.c, struct address_space)."""
        root = Object(self.prog, "struct address_space", address=mapping).i_mmap.rb_root.address_of_()
        return tuple(v.value_() for v in rbtree_inorder_for_each_entry("struct vm_area_struct", root, "shared.rb"))

    # --- stamps ---

    def born(self, pointer: Object) -> int:
        """Return when SLUB handed an object out, in jiffies; 0 without stamps (mm/slub.c, struct track).

        The track lies behind the object, where get_info_end() says.
        """
        at = self._tracks.get(pointer.type_.type.tag)
        return self.memory_at(pointer.value_() + at) if at else 0

    def memory_at(self, address: int) -> int:
        """Return the 64-bit word at a kernel virtual address; 0 where nothing is mapped."""
        phys = self.memory.translate(self.pgd, address)
        return self.memory.u64(phys) if phys is not None else 0

    @property
    def release(self) -> str:
        """What uname -r says in the guest."""
        return self.prog["UTS_RELEASE"].string_().decode()

    def zero_frames(self) -> tuple[int, int]:
        """Return the frames of the zero page and of the huge zero page (-1: not allocated)."""
        huge = self.prog["huge_zero_pfn"].value_()
        return self.prog["zero_pfn"].value_(), -1 if huge >= 1 << 52 else huge

    @property
    def jiffies(self) -> int:
        return self.prog["jiffies_64"].value_() & (1 << 64) - 1

    @property
    def _tracks(self) -> dict[str, int]:
        """Offset of the allocation stamp behind an object, by the struct's name; only caches that keep tracks."""
        if "pvmlab_tracks" not in self.prog.cache:
            self.prog.cache["pvmlab_tracks"] = dict(_find_tracks(self.prog))
        return self.prog.cache["pvmlab_tracks"]

    # --- the machine's counters ---

    def counters(self) -> dict[str, int]:
        """Return vm_event and zone and node counters by their names in /proc/vmstat, and Committed_AS in pages."""
        committed = max(_percpu_sum(self.prog["vm_committed_as"]), 0)
        return {"Committed_AS": committed, **_events(self.prog, self._vmstat), **_zone_counters(self.prog, self._vmstat)}


# --- single structures ------------------------------------------------------------------------------------------------

def flag_names(vm_flags: int) -> tuple[str, ...]:
    """Return the names of vm_flags' bits, lowest first."""
    return tuple(name for bit, name in VM_FLAGS.items() if vm_flags >> bit & 1)


def _link(avc: Object) -> ChainLink:
    """Read one anon_vma_chain; start and last as avc_start_pgoff() and avc_last_pgoff() (mm/interval_tree.c)."""
    vma = avc.vma.read_()
    start, pages = vma.vm_pgoff.value_(), (vma.vm_end.value_() - vma.vm_start.value_()) >> 12
    return ChainLink(avc.value_(), vma.value_(), avc.anon_vma.value_(), start, start + pages - 1)


def _file(file: Object) -> tuple[str, int, int]:
    """Return ("major:minor", inode number, kernel address of the address_space) of a struct file."""
    inode = file.f_inode.read_()
    dev = inode.i_sb.s_dev.value_()
    return f"{dev >> 20:02x}:{dev & 0xFFFFF:02x}", inode.i_ino.value_(), file.f_mapping.value_()


def _name(vma: Object, file: Object) -> str:
    """Return what /proc/PID/maps calls a VMA: d_path() (fs/d_path.c) for a file, with what it adds to deleted ones."""
    if not file:
        return vma_name(vma).decode(errors="replace")
    dentry = file.f_path.dentry.read_()
    if dentry.d_op and dentry.d_op.d_dname:  # simple_dname(): a memfd, shared anonymous memory
        return f"/{dentry.d_name.name.string_().decode(errors='replace')} (deleted)"
    unlinked = not dentry.d_hash.pprev and dentry.d_parent != dentry
    return vma_name(vma).decode(errors="replace") + (" (deleted)" if unlinked else "")


def _find_tracks(prog: Program) -> Iterator[tuple[str, int]]:
    """Yield (struct name, offset of track.when) for each slab cache that has SLAB_STORE_USER set."""
    store_user = 1 << prog.constant("_SLAB_STORE_USER").value_()
    when = prog.type("struct track").member("when").bit_offset // 8
    for s in list_for_each_entry("struct kmem_cache", prog["slab_caches"].address_of_(), "list"):
        if s.flags.value_() & store_user:
            outside = s.offset.value_() >= s.inuse.value_()
            yield s.name.string_().decode(), s.inuse.value_() + (8 if outside else 0) + when


def _events(prog: Program, names: list[str]) -> dict[str, int]:
    """vm_event_states, summed over the CPUs (all_vm_events(), mm/vmstat.c)."""
    count = prog.constant("NR_VM_EVENT_ITEMS").value_()
    states = [per_cpu(prog["vm_event_states"], cpu).event.read_() for cpu in _online_cpus(prog)]
    sums = (sum(int(s[i]) for s in states) & (1 << 64) - 1 for i in range(count))
    found = dict(zip(names[-count:], sums))
    return found | {name: found[name] // 2 for name in ("pgpgin", "pgpgout")}  # sectors to kB, as vmstat_start()


def _zone_counters(prog: Program, names: list[str]) -> dict[str, int]:
    """vm_zone_stat and vm_node_stat: what is flushed from the CPUs' own differences (mm/vmstat.c)."""
    zone, node = prog["vm_zone_stat"].read_(), prog["vm_node_stat"].read_()
    found = {name: value.counter.value_() for name, value in zip(names, zone)}
    return found | {name: value.counter.value_() for name, value in zip(names[names.index("nr_inactive_anon"):], node)}


def _vmstat_names(prog: Program) -> list[str]:
    """The lines of /proc/vmstat, in order: zones, NUMA events, nodes, two or more limits, events (vmstat_text)."""
    return [name.string_().decode() for name in prog["vmstat_text"]]


def _online_cpus(prog: Program) -> list[int]:
    """The CPUs of __cpu_online_mask. drgn's own helper takes just one where nr_cpu_ids has no debug information."""
    mask = prog["__cpu_online_mask"].bits[0].value_()
    return [cpu for cpu in range(64) if mask >> cpu & 1]


def _percpu_sum(counter: Object) -> int:
    """A struct percpu_counter's exact value: percpu_counter_sum() (lib/percpu_counter.c)."""
    cpus = _online_cpus(counter.prog_)
    return counter.count.value_() + sum(per_cpu_ptr(counter.counters, cpu)[0].value_() for cpu in cpus)


def _page_flags(prog: Program) -> tuple[dict[int, str], dict[int, str]]:
    """Return {bit: name} of page->flags, for any page and for anonymous ones.

    Several names share a bit (include/linux/page-flags.h): the first is the
    general one; two of the owner's bits mean something on anonymous memory.
    """
    names: dict[int, str] = {}
    every = prog.type("enum pageflags").enumerators
    for name, bit in every[:[name for name, _ in every].index("__NR_PAGEFLAGS")]:
        names[bit] = name.removeprefix("PG_")
    aliases = {bit: name.removeprefix("PG_") for name, bit in every if name in ("PG_swapcache", "PG_anon_exclusive")}
    return names, names | aliases


def _layout(kernel: Kernel) -> object:
    """Collect for walk.c where the members of struct page, folio and page_ext lie."""
    prog = kernel.prog
    def off(type_name: str, member: str) -> int:
        return drgn.offsetof(prog.type(type_name), member)
    bits = {name: bit for name, bit in prog.type("enum pageflags").enumerators}
    layout = ffi.new("struct pvm_layout *", dict(
        kernel_pgd=kernel.pgd, vmemmap=prog["vmemmap"].value_(), page_size=drgn.sizeof(prog.type("struct page")),
        flags=off("struct page", "flags"), mapping=off("struct page", "mapping"), index=off("struct page", "index"),
        refcount=off("struct page", "_refcount"), mapcount=off("struct page", "_mapcount"),
        compound_head=off("struct page", "compound_head"), entire_mapcount=off("struct folio", "_entire_mapcount"),
        folio_order=off("struct folio", "_flags_1"), head_bit=bits["PG_head"],
        exclusive_bit=bits["PG_anon_exclusive"]))
    _stamps_into(layout, prog, off)
    return layout


def _stamps_into(layout, prog: Program, off) -> None:
    """Add where page_owner keeps its stamps, if it was switched on (mm/page_owner.c)."""
    if not prog["page_owner_inited"].key.enabled.counter.value_():
        return
    layout.ext_size = prog["page_ext_size"].value_()
    layout.ext_stamp = prog["page_owner_ops"].offset.value_() + off("struct page_owner", "ts_nsec")
    layout.ext_sections = prog["mem_section"][0].value_()
    layout.ext_section_size = drgn.sizeof(prog.type("struct mem_section"))
    layout.ext_in_section = off("struct mem_section", "page_ext")
    layout.pfns_per_section = _PFNS_PER_SECTION
