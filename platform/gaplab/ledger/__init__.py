"""The ledger: the SQL record of sweeps, trials, attempts, evaluations and checkpoints."""

from gaplab.ledger.reading import Reader
from gaplab.ledger.repository import Ledger

__all__ = ["Ledger", "Reader"]
