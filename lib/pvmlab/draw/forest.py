# SPDX-License-Identifier: MIT
"""The anon_vma forest: VMAs, anon_vmas, and the anon_vma_chains that tie them.

Adds: for each VMA its same_vma list, for each anon_vma its interval tree and
the frames whose mapping it is; one line for each anon_vma_chain joins its
place in the one to its place in the other. An arrow goes from an anon_vma to
its parent.
Leaves out: anon_vmas that no shown VMA's chain leads to.
"""

from __future__ import annotations

from ..identity import Life
from ..model import AnonVma, Vma
from . import frames
from .parts import Box, Edge, Opens, Panel, Row, Seen, even, ref
from .scene import Scene, refs

#: More links than this in one list are folded.
MOST_LINKS = 10


def forest(scene: Scene) -> Panel:
    """Return the panel of the shown VMAs and their anon_vmas."""
    shown = {life.key for lives in scene.focus.values() for life in lives}
    links = [link for link in scene.links if link.key[0] in shown]
    trees = {link.key[1] for link in links}
    lives = [life for mm in scene.focus.values() for life in mm]
    vmas = [_vma_box(scene, life, mine) for life in lives if (mine := [k for k in links if k.key[0] == life.key])]
    anon_vmas = [_anon_vma_box(scene, life) for key, life in scene.anon_vmas.items() if key in trees]
    boxes = even((*vmas, *anon_vmas))
    rows = {row.id for box in boxes for row in box.rows}
    edges = [edge for link in links if (edge := _link_edge(scene, link)).tail[1] in rows and edge.head[1] in rows]
    return Panel("forest", "anon_vma forest", "Where reverse mapping looks for an anonymous page. A line is one "
                 "anon_vma_chain: in a VMA's list (left) and in an anon_vma's interval tree (right). An arrow on the "
                 "right leads to the parent.",
                 boxes, (*edges, *_parents(scene, anon_vmas)), ranksep=1.1)


def _vma_box(scene: Scene, life: Life, links: list[Life]) -> Box:
    head = tuple(vma and Seen((f"{scene.mm_name(scene.mm_of(life))} {vma.vm_start:#x}",
                               f"->anon_vma = {_own(scene, vma, step)}"), {"->anon_vma": _own(scene, vma, step)})
                 for step, vma in enumerate(life.seen))
    rows = [Row(f"forest-{ref('vma', life.key)}-head", "head", head, refs("vma", life.key),
                opens=Opens("vma", (life.key,)))]
    order = {link.key: _chain_places(scene, life, link) for link in links}
    for link in sorted(links, key=lambda k: max(p for p in order[k.key] if p >= 0) if max(order[k.key]) >= 0 else 99):
        seen = tuple(Seen((f"chain {place + 1}: {scene.anon_vma_name(link.key[1])}",), {"list": "in"})
                     if place >= 0 else None for place in order[link.key])
        rows.append(Row(_link_id(link, "chain"), "link", seen, refs("link", link.key)))
    return Box(f"forest-{ref('vma', life.key)}", "vma", tuple(rows), rank="forest-vmas")


def _own(scene: Scene, vma: Vma, step: int) -> str:
    return scene.anon_vma_name(scene.key("anon_vma", step, vma.anon_vma.addr)) if vma.anon_vma else "none"


def _chain_places(scene: Scene, life: Life, link: Life) -> list[int]:
    """Where in the VMA's same_vma list the link stands at each step, -1 if it does not."""
    places = []
    for step, vma in enumerate(life.seen):
        keys = [scene.key("anon_vma", step, c.anon_vma) for c in vma.chain] if vma else []
        places.append(keys.index(link.key[1]) if link.key[1] in keys else -1)
    return places


def _anon_vma_box(scene: Scene, life: Life) -> Box:
    head = tuple(av and _head(scene, av, step) for step, av in enumerate(life.seen))
    links = [link for link in scene.links if link.key[1] == life.key]
    links.sort(key=lambda k: _tree_order(scene, life, k))
    rows = [Row(f"forest-{ref('anon_vma', life.key)}-head", "head", head, refs("anon_vma", life.key),
                opens=Opens("vmas", tuple(link.key[0] for link in links)))]
    folios = _folios(scene, life)
    rows += [folios] if any(folios.seen) else []
    rows += [_tree_row(scene, life, link) for link in links[:MOST_LINKS]]
    if len(links) > MOST_LINKS:
        more = Seen((f"… and {len(links) - MOST_LINKS} more VMAs",))
        rest = tuple(link.key[0] for link in links[MOST_LINKS:])
        rows.append(Row(f"forest-{ref('anon_vma', life.key)}-more", "fold", tuple(av and more for av in life.seen),
                        tuple(ref("vma", key) for key in rest), opens=Opens("vmas", rest)))
    return Box(f"forest-{ref('anon_vma', life.key)}", "anon_vma", tuple(rows), rank="forest-trees")


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
