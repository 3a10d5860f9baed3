"""Big things of a trial (checkpoints, candidates) under one root, a local folder or object store.

PyTorch is imported only where tensors are saved or loaded: reading results starts without it.
"""

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self
from uuid import uuid4

import pyarrow.fs

from gaplab.errors import UserError


def checkpoint_name(trial: str) -> str:
    """Where a trial keeps its last checkpoint, inside the storage."""
    return f"trials/{trial}/checkpoint.pt"


def evaluation_folder(kind: str, trial: str, epoch: int, branch: str) -> str:
    """Where files of one `kind` about an evaluated branch lie, inside the storage."""
    return f"trials/{trial}/{kind}/epoch={epoch}/branch={branch}"


class Storage:
    """Files under `uri` (a path or `s3://...`); on a local disk a write is atomic.

    Raises UserError for an address that can't be used and for a file that can't be written.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._fs, self._root = pyarrow.fs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{uri}: can't be used as storage ({reason(error)}); give an absolute path or an "
                "address such as s3://bucket/folder"
            ) from error

    @classmethod
    def of(cls, uri: str) -> tuple[Self, str]:
        """The storage and the name in it of the file at `uri`."""
        folder, _, name = uri.rpartition("/")
        return cls(folder), name

    def save(self, name: str, state: dict[str, Any]) -> str:
        """Write `state` (tensors and plain values) under `name`; returns its URI."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        return self._write(name, buffer.getvalue())

    def save_text(self, name: str, text: str) -> str:
        """Write `text` under `name`; returns its URI."""
        return self._write(name, text.encode())

    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved under `name`, on the CPU, or None; never unpickles arbitrary objects.

        Raises UserError where the file is damaged.
        """
        import torch

        path = f"{self._root}/{name}"
        if self._fs.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            return None
        with self._fs.open_input_file(path) as stream:
            data = io.BytesIO(stream.read())
        try:
            state: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise UserError(
                f"{path}: damaged checkpoint ({type(error).__name__}); delete it to start over"
            ) from error
        return state

    def open(self, name: str) -> Any:
        """The bytes under `name`, as a binary file to seek in. Raises OSError."""
        return self._fs.open_input_file(f"{self._root}/{name}")

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A binary stream that becomes the file `name` when the block ends, nothing if it fails.

        It is written beside, then renamed: a reader sees the old file or the new one, never half.
        Writers of the same name don't disturb each other; the last to end wins.
        """
        path = f"{self._root}/{name}"
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
                raise UserError(
                    f"{self.uri}/{name}: can't be written ({reason(error)}); free space or allow "
                    "writing there, or use another folder"
                ) from error
            raise

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted; none if there is no such folder."""
        path = f"{self._root}/{folder}".rstrip("/")
        selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
        try:
            found = self._fs.get_file_info(selector)
        except OSError as error:
            raise UserError(
                f"{self.uri}/{folder}: can't be listed ({reason(error)}); allow reading there"
            ) from error
        return sorted(each.base_name for each in found if each.is_file)

    def delete(self, name: str) -> None:
        """Delete the file `name`, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._root}/{name}")

    def _write(self, name: str, data: bytes) -> str:
        with self.writing(name) as stream:
            stream.write(data)
        return f"{self.uri}/{name}"


def reason(error: Exception) -> str:
    """What an error of a file system or of Arrow says, on one short line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())[:200]
