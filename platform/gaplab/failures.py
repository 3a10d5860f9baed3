"""Group failed attempts that failed for the same reason.

Two reasons are the same if their signatures are equal. A signature is the reason without whatever
may differ between two reports: numbers, amounts, times, ids, paths and addresses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SAME = "#"
"""Replaces whatever may differ between two reports of one failure."""

_UNIT = r"(?:bytes|[kKMGT]i?B|milliseconds|seconds|ms|s|min|h)\b"
_FILES = "jpe?g|png|bmp|webp|tiff?|json|odgt|ya?ml|pth?|parquet|txt|log|db"
_MAY_DIFFER = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w+.-])[A-Za-z][\w+.-]*://[^\s'\"(),;]*[^\s'\"(),;:.]",  # addresses
        r"(?<![\w#])[~.]{0,2}/[^\s'\"(),;:]*[^\s'\"(),;:.]",  # paths
        r"(?<![\w.@#+-])[\w.@+-]+/[^\s'\"(),;:]*[^\s'\"(),;:.]",  # relative ones
        rf"(?<![\w.#+-])[\w.#+-]+\.(?:{_FILES})\b",  # file names
        r"(?<![0-9A-Za-z])0x[0-9a-fA-F]+",
        r"(?<![0-9A-Za-z])[0-9a-f]{8,}(?![0-9A-Za-z])",  # ids
        r"(?<![0-9A-Za-z])[0-9a-f]{4}(?:-[0-9a-f]{4})+(?![0-9A-Za-z])",  # the middle of a UUID
        r"(?<![\w#.])[-+]?(?:nan|inf)(?!\w)",
        rf"(?<![\w#])[-+]?\d+(?:\.\d+)*(?:[eE][-+]?\d+)?(?: ?{_UNIT})?",
        r"\d+",
        rf"#(?: ?{_UNIT}|(?:, ?|[ :T+./-])#)+",  # amounts, and lists of them
    )
)


@dataclass(frozen=True)
class Failure:
    """One failed attempt: its trial, its kind of fault (see `records.Fault`), reason and node."""

    trial: str
    fault: str
    reason: str
    node: str = ""


@dataclass(frozen=True)
class Group:
    """Failures with the same signature."""

    signature: str
    fault: str
    example: str
    """Reason of the first failure."""
    count: int
    """Number of failures."""
    trials: tuple[str, ...]
    """Ids of the trials that failed, each once, in the order of their first failures."""

    def line(self) -> str:
        """Return one line, such as `3 trials failed for the same reason (memory): CUDA [...]`."""
        trials = len(self.trials)
        several = f"{trials} trials failed for the same reason"
        what = several if trials > 1 else f"trial {self.trials[0]} failed"
        times = f", {self.count} times" if self.count > trials else ""
        fault = f" ({self.fault})" if self.fault else ""
        return f"{what}{times}{fault}: {self.example}"


def signature(fault: str, reason: str, node: str = "") -> str:
    """Return the signature of a failure: its reason with `#` for whatever may differ.

    The function is idempotent: `signature("", signature(f, r)) == signature(f, r)`.

    Args:
        fault: kind of fault; part of the signature unless it is empty.
        reason: text of the failure.
        node: name of the machine, replaced in the reason as well; empty if unknown.
    """
    text = " ".join(f"{fault}: {reason}".split() if fault else reason.split())
    if node:
        text = re.sub(rf"(?<![\w.-]){re.escape(node)}(?![\w-])", SAME, text)
    before = None
    while text != before:  # the result of one rule may match another; the text only gets shorter
        before = text
        for pattern in _MAY_DIFFER:
            text = pattern.sub(SAME, text)
        text = _without_repeats(text)
    return text


def group(failures: Sequence[Failure]) -> list[Group]:
    """Return the failures grouped by signature, largest group first, then in order of arrival."""
    found: dict[str, list[Failure]] = {}
    for each in failures:
        found.setdefault(signature(each.fault, each.reason, each.node), []).append(each)
    return sorted((_group(*item) for item in found.items()), key=lambda g: -g.count)


def _group(key: str, same: Sequence[Failure]) -> Group:
    first, trials = same[0], dict.fromkeys(each.trial for each in same)
    return Group(key, first.fault, first.reason, len(same), tuple(trials))


def _without_repeats(text: str) -> str:
    """Drop each sentence that equals the one before it.

    A message about a full GPU repeats one sentence for every process.
    """
    kept: list[str] = []
    for sentence in text.split(". "):
        if kept[-1:] != [sentence]:
            kept.append(sentence)
    return ". ".join(kept)
