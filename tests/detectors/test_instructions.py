"""The limit on vector instructions, in processes of their own, as libraries read it once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.instructions import LIMITS, SWITCH, has_avx2, limit_instructions

REPORT = "print(torch.backends.cpu.get_cpu_capability())"
avx2 = pytest.mark.skipif(not has_avx2(), reason="a processor without AVX2")


def capability(imports: str, **variables: str) -> str:
    """Return PyTorch's instruction set in a new process after these imports."""
    kept = {k: v for k, v in os.environ.items() if k not in {*LIMITS, SWITCH}}
    line = [sys.executable, "-c", f"{imports}\n{REPORT}"]
    done = subprocess.run(line, env=kept | variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@avx2
@pytest.mark.parametrize(
    "imports", ["import detectors, torch", "import torch, detectors", "import torch, gaplab.api"]
)
def test_whatever_imports_detectors_uses_avx2(imports: str) -> None:
    assert capability(imports) == "AVX2"


def test_native_leaves_the_choice_to_the_libraries() -> None:
    native = capability("import detectors, torch", **{SWITCH: "native"})
    assert native == capability("import torch")


@avx2
def test_a_variable_that_is_set_stays() -> None:
    assert capability("import detectors, torch", ATEN_CPU_CAPABILITY="default") == "DEFAULT"
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
