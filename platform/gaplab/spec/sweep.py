"""Turn a resolved spec into a sweep: its trials with their ids, and checks of their data.

The id of a trial is a digest of everything that can change its result: the identities of its
sections (see `identity`), the fingerprint of its data, and `detectors.RESULTS_VERSION`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from detectors import RESULTS_VERSION
from detectors.data.base import DataError, DataOptions, Segmented, Split
from gaplab.errors import UserError
from gaplab.formatting import named_trials, plural
from gaplab.identity import canonical, counted, digest, identity
from gaplab.records import SweepRecord, TrialRecord
from gaplab.spec.axes import split_key
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.references import start_from
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sampling import remarks
from gaplab.spec.sections import Section, Sections, different, put
from gaplab.spec.yaml_text import dump_yaml

SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True)
class Outline:
    """What a spec expands to. It exists even if some of the data can't be read."""

    sweep: SweepRecord
    """If there are problems, its id and those of the affected trials are empty."""
    rows: dict[str, tuple[TrialRecord, ...]]
    """Trials of each row; none for a row that `exclude` leaves out."""
    problems: tuple[str, ...]
    """Problems of the data, one line each."""
    notes: tuple[str, ...] = ()
    """What the user should know about the grid and the search, one line each."""


def expand(resolved: ResolvedSpec) -> SweepRecord:
    """Return the sweep of a spec. Its trials are in the order of the grid, equal ones once.

    Raises:
        UserError: if some of the data can't be read.

    Examples:
        >>> import gaplab
        >>> sweep = gaplab.expand(gaplab.load_spec("experiments/quickstart.yaml"))
        >>> [trial.assignment for trial in sweep.trials]
        ['dual', 'o2f', 'poto', 'center', 'fcos']
    """
    return sound_outline(resolved).sweep


def row_records(resolved: ResolvedSpec) -> dict[str, tuple[TrialRecord, ...]]:
    """Return the trials of each row, in the spec's order. Raises UserError like `expand`."""
    return sound_outline(resolved).rows


def sound_outline(resolved: ResolvedSpec) -> Outline:
    """Return the outline of a spec. Raises UserError if some of the data can't be read."""
    found = outline(resolved)
    if found.problems:
        raise UserError(*found.problems)
    return found


def outline(resolved: ResolvedSpec) -> Outline:
    """Return the sweep of a spec together with the problems of its data.

    Data that can't be read has no fingerprint. Its settings are used instead, so that trials on two
    such data sets stay different.
    """
    spec, variants = resolved.spec, resolved.variants
    data = different(each.sections["data"] for each in variants)
    prints, problems = _fingerprints([each.value for each in data])
    records, rows = dict[str, TrialRecord](), {row: dict[str, TrialRecord]() for row in spec.rows}
    for variant, each in zip(variants, _identified(resolved, prints), strict=True):
        if each.key not in records:
            records[each.key] = _record(each.id, each.sections)
        if variant.row is not None:
            rows[variant.row][each.key] = records[each.key]
    sweep = "" if problems else _sweep_id(spec, records)
    record = SweepRecord(sweep, spec.name, dump_yaml(to_mapping(spec)), tuple(records.values()))
    held = {row: tuple(found.values()) for row, found in rows.items()}
    left = remarks(spec.search, resolved.samples_left)
    notes = (*resolved.notes, *_equal_trials(len(variants), held, len(records)), *left)
    return Outline(record, held, problems, notes)


class _Identified(NamedTuple):
    """A variant with its id, and its reference to another row replaced by an id."""

    key: str
    """The id or, if the data can't be read, a text that other trials don't have."""
    id: str
    sections: Mapping[str, Section]


def _identified(resolved: ResolvedSpec, prints: Mapping[DataOptions, str]) -> Iterator[_Identified]:
    """Yield the variants with their ids; those without a fingerprint in `prints` have none."""
    data = different(each.sections["data"] for each in resolved.variants)
    by_section = {id(each): prints.get(each.value) for each in data}
    found = dict[int, _Identified]()
    for i in resolved.parents_first():
        _, sections, parent = resolved.variants[i]
        start = "" if parent is None else found[parent].id
        sections = start_from(sections, start) if start else sections
        known = by_section[id(sections["data"])]
        key = _trial_id(sections, known or canonical(sections["data"].config))
        complete = known and (start or parent is None)
        found[i] = _Identified(key, key if complete else "", sections)
    return (found[i] for i in range(len(found)))


def _equal_trials(
    combinations: int, rows: Mapping[str, Sequence[TrialRecord]], trials: int
) -> tuple[str, ...]:
    """Return a note if combinations give equal trials; rows may have trials in common."""
    if combinations == (sum(map(len, rows.values())) if rows else trials):
        return ()
    given = plural(trials, "different trial")
    return (f"{plural(combinations, 'combination')} give {given}",)


def to_mapping(spec: Spec) -> dict[str, Any]:
    """Return the content of a file with this spec, without defaults of the sweep's own keys."""
    own = spec.model_dump(exclude={"base"}, exclude_defaults=True)
    head = {key: own.pop(key) for key in ("name", "question") if key in own}
    return head | spec.base | own


def experiment_of(record: TrialRecord) -> Experiment:
    """Return the experiment that a trial's record describes."""
    return Experiment.model_validate(record.config)


def data_with(record: TrialRecord, settings: Mapping[str, Any]) -> DataOptions:
    """Return the data options of a trial with some values replaced.

    Args:
        record: the trial.
        settings: value by dotted key, such as `data.root`.

    Raises:
        UserError: with every key that these options don't have, and every wrong value.
    """
    sections: Any = {"data": record.config["data"]}
    for key, value in settings.items():
        sections = put(sections, split_key(key), value)
    section = Sections(sections, ()).read("data", ())
    if section.problems:
        raise UserError(*(f"--set {problem}" for problem in section.problems))
    options: DataOptions = section.value
    return options


# --- ids ------------------------------------------------------------------------------------------


def id_without_data(resolved: ResolvedSpec) -> str:
    """Return a text that is equal for specs which differ at most in settings and data."""
    return _sweep_id(resolved.spec, {_trial_id(each.sections, '""') for each in resolved.variants})


def _sweep_id(spec: Spec, trials: Iterable[str]) -> str:
    """Return the name of the sweep and a digest of its trials and its stopping rule.

    The trials of an adaptive search aren't known in advance. Its digest is that of the spec,
    without the keys that change no trial.
    """
    content: Any = sorted(trials)
    if spec.search is not None and spec.search.adaptive:
        apart = {"run", "question", "max_trials", *Experiment.model_fields} - {*counted(Experiment)}
        content = {key: value for key, value in to_mapping(spec).items() if key not in apart}
    elif spec.stop is not None:
        content = {"trials": content, "stop": spec.stop.model_dump(mode="json")}
    return f"{spec.name}-{digest(canonical(content), 8)}"


_COUNTED = counted(Experiment)
_FIELDS = sorted((*_COUNTED, "fingerprint", "results_version"))
_HASHED = "{" + ",".join(f'"{key}":%({key})s' for key in _FIELDS) + "}"
"""What is hashed for a trial's id: canonical JSON, if all values are."""


def _trial_id(sections: Mapping[str, Section], fingerprint: str) -> str:
    identities = {name: sections[name].identity for name in _COUNTED}
    return _id(identities, fingerprint, RESULTS_VERSION)


def _id(identities: Mapping[str, str], fingerprint: str, version: int) -> str:
    """Return a trial's id. All values are canonical JSON."""
    return digest(
        _HASHED % {**identities, "fingerprint": fingerprint, "results_version": version}, 12
    )


def _record(key: str, sections: Mapping[str, Section]) -> TrialRecord:
    config = {name: section.config for name, section in sections.items()}
    return TrialRecord(
        id=key,
        config=config,
        assignment=config["assignment"]["name"],
        family=sections["assignment"].value.family,
        dataset=sections["data"].value.label,
        seed=config["seed"],
        epochs=config["training"]["epochs"],
        results_version=RESULTS_VERSION,
    )


# --- data -----------------------------------------------------------------------------------------


def inspect_data(trials: Sequence[TrialRecord]) -> list[str]:
    """Load the data of `trials`, every data set once, and check that there are enough images.

    Returns:
        What was left out while loading, one line each.

    Raises:
        UserError: with every problem of every split, and of the settings that don't fit the data.
    """
    notes: list[str] = []
    problems: list[str] = []
    experiments = _experiments(trials)
    for options in dict.fromkeys(each.data for each in experiments):
        images = dict[Split, int]()
        users = [each for each in experiments if each.data == options]
        for split in SPLITS:
            try:
                dataset = options.load(split)
            except DataError as error:
                problems += error.problems
                images |= _listed_images(options, split)
                continue
            notes += dataset.notes
            images[split] = len(dataset)
            needed = any(split in _segmented_splits(each) for each in users)
            if needed and isinstance(dataset, Segmented):
                problems += dataset.mask_problems()
        problems += [line for each in users for line in _too_few(each, images)]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return list(dict.fromkeys(notes))


def _segmented_splits(experiment: Experiment) -> tuple[Split, ...]:
    """Return the splits whose masks a trial uses."""
    train: tuple[Split, ...] = ("train",) if experiment.detector.segments else ()
    return (*train, "val") if experiment.evaluation.masks else train


def _listed_images(options: DataOptions, split: Split) -> dict[Split, int]:
    """Return the number of images that the annotations of a split name, if they can be read."""
    try:
        return {split: options.listed(split).images}
    except DataError:
        return {}


def foreseen(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Return what `inspect_data` will refuse, as far as it is known before an image is opened.

    Data that can't be read at all is left out; see `Outline.problems`.
    """
    problems: list[str] = []
    experiments = _experiments(trials)
    for options in dict.fromkeys(each.data for each in experiments):
        try:
            listed = {split: options.listed(split) for split in SPLITS}
        except DataError:
            continue
        problems += [line for split in SPLITS for line in listed[split].problems]
        images = {split: listed[split].images for split in SPLITS}
        users = [each for each in experiments if each.data == options]
        problems += [line for each in users for line in _too_few(each, images)]
    return tuple(dict.fromkeys(problems))


def _experiments(trials: Sequence[TrialRecord]) -> list[Experiment]:
    """Return one experiment for each combination of data, batch, workers and use of masks."""
    alike, seen = {}, {}
    for trial in trials:
        batch, workers = trial.config["training"]["batch"], trial.config["resources"]["workers"]
        protocol = trial.config["evaluation"]["protocol"]
        masks = (bool(trial.config["detector"].get("masks")), protocol["evaluator"] == "masks")
        alike[id(trial.config["data"]), batch, workers, masks] = trial  # most are one object
    for (_, *others), trial in alike.items():
        seen[str(trial.config["data"]), *others] = trial
    return [experiment_of(trial) for trial in seen.values()]


def _too_few(experiment: Experiment, images: Mapping[Split, int]) -> list[str]:
    """Return the settings that need more images than the splits in `images` have."""
    batch, workers = experiment.training.batch, experiment.resources.workers
    label, found = experiment.data.label, []
    if batch > images.get("train", batch):
        found.append(
            f"training.batch: {batch} is more than the {plural(images['train'], 'training image')} "
            f"of {label}; lower it, or add images"
        )
    for split, count in images.items():
        if workers > count:
            name = "training image" if split == "train" else "validation image"
            found.append(
                f"resources.workers: {workers} is more than the {plural(count, name)} of {label}; "
                "lower it, or add images"
            )
    return found


def check_unchanged(trials: Sequence[TrialRecord]) -> None:
    """Raise UserError if trials of a stored sweep no longer match their ids."""
    check_none_changed(changed_trials(trials))


def check_none_changed(found: Sequence[TrialRecord]) -> None:
    """Raise UserError if there are trials whose ids are not those of a stored sweep."""
    if found:
        data_sets = " and ".join(sorted({trial.dataset for trial in found}))
        raise UserError(
            f"{named_trials([trial.id for trial in found])}: {data_sets} has changed since the "
            "sweep was planned, or this version of gaplab reads the settings differently; restore "
            "the data, or run the spec again, which creates new trials"
        )


def changed_trials(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that would get another id today.

    Either their data has changed since, or gaplab derives something else from their settings.

    Raises:
        UserError: if some of the data can't be read.
    """
    experiments = [experiment_of(record) for record in records]
    prints, problems = _fingerprints([each.data for each in experiments])
    if problems:
        raise UserError(*problems)
    pairs = zip(records, experiments, strict=True)
    version = RESULTS_VERSION
    return [r for r, each in pairs if _id(_identities(each), prints[each.data], version) != r.id]


def is_data_of(record: TrialRecord, data: DataOptions, fingerprint: str) -> bool:
    """Return whether `data` is what a trial was trained on, perhaps at another place.

    Args:
        record: the trial.
        data: the data.
        fingerprint: that of the trial's data when it was trained; empty if it is unknown: then it
            is compared through the id of the trial.

    Raises:
        DataError: the data can't be read.
    """
    experiment = experiment_of(record)
    if identity(data) != identity(experiment.data):
        return False
    if fingerprint:
        return data.fingerprint() == fingerprint
    known = canonical(data.fingerprint())
    return _id(_identities(experiment), known, record.results_version) == record.id


def _identities(experiment: Experiment) -> dict[str, str]:
    names = counted(Experiment)
    return {name: canonical(identity(getattr(experiment, name))) for name in names}


def _fingerprints(data: Sequence[DataOptions]) -> tuple[dict[DataOptions, str], tuple[str, ...]]:
    """Return the fingerprint, as JSON, of each data set that can be read, and all problems."""
    found, problems = dict[DataOptions, str](), list[str]()
    for options in dict.fromkeys(data):
        try:
            found[options] = canonical(options.fingerprint())
        except DataError as error:
            problems += error.problems
    return found, tuple(dict.fromkeys(problems))
