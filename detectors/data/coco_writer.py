"""Write a data set of photographs as COCO JSON files, with links to its images."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from detectors.data.base import DataError, Split
from detectors.data.photos import PhotoDataset
from detectors.structures import ImageTruth


def write_coco(splits: Mapping[Split, PhotoDataset], folder: Path, *, copy: bool) -> None:
    """Write SPLIT.json and the folder images/SPLIT for each split.

    The folder appears when it is complete; after an error nothing of it is left.

    Args:
        splits: the data of each split.
        folder: the folder to create; it must not exist, or be empty.
        copy: whether to copy the images, or to create symbolic links to them.

    Raises:
        DataError: the folder has content, or can't be written.
    """
    target = Path(os.path.abspath(folder))
    part = target.with_name(f"{target.name}.{uuid4().hex[:8]}.part")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError([f"{folder}: already exists; name a folder that does not"])
        part.mkdir(parents=True)
        for split, data in splits.items():
            _write_split(part, split, data, copy)
        part.rename(target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        line = f"{folder}: can't be written ({reason}); free space or name another folder"
        raise DataError([line]) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_split(folder: Path, split: Split, data: PhotoDataset, copy: bool) -> None:
    paths = data.paths()
    names = _names(paths)
    images = folder / "images" / split
    for path, name in zip(paths, names, strict=True):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(path, images / name)
        else:
            (images / name).symlink_to(os.path.abspath(path))
    images.mkdir(parents=True, exist_ok=True)
    document = coco_document(data.truth(), names, data.classes)
    (folder / f"{split}.json").write_text(json.dumps(document))


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each image: that of its file, or its whole path if files share names.

    An image that is listed twice has one name.
    """
    different = dict.fromkeys(paths)
    if len({path.name for path in different}) == len(different):
        return [path.name for path in paths]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def coco_document(
    truths: Sequence[ImageTruth], names: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """Return the content of a COCO JSON file. Category ids are labels plus 1.

    Args:
        truths: the ground truth of each image.
        names: the file name of each image.
        classes: names of the classes, in label order.
    """
    found = [each for truth in truths for each in _annotations(truth)]
    return {
        "images": [
            {"id": t.image_id, "file_name": name, "width": t.width, "height": t.height}
            for t, name in zip(truths, names, strict=True)
        ],
        "annotations": [{"id": i, **each} for i, each in enumerate(found, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }


def _annotations(truth: ImageTruth) -> list[dict[str, Any]]:
    columns = (truth.boxes, truth.labels, truth.area, truth.crowd)
    return [
        {
            "image_id": truth.image_id,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
        }
        for (x1, y1, x2, y2), label, area, crowd in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]
