"""Read and write files under a storage URI: a local folder or an object store.

Checkpoints, candidates and everything else that is too large for the ledger is stored this way.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pyarrow.fs

from gaplab.errors import StorageError, UserError


def evaluation_folder(kind: str, trial: str, epoch: int, branch: str) -> str:
    """Return the folder, inside a storage, for files of one `kind` about an evaluated branch."""
    return f"trials/{trial}/{kind}/epoch={epoch}/branch={branch}"


def stored_path(uri: str, trial: str) -> str:
    """Return the path of a file of a trial relative to its storage, whatever folder that was in.

    Earlier versions stored absolute paths. URIs of other files are returned as they are.
    """
    before, found, after = uri.rpartition(f"/trials/{trial}/")
    return f"trials/{trial}/{after}" if found and "://" not in before else uri


class Storage:
    """Files under a URI. On a local disk, writing a file is atomic.

    Args:
        uri: an absolute path, or an address such as `s3://bucket/folder`.

    Raises:
        UserError: if the URI can't be used; by all methods, for a name that leads out of it.
        StorageError: by methods, if a file can't be written, moved or deleted, or a folder can't be
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
        """Return the storage of the file at `uri`, and the file's name in it."""
        folder, _, name = uri.rpartition("/")
        return cls(folder), name

    def save_bytes(self, name: str, data: bytes) -> str:
        """Write a file and return its URI."""
        with self.writing(name) as stream:
            stream.write(data)
        return f"{self.uri}/{name}"

    def save_text(self, name: str, text: str) -> str:
        """Write a text file in UTF-8 and return its URI."""
        return self.save_bytes(name, text.encode())

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises OSError, FileNotFoundError if it doesn't exist."""
        with self.open(name) as stream:
            data: bytes = stream.read()
        return data

    def relative(self, uri: str) -> str:
        """Return a URI as the ledger stores it: relative to this storage if it lies inside."""
        return uri.removeprefix(f"{self.uri}/")

    def locate(self, stored: str) -> str:
        """Return the URI of what `relative` returned, also after this storage was moved."""
        if "://" in stored or stored.startswith("/"):
            return stored
        self._path(stored)  # raises UserError if it leads out
        return f"{self.uri}/{stored}"

    def local_path(self, name: str) -> Path | None:
        """Return the path of a file on this machine; None in an object store."""
        path = self._path(name)
        return Path(path) if isinstance(self._fs, pyarrow.fs.LocalFileSystem) else None

    def open(self, name: str) -> Any:
        """Open a file for reading, as a seekable binary file. Raises OSError."""
        return self._fs.open_input_file(self._path(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """Open a binary stream that becomes the file when the block ends without an error.

        The stream is written to a temporary file, which is then renamed, so a reader sees either
        the old file or the new one. Several writers of one file don't interfere: the last one to
        finish replaces the others.
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
        """Return the names of the files directly in a folder, sorted; none if it doesn't exist."""
        return self._files(folder, recursive=False)

    def below(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, relative to it, sorted."""
        return self._files(folder, recursive=True)

    def move(self, name: str, new: str) -> None:
        """Rename a file. An existing file of the new name is replaced."""
        path = self._path(new)
        try:
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)
            self._fs.move(self._path(name), path)
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{name}: can't be moved to {new} ({reason(error)}); allow writing there"
            ) from error

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
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
        """Return the path of a file. Raises UserError if it is not below the root."""
        parts = name.replace("\\", "/").split("/")
        if "\0" in name or not all(part.strip() not in ("", ".", "..") for part in parts):
            raise UserError(f"{name!r}: leads out of {self.uri}; give a plain path below it")
        return f"{self._root}/{name}"


def reason(error: Exception) -> str:
    """Return the message of an error of a file system or of Arrow, as one short line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())[:200]
