"""How a sweep is run: what happens after a failure, and how it shares a cluster. Never in an id."""

from typing import Literal, Self

from pydantic import Field, model_validator

from detectors.options import Options


class Policy(Options):
    """The section `run` of a spec."""

    retries: int = Field(2, ge=0, le=100)
    """More attempts at a trial after one that failed of something else than its own input, counted
    from the start of a driver: `gaplab resume` tries again."""
    backoff_seconds: float = Field(5.0, ge=0, le=3600)
    """Wait before the first retry of a trial; doubles with each, up to 5 minutes."""
    on_failure: Literal["continue", "stop", "stop_after_n_identical"] = "continue"
    """When trials have failed for good: go on with the others, stop at the first, or stop when
    `identical` of them failed alike."""
    identical: int = Field(3, ge=1)
    priority: int = Field(0, ge=-1000, le=1000)
    """Of two sweeps on one cluster and ledger, the higher one's trials go first."""
    at_once: int | None = Field(None, ge=1)
    """Trials of this sweep that run side by side, at most; null: as many as fit."""
    lease_seconds: float = Field(60.0, ge=1, le=3600)
    """A driver that is silent for so long is taken for dead, and its trials go to others. One that
    died on this machine is noticed at once."""
    grace_seconds: float = Field(30.0, ge=0, le=3600)
    """How long a stop (Ctrl-C, SIGTERM, `gaplab cancel`) waits for trials to save themselves."""

    @model_validator(mode="after")
    def _identical_counts(self) -> Self:
        default = type(self).model_fields["identical"].default
        if self.identical != default and self.on_failure != "stop_after_n_identical":
            raise ValueError("identical: only read with on_failure: stop_after_n_identical")
        return self

    def backoff(self, failures: int) -> float:
        """Seconds to wait after the failure of this number, from 1."""
        return float(min(300.0, self.backoff_seconds * 2.0 ** (failures - 1)))
