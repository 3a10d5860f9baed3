"""Stored configurations have every option that was added after their trials had been trained.

Such an option has the value that those trials behaved by. Without it, trials of different releases
seem to differ in it: it would be a column of every table, and a filter would miss the older ones.
"""

from gaplab.ledger.later_options import Later, complete

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

LATER: Later = (
    ("detector.backbone.deformable_stages", ("resnet",), 0),
    ("detector.detach_o2o", ("fcos", "retinanet"), False),
    ("detector.masks", ("fcos", "retinanet"), None),
    ("detector.neck_deformable", ("onenet",), False),
    ("detector.o2m_groups", ("detr", "deformable_detr", "sparse_rcnn"), 1),
    ("detector.o2m_queries", ("detr", "deformable_detr", "sparse_rcnn"), 0),
    ("training.accumulate", (), 1),
    ("training.colour", (), 0.0),
    ("training.compile", (), False),
    ("training.group_by_aspect", (), False),
    ("training.loss.cls", (), "assignment"),
    ("training.loss.cls_target", (), "degree"),
    ("training.loss.mask_points", (), 64),
    ("training.loss.mask_weight", (), 1.0),
    ("training.mix_until", (), 1.0),
    ("training.mixup", (), 0.0),
    ("training.mosaic", (), 0.0),
    ("training.o2m_loss.cls", (), "assignment"),
    ("training.o2m_loss.cls_target", (), "degree"),
    ("training.o2m_loss.mask_points", (), 64),
    ("training.o2m_loss.mask_weight", (), 1.0),
    ("training.sampling_lr", (), 1.0),
    ("training.sync_batch_norm", (), False),
)


def upgrade() -> None:
    complete(LATER)


def downgrade() -> None:
    """Keep the options: the gaplab of version 0013 has them, too."""
