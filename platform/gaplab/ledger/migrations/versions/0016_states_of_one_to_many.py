"""Stored configurations of Deformable DETR have `o2m_from`."""

from gaplab.ledger.later_options import Later, complete, withdraw

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

LATER: Later = (("detector.o2m_from", ("deformable_detr",), "layer"),)


def upgrade() -> None:
    complete(LATER)


def downgrade() -> None:
    """Remove the option, which the gaplab of version 0015 does not have."""
    withdraw(LATER)
