# SPDX-License-Identifier: MIT
"""A Snapshot of anonymous memory as text in which nothing depends on where things happen to lie.

Adds: names by order of appearance (av1, av2, …; frames 1, 2, …), so that two worlds are alike exactly when their
texts are: the specification's and a kernel's.
Leaves out: what a task has beside the anonymous memory that it mapped, and what is no property of the memory's
state (addresses of structures, stamps, accessed and dirty bits).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model import AnonVma, Page, Pte, Snapshot, Task, Vma

#: Flags that such memory always has; others are shown with a +, one of these that is missing with a -.
_USUAL = {"MAYREAD", "MAYWRITE", "MAYEXEC", "SOFTDIRTY"}
_ACCESS = {"READ", "WRITE", "EXEC"}
#: A task's program and its own variables lie below this address.
_PROGRAM_END = 0x1000000


def mapped_here(vma: Vma) -> bool:
    """Whether it is anonymous memory that the task mapped itself, not its program, stack or vdso."""
    return not vma.name and not vma.file and vma.vm_start >= _PROGRAM_END


def describe(seen: Snapshot) -> str:
    """Return the tasks' mappings, then the anon_vmas, then the frames, one thing a line.

    In a line of entries "3w" is frame 3 mapped writable, "3" read-only, "3n" without any access, "zero" the zero
    page, "-" an empty entry.
    """
    return "\n".join(_Text(seen).lines())


class _Text:
    def __init__(self, seen: Snapshot) -> None:
        self.seen = seen
        self.vmas = {vma.addr: (task, vma) for task in seen.tasks for vma in task.mm.vmas if mapped_here(vma)}
        self.anon_vmas: dict[int, str] = {}
        self.frames: dict[int, int] = {}

    def lines(self) -> Iterator[str]:
        """The tasks come first: what they map names the frames and the anon_vmas."""
        tasks = sorted(self.seen.tasks, key=lambda task: task.name)
        yield from [line for task in tasks for line in self._task(task)]
        owners = [self._page(pfn, number) for pfn, number in self.frames.items()]
        yield from self._all_anon_vmas()
        yield from owners

    def _task(self, task: Task) -> Iterator[str]:
        yield task.name
        for vma in filter(mapped_here, task.mm.vmas):
            chain = " ".join(self._name(link.anon_vma) for link in vma.chain) or "empty"
            own = self._name(vma.anon_vma.addr) if vma.anon_vma else "none"
            yield f"  {vma.vm_start:x}-{vma.vm_end:x} {vma.prot}{_unusual(vma)} pgoff {vma.vm_pgoff:x}"
            yield f"    anon_vma {own}, chain {chain}"
            yield f"    entries {' '.join(self._entries(task, vma))}"

    def _name(self, anon_vma: int) -> str:
        return self.anon_vmas.setdefault(anon_vma, f"av{len(self.anon_vmas) + 1}")

    def _entries(self, task: Task, vma: Vma) -> Iterator[str]:
        for addr in range(vma.vm_start, vma.vm_end, 4096):
            pte = task.pte(addr)
            yield self._entry(pte) if pte else "-"

    def _entry(self, pte: Pte) -> str:
        if not pte.present or pte.level != "pte":
            return f"{pte.level}:{pte.swap or pte.flags}"
        access = "w" if pte.writable else "" if "P" in pte.flags else "n"
        if self.seen.page(pte.pfn).kind == "zero":
            return f"zero{access}"
        return f"{self.frames.setdefault(pte.pfn, len(self.frames) + 1)}{access}"

    def _all_anon_vmas(self) -> Iterator[str]:
        """Those that were named, and their ancestors, which naming them adds."""
        done = 0
        while done < len(self.anon_vmas):
            addr, name = list(self.anon_vmas.items())[done]
            yield self._anon_vma(name, self.seen.anon_vmas.get(addr))
            done += 1

    def _anon_vma(self, name: str, av: AnonVma | None) -> str:
        if av is None:
            return f"{name}: in no chain"
        above = "root" if av.is_root else f"parent {self._name(av.parent)}, root {self._name(av.root)}"
        tree = " ".join(f"{self._place(link.vma)}[{link.start:x}-{link.last:x}]" for link in av.tree) or "empty"
        return (f"{name}: {above}, num_children {av.num_children}, num_active_vmas {av.num_active_vmas}, "
                f"refcount {av.refcount}, tree {tree}")

    def _place(self, vma: int) -> str:
        task, found = self.vmas.get(vma, (None, None))
        return f"{task.name}:{found.vm_start:x}" if task else "?"

    def _page(self, pfn: int, number: int) -> str:
        page: Page = self.seen.page(pfn)
        owner = self._name(page.anon_vma) if page.anon_vma else "none"
        exclusive = ", exclusive" if page.exclusive else ""
        return f"frame {number}: mapcount {page.mapcount}{exclusive}, {page.kind}, index {page.index:x} of {owner}"


def _unusual(vma: Vma) -> str:
    flags = set(vma.flags) - _ACCESS
    return "".join(f" +{name}" for name in sorted(flags - _USUAL)) + "".join(f" -{n}" for n in sorted(_USUAL - flags))
