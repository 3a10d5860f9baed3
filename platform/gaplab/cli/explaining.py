"""What `gaplab reevaluate`, `explain` and `protocols` print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from detectors.evaluation.diagnosis import Diagnosis, ScoreGap
from gaplab.cli.render.tabular import plain_table
from gaplab.formatting import points, signed
from gaplab.ledger.views import EvaluationView
from gaplab.results.explain import Explanation
from gaplab.spec.yaml_text import flow_yaml

_BAR = 40  # characters of the longest bar


def reevaluations_table(found: Sequence[EvaluationView], assignments: Mapping[str, str]) -> Table:
    """One line for each evaluation, in the order given; the epoch only where there are several."""
    crowd = {"mMR": "mmr", "recall": "recall"} if any("mmr" in e.metrics for e in found) else {}
    epochs = ("epoch",) if len({e.epoch for e in found}) > 1 else ()
    words = ("trial", "assign-\nment", "branch", "protocol")
    numbers = (*epochs, "AP", "AP\nNMS", "gap", *crowd)
    table = plain_table(*words, *numbers, whole=("trial", "branch"))
    for e in found:
        m = e.metrics
        about = (e.trial[:8], assignments[e.trial], e.branch, e.protocol)
        gap = (points(m["ap"]), points(m["ap_nms"]), signed(m["gap"]))
        more = (points(m[name]) if name in m else "" for name in crowd.values())
        table.add_row(*about, *(str(e.epoch) for _ in epochs), *gap, *more)
    return table


def print_protocols(known: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """One line each: `default` in full, of the others what differs from it."""
    width = max(map(len, known))
    for key, rule in known.items():
        own = {n: v for n, v in rule.items() if key == "default" or v != known["default"].get(n)}
        console.print(f"{key:<{width}}  {flow_yaml(own)}", markup=False, soft_wrap=True)


def print_explanation(found: Explanation, console: Console) -> None:
    """A page about the gap of one trial."""
    diagnosis = found.diagnosis
    console.print(
        f"trial {found.trial}: {found.assignment} on {found.dataset}, epoch {found.epoch}, branch "
        f"{found.branch}, protocol {found.protocol}"
    )
    if found.training:
        console.print(
            f"taught with {found.training['positives_per_object']:.2f} positive points an object "
            f"in that epoch; {found.training['objects_unassigned']:.1f} % of objects had none"
        )
    console.print(_steps(diagnosis))
    if found.recall_ceiling is not None:
        console.print(
            f"the objects' own boxes, after this NMS: recall {found.recall_ceiling:.1f} %"
        )
    console.print(_duplicates(diagnosis))
    _print_score_gap(diagnosis.score_gap, console)


def _steps(diagnosis: Diagnosis) -> Table:
    """AP as suppression reaches farther, and what each step contributes to the gap."""
    table = plain_table("NMS among", "AP", "gain", "of the gap")
    table.add_row("nothing", points(diagnosis.ap), "", "")
    before = diagnosis.ap
    for step in diagnosis.steps:
        share = "-" if step.share is None else f"{100 * step.share:.0f} %"
        table.add_row(step.name, points(step.ap), signed(step.ap - before), share)
        before = step.ap
    return table


def _duplicates(diagnosis: Diagnosis) -> Table:
    table = plain_table("recall, no NMS", "at score", "duplicates\nan object")
    for at in diagnosis.duplicates:
        reached = at.threshold is not None and at.duplicates is not None
        cells = (f"{at.threshold:.3f}", f"{at.duplicates:.2f}") if reached else ("not reached", "-")
        table.add_row(f"{100 * at.recall:.0f} %", *cells)
    return table


def _print_score_gap(gap: ScoreGap, console: Console) -> None:
    console.print(
        f"{gap.objects} objects, {100 * gap.unclaimed:.1f} % of them claimed by no candidate; "
        f"{gap.claimants or 0:.1f} candidates claim one of the others"
    )
    if gap.mean is None:
        return
    console.print(f"score gap (first less second score an object): mean {gap.mean:.3f}")
    most = max(gap.histogram)
    for bin_, count in enumerate(gap.histogram):
        bar = "█" * round(_BAR * count / most)
        console.print(f"  {bin_ / 10:.1f} to {(bin_ + 1) / 10:.1f} {count:>7} {bar}")
