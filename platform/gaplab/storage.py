"""Big things of a trial (checkpoints) under one root, a local folder or an object store."""

import io
import pickle
from typing import Any

import pyarrow.fs
import torch

from gaplab.errors import UserError


class Storage:
    """Files under `uri` (a path or `s3://...`); on a local disk a write is atomic."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._fs, self._root = pyarrow.fs.FileSystem.from_uri(uri)

    def save(self, name: str, state: dict[str, Any]) -> str:
        """Write `state` (tensors and plain values) under `name`; returns its URI."""
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

    def _write(self, name: str, data: bytes) -> str:
        """Write beside, then rename: a reader sees the old file or the new one, never half."""
        path = f"{self._root}/{name}"
        self._fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self._fs.open_output_stream(f"{path}.part") as stream:
            stream.write(data)
        self._fs.move(f"{path}.part", path)
        return f"{self.uri}/{name}"
