"""What `gaplab compare` asks about images: trials' AP on resamples of them, from match files."""

import sys
import time
from collections import defaultdict

from gaplab.errors import UserError
from gaplab.results.intervals import Resampled
from gaplab.results.leaderboard import LeaderboardRow

_PATIENCE = 2.0  # seconds of silence
_SPEED = 5e7  # detections resampled in a second, roughly


class Resampling:
    """Called with a row, its AP on `resamples` resamples of its images, worked out once.

    None, with a line in `problems`, where that isn't known; None alone for no resamples. When it
    takes long, standard error says what is being done.
    """

    def __init__(self, resamples: int) -> None:
        self._resamples = resamples
        self._made: dict[str, Resampled | None] = {}
        self._without: dict[str, LeaderboardRow] = {}
        self._unread: list[str] = []
        self._images: dict[str, set[str]] = defaultdict(set)
        self._begun = time.monotonic()

    def __call__(self, row: LeaderboardRow) -> Resampled | None:
        """The AP of `row` on the resamples, if its matches are kept."""
        if not self._resamples:
            return None
        if not row.matches:
            self._without[row.trial] = row
            return None
        if row.matches not in self._made:
            self._made[row.matches] = self._make(row)
        return self._made[row.matches]

    def problems(self) -> list[str]:
        """Why intervals over images are missing, one line for each reason."""
        lines = list(self._unread)
        if self._without:
            crowd = any("mmr" in row.more for row in self._without.values())
            why = "the crowd evaluator keeps none" if crowd else "not kept for this evaluation"
            lines.append(
                f"{_trials(len(self._without))} without a match file ({why}): "
                "no interval over images"
            )
        for dataset, digests in self._images.items():
            if len(digests) > 1:
                lines.append(
                    f"{dataset}: trials were measured on {len(digests)} different sets of images: "
                    "no interval of their differences"
                )
        return lines

    def _make(self, row: LeaderboardRow) -> Resampled | None:
        from detectors.evaluation.bootstrap import replicates
        from gaplab.storage.matches import read_matches

        try:
            about, without, with_nms = read_matches(row.matches)
        except UserError as error:
            self._unread += [f"{problem}; no interval over images" for problem in error.problems]
            return None
        self._images[row.dataset].add(about.images)
        ahead = (len(without.score) + len(with_nms.score)) * self._resamples / _SPEED
        if time.monotonic() - self._begun + ahead > _PATIENCE:
            sys.stderr.write(f"resampling the images of trial {row.trial[:8]} ...\n")
        return Resampled(about.images, replicates(without, with_nms, self._resamples))


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
