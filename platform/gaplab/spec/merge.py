"""Where a spec's values come from: the file, a profile laid over it, and `--set`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaplab.spec.axes import MISSING, Key, parts
from gaplab.spec.problems import Path, Problem
from gaplab.spec.protocols import opened


@dataclass(frozen=True)
class Layer:
    """A source of values: `tree` stands at `at` in the spec that all layers make together."""

    tree: Any
    source: str
    """What a message starts with: `quickstart.yaml: ` or `--set `."""
    head: Path = ()
    """What the person wrote before the path inside `tree`: the profile, or the key of `--set`."""
    at: Path = ()
    listed: bool = False
    """Whether the spec has a list at `at`, each entry of which is `tree`: a varied key."""

    def depth(self, path: Path) -> int:
        """How many steps of `path` this layer has a value for; -1 outside of what it sets."""
        if path[: len(self.at)] != self.at:
            return -1
        inside = path[len(self.at) + self.listed :]
        node, depth = self.tree, len(path) - len(inside)
        for step in inside:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                break
            depth += 1
        return depth

    def place(self, problem: Problem) -> str:
        """The problem in one line, named as the person wrote it."""
        rest = problem.path[len(self.at) + self.listed :]
        return f"{self.source}{Problem((*self.head, *rest) if problem.path else (), problem.text)}"


def located(problem: Problem, layers: Sequence[Layer]) -> str:
    """The problem in one line, placed in the last layer that says most about its path.

    What no layer says anything about is missing in the spec's own file, the last of the files.
    """
    depths = [layer.depth(problem.path) for layer in layers]
    most = max(depths)
    last = max(i for i, depth in enumerate(depths) if depth == most)
    file = max(i for i, layer in enumerate(layers) if not layer.head)
    return layers[last if most else file].place(problem)


def merge(base: Any, over: Any, key: Key = ()) -> Any:
    """`over` laid on `base`: mappings merge key by key, anything else replaces.

    A mapping that names another entry of a table, or another preset, replaces as a whole.
    """
    setting = _setting(key)
    base = opened(setting, base)
    if not isinstance(over, Mapping) or not isinstance(base, Mapping):
        return over
    named = [mark for mark in ("name", "preset") if mark in base and mark in over]
    if setting and any(base[mark] != over[mark] for mark in named):
        return over
    inner = {part: merge(base.get(part, MISSING), over[part], (*key, part)) for part in over}
    return {**base, **inner}


def _setting(key: Key) -> Key:
    """What `key` sets in an experiment: of rows only what stands inside of one, by a dotted key."""
    if key[:1] != ("rows",):
        return key
    return (*parts(key[2]), *key[3:]) if len(key) > 2 else ()
