"""Merge the layers of a spec (files, profiles, `--set`), and say which layer has a problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaplab.spec.axes import MISSING, Key, split_key
from gaplab.spec.problems import Problem, SpecPath
from gaplab.spec.protocols import expand_preset


@dataclass(frozen=True)
class Layer:
    """One source of values: `tree` is merged at `path` of the spec."""

    tree: Any
    source: str
    """Start of its messages: `quickstart.yaml: ` or `--set `."""
    prefix: SpecPath = ()
    """What the user wrote before the path inside `tree`: the profile, or the key of `--set`."""
    path: SpecPath = ()
    in_list: bool = False
    """Whether the spec has a list at `path` whose entries all equal `tree`: a varied key that
    `--set` fixed."""

    def depth(self, path: SpecPath) -> int:
        """Return how many steps of `path` lead to values of this layer; -1 outside of it."""
        if path[: len(self.path)] != self.path:
            return -1
        inner = path[len(self.path) + self.in_list :]
        node, depth = self.tree, len(path) - len(inner)
        for step in inner:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                break
            depth += 1
        return depth

    def describe(self, problem: Problem) -> str:
        """Return the problem as one line, with its path as the user wrote it."""
        rest = problem.path[len(self.path) + self.in_list :]
        path = (*self.prefix, *rest) if problem.path else ()
        return f"{self.source}{Problem(path, problem.text)}"


def describe_problem(problem: Problem, layers: Sequence[Layer]) -> str:
    """Return the problem as one line that names the layer it comes from.

    That is the last layer among those that set most of the problem's path. A problem that no layer
    sets anything of is missing in the spec's own file, which is the last of the files.
    """
    depths = [layer.depth(problem.path) for layer in layers]
    most = max(depths)
    last = max(i for i, depth in enumerate(depths) if depth == most)
    own_file = max(i for i, layer in enumerate(layers) if not layer.prefix)
    return layers[last if most else own_file].describe(problem)


def merge(base: Any, over: Any, key: Key = ()) -> Any:
    """Merge `over` into `base`: mappings key by key, anything else replaces.

    A mapping with another `name` (entry of a table) or another `preset` replaces as a whole. None
    removes a key that `base` has. The key has its default then, which is None if it accepts None.
    """
    setting = _setting(key)
    base = expand_preset(setting, base)
    if not isinstance(over, Mapping) or not isinstance(base, Mapping):
        return over
    named = [m for m in ("name", "preset") if m in base and over.get(m) is not None]
    if setting and any(base[mark] != over[mark] for mark in named):
        return over
    inner = {part: merge(base.get(part, MISSING), over[part], (*key, part)) for part in over}
    removed = {part for part in over if over[part] is None and part in base}
    return {part: value for part, value in {**base, **inner}.items() if part not in removed}


def _setting(key: Key) -> Key:
    """Return the key of the experiment that `key` of a spec sets; empty if it sets none.

    Within `rows`, experiments are set by the dotted keys of each row.
    """
    if key[:1] != ("rows",):
        return key
    return (*split_key(key[2]), *key[3:]) if len(key) > 2 else ()
