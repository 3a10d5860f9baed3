"""Assertions that a secret does not leak into the files of a home folder or a command line."""

from pathlib import Path

import psutil

_CHUNK = 2**20  # bytes


def assert_no_secret(secret: str, home: Path, *, own: str = "ray.token") -> None:
    """Assert that no file below `home` but `own` contains `secret`; all are read as bytes.

    Fails, too, if there are no files, or if the secret is too short to be unique.
    """
    assert len(secret) >= 16, "too short to tell from other text"
    files = [path for path in sorted(home.rglob("*")) if path.is_file() and path != home / own]
    assert files, f"no files to search in {home}"
    found = [str(path) for path in files if _contains(path, secret.encode())]
    assert not found, f"the secret is in {', '.join(found)}"


def assert_no_secret_in_argv(secret: str) -> None:
    """Assert that no process visible to this user has `secret` in its command line."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert any(commands), "no command line is visible"
    found = [command for command in commands if secret in " ".join(command)]
    assert not found, f"the secret is in {found}"


def _contains(path: Path, secret: bytes) -> bool:
    """Whether the file contains these bytes; reads overlapping chunks."""
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if secret in tail + chunk:
                return True
            tail = chunk[-len(secret) :]
    return False
