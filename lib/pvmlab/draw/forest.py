# SPDX-License-Identifier: MIT
"""The anon_vma forest: VMAs, anon_vmas, and the anon_vma_chains that tie them.

Adds: for each VMA its same_vma list, for each anon_vma its interval tree and
the frames whose mapping it is; one line for each anon_vma_chain joins its
place in the one to its place in the other. An arrow goes from an anon_vma to
its parent.
Leaves out: anon_vmas that no shown VMA's chain leads to; of long chains and of
many anon_vmas, those that are neither a VMA's own nor next to it nor a root:
a line stands for them.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import zip_longest

from ..identity import Key, Life
from ..model import AnonVma, Vma
from . import frames
from .parts import Box, Edge, Opens, Panel, Row, Seen, even, fold, ref
from .scene import Scene, refs

#: More VMAs than this in one tree, more anon_vmas than this in one chain and in the panel are folded.
MOST_LINKS, MOST_CHAIN, MOST_ANON_VMAS = 8, 6, 8


def forest(scene: Scene) -> Panel:
    """Return the panel of the shown VMAs and their anon_vmas."""
    lives = [life for mm in scene.focus.values() for life in mm]
    chains = {life.key: chain for life in lives if (chain := _chain(scene, life))}
    kept = _nearest(scene, list(chains.values()))
    vmas = [_vma_box(scene, life, chains[life.key]) for life in lives if life.key in chains]
    anon_vmas = [_anon_vma_box(scene, life, chains) for key, life in scene.anon_vmas.items() if key in kept]
    boxes = even((*vmas, *anon_vmas))
    rows = {row.id for box in boxes for row in box.rows}
    edges = [edge for chain in chains.values() for link in chain
             if (edge := _link_edge(scene, link)).tail[1] in rows and edge.head[1] in rows]
    rest = tuple(dict.fromkeys(link.key[1] for chain in chains.values() for link in chain if link.key[1] not in kept))
    return Panel("forest", "anon_vma forest", "An anon_vma is where the kernel finds, from an anonymous page, "
                 "the VMAs that may map it; av·A is called after A, the process it was first made for. A line is one "
                 "anon_vma_chain: in a VMA's list (left) and in an anon_vma's interval tree (right). An arrow on the "
                 "right leads to the parent.",
                 boxes, (*edges, *_parents(scene, anon_vmas)), folds=_fold(scene, rest), ranksep=1.1)


# Which of them


def _chain(scene: Scene, life: Life) -> list[Life]:
    """The links of a VMA in the order of its list, by where they stood last."""
    places = {link.key: _chain_places(scene, life, link) for link in scene.links if link.key[0] == life.key}
    return sorted((link for link in scene.links if link.key in places),
                  key=lambda link: next((p for p in reversed(places[link.key]) if p >= 0), len(places)))


def _nearest(scene: Scene, chains: list[list[Life]]) -> set[Key]:
    """The anon_vmas that have a place: of each chain its own and the root, then those next to its own, in turns."""
    turns = [[chain[0], _root(scene, chain), *chain[1:]] for chain in chains]
    order = dict.fromkeys(link.key[1] for turn in zip_longest(*turns) for link in turn if link)
    return set(list(order)[:MOST_ANON_VMAS])


def _root(scene: Scene, chain: list[Life]) -> Life:
    """The link to the root of the tree of forks; to the oldest anon_vma, where that is not in the chain."""
    return next((link for link in chain if any(av and av.is_root for av in scene.anon_vmas[link.key[1]].seen)),
                chain[-1])


def _shown(scene: Scene, chain: list[Life]) -> list[Life]:
    """The links of a chain that have a row: the first ones and the root."""
    if len(chain) <= MOST_CHAIN + 1:        # a line that stands for one other is no shorter
        return chain
    nearest = chain[:MOST_CHAIN - 1]
    root = _root(scene, chain)
    return [*nearest, chain[MOST_CHAIN - 1] if root in nearest else root]


def _fold(scene: Scene, rest: tuple[Key, ...]) -> tuple[Box, ...]:
    """The line for the anon_vmas that have no place."""
    theirs = tuple(ref("anon_vma", key) for key in rest)
    return (fold("forest-more", f"… and {len(rest)} more anon_vmas", len(scene), theirs, _opens(scene, rest)),) \
        if rest else ()


def _opens(scene: Scene, keys: tuple[Key, ...]) -> Opens:
    """The list of some anon_vmas, at each step those there are."""
    seen = [scene.anon_vmas[key].seen for key in keys]
    return Opens("anon_vmas", tuple(tuple(_says(scene, life[step], step) for life in seen if life[step])
                                    for step in range(len(scene))))


def _says(scene: Scene, av: AnonVma, step: int) -> str:
    """An anon_vma in one line."""
    head = _head(scene, av, step)
    return f"{head.lines[0]}: {len(av.tree)} VMA{'' if len(av.tree) == 1 else 's'} in its tree, {head.lines[1]}"


# Boxes


def _vma_box(scene: Scene, life: Life, chain: list[Life]) -> Box:
    head = tuple(vma and Seen((f"{scene.mm_name(scene.mm_of(life))} {vma.vm_start:#x}",
                               f"vm_pgoff {vma.vm_pgoff:#x}", f"->anon_vma = {_own(scene, vma, step)}"),
                              {"vm_pgoff": hex(vma.vm_pgoff), "->anon_vma": _own(scene, vma, step)})
                 for step, vma in enumerate(life.seen))
    rows = [Row(f"forest-{ref('vma', life.key)}-head", "head", head, refs("vma", life.key),
                opens=Opens("vma", (life.key,)))]
    shown = _shown(scene, chain)
    rows += [_chain_row(scene, life, link) for link in shown]
    if rest := [link for link in chain if link not in shown]:
        rows.insert(-1, _chain_rest(scene, life, rest))
    return Box(f"forest-{ref('vma', life.key)}", "vma", tuple(rows), rank="forest-vmas")


def _chain_row(scene: Scene, life: Life, link: Life) -> Row:
    seen = tuple(Seen((f"chain {place + 1}: {scene.anon_vma_name(link.key[1])}",), {"list": "in"})
                 if place >= 0 else None for place in _chain_places(scene, life, link))
    return Row(_link_id(link, "chain"), "link", seen, refs("link", link.key))


def _chain_rest(scene: Scene, life: Life, rest: list[Life]) -> Row:
    """The line for the links of a chain that have no row."""
    there = [sum(bool(link.seen[step]) for link in rest) for step in range(len(scene))]
    seen = tuple(Seen((f"… and {count} more",), {"more": count}) if count else None for count in there)
    return Row(f"forest-chain-{ref('vma', life.key)}-more", "fold", seen, tuple(ref("link", link.key) for link in rest),
               opens=_opens(scene, tuple(link.key[1] for link in rest)))


def _own(scene: Scene, vma: Vma, step: int) -> str:
    return scene.anon_vma_name(scene.key("anon_vma", step, vma.anon_vma.addr)) if vma.anon_vma else "none"


def _chain_places(scene: Scene, life: Life, link: Life) -> list[int]:
    """Where in the VMA's same_vma list the link stands at each step, -1 if it does not."""
    places = []
    for step, vma in enumerate(life.seen):
        keys = [scene.key("anon_vma", step, c.anon_vma) for c in vma.chain] if vma else []
        places.append(keys.index(link.key[1]) if link.key[1] in keys else -1)
    return places


def _anon_vma_box(scene: Scene, life: Life, drawn: Collection[Key]) -> Box:
    """drawn: the VMAs that have a box; they are the last to be folded."""
    links = sorted((link for link in scene.links if link.key[1] == life.key), key=lambda k: _tree_order(scene, life, k))
    name = ref("anon_vma", life.key)
    head = tuple(av and _head(scene, av, step) for step, av in enumerate(life.seen))
    rows = [Row(f"forest-{name}-head", "head", head, refs("anon_vma", life.key),
                opens=Opens("vmas", tuple(link.key[0] for link in links)))]
    folios = _folios(scene, life)
    rows += [folios] if any(folios.seen) else []
    first = sorted(links, key=lambda link: link.key[0] not in drawn)[:MOST_LINKS]
    rows += [_tree_row(scene, life, link) for link in links if link in first]
    if rest := tuple(link.key[0] for link in links if link not in first):
        more = Seen((f"… and {len(rest)} more VMAs",))
        rows.append(Row(f"forest-{name}-more", "fold", tuple(av and more for av in life.seen),
                        tuple(ref("vma", key) for key in rest), opens=Opens("vmas", rest)))
    return Box(f"forest-{name}", "anon_vma", tuple(rows), rank="forest-trees")


def _head(scene: Scene, av: AnonVma, step: int) -> Seen:
    kin = [scene.anon_vma_name(scene.key("anon_vma", step, addr)) for addr in (av.parent, av.root)]
    line = "root" if av.is_root else f"parent {kin[0]}, root {kin[1]}"
    locked = ", root locked" if av.locked else ""
    facts = {name: getattr(av, name) for name in ("num_active_vmas", "num_children", "refcount")}
    return Seen((f"{scene.anon_vma_name(scene.key('anon_vma', step, av.addr))} ({line}{locked})",
                 f"num_active_vmas {av.num_active_vmas}, num_children {av.num_children}, refcount {av.refcount}"),
                {**facts, "parent": kin[0], "root": kin[1], "lock": "held" if av.locked else "free"})


def _folios(scene: Scene, life: Life) -> Row:
    """The frames whose folio->mapping names the anon_vma."""
    pfns = [scene.folios[step].get(av.addr, []) if av else [] for step, av in enumerate(life.seen)]
    seen = tuple(Seen(("folio->mapping of", f"  {frames.name(found)}"), {"folios": len(found)}) if found else None
                 for found in pfns)
    keys = dict.fromkeys(scene.key("page", step, pfn) for step, found in enumerate(pfns) for pfn in found)
    return Row(f"forest-folios-{ref('anon_vma', life.key)}", "folio", seen, tuple(ref("page", k) for k in keys),
               opens=Opens("frames", tuple(key[0] for key in keys)))


def _tree_order(scene: Scene, life: Life, link: Life) -> tuple:
    for step, av in enumerate(life.seen):
        places = [scene.key("vma", step, k.vma) for k in av.tree] if av else []
        if link.key[0] in places and link.seen[step]:
            return link.seen[step].start, step, places.index(link.key[0])
    return (1 << 62, 0, 0)


def _tree_row(scene: Scene, life: Life, link: Life) -> Row:
    seen = []
    for step, k in enumerate(link.seen):
        if k is None or not k.in_tree or life.seen[step] is None:
            seen.append(None)
            continue
        seen.append(Seen((f"tree: {scene.vma_name(link.key[0])}", f"  page offsets {k.start:#x}–{k.last:#x}"),
                         {"last": hex(k.last), "start": hex(k.start)}))
    return Row(_link_id(link, "tree"), "link", tuple(seen), refs("link", link.key))


def _link_id(link: Life, side: str) -> str:
    return f"forest-{side}-{ref('link', link.key)}"


def _link_edge(scene: Scene, link: Life) -> Edge:
    vma, anon_vma = (f"forest-{ref(kind, key)}" for kind, key in zip(("vma", "anon_vma"), link.key))
    seen = tuple(k is not None and k.in_chain and k.in_tree for k in link.seen)
    return Edge(f"forest-{ref('link', link.key)}", "link", (vma, _link_id(link, "chain")),
                (anon_vma, _link_id(link, "tree")), seen, scene.anon_vma_name(link.key[1]))


def _parents(scene: Scene, boxes: list[Box]) -> list[Edge]:
    there = {box.id for box in boxes}
    edges: dict[str, Edge] = {}
    for key, life in scene.anon_vmas.items():
        for step, av in enumerate(life.seen):
            if av is None or av.parent == av.addr:
                continue
            tail, head = (f"forest-{ref('anon_vma', k)}" for k in (key, scene.key("anon_vma", step, av.parent)))
            name = f"{tail}-parent-{head}"
            seen = [*edges[name].seen] if name in edges else [False] * len(scene)
            seen[step] = True
            if tail in there and head in there:
                says = scene.anon_vma_name(scene.key("anon_vma", step, av.parent))
                edges[name] = Edge(name, "parent", (tail, _head_id(tail)), (head, _head_id(head)), tuple(seen),
                                   f"parent {says}")
    return list(edges.values())


def _head_id(box: str) -> str:
    return f"{box}-head"
