"""The import graph of both packages. As a program it prints modules, layers and arrows per room:

python tests/import_graph.py
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = ROOT / "platform" / "gaplab"
OUTSIDE = "outside"
PUBLIC = ("gaplab", "gaplab.__main__", "gaplab.api")
"""The modules that other programs import or run."""


@cache
def graph() -> grimp.ImportGraph:
    """Every import of both packages, also inside functions and for types alone."""
    sys.path[:0] = [str(ROOT / "platform"), str(ROOT)]
    found = grimp.build_graph("gaplab", "detectors", include_external_packages=True, cache_dir=None)
    del sys.path[:2]
    return found


def modules() -> list[str]:
    """Our own modules, sorted."""
    return sorted(m for m in graph().modules if m.split(".")[0] in ("gaplab", "detectors"))


def room(module: str) -> str:
    """The room of a module: a folder of the platform, `shared` for its root, or `detectors`."""
    top, *parts = module.split(".")
    if top != "gaplab":
        return top if top == "detectors" else OUTSIDE
    if parts[:2] == ["launch", "ray"]:
        return "launch/ray"
    if module in PUBLIC:
        return "public"
    return parts[0] if (PLATFORM / parts[0]).is_dir() else "shared"


def arrows() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Room -> another room: the imports between their modules."""
    found = defaultdict(list)
    for module in modules():
        for target in sorted(graph().find_modules_directly_imported_by(module)):
            pair = (room(module), room(target))
            if pair[0] != pair[1] and OUTSIDE not in pair:
                found[pair].append((module, target))
    return dict(found)


def layers(edges: dict[str, set[str]]) -> dict[str, int]:
    """The layer of each node, 1 for one that imports nothing. Raises graphlib.CycleError."""
    depth: dict[str, int] = {}
    for node in TopologicalSorter(edges).static_order():
        depth[node] = 1 + max((depth[target] for target in edges.get(node, ())), default=0)
    return depth


def imports(nodes: Iterable[str]) -> dict[str, set[str]]:
    """Each of `nodes` with those of them that it imports directly."""
    known = set(nodes)
    return {n: graph().find_modules_directly_imported_by(n) & known for n in known}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Print the graph."""
    own = imports(modules())
    depth = layers(own)
    counts = Counter(map(room, own))
    say(f"{len(own)} modules, {sum(map(len, own.values()))} imports, {max(depth.values())} layers")
    for name, count in sorted(counts.items()):
        held = [depth[m] for m in own if room(m) == name]
        say(f"  {name:<11} {count:>3} modules, layers {min(held)} to {max(held)}")
    found = arrows()
    say(f"{len(found)} arrows between {len(counts)} rooms")
    for (source, target), pairs in sorted(found.items()):
        say(f"  {source:<11} -> {target:<11} {len(pairs):>3} imports")


if __name__ == "__main__":
    main()
