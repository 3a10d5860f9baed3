"""Where a secret must not be: in any file of a home folder but its own, and in no command line."""

from collections.abc import Iterator
from pathlib import Path

_AT_ONCE = 2**20


def assert_no_secret(secret: str, home: Path, *, own: str = "ray.token") -> None:
    """No file below `home` but `own` holds `secret`; databases and logs are read as bytes, too.

    Fails as well where there is nothing to look at, or the secret is too short to mean anything.
    """
    assert len(secret) >= 16, "too short to tell from other text"
    files = [path for path in sorted(home.rglob("*")) if path.is_file() and path != home / own]
    assert files, f"nothing to look at in {home}"
    found = [str(path) for path in files if _holds(path, secret.encode())]
    assert not found, f"the secret is in {', '.join(found)}"


def assert_no_secret_in_argv(secret: str) -> None:
    """No process that this user may see has `secret` in its command line."""
    found = [words for words in _command_lines() if secret.encode() in words]
    assert not found, f"the secret is in {found}"


def _command_lines() -> Iterator[bytes]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue


def _holds(path: Path, secret: bytes) -> bool:
    """Whether the file holds these bytes, read in pieces that overlap."""
    tail = b""
    with path.open("rb") as file:
        while piece := file.read(_AT_ONCE):
            if secret in tail + piece:
                return True
            tail = piece[-len(secret) :]
    return False
