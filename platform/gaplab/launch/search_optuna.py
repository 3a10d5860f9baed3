"""Optuna proposes the next sample of a search. Its study lives in memory, for one proposal."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from gaplab.identity import digest
from gaplab.launch.search_history import Outcome
from gaplab.spec.sampling import Choices, Dimension, Integers, Sample, dimensions
from gaplab.spec.search import SearchOptions

optuna.logging.set_verbosity(optuna.logging.ERROR)

_STATES = {
    "open": TrialState.RUNNING,
    "done": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Proposer:
    """TPE with one objective or two; samples that are still open count as bad ones nearby, so that
    proposals made at once don't fall together (constant liar).
    """

    def __init__(self, search: SearchOptions) -> None:
        self._search = search
        self._space = dimensions(search.space)
        self._distributions = {key: _distribution(each) for key, each in self._space.items()}

    def propose(self, outcomes: Sequence[Outcome], attempt: int) -> Sample:
        """The sample to try next: the same for the same history, seed and attempt."""
        text = f"{self._search.seed}/{len(outcomes)}/{attempt}"
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._search.startup, constant_liar=True, seed=int(digest(text, 8), 16)
        )
        directions = [optuna.study.StudyDirection.MAXIMIZE] * len(self._search.objective)
        study = optuna.create_study(sampler=sampler, directions=directions)
        study.add_trials([self._past(outcome) for outcome in outcomes])
        asked = study.ask(self._distributions).params
        return {key: self._value(key, asked[key]) for key in self._search.space}

    def _past(self, outcome: Outcome) -> FrozenTrial:
        """A sample as a trial of Optuna's; one that was stopped early counts by how far it came."""
        distributions = {key: self._distributions[key] for key in outcome.sample}
        values, course = outcome.objective, dict[int, float]()
        if outcome.state == "stopped" and values is not None:
            course = {outcome.epoch: values[0]} if len(values) == 1 else {}
            values = None
        return create_trial(
            state=_STATES[outcome.state],
            values=values,
            params={key: self._param(key, value) for key, value in outcome.sample.items()},
            distributions=distributions,
            intermediate_values=course,
        )

    def _param(self, key: str, value: Any) -> Any:
        """A value as Optuna knows it: a choice by its number."""
        dimension = self._space[key]
        return dimension.values.index(value) if isinstance(dimension, Choices) else value

    def _value(self, key: str, param: Any) -> Any:
        dimension = self._space[key]
        if isinstance(dimension, Choices):
            return dimension.values[param]
        return param if isinstance(dimension, Integers) else dimension.rounded(param)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(range(dimension.count))
    if isinstance(dimension, Integers):
        low, high, step = dimension.low, dimension.high, dimension.step
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.last, log=dimension.log, step=dimension.step)
