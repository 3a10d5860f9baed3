import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.training import Training, lr_factor


def factors(training: Training, steps: int) -> list[float]:
    return [lr_factor(training, step, steps) for step in range(steps)]


def test_cosine_from_the_peak_to_its_end() -> None:
    training = Training(warmup_steps=0, decay="cosine", decay_to=0.2)
    assert factors(training, 5) == pytest.approx(
        [1.0, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2, 0.2]
    )


def test_drops_after_their_share_of_the_training() -> None:
    training = Training(warmup_steps=0, decay="step", decay_to=0.1, decay_at=(0.5, 0.75))
    assert factors(training, 9) == pytest.approx([1.0] * 4 + [0.1] * 2 + [0.01] * 3)


def test_warmup_is_linear_and_never_starts_at_zero() -> None:
    training = Training(warmup_steps=4, decay="step", decay_to=0.1, decay_at=())
    assert factors(training, 7) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])


def test_warmup_and_decay_multiply() -> None:
    both = Training(warmup_steps=3, decay="cosine", decay_to=0.5)
    decay = both.model_copy(update={"warmup_steps": 0})
    expected = [w * f for w, f in zip([0.25, 0.5, 0.75, 1.0, 1.0], factors(decay, 5), strict=True)]
    assert factors(both, 5) == pytest.approx(expected)


@given(
    st.integers(1, 50),
    st.integers(0, 80),
    st.sampled_from(["cosine", "step"]),
    st.floats(0.001, 1),
)
def test_always_positive_and_never_above_the_peak(
    steps: int, warmup: int, decay: str, decay_to: float
) -> None:
    training = Training.model_validate(
        {"warmup_steps": warmup, "decay": decay, "decay_to": decay_to}
    )
    assert all(0 < factor <= 1 for factor in factors(training, steps))


def test_a_single_step_is_taken_at_the_peak() -> None:
    assert factors(Training(warmup_steps=0), 1) == [1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"batch": 0},
        {"ema": 1.0},
        {"decay_to": 0.0},
        {"learning_rate": 0.1},
        {"augment": "vflip"},
        {"decay_at": [0.0]},
        {"decay_at": [0.5, 1.0]},
        {"decay_at": [0.5, 0.5]},
        {"decay_at": [0.9, 0.6]},
    ],
)
def test_options_out_of_range_or_unknown_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Training.model_validate(wrong)


def test_losses_of_encoded_boxes_fit_only_branches_that_encode_them_so() -> None:
    of = Training.model_validate({"loss": {"box": "giou"}, "o2m_loss": {"box": "deltas"}})
    assert of.unfit_losses({"o2o": "relu", "o2m": "deltas"}) == []
    assert of.unfit_losses({"o2m": "exp"}) == []
    (problem,) = of.unfit_losses({"o2o": "relu", "o2m": "exp"})
    assert problem.startswith("training.o2m_loss.box: deltas needs a detector that predicts")
    assert "branch o2m predicts exp" in problem
