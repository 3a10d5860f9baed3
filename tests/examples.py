"""The number of random examples that property tests draw."""

import os

from hypothesis import settings

FUZZ = "GAPLAB_FUZZ" in os.environ
"""Whether property tests draw new examples, as in `make fuzz`, instead of the same ones each time.
"""


def examples(count: int) -> settings:
    """Draw `count` examples, and ten times as many where they are new ones (`FUZZ`)."""
    return settings(max_examples=10 * count if FUZZ else count)
