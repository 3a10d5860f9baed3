"""Find image files by their names in an annotation file, also names written on other systems."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dng", "gif", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "pfm", "pgm"),
        *("png", "ppm", "tif", "tiff", "webp"),
    )
)
"""Suffixes of files that are images. Some can't be read, which is then a problem of the image."""


_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Names with one form only, which stay in their folder."""


class Finder:
    """Finds the images of one split."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Create a finder.

        Args:
            folder: absolute path of the folder to which names are relative.
            root: absolute path of the data set's folder.
        """
        self._folder = Path(os.path.normpath(folder))
        self._root = root
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """Return the path of an image; None if the data set has no such file.

        A file of exactly this name is preferred. Otherwise backslashes separate folders, `%20` and
        the like are decoded, and letters with accents may be composed or decomposed.
        """
        if _PLAIN.fullmatch(name):
            path = self._folder / name
            return path if os.path.isfile(path) else None
        inside = [form for form in _forms(name) if self._contains(form)]
        for form in inside:
            path = self._folder / form
            if os.path.isfile(path):  # unlike Path.is_file, False for an invalid name
                return path
        spelled = [self._spelled(form) for form in inside if not form.isascii()]
        return next((path for path in spelled if path is not None and os.path.isfile(path)), None)

    def is_outside(self, name: str) -> bool:
        """Return whether a name, in one of the forms that `find` tries, leaves the data set.

        Annotation files may be untrusted, and must not name other files of this machine. Symbolic
        links in the folders are allowed, because the user has made them.
        """
        return not all(map(self._contains, _forms(name)))

    def alternative(self, name: str) -> str:
        """Return what the data set has in the place of a missing file, in words; may be empty."""
        form = _forms(name)[-1]
        path, in_root = (Path(os.path.normpath(f / form)) for f in (self._folder, self._root))
        if os.path.exists(path):
            return "a folder" if path.is_dir() else "no regular file"
        if os.path.islink(path):
            return "a broken link"
        if os.path.isfile(in_root) and in_root.is_relative_to(self._root):
            return f"found in {self._root}"
        alike = self._alike(path.parent, path.name)
        return f"found as {alike[0]}" if alike else ""

    def _contains(self, name: str) -> bool:
        path = Path(os.path.normpath(self._folder / name))
        return path.is_relative_to(self._folder) or path.is_relative_to(self._root)

    def _spelled(self, name: str) -> Path | None:
        """Return the path whose parts are equal to those of a name in Unicode's composed form."""
        path = Path(os.path.normpath(self._folder / name))
        base = self._folder if path.is_relative_to(self._folder) else self._root
        for part in path.relative_to(base).parts:
            alike = [part] if os.path.exists(base / part) else self._alike(base, part)
            same = [each for each in alike if normalize("NFC", each) == normalize("NFC", part)]
            if not same:
                return None
            base /= same[0]
        return base

    def _alike(self, folder: Path, name: str) -> list[str]:
        """Return the names in a folder that differ in Unicode form or capitals only.

        Each folder is listed once.
        """
        if folder not in self._listed:
            found: dict[str, list[str]] = {}
            with contextlib.suppress(OSError, ValueError):
                for each in sorted(os.listdir(folder)):
                    found.setdefault(_folded(each), []).append(each)
            self._listed[folder] = found
        return self._listed[folder].get(_folded(name), [])


def _folded(name: str) -> str:
    return normalize("NFC", name).casefold()


def _forms(name: str) -> list[str]:
    """Return a name and what it may mean: with slashes for backslashes, without URL quotes."""
    forms = [form for plain in (name, unquote(name)) for form in (plain, plain.replace("\\", "/"))]
    return list(dict.fromkeys(forms))


def images_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all image files below a folder, in no particular order.

    Symbolic links are followed; a folder to which several paths lead is listed once.
    """
    seen = set[tuple[int, int]]()
    for path, folders, files in os.walk(folder, followlinks=True):
        own = os.stat(path)
        if (own.st_dev, own.st_ino) in seen:
            folders.clear()
            continue
        seen.add((own.st_dev, own.st_ino))
        folders.sort()
        named = (name for name in files if os.path.splitext(name)[1].lower() in SUFFIXES)
        yield from (f"{path}/{name}" for name in named)
