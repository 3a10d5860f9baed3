"""Read the sizes and orientations of images, of many of them once per machine."""

import hashlib
from collections.abc import Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from detectors.data.cache import code_digest, stored
from detectors.data.images import ImageError, read_size
from detectors.data.orientation import Orientation

LEAST_IMAGES = 1000
"""Fewer images are read by every process itself."""

Row = list[Any] | None
"""The values of an `Orientation`; None for an image that can't be read."""


def read_headers(paths: Mapping[str, Path], *, decode: bool) -> dict[str, Orientation | ImageError]:
    """Return the size and orientation of each image, or why it can't be read.

    Of many images they are kept in a file of the cache, and found again while no image has another
    time or size. Images that can't be read are tried again.

    Args:
        paths: the files by name.
        decode: whether to decode all pixels, to find damaged files.
    """
    if len(paths) < LEAST_IMAGES:
        return {name: _header(path, decode) for name, path in paths.items()}
    built: dict[str, Orientation | ImageError] = {}

    def build() -> list[Row]:
        built.update((name, _header(path, decode)) for name, path in paths.items())
        return [None if isinstance(h, ImageError) else [*astuple(h)] for h in built.values()]

    file = f"headers-{_digest(paths, decode)}.json"
    rows = stored(file, partial(_read, count=len(paths)), build, _write)
    if built:
        return built
    return {
        name: _header(path, decode) if row is None else _orientation(row)
        for (name, path), row in zip(paths.items(), rows, strict=True)
    }


def _header(path: Path, decode: bool) -> Orientation | ImageError:
    try:
        return read_size(path, decode=decode)
    except ImageError as error:
        return error


def _orientation(row: list[Any]) -> Orientation:
    (width, height), *rest = row
    return Orientation((width, height), *rest)


def _digest(paths: Mapping[str, Path], decode: bool) -> str:
    """Return a digest of the files, their times and sizes, and the code that reads them."""
    whole = hashlib.sha256(f"{code_digest()} {decode}".encode())
    for path in paths.values():
        whole.update(f"\0{path}\0{_stamp(path)}".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()[:32]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return time and size of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _read(path: Path, count: int) -> list[Row] | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != _checksum(body):
        return None
    rows: list[Row] = from_json(body)
    return rows if len(rows) == count else None


def _write(path: Path, rows: list[Row]) -> bool:
    body = to_json(rows)
    path.write_bytes(b"%s\n%s" % (_checksum(body), body))
    return True


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
