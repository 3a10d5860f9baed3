"""Recognise the format of a folder of photographs, and write the `data` section for it."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.data.base import DataError
from detectors.data.coco_schema import URL
from detectors.data.names import Finder
from detectors.data.yolo_files import read_yaml

DEPTH = 3
"""Number of levels of folders that are searched."""
SAMPLE = 50
"""Number of images of a file that are looked for in a folder."""
FRACTION = 0.2
"""Part of the images used for validation if a data set has one split only."""
LISTS = (("train", "val"), ("train", "valid"), ("trainval", "test"), ("train", "test"))
"""Names of VOC's lists for training and validation."""
OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
"""Beginnings of the names of COCO's files for other tasks."""

Section = dict[str, Any]


def recognise(folder: Path) -> list[Section]:
    """Return a `data` section for each data set in a folder, by its files; often one, or none.

    Recognised are data.yaml files of YOLO, folders of Pascal VOC, CrowdHuman's .odgt files and COCO
    JSON files named as in COCO or by Roboflow, CVAT and Label Studio, up to three folders deep.

    Raises:
        DataError: the folder does not exist, or has several COCO files for one split.
    """
    if not folder.is_dir():
        raise DataError([f"{folder}: no such folder; name the folder of a data set"])
    found = [section for look in _LOOKS for section in look(folder)]
    if not found and _has_labels(folder):
        line = (
            f"{folder}: has labels of YOLO, but no data.yaml; write one with names, train and val"
        )
        raise DataError([line])
    return [{"name": each.pop("name"), "root": str(folder), **each} for each in found]


def _has_labels(folder: Path) -> bool:
    """Return whether a folder looks like one of YOLO without its data.yaml."""
    return any(i.name == "labels" and any(i.rglob("*.txt")) for i in _folders(folder, 2))


def _folders(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield a folder and those inside it, those that are less deep first."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [path for each in level for path in _inner(each)]


def _inner(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            return sorted(Path(each) for each in found if each.is_dir() and each.name[0] != ".")
    except OSError:
        return []


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


# --- YOLO, VOC and CrowdHuman ---------------------------------------------------------------------


def yolo_section(path: Path) -> Section | None:
    """Return the `data` section for a file, if it is a data.yaml of YOLO."""
    if path.suffix not in (".yaml", ".yml"):
        return None
    found = _yolo_options(path)
    return None if found is None else {"name": "yolo", "root": str(path.parent), **found}


def _yolo_options(path: Path) -> Section | None:
    """Return the options for a file that has the keys of a data.yaml; None if it has not."""
    named = {} if path.name == "data.yaml" else {"data_yaml": path.name}
    try:
        raw = read_yaml(path)
    except DataError:
        return None if named else {}
    if not isinstance(raw, dict):
        return None if named else {}
    if not {"names", "train"} <= raw.keys():
        return None if named or {"names", "train"}.isdisjoint(raw) else {}
    return named if raw.get("val") else {**named, "val_fraction": FRACTION}


def _yolo(folder: Path) -> Iterator[Section]:
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        found = _yolo_options(path)
        if found is not None:
            yield {"name": "yolo", **found}


def _voc(folder: Path) -> Iterator[Section]:
    found = [*_voc_devkit(folder)]
    yield from found or _voc_side_by_side(folder)


def _voc_side_by_side(folder: Path) -> Iterator[Section]:
    """Look for folders that hold images and XML files, as those of LabelImg and Roboflow."""
    folders = {_split(_relative(i, folder)): i for i in reversed([*_folders(folder, 1)]) if _xml(i)}
    train, val = folders.get("train", folders.get("")), folders.get("val")
    if train is not None:
        lists = {"train_list": _relative(train, folder)}
        more = {"val_list": _relative(val, folder)} if val else {"val_fraction": FRACTION}
        yield {"name": "voc", **lists, **more}


def _xml(folder: Path) -> bool:
    """Return whether a folder holds an XML file of VOC."""
    first = next(folder.glob("*.xml"), None)
    try:
        return first is not None and b"<annotation" in first.read_bytes()[:1000]
    except OSError:
        return False


def _voc_devkit(folder: Path) -> Iterator[Section]:
    for inner in _folders(folder, 2):
        if not _xml(inner / "Annotations"):
            continue
        prefix = "" if inner == folder else f"{_relative(inner, folder)}/"
        images = next((n for n in ("JPEGImages", "images", "Images") if (inner / n).is_dir()), "")
        places = {"annotations": f"{prefix}Annotations", "images": f"{prefix}{images}" or "."}
        usual = {"annotations": "Annotations", "images": "JPEGImages"}
        moved = {key: place for key, place in places.items() if place != usual[key]}
        yield {"name": "voc", **moved, **_voc_lists(inner, prefix)}


def _voc_lists(folder: Path, prefix: str) -> Section:
    """Return the options that name the lists of the splits."""
    lists = folder / "ImageSets" / "Main"
    names = sorted(path.stem for path in lists.glob("*.txt"))
    for train, val in LISTS:
        if train in names and val in names:
            usual = (train, val, prefix) == ("train", "val", "")
            start = f"{prefix}ImageSets/Main"
            both = {"train_list": f"{start}/{train}.txt", "val_list": f"{start}/{val}.txt"}
            return {} if usual else both
    first = next((name for name in ("trainval", "train", "default", *names) if name in names), "")
    place = f"{prefix}ImageSets/Main/{first}.txt" if first else ""
    return {"train_list": place, "val_fraction": FRACTION}


def _crowdhuman(folder: Path) -> Iterator[Section]:
    if (folder / "annotation_train.odgt").is_file():
        one = not (folder / "annotation_val.odgt").is_file()
        images = {} if (folder / "Images").is_dir() else _crowd_folders(folder)
        yield {"name": "crowdhuman", **images, **({"val_fraction": FRACTION} if one else {})}


def _crowd_folders(folder: Path) -> Section:
    names = {"train_images": "CrowdHuman_train/Images", "val_images": "CrowdHuman_val/Images"}
    return {key: name for key, name in names.items() if (folder / name).is_dir()}


# --- COCO -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Document:
    """A COCO JSON file."""

    path: Path
    images: tuple[str, ...]
    """Names of the first images."""
    lvis: bool


def _coco(folder: Path) -> Iterator[Section]:
    documents = defaultdict[str, list[_Document]](list)
    for path in json_files(folder):
        document = _document(path)
        if document is not None:
            documents[_split(_relative(path, folder))].append(document)
    train = _only(documents["train"] or documents[""])
    val = _only(documents["val"])
    if train is None:
        return
    name = "lvis" if train.lvis else "coco"
    section: Section = {"name": name, **_places(folder, "train", train)}
    yield section | (_places(folder, "val", val) if val else {"val_fraction": FRACTION})


def json_files(folder: Path) -> list[Path]:
    """Return the JSON files, without COCO's files for other tasks if there are others."""
    paths = [path for inner in _folders(folder) for path in sorted(inner.glob("*.json"))]
    own = [path for path in paths if not path.name.startswith(OTHER_TASKS)]
    return own or paths


def _document(path: Path) -> _Document | None:
    """Read a file; None if it is not in COCO's format."""
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    keys = ("images", "annotations", "categories")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), list) for key in keys):
        return None
    images = [each for each in raw["images"][:SAMPLE] if isinstance(each, dict)]
    lvis = bool(images) and all(URL in i and "file_name" not in i for i in images)
    names = [str(i.get("file_name") or "/".join(str(i.get(URL)).split("/")[-2:])) for i in images]
    return _Document(path, tuple(names), lvis)


def _split(name: str) -> str:
    """Return the split that the words of a path name; empty if they name none.

    Examples:
        >>> [_split(name) for name in ("valid/_annotations.coco.json", "instances_train2017.json")]
        ['val', 'train']
    """
    words = re.findall("[a-z]+", name.lower())
    for word in reversed(words):
        for split, known in _WORDS.items():
            if word in known:
                return split
    return ""


_WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "minival"),
    "test": ("test", "testing"),
}


def _only(documents: Sequence[_Document]) -> _Document | None:
    """Return the only file of a split. Raises DataError if there are several."""
    if len(documents) > 1:
        names = ", ".join(str(each.path) for each in documents)
        raise DataError(
            [f"several COCO files for one split: {names}; name one in the data section of a spec"]
        )
    return documents[0] if documents else None


def _places(folder: Path, split: str, document: _Document) -> Section:
    """Return the options for the file and the images of a split, unless they have their default."""
    usual_file, usual_images = _USUAL[document.lvis]
    json_name = _relative(document.path, folder)
    images = _image_folder(folder, document, split) or usual_images
    file = {f"{split}_json": json_name} if json_name != usual_file.format(split) else {}
    return {**file, **({f"{split}_images": images} if images != usual_images else {})}


_USUAL = {False: ("{}.json", "images"), True: ("lvis_v1_{}.json", ".")}
"""Whether a file is one of LVIS -> the default names of a split's file and folder."""


def _image_folder(folder: Path, document: _Document, split: str) -> str:
    """Return the folder that has most of the images of a file, relative to the data set's.

    Empty if no folder has any.
    """
    candidates = [document.path.parent, *_folders(folder)]
    ranked = [
        (-_held(each, folder, document.images), split not in each.name, i, each)
        for i, each in enumerate(dict.fromkeys(candidates))
    ]
    missing, *_, best = min(ranked)
    return _relative(best, folder) if missing else ""


def _held(folder: Path, root: Path, names: Sequence[str]) -> int:
    """Return how many of the images are found if their names are relative to a folder."""
    finder = Finder(folder, root)
    return sum(finder.find(name) is not None for name in names)


_LOOKS: Sequence[Callable[[Path], Iterator[Section]]] = (_yolo, _voc, _crowdhuman, _coco)
