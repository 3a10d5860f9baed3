"""From a spec to its trials, and what makes two trials the same trial."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from detectors import RESULTS_VERSION
from detectors.data.base import DataError, DataOptions
from gaplab.checks import check
from gaplab.errors import UserError
from gaplab.grid import Grid, axes, parts
from gaplab.identity import canonical, counted, digest
from gaplab.problems import Problem, explain
from gaplab.records import SweepRecord, TrialRecord
from gaplab.sections import Section, Sections
from gaplab.spec import Experiment, Spec
from gaplab.yamlfile import dump_yaml

Parts = dict[str, Section]
"""A trial as its sections, by name."""


def expand(spec: Spec) -> SweepRecord:
    """The sweep of a spec: its trials in the order of the grid, equal ones once.

    Raises UserError for everything that is wrong with a trial, and where data can't be used.
    """
    trials, problems = resolve(spec)
    if problems:
        raise UserError(*map(str, problems))
    fingerprints = _fingerprints(trial["data"].value for trial in trials)
    records = dict[str, TrialRecord]()
    for trial in trials:
        key = _trial_id(trial, fingerprints[trial["data"].value])
        if key not in records:
            records[key] = _record(key, trial)
    sweep = f"{spec.name}-{digest(canonical(sorted(records)), 8)}"
    return SweepRecord(sweep, spec.name, dump_yaml(written(spec)), tuple(records.values()))


def experiment_of(record: TrialRecord) -> Experiment:
    """The experiment that a trial's record describes."""
    return Experiment.model_validate(record.config)


def written(spec: Spec) -> dict[str, Any]:
    """The spec as a file would have it, defaults of the sweep's own keys left out."""
    own = spec.model_dump(exclude={"base"}, exclude_defaults=True)
    head = {key: own.pop(key) for key in ("name", "question") if key in own}
    return head | spec.base | own


def resolve(spec: Spec) -> tuple[list[Parts], list[Problem]]:
    """All trials in the order of the grid, equal ones repeated, and every problem in them once."""
    if problems := check(spec):
        varied = {parts(key)[0] for _, group in axes(spec) for key in group}
        return [], problems + base_problems(spec.base, varied)
    grid, trials, found = Grid(spec), list[Parts](), dict[Problem, None]()
    for choices in grid.trials():
        trial = {name: grid.sections.read(name, choice) for name, choice in choices.items()}
        trials.append(trial)
        inside = [problem for section in trial.values() for problem in section.problems]
        found.update(dict.fromkeys(inside or _between(trial)))
    if not trials:
        found[Problem(("exclude",), "leaves no trial")] = None
    return trials, list(found or grid.unsettled)


def base_problems(base: Mapping[str, Any], varied: set[str]) -> list[Problem]:
    """Problems of the sections in which nothing is varied."""
    sections, names = Sections(base, ()), Experiment.model_fields
    return [p for name in names if name not in varied for p in sections.read(name, ()).problems]


def _between(trial: Parts) -> list[Problem]:
    """What is wrong between sections that are right by themselves."""
    try:
        Experiment.model_validate({name: section.value for name, section in trial.items()})
    except ValidationError as error:
        return [explain(each, Experiment) for each in error.errors(include_url=False)]
    return []


def _fingerprints(data: Iterable[DataOptions]) -> dict[DataOptions, str]:
    """The fingerprint of each, as JSON; raises UserError with the problems of all of them."""
    found, problems = dict[DataOptions, str](), list[str]()
    for options in dict.fromkeys(data):
        try:
            found[options] = canonical(options.fingerprint())
        except DataError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def _trial_id(trial: Parts, fingerprint: str) -> str:
    """The canonical JSON of the identity is joined from that of the sections: see `identity`."""
    fields = {name: trial[name].identity for name in counted(Experiment)}
    fields |= {"fingerprint": fingerprint, "results_version": str(RESULTS_VERSION)}
    return digest("{" + ",".join(f'"{key}":{fields[key]}' for key in sorted(fields)) + "}", 12)


def _record(key: str, trial: Parts) -> TrialRecord:
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
