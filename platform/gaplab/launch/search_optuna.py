"""Propose the next sample of a search with Optuna. A study lives in memory, for one proposal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

_STATES = {
    "open": TrialState.RUNNING,
    "done": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Proposer:
    """Proposes samples with TPE, for one objective or several.

    Samples that are still open count as bad ones ("constant liar"), so that samples proposed at the
    same time are spread out.
    """

    def __init__(self, search: SearchOptions) -> None:
        self._search = search
        self._space = dimensions(search.space)
        self._distributions = {key: _distribution(each) for key, each in self._space.items()}

    def propose(self, outcomes: Sequence[Outcome], attempt: int) -> Sample:
        """Return the sample to try next.

        The same outcomes, seed of the search and `attempt` give the same sample.
        """
        text = f"{self._search.seed}/{len(outcomes)}/{attempt}"
        seed = int(digest(text, 8), 16)
        directions = [optuna.study.StudyDirection.MAXIMIZE] * len(self._search.objective)
        with _quiet():
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self._search.startup, constant_liar=True, seed=seed
            )
            study = optuna.create_study(sampler=sampler, directions=directions)
            study.add_trials([self._frozen(outcome) for outcome in outcomes])
            params = study.ask(self._distributions).params
        return {key: self._value(key, params[key]) for key in self._search.space}

    def _frozen(self, outcome: Outcome) -> FrozenTrial:
        """Return a sample as a trial of Optuna.

        A sample that was stopped early has an intermediate value at the epoch that it reached.
        """
        distributions = {key: self._distributions[key] for key in outcome.sample}
        values, intermediate = outcome.objective, dict[int, float]()
        if outcome.state == "stopped" and values is not None:
            intermediate = {outcome.epoch: values[0]} if len(values) == 1 else {}
            values = None
        return create_trial(
            state=_STATES[outcome.state],
            values=values,
            params={key: self._param(key, value) for key, value in outcome.sample.items()},
            distributions=distributions,
            intermediate_values=intermediate,
        )

    def _param(self, key: str, value: Any) -> Any:
        """Return a value as Optuna knows it: a choice by its index."""
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Optuna log errors only, and restore its verbosity on exit."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
