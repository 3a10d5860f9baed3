"""What an evaluator says about one set of detections."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metrics:
    """Fractions in [0, 1]; None where nothing of that kind exists (no object of that size).

    values: by name; `ap` is always there and never None. per_class: AP of each class in label
    order, None for a class without objects.
    """

    values: dict[str, float | None]
    per_class: tuple[float | None, ...]
