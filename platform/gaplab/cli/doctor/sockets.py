"""Listening TCP sockets of this machine and the processes behind them, as /proc tells them."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class Process:
    """A process of this user. guard: RAY_AUTH_MODE in its environment, "" if unset or unknown."""

    name: str
    words: tuple[str, ...]
    guard: str


@dataclass(frozen=True)
class Listener:
    """An address that is listened on; `process` is None where it can't be seen."""

    host: str
    port: int
    process: Process | None


def listeners(proc: Path = Path("/proc")) -> list[Listener] | None:
    """All of this machine; None where the system doesn't tell."""
    try:
        tables = [(proc / "net" / name).read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return None
    rows = [row for table in tables for row in parse(table)]
    owners = _owners(proc, {inode for _, _, inode in rows})
    return [Listener(host, port, owners.get(inode)) for host, port, inode in rows]


def parse(table: str) -> Iterator[tuple[str, int, str]]:
    """Host, port and inode of every listening socket in the text of /proc/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == _LISTEN:
            host, port = local.split(":")
            yield _host(host), int(port, 16), rest[5]


def _host(text: str) -> str:
    """The kernel writes addresses as words of 32 bits in the byte order of little-endian CPUs."""
    words = (bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    packed = b"".join(words)
    return str(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed))


def _owners(proc: Path, inodes: set[str]) -> dict[str, Process]:
    """The process that holds each of these sockets, as far as this user may know."""
    found = dict[str, Process]()
    for folder in proc.glob("[0-9]*"):
        mine = {match[1] for each in _held(folder) if (match := _SOCKET.fullmatch(each))} & inodes
        if mine:
            with suppress(OSError):  # it ended meanwhile
                found |= dict.fromkeys(mine, _process(folder))
    return found


def _held(folder: Path) -> Iterator[str]:
    """What the open files of a process are; nothing of another user's."""
    try:
        files = sorted((folder / "fd").iterdir())
    except OSError:
        return
    for each in files:
        with suppress(OSError):  # closed meanwhile, as the folder just listed was
            yield os.readlink(each)


def _process(folder: Path) -> Process:
    words = (folder / "cmdline").read_text(errors="replace").split("\0")
    variables = (folder / "environ").read_text(errors="replace").split("\0")
    guard = [each.partition("=")[2] for each in variables if each.startswith("RAY_AUTH_MODE=")]
    name = (folder / "comm").read_text(errors="replace").strip()
    return Process(name, tuple(words), guard[0].lower() if guard else "")
