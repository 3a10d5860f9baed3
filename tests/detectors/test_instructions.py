"""The limit on vector instructions, in processes of their own, as libraries read it once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.instructions import LIMITS, SWITCH, has_avx2, limit_instructions

REPORT = "print(torch.backends.cpu.get_cpu_capability(), flush=True)"
FORK = f"""
import os, sys, torch

for code in sys.argv[1:]:
    if not os.fork():
        exec(code)
        {REPORT}
        os._exit(0)
    assert os.wait()[1] == 0
"""
"""Runs each program in a process of its own, where torch is imported and has not been used."""
SET = "import os; os.environ[{!r}] = {!r}; import detectors"
avx2 = pytest.mark.skipif(not has_avx2(), reason="a processor without AVX2")


def capabilities(program: str, *forks: str) -> list[str]:
    """Return PyTorch's instruction set in new processes."""
    kept = {k: v for k, v in os.environ.items() if k not in {*LIMITS, SWITCH}}
    line = [sys.executable, "-c", program, *forks]
    done = subprocess.run(line, env=kept, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def after_torch() -> dict[str, str]:
    """PyTorch's instruction set after what is done once torch is imported."""
    programs = {
        "nothing": "",
        "detectors": "import detectors",
        "gaplab": "import gaplab.api",
        "native": SET.format(SWITCH, "native"),
        "default": SET.format("ATEN_CPU_CAPABILITY", "default"),
    }
    return dict(zip(programs, capabilities(FORK, *programs.values()), strict=True))


@avx2
def test_whatever_imports_detectors_uses_avx2(after_torch: dict[str, str]) -> None:
    assert capabilities(f"import detectors, torch; {REPORT}") == ["AVX2"]
    assert after_torch["detectors"] == after_torch["gaplab"] == "AVX2"


def test_native_leaves_the_choice_to_the_libraries(after_torch: dict[str, str]) -> None:
    assert after_torch["native"] == after_torch["nothing"]


@avx2
def test_a_variable_that_is_set_stays(after_torch: dict[str, str]) -> None:
    assert after_torch["default"] == "DEFAULT"
    environment = {"MKL_CBWR": "COMPATIBLE"}
    limit_instructions(environment)
    assert environment == LIMITS | {"MKL_CBWR": "COMPATIBLE"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f\n", True),
        ("flags\t\t: fpu sse2 avx\n", False),
        ("flags\t\t: avx2_like\n", False),
        ("Features\t: fp asimd\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_without_avx2_is_not_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, expected: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    facts = tmp_path / "cpuinfo"
    if flags is not None:
        facts.write_text(f"processor\t: 0\n{flags}power management:\n")
    assert has_avx2(facts) is expected
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not has_avx2(facts)
