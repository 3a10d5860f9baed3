"""What became of a worker process that died without a word."""

from gaplab.records import AttemptEnd, Cost, Fault, TrialRecord
from gaplab.storage import Storage
from gaplab.watchdog import hang_reason

_MEMORY = ("OutOfMemoryError", "NODE_OUT_OF_MEMORY")
"""Of these Ray is sure; of any process that was killed it says that it may have been memory."""


def how_it_died(error: str, trial: TrialRecord, storage: Storage) -> AttemptEnd:
    """The end of its attempt, from the error that Ray tells; costs are not known here."""
    if hang := hang_reason(trial.id, storage):
        return AttemptEnd("failed", hang, Cost(), "hang")
    fault: Fault = "memory" if any(word in error for word in _MEMORY) else "lost"
    return AttemptEnd("failed", f"its process died: {error.splitlines()[-1]}", Cost(), fault)
