"""Failures that are the same failure, and whether there are too many of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SAME = "#"
"""Stands for whatever may differ between two reports of one failure."""

_UNIT = r"(?:bytes|[kKMGT]i?B|milliseconds|seconds|ms|s|min|h)\b"
_FILES = "jpe?g|png|bmp|webp|tiff?|json|odgt|ya?ml|pth?|parquet|txt|log|db"
_MAY_DIFFER = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w+.-])[A-Za-z][\w+.-]*://[^\s'\"(),;]*[^\s'\"(),;:.]",  # addresses
        r"(?<![\w#])[~.]{0,2}/[^\s'\"(),;:]*[^\s'\"(),;:.]",  # paths
        r"(?<![\w.@#+-])[\w.@+-]+/[^\s'\"(),;:]*[^\s'\"(),;:.]",  # relative ones
        rf"(?<![\w.#+-])[\w.#+-]+\.(?:{_FILES})\b",  # names of files
        r"(?<![0-9A-Za-z])0x[0-9a-fA-F]+",
        r"(?<![0-9A-Za-z])[0-9a-f]{8,}(?![0-9A-Za-z])",  # ids
        r"(?<![0-9A-Za-z])[0-9a-f]{4}(?:-[0-9a-f]{4})+(?![0-9A-Za-z])",  # the middle of a UUID
        r"(?<![\w#.])[-+]?(?:nan|inf)(?!\w)",
        rf"(?<![\w#])[-+]?\d+(?:\.\d+)*(?:[eE][-+]?\d+)?(?: ?{_UNIT})?",
        r"\d+",
        rf"#(?: ?{_UNIT}|(?:, ?|[ :T+./-])#)+",  # amounts; lists, times and addresses of them
    )
)


@dataclass(frozen=True)
class Failure:
    """One attempt that failed: of which trial, of what (see `records.Fault`), why, and where."""

    trial: str
    fault: str
    reason: str
    node: str = ""


@dataclass(frozen=True)
class Group:
    """Failures with one signature; `example` is the reason of the first."""

    signature: str
    fault: str
    example: str
    count: int
    trials: tuple[str, ...]
    """Each once, in the order in which they failed."""

    def line(self) -> str:
        """`3 trials failed alike (memory): CUDA out of memory [...]`."""
        trials = len(self.trials)
        who = f"{trials} trials failed alike" if trials > 1 else f"trial {self.trials[0]} failed"
        times = f", {self.count} times" if self.count > trials else ""
        return f"{who}{times}{f' ({self.fault})' if self.fault else ''}: {self.example}"


def signature(fault: str, reason: str, node: str = "") -> str:
    """What two failures have in common that differ only in numbers, amounts, times, ids, paths,
    addresses and process numbers; and in the name of the `node`, where it is given.

    A signature is its own signature: `signature("", signature(f, r)) == signature(f, r)`.
    """
    text = " ".join(f"{fault}: {reason}".split() if fault else reason.split())
    if node:
        text = re.sub(rf"(?<![\w.-]){re.escape(node)}(?![\w-])", SAME, text)
    before = None
    while text != before:  # what one rule leaves may be another's; each step takes something away
        before = text
        for pattern in _MAY_DIFFER:
            text = pattern.sub(SAME, text)
        text = _without_repeats(text)
    return text


def group(failures: Sequence[Failure]) -> list[Group]:
    """The failures by signature, most frequent first, then in the order in which they came."""
    found: dict[str, list[Failure]] = {}
    for each in failures:
        found.setdefault(signature(each.fault, each.reason, each.node), []).append(each)
    return sorted((_group(*item) for item in found.items()), key=lambda g: -g.count)


def _group(key: str, same: Sequence[Failure]) -> Group:
    first, trials = same[0], dict.fromkeys(each.trial for each in same)
    return Group(key, first.fault, first.reason, len(same), tuple(trials))


def _without_repeats(text: str) -> str:
    """Sentences that follow their like are one: a GPU's memory is told process by process."""
    kept: list[str] = []
    for sentence in text.split(". "):
        if kept[-1:] != [sentence]:
            kept.append(sentence)
    return ". ".join(kept)
