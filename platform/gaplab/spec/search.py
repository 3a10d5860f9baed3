"""The sections `search` and `stop` of a spec."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from detectors.options import Options, UnfitError

STARTUP, KEEP = 10, 3


class Domain(Options):
    """The values that a searched key may have: `choices`, or the numbers from `low` to `high`."""

    low: float | None = None
    """Smallest value. For a key of integers, `low`, `high` and `step` must be integers."""
    high: float | None = None
    """Largest value, inclusive."""
    step: float | None = Field(None, gt=0)
    """Restrict the values to low, low + step, ... up to `high`. null: every number, or every
    integer."""
    log: bool = False
    """Draw values uniformly on a logarithmic scale. Needs `low` above 0 and no `step`."""
    choices: list[Any] | None = Field(None, min_length=1)
    """The possible values, drawn with equal probability. A value may be a whole section."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        problems = self._choices_problems() if self.choices is not None else self._range_problems()
        if problems:
            raise UnfitError(*problems)
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """`low` and `high`, for a domain without choices."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def _choices_problems(self) -> list[str]:
        given = {"low": self.low, "high": self.high, "step": self.step, "log": self.log or None}
        ranged = [key for key, value in given.items() if value is not None]
        return [f"choices can't be combined with {', '.join(ranged)}"] if ranged else []

    def _range_problems(self) -> list[str]:
        low, high = self.low, self.high
        if low is None or high is None:
            return ["needs low and high, or choices"]
        rules = {
            f"low ({low:g}) must be below high ({high:g})": low < high,
            f"log needs low above 0, got {low:g}": not self.log or low > 0,
            "log can't be combined with step": not self.log or self.step is None,
        }
        return [text for text, holds in rules.items() if not holds]


def _different(metrics: list[str]) -> list[str]:
    if len(set(metrics)) < len(metrics):
        raise ValueError("repeats a metric")
    return metrics


class SearchOptions(Options):
    """Draw samples from a space. Every sample is combined with `rows`, `grid` and `zip`."""

    method: Literal["random", "optuna"] = "random"
    """`random`: all samples are drawn before the first trial starts. `optuna`: each sample is
    proposed from the results of the earlier ones (TPE); needs the extra `optuna`."""
    trials: int = Field(ge=1, le=100_000)
    """Number of different samples. A sample that is combined with three seeds makes three
    trials."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the samples."""
    startup: int = Field(STARTUP, ge=1)
    """`optuna` only: samples are drawn as with `random` until this many have ended."""
    objective: Annotated[list[str], AfterValidator(_different)] = Field(
        ["ap"], min_length=1, max_length=2
    )
    """`optuna` only: one or two metrics to maximise. The value of a sample is the mean over its
    trials, each measured by its last evaluation on the branch kept at inference. A gap is negative
    and grows towards 0."""
    space: dict[str, Domain] = Field(min_length=1)
    """Dotted key, or the key of a whole section -> its possible values."""

    @model_validator(mode="after")
    def _startup_is_used(self) -> Self:
        if self.startup != STARTUP and not self.adaptive:
            raise ValueError("startup: only used with method: optuna")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether samples depend on the results of earlier ones."""
        return self.method == "optuna"


class StopOptions(Options):
    """End unpromising trials before their last epoch."""

    rule: Literal["asha", "median"]
    """`asha`: asynchronous successive halving. `median`: stop a trial whose best value so far is
    below the median of the other trials' mean values up to the same epoch."""
    metric: str = "ap"
    """Metric to compare, on the branch kept at inference; larger is better."""
    after: int = Field(1, ge=1)
    """Number of epochs that every trial is trained."""
    keep: int = Field(KEEP, ge=2)
    """`asha` only: of the trials that reach a rung, the best 1/keep continue. Rungs are at the
    epochs after * keep^i."""

    @model_validator(mode="after")
    def _keep_is_used(self) -> Self:
        if self.keep != KEEP and self.rule != "asha":
            raise ValueError("keep: only used with rule: asha")
        return self
