"""The answer in one sentence, and the tables behind it: one row per setting, one per trial."""

from collections.abc import Iterable, Iterator

from markupsafe import Markup

from detectors import RESULTS_VERSION
from detectors.evaluation.metrics import DUPLICATES, DUPLICATES_SCORE
from gaplab.formatting import duration, plural, points, signed
from gaplab.results.intervals import Interval
from gaplab.results.report.evidence import Evidence, Run, Setting
from gaplab.results.report.html import Column, join, paragraph, table, text
from gaplab.states import TrialState

_MOST_TRIALS = 100
"""Number of trials that are listed."""
_METRICS = {"ap": "AP", "ap_nms": "AP NMS", "gap": "gap", "ar": "AR", "ar_gap": "AR gap"}


def _measured(evidence: Evidence) -> dict[str, str]:
    """Return the metrics of the tables; duplicates where a trial has them."""
    found = any(run.value("duplicates") is not None for run in evidence.runs)
    return _METRICS | ({"duplicates": "duplicates"} if found else {})


def _show(metric: str, value: float | None) -> str:
    if metric in DUPLICATES:
        return "-" if value is None else f"{value:.2f}"
    return (signed if metric.endswith("gap") else points)(value)


def build(evidence: Evidence) -> Markup:
    """Return the sentence, what limits it, and the table of settings."""
    return join(
        [
            paragraph(sentence(evidence), "answer"),
            paragraph(_reading(evidence), "note"),
            *(paragraph(note, "note") for note in limits(evidence)),
            _settings(evidence),
        ]
    )


def sentence(evidence: Evidence) -> str:
    """Return the answer in one sentence, computed from the settings with finished trials."""
    ranked = evidence.ranked
    if not ranked:
        return "No trial has finished yet, so there is no answer."
    best, needy = ranked[0], min(ranked, key=lambda setting: setting.mean("gap") or 0.0)
    where = " and ".join(sorted({run.trial.dataset for run in evidence.runs}))
    start = f"On {where}, {best.label} "
    if len(ranked) == 1:
        return f"{start}reaches {_both(best)}."
    start += f"has the highest AP without NMS of {len(ranked)} settings: {_both(best)}"
    if needy is best:
        return f"{start}; no other setting needs NMS more."
    return f"{start}; {needy.label} needs NMS most: {_both(needy)}."


def _both(setting: Setting) -> str:
    """Return AP without NMS, with NMS, and the gap with its interval, in words."""
    ap, with_nms = points(setting.mean("ap")), points(setting.mean("ap_nms"))
    interval = setting.interval("gap")
    between = f", 95 % interval {_range(interval)}" if interval else ""
    gap = signed(setting.mean("gap"))
    return f"{ap} without and {with_nms} with NMS (gap\N{NO-BREAK SPACE}{gap}{between})"


def _range(interval: Interval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}"


def _reading(evidence: Evidence) -> str:
    gap = (
        "Percent points. The NMS gap is AP without NMS minus AP with NMS, of the same detections "
        f"under the protocol {evidence.protocol}: the closer to 0, the less the detector needs NMS."
    )
    duplicates = (
        f" Duplicates are per object found, without NMS, at score {DUPLICATES_SCORE:g} and IoU 0.5."
    )
    return gap + (duplicates if "duplicates" in _measured(evidence) else "")


def limits(evidence: Evidence) -> Iterator[str | Markup]:
    """Yield what a reader must know before relying on the numbers."""
    states, total = evidence.states(), plural(len(evidence.runs), "trial")
    ended = (TrialState.SUCCEEDED, TrialState.STOPPED)
    rest = {state: count for state, count in states.items() if state not in ended}
    if rest:
        shown = ", ".join(f"{count} {state}" for state, count in rest.items())
        yield f"Not complete: {sum(rest.values())} of {total} have not finished ({shown})."
    if stopped := states[TrialState.STOPPED]:
        yield f"{stopped} of {total} were stopped early by the rule of the sweep."
    if rest or stopped:
        yield "Means are over trials that have finished."
    elsewhere = sum(
        r.trial.state == TrialState.SUCCEEDED and not r.evaluations for r in evidence.runs
    )
    if elsewhere:
        yield Markup("{} not measured under {}; <code>gaplab reevaluate</code> does that.").format(
            plural(elsewhere, "finished trial"), evidence.protocol
        )
    counts = [len(setting.finished) for setting in evidence.ranked]
    if counts and max(counts) == 1:
        yield Markup(
            "One seed per setting: no intervals over seeds, so a difference may be chance. "
            "<code>gaplab compare</code> gives intervals over images."
        )
    elif counts:
        yield "Intervals are 95 % t intervals of the mean over seeds."
    if any(run.trial.results_version != RESULTS_VERSION for run in evidence.runs):
        yield (
            "Some trials were trained by an older version of the training code: don't compare "
            "them with the others."
        )


def _settings(evidence: Evidence) -> Markup:
    """Return the table of settings; without a column of intervals if there are none."""
    keys = list(evidence.keys.values()) or ["assignment"]
    intervals = any(setting.interval("gap") for setting in evidence.settings)
    columns = [
        *(text(key) for key in keys),
        Column("trials"),
        *(Column(label) for label in _measured(evidence).values()),
        *([Column("gap, 95 %")] if intervals else []),
    ]
    rows = [_setting_row(evidence, setting, intervals) for setting in evidence.settings]
    return table(columns, rows)


def _setting_row(evidence: Evidence, setting: Setting, intervals: bool) -> list[str]:
    finished, total = len(setting.finished), len(setting.runs)
    interval = setting.interval("gap")
    return [
        *(setting.cells if evidence.keys else [setting.label]),
        str(finished) if finished == total else f"{finished} of {total}",
        *(_show(metric, setting.mean(metric)) for metric in _measured(evidence)),
        *([_range(interval) if interval else "-"] if intervals else []),
    ]


def trials(evidence: Evidence) -> Markup:
    """Return the table of trials; without a column of GPU time if no GPU was used."""
    runs = [(setting, run) for setting in evidence.settings for run in setting.runs]
    metrics = _measured(evidence)
    times = ["CPU", *(["GPU"] if any(run.gpu_seconds for _, run in runs) else [])]
    columns = [
        *(text("trial"), text("setting"), Column("seed"), text("state"), Column("epoch")),
        *(Column(label) for label in metrics.values()),
        *(Column(f"{each} time") for each in times),
    ]
    rows = (_trial_row(setting, run, len(times), metrics) for setting, run in runs[:_MOST_TRIALS])
    content = table(columns, rows)
    if (more := len(runs) - _MOST_TRIALS) > 0:
        note = Markup("{} more trials; <code>gaplab leaderboard</code> lists all.").format(more)
        content += paragraph(note, "note")
    return content


def _trial_row(setting: Setting, run: Run, times: int, metrics: Iterable[str]) -> list[str]:
    trial = run.trial
    seconds = (run.cpu_seconds, run.gpu_seconds)[:times]
    return [
        *(trial.id[:8], setting.label, str(trial.seed), str(trial.state)),
        str(run.last.epoch) if run.evaluations else "-",
        *(_show(metric, run.value(metric)) for metric in metrics),
        *(duration(each) if each else "-" for each in seconds),
    ]
