"""Settings of a sweep: everything in a spec that is no part of the id of a trial or of the sweep.

They may be edited after trials were trained: `gaplab run` with the edited spec, and `gaplab resume
--set`, replace those of the stored sweep.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from gaplab.errors import UserError
from gaplab.formatting import flat, plural
from gaplab.records import SweepRecord
from gaplab.spec.files import stored_spec, with_overrides
from gaplab.spec.sweep import check_none_changed, expand, experiment_of, id_without_data

_Change = tuple[str, Any, Any]
"""A dotted key, its value before and its value now."""


def changes(before: SweepRecord, now: SweepRecord) -> list[str]:
    """Return the settings that differ, such as `run.at_once: 2 -> 4`, one line each.

    Args:
        before: the sweep as it is stored.
        now: the same sweep with other settings.
    """
    try:
        old = stored_spec(before).run
    except UserError as error:
        return [f"settings are replaced, and the earlier ones are unknown: {error.problems[0]}"]
    policies = [{"run": each.model_dump(mode="json")} for each in (old, stored_spec(now).run)]
    return [*map(_line, _differences(*policies)), *_changes_of_trials(before, now)]


def _changes_of_trials(before: SweepRecord, now: SweepRecord) -> Iterator[str]:
    """Yield one line per difference, with the number of trials that have it if not all have."""
    stored = {trial.id: trial for trial in before.trials}
    pairs = [(stored[trial.id], trial) for trial in now.trials if trial.id in stored]
    found = Counter[str]()
    for old, new in pairs:
        if old.config != new.config:
            configs = [experiment_of(each).config() for each in (old, new)]
            found.update(_line(each) for each in _differences(*configs) if each[0] not in _NAMES)
    for line, count in found.items():
        yield line if count == len(pairs) else f"{line} ({plural(count, 'trial')})"


_NAMES = ("evaluation.protocol.preset",)
"""Names of identical settings. The first one that is stored remains."""


def with_settings(sweep: SweepRecord, overrides: Sequence[str]) -> SweepRecord:
    """Return a stored sweep with other settings.

    Args:
        sweep: the sweep, as it was read from the ledger.
        overrides: `key=value` each, as `--set` takes them.

    Raises:
        UserError: for overrides that are not valid, for those that would change trials or the
            sweep, and if the data has changed.
    """
    resolved = with_overrides(sweep, overrides)
    if (own := id_without_data(with_overrides(sweep, ()))) != id_without_data(resolved):
        raise UserError(*_identities(sweep, overrides, own))
    found = expand(resolved)
    known = {trial.id for trial in sweep.trials}
    check_none_changed([trial for trial in found.trials if trial.id not in known])
    return found


def _identities(sweep: SweepRecord, overrides: Sequence[str], own: str) -> Iterator[str]:
    """Yield one line per override that changes what is measured."""
    for text in overrides:
        if id_without_data(with_overrides(sweep, [text])) != own:
            yield (
                f"--set {text.partition('=')[0]}: is part of the ids of trials or of the sweep; "
                "set it with `gaplab run`, which makes another sweep"
            )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[_Change]:
    old, new = flat(before), flat(now)
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _line(change: _Change) -> str:
    key, old, new = change
    return f"{key}: {json.dumps(old)} -> {json.dumps(new)}"
