"""From a spec to its trials, and what makes two trials the same trial."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors import RESULTS_VERSION
from detectors.data.base import DataError, DataOptions, Split
from gaplab.errors import UserError
from gaplab.identity import canonical, counted, digest, identity
from gaplab.records import SweepRecord, TrialRecord
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sampling import remarks
from gaplab.spec.sections import Section
from gaplab.spec.yaml_text import dump_yaml


@dataclass(frozen=True)
class Outline:
    """What a spec stands for, also where its data can't be used."""

    sweep: SweepRecord
    """Its id is empty, like those of the trials concerned, where there are problems."""
    rows: dict[str, tuple[TrialRecord, ...]]
    """The trials of each row; of a row that `exclude` leaves out, none."""
    problems: tuple[str, ...]
    """What is wrong with the data, one line each."""
    notes: tuple[str, ...] = ()
    """What a person should know about a search, one line each."""


def expand(resolved: ResolvedSpec) -> SweepRecord:
    """Return the sweep of a spec: its trials in the order of the grid, equal ones once.

    Raises:
        UserError: where data can't be read.
    """
    return _sound(outline(resolved)).sweep


def row_records(resolved: ResolvedSpec) -> dict[str, tuple[TrialRecord, ...]]:
    """Return the trials of each row, in the spec's order. Raises UserError as `expand` does."""
    return _sound(outline(resolved)).rows


def outline(resolved: ResolvedSpec) -> Outline:
    """Return the sweep of a spec and what is wrong with its data.

    Data that can't be read has no fingerprint: its settings stand for its content, so trials on
    two such data sets differ.
    """
    spec, variants = resolved.spec, resolved.variants
    prints, unusable = _fingerprints([trial["data"].value for _, trial in variants])
    records, rows = dict[str, TrialRecord](), {row: dict[str, TrialRecord]() for row in spec.rows}
    for row, trial in variants:
        known = prints.get(trial["data"].value)
        key = _trial_id(trial, known or canonical(trial["data"].config))
        if key not in records:
            records[key] = _record(key if known else "", trial)
        if row is not None:
            rows[row][key] = records[key]
    sweep = "" if unusable else _sweep_id(spec, records)
    record = SweepRecord(sweep, spec.name, dump_yaml(written(spec)), tuple(records.values()))
    held = {row: tuple(found.values()) for row, found in rows.items()}
    return Outline(record, held, unusable, remarks(spec.search, resolved.samples_left))


def _sound(outline: Outline) -> Outline:
    """The same. Raises UserError if it has problems."""
    if outline.problems:
        raise UserError(*outline.problems)
    return outline


def _sweep_id(spec: Spec, trials: Iterable[str]) -> str:
    """The name and a digest of the trials and of the rule that stops some of them.

    Of a search that proposes its trials one by one: of the spec, without what changes no trial.
    """
    meant: Any = sorted(trials)
    if spec.search is not None and spec.search.adaptive:
        apart = {"run", "question", "max_trials", *Experiment.model_fields} - {*counted(Experiment)}
        meant = {key: value for key, value in written(spec).items() if key not in apart}
    elif spec.stop is not None:
        meant = {"trials": meant, "stop": spec.stop.model_dump(mode="json")}
    return f"{spec.name}-{digest(canonical(meant), 8)}"


def experiment_of(record: TrialRecord) -> Experiment:
    """The experiment that a trial's record describes."""
    return Experiment.model_validate(record.config)


def altered(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that would get another id today: their data has changed since, or gaplab has, in what
    it makes of their settings. Raises UserError where data can't be used.
    """
    experiments = [experiment_of(record) for record in records]
    prints, problems = _fingerprints([each.data for each in experiments])
    if problems:
        raise UserError(*problems)
    pairs = zip(records, experiments, strict=True)
    return [r for r, each in pairs if _id(_identities(each), prints[each.data]) != r.id]


def _identities(experiment: Experiment) -> dict[str, str]:
    names = counted(Experiment)
    return {name: canonical(identity(getattr(experiment, name))) for name in names}


def written(spec: Spec) -> dict[str, Any]:
    """The spec as a file would have it, defaults of the sweep's own keys left out."""
    own = spec.model_dump(exclude={"base"}, exclude_defaults=True)
    head = {key: own.pop(key) for key in ("name", "question") if key in own}
    return head | spec.base | own


def _fingerprints(
    data: Sequence[DataOptions],
) -> tuple[dict[DataOptions, str], tuple[str, ...]]:
    """The fingerprint of each that can be used, as JSON, and the problems of all others."""
    found, problems = dict[DataOptions, str](), list[str]()
    for options in dict.fromkeys(data):
        try:
            found[options] = canonical(options.fingerprint())
        except DataError as error:
            problems += error.problems
    return found, tuple(dict.fromkeys(problems))


def _trial_id(trial: Mapping[str, Section], fingerprint: str) -> str:
    """The canonical JSON of the identity is joined from that of the sections: see `identity`."""
    return _id({name: trial[name].identity for name in counted(Experiment)}, fingerprint)


def _id(sections: Mapping[str, str], fingerprint: str) -> str:
    version = str(RESULTS_VERSION)
    fields = {**sections, "fingerprint": fingerprint, "results_version": version}
    return digest("{" + ",".join(f'"{key}":{fields[key]}' for key in sorted(fields)) + "}", 12)


def _record(key: str, trial: Mapping[str, Section]) -> TrialRecord:
    config = {name: section.config for name, section in trial.items()}
    return TrialRecord(
        id=key,
        config=config,
        assignment=config["assignment"]["name"],
        family=trial["assignment"].value.family,
        dataset=trial["data"].value.label,
        seed=config["seed"],
        epochs=config["training"]["epochs"],
        results_version=RESULTS_VERSION,
    )


SPLITS: tuple[Split, Split] = ("train", "val")


def inspect_data(trials: Iterable[TrialRecord]) -> list[str]:
    """What was left out while loading the data of `trials`, one line each, every data set once.

    Raises UserError with every problem of every split.
    """
    notes: list[str] = []
    problems: list[str] = []
    for options in _distinct(trials):
        for split in SPLITS:
            try:
                notes += options.load(split).notes
            except DataError as error:
                problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return list(dict.fromkeys(notes))


def check_unaltered(trials: Sequence[TrialRecord]) -> None:
    """Raise UserError for trials of a stored sweep that aren't what their ids say any more."""
    if found := altered(trials):
        ids = ", ".join(trial.id for trial in found[:3]) + (", ..." if len(found) > 3 else "")
        sets = " and ".join(sorted({trial.dataset for trial in found}))
        raise UserError(
            f"{len(found)} trials ({ids}): {sets} has changed since the sweep was planned, or what "
            "this gaplab makes of the settings; restore what was there, or run the spec again, "
            "which makes new trials"
        )


def _distinct(trials: Iterable[TrialRecord]) -> Iterator[DataOptions]:
    seen = {str(trial.config["data"]): trial for trial in trials}
    return (experiment_of(trial).data for trial in seen.values())
