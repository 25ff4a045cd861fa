# SPDX-License-Identifier: MIT
"""Small made-up worlds: Snapshots for the tests of what needs no machine.

Adds: World, which keeps VMAs, entries and anon_vmas consistent as a kernel
would (mapcounts, chains, trees and table pages follow from what is mapped),
and the standard worlds of the lessons built with it.
Leaves out: the kernel's rules. What a call does is done here by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pvmlab.entry import LEVEL_SIZE, LEVELS, PAGE_SIZE, is_present, pfn_of
from pvmlab.model import (AnonVma, ChainLink, Entries, Mm, Page, RmapStep, RmapWalk, Snapshot, Table, Task, Vma)

P, RW, US, A, D, PSE, NX = 1, 2, 4, 32, 64, 128, 1 << 63
DATA = P | RW | US | A | D | NX
READ = P | US | A | NX
HEAP = 0x7F3A1C200000
VM = {"r": "READ", "w": "WRITE", "x": "EXEC", "s": "MAYSHARE"}


@dataclass
class Area:
    """A VMA that can still change; anon_vma and chain hold names of anon_vmas."""

    addr: int
    born: int
    start: int
    end: int
    prot: str = "rw-p"
    name: str = ""
    pgoff: int | None = None
    anon_vma: str = ""
    chain: list[str] = field(default_factory=list)
    file: int = 0


class World:
    """Processes and their memory, changed step by step; `look()` freezes it."""

    def __init__(self, stamps: bool = True) -> None:
        self.stamps, self._next = stamps, 0
        self.areas: dict[str, list[Area]] = {}
        self.entries: dict[str, dict[int, tuple[int, str]]] = {}
        self.pids: dict[str, tuple[int, int, int]] = {}
        self.anon_vmas: dict[str, tuple[int, int, str, str]] = {}
        self.frames: dict[int, tuple[int, str, int]] = {}
        self.exclusive: set[int] = set()
        self.counters = {"pgfault": 100, "pgalloc_normal": 50}

    def stamp(self) -> int:
        """A number for the next thing that is allocated."""
        self._next += 1
        return self._next if self.stamps else 0

    def object(self, size: int = 0x100) -> int:
        """A kernel address for the next structure."""
        self._count = getattr(self, "_count", 0) + 1
        return 0xFFFF888003000000 + self._count * size

    def task(self, name: str) -> World:
        """Start a process with a program, a stack and a vdso."""
        self.areas[name], self.entries[name] = [], {}
        self.pids[name] = (60 + len(self.pids), 10_000 * (1 + len(self.pids)), self.stamp())
        file = 0xFFFF888004000000
        for start, pages, prot, what in ((0x400000, 20, "r-xp", "/bin/agent"), (0x415000, 2, "rw-p", "/bin/agent"),
                                         (0x7FFC10000000, 33, "rw-p", "[stack]"), (0x7FFC10100000, 4, "r--p", "[vvar]"),
                                         (0x7FFC10104000, 2, "r-xp", "[vdso]")):
            self.mmap(name, start, pages, prot, what, file if what[0] == "/" else 0)
        return self

    def mmap(self, task: str, start: int, pages: int, prot: str = "rw-p", name: str = "", file: int = 0) -> Area:
        """Add a VMA to a process."""
        area = Area(self.object(), self.stamp(), start, start + pages * PAGE_SIZE, prot, name, file=file)
        self.areas[task].append(area)
        return area

    def new_anon_vma(self, name: str, parent: str = "") -> None:
        """Make an anon_vma; a root when it has no parent."""
        root = self.anon_vmas[parent][2] if parent else name
        self.anon_vmas[name] = (self.object(), self.stamp(), root, parent or name)

    def touch(self, task: str, area: Area, first_pfn: int = 0x1A2B, flags: int = DATA) -> None:
        """Fault in every page of an anonymous VMA, as writes would."""
        if not area.anon_vma:
            self.new_anon_vma(f"av {task} {area.start:x}")
            area.anon_vma = f"av {task} {area.start:x}"
            area.chain = [area.anon_vma]
        for i in range((area.end - area.start) // PAGE_SIZE):
            addr = area.start + i * PAGE_SIZE
            self.put(task, addr, first_pfn + i, flags)
            self.frames[first_pfn + i] = (self.stamp(), area.anon_vma, addr >> 12)
            self.exclusive.add(first_pfn + i)

    def put(self, task: str, addr: int, pfn: int, flags: int = DATA, level: str = "pte") -> None:
        """Write one entry."""
        self.entries[task][addr] = (pfn << 12 | flags, level)

    def share(self, source: str, area: Area, target: str, start: int, pages: int | None = None) -> Area:
        """Do what the call does: a VMA on the same anon_vma, entries copied, both sides read-only."""
        pages = pages or (area.end - area.start) // PAGE_SIZE
        made = self.mmap(target, start, pages)
        made.pgoff, made.anon_vma, made.chain = area.start >> 12, area.anon_vma, list(area.chain)
        self.copy(source, area.start, target, start, pages)
        return made

    def copy(self, source: str, src: int, target: str, dst: int, pages: int) -> None:
        """Copy entries and take the write permission from both sides."""
        for i in range(pages):
            raw, level = self.entries[source].get(src + i * PAGE_SIZE, (0, ""))
            if raw:
                for task, addr in ((source, src), (target, dst)):
                    self.entries[task][addr + i * PAGE_SIZE] = (raw & ~RW, level)
                self.exclusive.discard(pfn_of(raw))

    def split(self, task: str, area: Area, page: int) -> None:
        """Unmap one page in the middle, as munmap() does: both sides are new VMAs."""
        cut = area.start + page * PAGE_SIZE
        low = replace(area, addr=self.object(), born=self.stamp(), end=cut, chain=list(area.chain))
        high = replace(area, addr=self.object(), born=self.stamp(), start=cut + PAGE_SIZE, chain=list(area.chain),
                       pgoff=area.pgoff and area.pgoff + page + 1)
        self.areas[task].remove(area)
        self.areas[task] += [low, high]
        self.entries[task].pop(cut, None)

    def fork(self, parent: str, child: str) -> None:
        """Do what fork() does to anonymous VMAs: clone the chain, add an anon_vma of the child's own."""
        self.areas[child], self.entries[child] = [], {}
        self.pids[child] = (60 + len(self.pids), 10_000 * (1 + len(self.pids)), self.stamp())
        for area in self.areas[parent]:
            mine = replace(area, addr=self.object(), born=self.stamp(), chain=list(area.chain))
            self.areas[child].append(mine)
            if area.anon_vma:
                mine.anon_vma = f"av {child} {area.start:x}"
                self.new_anon_vma(mine.anon_vma, area.anon_vma)
                mine.chain = [mine.anon_vma, *area.chain]
                self.copy(parent, area.start, child, area.start, (area.end - area.start) // PAGE_SIZE)

    def exit(self, task: str) -> None:
        """End a process; its anon_vmas stay as long as a VMA's chain leads there."""
        del self.areas[task], self.entries[task], self.pids[task]

    # Freezing

    def look(self, label: str = "") -> Snapshot:
        """Return what a look() at this world would see."""
        trees = {name: tuple(self._link(a, name) for areas in self.areas.values() for a in areas if name in a.chain)
                 for name in self.anon_vmas}
        avs = {name: self._anon_vma(name, trees[name]) for name in self.anon_vmas if trees[name]}
        tasks = tuple(self._task(name, avs) for name in self.pids)
        return Snapshot(tasks, pages=self._pages(), anon_vmas={av.addr: av for av in avs.values()},
                        counters=dict(self.counters), kernel="6.12.0-test", label=label)

    def _anon_vma(self, name: str, tree: tuple[ChainLink, ...]) -> AnonVma:
        addr, born, root, parent = self.anon_vmas[name]
        active = sum(a.anon_vma == name for areas in self.areas.values() for a in areas)
        children = sum(av[3] == name for av in self.anon_vmas.values())
        tree = tuple(sorted(tree, key=lambda link: (link.start, link.vma)))
        root, parent = self.anon_vmas[root][0], self.anon_vmas[parent][0]
        return AnonVma(addr, born, root, parent, 1 + active, children, active, tree)

    def _link(self, area: Area, anon_vma: str) -> ChainLink:
        pgoff = self._pgoff(area)
        return ChainLink(area.addr ^ self.anon_vmas[anon_vma][0], area.addr, self.anon_vmas[anon_vma][0],
                         pgoff, pgoff + (area.end - area.start) // PAGE_SIZE - 1)

    def _pgoff(self, area: Area) -> int:
        return area.start >> 12 if area.pgoff is None else area.pgoff

    def _task(self, name: str, avs: dict[str, AnonVma]) -> Task:
        pid, start, born = self.pids[name]
        addr = 0xFFFF888005000000 + pid * 0x1000
        pgd = 0x2000000 + pid * 0x100000
        entries, tables = self._tables(name, pgd)
        vmas = tuple(self._vma(a, addr, avs) for a in sorted(self.areas[name], key=lambda a: a.start))
        counters = {"total_vm": sum(v.pages for v in vmas), "map_count": len(vmas), "rss_anon": len(entries)}
        return Task(name, pid, start, Mm(addr, born, pgd, vmas, Entries(entries), tables, counters), (pid,))

    def _vma(self, area: Area, mm: int, avs: dict[str, AnonVma]) -> Vma:
        flags = tuple(VM[c] for c in area.prot if c in VM) + ("MAYREAD", "MAYWRITE", "MAYEXEC")
        bits = sum(1 << "rwxs".index(c) for c in area.prot if c in VM)
        return Vma(area.addr, area.born, mm, area.start, area.end, bits, flags, self._pgoff(area), area.name,
                   avs.get(area.anon_vma), tuple(self._link(area, n) for n in area.chain), area.file)

    def _tables(self, task: str, pgd: int) -> tuple[list[tuple], tuple[Table, ...]]:
        """The table pages that the entries need, and the entries with their places in them."""
        made = {("pgd", 0): Table("pgd", pgd, 0, 0)}
        rows = []
        for addr, (raw, level) in sorted(self.entries[task].items()):
            upper = made["pgd", 0]
            for depth in ("pud", "pmd", "pte")[:3 - LEVELS.index(level)]:
                span = LEVEL_SIZE[depth] * 512
                key = (depth, addr // span)
                if key not in made:
                    parent = upper.phys + 8 * (addr // span % 512)
                    phys = self._place(task, pgd, key)
                    made[key] = Table(depth, phys, addr // span * span, parent, phys | P | RW | US | A | D)
                upper = made[key]
            rows.append((addr, raw, upper.phys + 8 * (addr // LEVEL_SIZE[level] % 512), level))
        return rows, tuple(made.values())

    def _place(self, task: str, pgd: int, key: tuple) -> int:
        """Physical address of a table page: the same one at every look."""
        places = self.__dict__.setdefault("_places", {}).setdefault(task, {})
        return places.setdefault(key, pgd + 0x1000 * (1 + len(places)))

    def _pages(self) -> dict[int, Page]:
        counts: dict[int, int] = {}
        orders: dict[int, int] = {}
        for entries in self.entries.values():
            for raw, level in entries.values():
                if is_present(raw):
                    counts[pfn_of(raw)] = counts.get(pfn_of(raw), 0) + 1
                    orders[pfn_of(raw)] = LEVELS.index(level) * 9
        return {pfn: self._page(pfn, n, orders[pfn]) for pfn, n in counts.items()}

    def _page(self, pfn: int, mapcount: int, order: int) -> Page:
        born, name, index = self.frames.get(pfn, (0, "", 0))
        mapping = self.anon_vmas[name][0] | 1 if name else 0
        flags = ("uptodate", "lru", "swapbacked") if name else ("reserved",)
        return Page(pfn, born, flags, mapcount, mapcount, mapping, index, pfn in self.exclusive, pfn, order,
                    "anon" if name else "other")


# The worlds of the lessons


def clone(stamps: bool = True, pages: int = 4) -> tuple[Snapshot, Snapshot]:
    """A server with some pages, a consumer without; then the consumer clones them."""
    world = World(stamps).task("server").task("consumer")
    source = world.mmap("server", HEAP, pages)
    world.touch("server", source)
    world.task("bystander")
    before = world.look("before")
    world.share("server", source, "consumer", 0x7F11A0000000)
    world.counters["pgalloc_normal"] += 4
    return before, world.look("after")


def lone() -> tuple[Snapshot, Snapshot]:
    """One page in one process, mapped once; then a second process clones it."""
    return clone(pages=1)


def cow() -> tuple[Snapshot, ...]:
    """clone(), then the consumer writes to its second page: three steps."""
    world = World().task("server").task("consumer")
    source = world.mmap("server", HEAP, 4)
    world.touch("server", source)
    before = world.look("before")
    made = world.share("server", source, "consumer", 0x7F11A0000000)
    cloned = world.look("cloned")
    addr = made.start + PAGE_SIZE
    world.put("consumer", addr, 0x2C40)
    world.frames[0x2C40] = (world.stamp(), made.anon_vma, (HEAP >> 12) + 1)
    world.exclusive.add(0x2C40)
    world.counters["pgfault"] += 1
    return before, cloned, world.look("written")


def merge() -> tuple[Snapshot, Snapshot, Snapshot]:
    """Two halves cloned one after the other become one VMA."""
    world = World().task("server").task("consumer")
    source = world.mmap("server", HEAP, 4)
    world.touch("server", source)
    before = world.look("before")
    made = world.share("server", source, "consumer", 0x7F11A0000000, pages=2)
    half = world.look("first half")
    made.end += 2 * PAGE_SIZE
    world.copy("server", HEAP + 2 * PAGE_SIZE, "consumer", made.start + 2 * PAGE_SIZE, 2)
    return before, half, world.look("both halves")


def twice() -> tuple[Snapshot, Snapshot, Snapshot, RmapWalk]:
    """A forks B, and B's copy is handed back to A: the page is in A twice."""
    world = World().task("A")
    source = world.mmap("A", HEAP, 2)
    world.touch("A", source)
    before = world.look("before")
    world.fork("A", "B")
    forked = world.look("forked")
    theirs = next(a for a in world.areas["B"] if a.start == HEAP)
    world.share("B", theirs, "A", 0x7F4400000000)
    after = world.look("handed back")
    return before, forked, after, walk(after, 0x1A2B)


def fork_tree(depth: int = 3) -> tuple[Snapshot, Snapshot]:
    """A process and its line of descendants; then the first child exits."""
    world = World().task("A")
    world.touch("A", world.mmap("A", HEAP, 2))
    for i in range(depth - 1):
        world.fork(chr(65 + i), chr(66 + i))
    before = world.look("before")
    world.exit("B")
    return before, world.look("B exits")


def swapped() -> tuple[Snapshot, Snapshot]:
    """One of four pages goes to swap."""
    world = World().task("server")
    world.touch("server", world.mmap("server", HEAP, 4))
    before = world.look("before")
    world.entries["server"][HEAP] = (~(12 << 9) & ((1 << 50) - 1) << 9 | 1 << 3, "pte")
    del world.frames[0x1A2B]
    return before, world.look("swapped out")


def huge() -> tuple[Snapshot, Snapshot]:
    """A huge page is split into 512 entries."""
    world = World().task("server")
    area = world.mmap("server", 0x7F3A1C200000, 512)
    area.anon_vma, area.chain = "av", ["av"]
    world.new_anon_vma("av")
    world.put("server", area.start, 0x4000, DATA | PSE, "pmd")
    world.frames[0x4000] = (world.stamp(), "av", area.start >> 12)
    before = world.look("before")
    for i in range(512):
        world.put("server", area.start + i * PAGE_SIZE, 0x4000 + i)
        world.frames.setdefault(0x4000 + i, (world.stamp(), "av", (area.start >> 12) + i))
    return before, world.look("split")


def large(tasks: int = 16, entries: int = 20_000) -> tuple[Snapshot, Snapshot]:
    """Many processes, many entries; then one process clones a quarter of another's."""
    world = World()
    each = entries // tasks
    for n in range(tasks):
        world.task(f"task{n}")
        world.touch(f"task{n}", world.mmap(f"task{n}", HEAP, each), 0x10000 + n * 2 * each)
    before = world.look("before")
    source = next(a for a in world.areas["task0"] if a.start == HEAP)
    world.share("task0", source, "task1", 0x7F11A0000000, each // 4)
    return before, world.look("after")


def family(children: int = 50, pages: int = 2) -> Snapshot:
    """A process and its children, all mapping its frames."""
    world = World().task("parent")
    world.touch("parent", world.mmap("parent", HEAP, pages))
    for i in range(children):
        world.fork("parent", f"child{i}")
    return world.look()


def lineage(generations: int = 50) -> tuple[Snapshot, Snapshot]:
    """A line of processes, each the child of the one before; then the last hands its pages to the first."""
    world = World().task("p0")
    world.touch("p0", world.mmap("p0", HEAP, 2))
    for i in range(1, generations):
        world.fork(f"p{i - 1}", f"p{i}")
    before = world.look("before")
    youngest = f"p{generations - 1}"
    world.share(youngest, next(a for a in world.areas[youngest] if a.start == HEAP), "p0", 0x7F4400000000)
    return before, world.look("handed to the first")


def scattered() -> Snapshot:
    """One VMA of which every third entry maps a frame far from its neighbours', another process with some of them."""
    world = World().task("A").task("B")
    area = world.mmap("A", HEAP, 1500)
    world.touch("A", area, 0x10000)
    for i in range(0, 1500, 3):
        world.put("A", area.start + i * 4096, 0x80000 + i * 7)
    world.share("A", area, "B", 0x7F11A0000000, 900)
    return world.look()


def walk(snapshot: Snapshot, pfn: int) -> RmapWalk:
    """A reverse-map walk made by hand: the anon_vma's tree, VMA by VMA."""
    page = snapshot.page(pfn)
    found = []
    for link in snapshot.anon_vma(page.anon_vma).tree:
        vma = snapshot.vma_at(link.vma)
        addr = vma.address_of(page.index)
        pte = next(t.mm for t in snapshot.tasks if t.mm.addr == vma.mm).entries.at(addr) if addr else None
        hit = pte is not None and pte.pfn_at(addr) == pfn
        why = "its entry maps the frame" if hit else "another is mapped there" if pte else "nothing is mapped there"
        found.append(RmapStep(vma.addr, vma.mm, snapshot.users(vma.mm), addr, hit, why))
    return RmapWalk(pfn, "anon", page.anon_vma, tuple(found))


# Worlds at random

TASKS = ("A", "B", "C")


def act(world: World, number: int) -> None:
    """Do one thing that the number stands for, or nothing where it makes no sense."""
    kind, number = number % 7, number // 7
    alive = list(world.areas)
    if not alive or kind == 0:
        return start(world, TASKS[number % 3])
    task = alive[number % len(alive)]
    anonymous = [a for a in world.areas[task] if not a.name]
    if kind == 1:
        return map_some(world, task, 1 + number % 4)
    if kind == 2 and len(alive) > 1:
        return world.exit(task)
    if not anonymous:
        return None
    area = anonymous[number % len(anonymous)]
    if kind == 3:
        return world.fork(task, TASKS[number % 3]) if TASKS[number % 3] not in alive else None
    if kind == 4:
        return unmap(world, task, area)
    if kind == 5:
        world.share(task, area, alive[number // 2 % len(alive)], free(world))
    if kind == 6:
        write(world, task, area, number)
    return None


def start(world: World, name: str) -> None:
    if name not in world.areas:
        world.task(name)


def free(world: World) -> int:
    """An address that nobody uses."""
    world.__dict__["_spot"] = world.__dict__.get("_spot", 0) + 1
    return 0x7F0000000000 + world._spot * 0x4000000


def map_some(world: World, task: str, pages: int) -> None:
    world.touch(task, world.mmap(task, free(world), pages), 0x100 * (1 + world._spot % 5))


def unmap(world: World, task: str, area: Area) -> None:
    world.areas[task].remove(area)
    for addr in [a for a in world.entries[task] if area.start <= a < area.end]:
        del world.entries[task][addr]


def write(world: World, task: str, area: Area, number: int) -> None:
    """A write to one page: the entry gets RW, and another frame when it is shared."""
    addr = area.start + number % ((area.end - area.start) // PAGE_SIZE) * PAGE_SIZE
    pfn = 0x9000 + number % 16
    world.put(task, addr, pfn)
    world.frames[pfn] = (world.stamp(), area.anon_vma, addr >> 12)


def history(numbers: list[int], stamps: bool = True) -> tuple[Snapshot, ...]:
    """The snapshots of a world to which something happened between any two looks."""
    world = World(stamps).task("A").task("B")
    map_some(world, "A", 3)
    looks = [world.look()]
    for number in numbers:
        act(world, number)
        looks.append(world.look())
    return tuple(looks)


def all_worlds() -> dict[str, tuple[Snapshot, ...]]:
    """Every standard world by name, its snapshots only."""
    made = {f.__name__: f() for f in (clone, lone, cow, merge, twice, fork_tree, swapped, huge)}
    return {name: tuple(s for s in world if isinstance(s, Snapshot)) for name, world in made.items()}
