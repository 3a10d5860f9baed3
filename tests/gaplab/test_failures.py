"""Signatures of failures, groups of failures, and when failures stop a sweep."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.failures import Failure, Group, group, signature
from gaplab.launch.decisions import should_stop
from gaplab.spec.models import Policy

NOT_FINITE = (
    "loss is not finite at step {0} (epoch {0}): total=nan, cls=nan, box={0}.25; lower training.lr "
    "or set training.clip_norm"
)
CUDA = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate {0}.78 GiB. GPU 0 has a total capacity"
    " of {0}.47 GiB of which {0}.73 MiB is free. Process {0} has {0}.73 GiB memory in use. Of the "
    "allocated memory 9.08 GiB is allocated by PyTorch, and 1.90 MiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF="
    "expandable_segments:True to avoid fragmentation.  See documentation for Memory Management  "
    "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables) (traceback in {1}"
    "trials/{2}/traceback.txt)"
)
OLD_CUDA = (
    "RuntimeError: CUDA out of memory. Tried to allocate {0}.00 KiB (GPU 0; 11.17 GiB total "
    "capacity; {0}.90 GiB already allocated; 0 bytes free; 30.96 MiB cached)"
)
RAY_MEMORY = (
    "its process died: Memory on the node (IP: 10.0.3.{0}, ID: {2}) where the task (actor ID: {2}, "
    "name=ImplicitFunc.train, pid={0}, memory used=2.{0}GB) was running was 59.{0}GB / 62.58GB "
    "(0.95{0}), which exceeds the memory usage threshold of 0.95. Ray killed this worker (ID: {2})"
)
ACTOR = (
    "ActorDiedError: The actor died unexpectedly before finishing this task. class_name: "
    "ImplicitFunc actor_id: {2} pid: {0} namespace: 8d979521-e26c-4252-adaf-{2} ip: 10.7.34.{0}"
)
ENDED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code {0}. End of file."
)
GLOO = (
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:{0}] Connection closed by peer "
    "[127.0.0.1]:{0}"
)
NCCL = (
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum={0}, OpType=ALLREDUCE, NumelIn="
    "{0}, NumelOut=1, Timeout(ms)=600000) ran for 6000{0} milliseconds before timing out."
)
DATA = "{1}val.json: {0} images are not there: {2}.jpg, cat.jpg; correct `val_images`"
DISK = "{1}trials/{2}/checkpoints/epoch={0}-step={0}-{2}.pt: can't be written (No space left)"
HANG = "no step for {0} s (last one at 2026-01-02T10:11:{0}.5+00:00); process {0} was ended"
ALL = (NOT_FINITE, CUDA, OLD_CUDA, RAY_MEMORY, ACTOR, ENDED, GLOO, NCCL, DATA, DISK, HANG)

NUMBERS = st.integers(10, 59)
FOLDERS = st.lists(st.text("abcXY0_.-", min_size=1, max_size=5), max_size=4).flatmap(
    lambda parts: st.sampled_from(["/", "file:///", "s3://bucket/"]).map(
        lambda root: root + "".join(f"{part}/" for part in parts)
    )
)
IDS = st.text("0123456789abcdef", min_size=12, max_size=12)


@settings(max_examples=30)
@pytest.mark.parametrize("text", ALL)
@given(NUMBERS, FOLDERS, IDS)
def test_numbers_paths_and_ids_make_no_difference(
    text: str, number: int, folder: str, key: str
) -> None:
    plain = text.format(12, "/home/", "0123456789ab")
    assert signature("error", text.format(number, folder, key)) == signature("error", plain)


def test_different_failures_differ() -> None:
    found = {signature("", text.format(12, "/a/", "0123456789ab")) for text in ALL}
    assert len(found) == len(ALL)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("", ""),
        ("KeyError: 'boxes'", "KeyError: 'boxes'"),
        ("a  b\n c", "a b c"),
        ("took 3 min 20 s, not 1.5e-3 ms", "took #, not #"),
        ("free: 0 bytes of 11.17 GiB", "free: # of #"),
        ("shape [256, 3, 3] vs [64]", "shape [#] vs [#]"),
        ("1,234 of 12 images", "# of # images"),
        ("at 0x7f3b6e7236fc", "at #"),
        ("expected o2m, got o2o", "expected o#m, got o#o"),
        ("box=nan, cls=-inf, infinite nanny", "box=#, cls=#, infinite nanny"),
        ("on node-17:6379", "on node-#"),
        ("open ~/a/b.txt or ./c or /", "open # or # or /"),
        ("bad operand for /: 'int'", "bad operand for /: 'int'"),
        ("defaced detectors.engine", "defaced detectors.engine"),
        ("feedfacefeed", "#"),
        ("A has 1 MiB. A has 2 MiB. B", "A has #. B"),
    ],
)
def test_signatures(reason: str, expected: str) -> None:
    assert signature("", reason) == expected


WORDS = st.sampled_from(
    [
        *("a", "4f", "deadbeef01", "7", "3.5", "1e5", "-", ".", ". ", "/", "//", ":", ",", "nan"),
        *("GiB", "s", "#", " ", "x", "s3://", "a.jpg", "error: x", "0x", "_", "+", "=", "(", "T"),
    ]
)


@settings(max_examples=30)
@given(st.lists(WORDS, max_size=12).map("".join) | st.text(max_size=40))
@pytest.mark.parametrize("fault", ["", "error"])
def test_a_signature_is_its_own_signature(fault: str, text: str) -> None:
    once = signature(fault, text)
    assert signature("", once) == once


@settings(max_examples=30)
@given(st.lists(WORDS, max_size=8), st.integers(0, 8), st.integers(0, 10**9), st.integers(0, 10**9))
def test_any_number_between_words_makes_no_difference(
    words: list[str], at: int, one: int, other: int
) -> None:
    before, after = " ".join(words[:at]), " ".join(words[at:])
    first, second = (signature("", f"{before} ({n}) {after}") for n in (one, other))
    assert first == second
    assert not re.search(r"\d", first)


@pytest.mark.parametrize("piece", ["a", "a.", "/a", "f", "# ", "-", "a:", "1 ", "../", "a-", "x."])
def test_long_reasons_take_linear_time(piece: str) -> None:
    assert signature("", piece * 300_000)  # quadratic time would exceed the timeout of tests


def test_the_name_of_the_node_makes_no_difference() -> None:
    lost = "PyTorch sees no GPU on {0}; install a CUDA build on {0}, not {0}s"
    first = signature("input", lost.format("alpha"), "alpha")
    assert first == "input: PyTorch sees no GPU on #; install a CUDA build on #, not alphas"
    assert signature("input", "on beta.example.org!", "beta.example.org") == "input: on #!"


# Groups.


def failures(*reasons: str, fault: str = "error") -> list[Failure]:
    return [Failure(f"trial{n}", fault, reason) for n, reason in enumerate(reasons)]


def test_no_failures() -> None:
    assert group([]) == []
    for on_failure in ("continue", "stop", "stop_after_n_identical"):
        assert should_stop([], Policy(on_failure=on_failure)) is None


def test_groups_are_sorted_by_size_then_time() -> None:
    found = group(failures("x at 1", "y at 1", "y at 2", "z", "y at 30"))
    assert found == [
        Group("error: y at #", "error", "y at 1", 3, ("trial1", "trial2", "trial4")),
        Group("error: x at #", "error", "x at 1", 1, ("trial0",)),
        Group("error: z", "error", "z", 1, ("trial3",)),
    ]


def test_equal_reasons_with_different_faults_are_two_groups() -> None:
    assert len(group([*failures("x", fault="lost"), *failures("x", fault="hang")])) == 2


def test_a_trial_that_failed_twice_counts_once() -> None:
    [found] = group([Failure("t", "", "x 1"), Failure("t", "", "x 2"), Failure("u", "", "x 3")])
    assert (found.count, found.trials) == (3, ("t", "u"))
    assert found.line() == "2 trials failed for the same reason, 3 times: x 1"


def test_groups_as_text() -> None:
    [one] = group(failures("no memory", fault="memory"))
    assert one.line() == "trial trial0 failed (memory): no memory"
    [two] = group(failures("x 1", "x 2"))
    assert two.line() == "2 trials failed for the same reason (error): x 1"


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["x 1", "x 2", "y", "z"]), max_size=8), st.integers(1, 4))
def test_stopping_agrees_with_a_count(reasons: list[str], limit: int) -> None:
    found = failures(*reasons)
    counts = [sum(r[0] == kind for r in reasons) for kind in "xyz"]
    policy = Policy(on_failure="stop_after_n_identical", identical=limit)
    assert (should_stop(found, policy) is not None) == (max(counts) >= limit)
    assert (should_stop(found, Policy(on_failure="stop")) is not None) == bool(reasons)
    assert should_stop(found, Policy()) is None


def test_failures_of_one_trial_count_once() -> None:
    policy = Policy(on_failure="stop_after_n_identical", identical=2)
    again = [Failure("t", "error", "x")] * 5
    assert should_stop(again, policy) is None
    assert should_stop([*again, Failure("u", "error", "x")], policy) == (
        "2 trials failed for the same reason, 6 times (error): x "
        "(run.on_failure: stop_after_n_identical)"
    )
