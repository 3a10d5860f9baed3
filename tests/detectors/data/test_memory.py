import ctypes
import platform

import pytest

from detectors.data.memory import keep_freed_memory


def test_has_an_effect_with_glibc() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_does_nothing_with_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory.__wrapped__() is False
