"""Big things of a trial (checkpoints, candidates) under one root: a folder or an object store."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pyarrow.fs

from gaplab.errors import StorageError, UserError


def evaluation_folder(kind: str, trial: str, epoch: int, branch: str) -> str:
    """Where files of one `kind` about an evaluated branch lie, inside the storage."""
    return f"trials/{trial}/{kind}/epoch={epoch}/branch={branch}"


class Storage:
    """Files under `uri` (a path or `s3://...`); on a local disk a write is atomic.

    Raises UserError for an address that can't be used and for a name that leads out of it,
    StorageError for a file that can't be written, moved or deleted and a folder that can't be
    listed.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._fs, root = pyarrow.fs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{uri}: can't be used as storage ({reason(error)}); give an absolute path or an "
                "address such as s3://bucket/folder"
            ) from error
        self._root = root.rstrip("/")

    @classmethod
    def of(cls, uri: str) -> tuple[Self, str]:
        """The storage and the name in it of the file at `uri`."""
        folder, _, name = uri.rpartition("/")
        return cls(folder), name

    def save_bytes(self, name: str, data: bytes) -> str:
        """Write `data` under `name`; returns its URI."""
        with self.writing(name) as stream:
            stream.write(data)
        return f"{self.uri}/{name}"

    def save_text(self, name: str, text: str) -> str:
        """Write `text` under `name`; returns its URI."""
        return self.save_bytes(name, text.encode())

    def read(self, name: str) -> bytes:
        """The bytes under `name`. Raises OSError; FileNotFoundError where there is no file."""
        with self.open(name) as stream:
            data: bytes = stream.read()
        return data

    def local_path(self, name: str) -> Path | None:
        """Where the file `name` is on this machine; None for an object store."""
        path = self._path(name)
        return Path(path) if isinstance(self._fs, pyarrow.fs.LocalFileSystem) else None

    def open(self, name: str) -> Any:
        """The bytes under `name`, as a binary file to seek in. Raises OSError."""
        return self._fs.open_input_file(self._path(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A binary stream that becomes the file `name` when the block ends, nothing if it fails.

        It is written beside, then renamed: a reader sees the old file or the new one, never half.
        Writers of the same name don't disturb each other; the last to end wins.
        """
        path = self._path(name)
        part = f"{path}.{uuid4().hex[:8]}.part"
        try:
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
            with self._fs.open_output_stream(part) as stream:
                yield stream
            self._fs.move(part, path)
        except BaseException as error:
            with suppress(OSError):
                self._fs.delete_file(part)
            if isinstance(error, OSError):
                raise StorageError(
                    f"{self.uri}/{name}: can't be written ({reason(error)}); free space or allow "
                    "writing there, or use another folder"
                ) from error
            raise

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted; none if there is no such folder."""
        return self._files(folder, recursive=False)

    def below(self, folder: str) -> list[str]:
        """Names of all files in `folder` and the folders in it, as seen from there, sorted."""
        return self._files(folder, recursive=True)

    def move(self, name: str, new: str) -> None:
        """Give the file `name` another name; a file that is there already is replaced."""
        path = self._path(new)
        try:
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
            self._fs.move(self._path(name), path)
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{name}: can't be moved to {new} ({reason(error)}); allow writing there"
            ) from error

    def delete(self, name: str) -> None:
        """Delete the file `name`, if it is there."""
        try:
            self._fs.delete_file(self._path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{name}: can't be deleted ({reason(error)}); allow writing there"
            ) from error

    def _files(self, folder: str, recursive: bool) -> list[str]:
        path = self._path(folder) if folder else self._root
        selector = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        try:
            found = self._fs.get_file_info(selector)
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{folder}: can't be listed ({reason(error)}); allow reading there"
            ) from error
        return sorted(each.path[len(path) + 1 :] for each in found if each.is_file)

    def _path(self, name: str) -> str:
        """The path of `name` in the file system. Raises UserError where it isn't below the root."""
        parts = name.replace("\\", "/").split("/")
        if "\0" in name or not all(part.strip() not in ("", ".", "..") for part in parts):
            raise UserError(f"{name!r}: leads out of {self.uri}; give a plain path below it")
        return f"{self._root}/{name}"


def reason(error: Exception) -> str:
    """What an error of a file system or of Arrow says, on one short line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())[:200]
