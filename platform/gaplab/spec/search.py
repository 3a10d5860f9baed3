"""The sections `search` and `stop` of a spec."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from detectors.options import Options

STARTUP, KEEP = 10, 3


class Domain(Options):
    """The values that a searched key may have: `choices`, or all from `low` to `high`."""

    low: float | None = None
    """The smallest value; with a key of integers an integer, as `high` and `step` are."""
    high: float | None = None
    """The largest value."""
    step: float | None = Field(None, gt=0)
    """Only low, low + step, ... up to `high`. null: every value, or every integer."""
    log: bool = False
    """Whether values are spread evenly over the logarithm."""
    choices: list[Any] | None = Field(None, min_length=1)
    """The values themselves, all alike; one may stand for a whole section."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        problems = self._of_choices() if self.choices is not None else self._of_range()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """`low` and `high`; only of a domain without choices."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def _of_choices(self) -> list[str]:
        given = {"low": self.low, "high": self.high, "step": self.step, "log": self.log or None}
        ranged = [key for key, value in given.items() if value is not None]
        return [f"choices stand alone, without {', '.join(ranged)}"] if ranged else []

    def _of_range(self) -> list[str]:
        low, high = self.low, self.high
        if low is None or high is None:
            return ["needs low and high, or choices"]
        rules = {
            f"low must be below high, got {low:g} and {high:g}": low < high,
            f"log needs low above 0, got {low:g}": not self.log or low > 0,
            "log and step exclude each other": not self.log or self.step is None,
        }
        return [text for text, holds in rules.items() if not holds]


def _different(metrics: list[str]) -> list[str]:
    if len(set(metrics)) < len(metrics):
        raise ValueError("names a metric twice")
    return metrics


class SearchOptions(Options):
    """Trials drawn from a space; each sample is crossed with rows, grid and zip."""

    method: Literal["random", "optuna"] = "random"
    """random: all samples are known before the first trial starts. optuna: each is proposed from
    what the ones before it came to (TPE); needs the extra `optuna`."""
    trials: int = Field(ge=1, le=100_000)
    """Different samples. One that is crossed with three seeds makes three trials."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Another seed, other samples."""
    startup: int = Field(STARTUP, ge=1)
    """optuna: samples are drawn as with `random` until so many have ended."""
    objective: Annotated[list[str], AfterValidator(_different)] = Field(
        ["ap"], min_length=1, max_length=2
    )
    """optuna: one or two metrics to make large (a gap nearer to 0 from below is larger), each the
    mean over a sample's trials, of their last evaluation on the branch kept at inference."""
    space: dict[str, Domain] = Field(min_length=1)
    """A dotted key, or the key of a whole section -> its values."""

    @model_validator(mode="after")
    def _startup_counts(self) -> Self:
        if self.startup != STARTUP and not self.adaptive:
            raise ValueError("startup: only read with method: optuna")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether trials depend on what others came to."""
        return self.method == "optuna"


class StopOptions(Options):
    """Which trials end before their last epoch; see `stopping`."""

    rule: Literal["asha", "median"]
    metric: str = "ap"
    """The larger the better; of evaluations on the branch kept at inference."""
    after: int = Field(1, ge=1)
    """Epochs that every trial gets."""
    keep: int = Field(KEEP, ge=2)
    """asha: the best 1/keep of those that reached a rung go on; rungs lie at after * keep^i."""

    @model_validator(mode="after")
    def _keep_counts(self) -> Self:
        if self.keep != KEEP and self.rule != "asha":
            raise ValueError("keep: only read with rule: asha")
        return self
