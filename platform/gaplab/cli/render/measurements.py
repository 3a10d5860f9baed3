"""Tables and lines about measurements of detections, see `gaplab measure`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.formatting import points, signed

if TYPE_CHECKING:
    from detectors.evaluation.operating import OperatingPoint
    from gaplab.results.measurement.heads import Heads, Paired
    from gaplab.results.measurement.measure import Measured

_METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")


def tables(measured: "Measured") -> Iterator[PlainTable]:
    """Yield the tables about one measurement."""
    yield metrics_table(measured)
    yield thresholds_table(measured)
    yield errors_table(measured)
    if any(each.objects for each in measured.summary.crowding):
        yield crowding_table(measured)


def metrics_table(measured: "Measured") -> PlainTable:
    """Return AP and AR without NMS, with NMS, and the gap."""
    from detectors.evaluation.metrics import label, names_of
    from gaplab.spec.protocols import protocol_key

    metrics = measured.summary.gap.metrics
    shown = [name for name in _METRICS if metrics.get(name) is not None]
    shown += [name for name in ("mmr", "recall") if name in metrics and name not in shown]
    rows = []
    for name in shown:
        without, with_nms, gap = (metrics.get(each) for each in names_of(name))
        interval = _interval(measured.gap_interval) if name == "ap" else ""
        rows.append([label(name), points(without), points(with_nms), signed(gap) + interval])
    headings = [number("without\nNMS"), number("with\nNMS"), text("gap", wrap=False)]
    of_masks = "; AP of masks, NMS of boxes" if measured.protocol.masks else ""
    caption = f"protocol {protocol_key(measured.protocol)}{of_masks}; percent points"
    return plain_table([text("metric", wrap=False), *headings], rows, caption=caption)


def thresholds_table(measured: "Measured") -> PlainTable:
    """Return what a user sees at score thresholds, without NMS and with it."""
    rows = []
    for heading, column in (
        ("without", measured.summary.without),
        ("with", measured.summary.with_nms),
    ):
        rows += [[heading, f"{each.threshold:.3g}", *_cells(each)] for each in column.points]
        if column.best_f1 is not None:
            best = column.best_f1
            rows.append([heading, f"{best.threshold:.3g} (best F1)", *_cells(best)])
    numbers = ("duplicates\nper object", "of any\nclass", "missed\n%", "count\nerror", "F1\n%")
    columns = [text("NMS", wrap=False), text("score", wrap=False), *map(number, numbers)]
    caption = "at a score threshold; count error: detections minus objects of an image, absolute"
    return plain_table(columns, rows, caption=caption)


def _cells(point: "OperatingPoint") -> list[str]:
    decimals = (point.duplicates, point.duplicates_any_class, point.count_error)
    duplicates, any_class, count = ("-" if v is None else f"{v:.2f}" for v in decimals)
    return [duplicates, any_class, points(point.missed), count, points(point.f1)]


def errors_table(measured: "Measured") -> PlainTable:
    """Return the calibration error, and the AP50 that errors of each type cost."""
    rows = []
    for heading, column in (
        ("without", measured.summary.without),
        ("with", measured.summary.with_nms),
    ):
        error = column.calibration_error
        rows.append([heading, points(error), *map(points, column.errors.gains.values())])
    numbers = ("calibration\nerror", *measured.summary.without.errors.gains)
    columns = [text("NMS", wrap=False), *map(number, numbers)]
    caption = "percent points; TIDE: AP50 that would be gained without the errors of a type"
    return plain_table(columns, rows, caption=caption)


def crowding_table(measured: "Measured") -> PlainTable:
    """Return AP and duplicates on objects whose nearest neighbour overlaps them."""
    rows = []
    for each in measured.summary.crowding:
        aps = (points(each.ap), points(each.ap_nms), signed(each.gap))
        seen = ("-" if p.duplicates is None else f"{p.duplicates:.2f}" for p in each.without[:1])
        rows.append([f"above {each.above:g}", f"{each.share:.1f}", str(each.images), *aps, *seen])
    numbers = ("objects\n%", "images", "AP", "AP\nNMS", "gap", "duplicates\nper object")
    columns = [text("IoU of\nneighbour", wrap=False), *map(number, numbers)]
    return plain_table(columns, rows, caption="crowded objects; AP on the images that hold them")


def protocols_table(measured: "Sequence[Measured]") -> PlainTable:
    """Return one line per protocol."""
    from gaplab.spec.protocols import protocol_key

    rows = []
    for each in measured:
        metrics = each.summary.gap.metrics
        values = (points(metrics["ap"]), points(metrics["ap_nms"]))
        gap = signed(metrics["gap"]) + _interval(each.gap_interval)
        rows.append([protocol_key(each.protocol), *values, gap, each.verdict])
    columns = [text("protocol", rank=0), number("AP"), number("AP\nNMS")]
    columns += [text("gap", wrap=False), text("needs\nNMS", wrap=False)]
    return plain_table(columns, rows, caption="percent points; [95 % interval over images]")


def spread(measured: "Sequence[Measured]") -> str:
    """Return how far apart AP is under the protocols, for the same detections."""
    apart = []
    for label, values in (
        ("without NMS", [each.ap for each in measured if each.protocol.evaluator == "coco"]),
        ("with NMS", [each.ap_nms for each in measured if each.protocol.evaluator == "coco"]),
    ):
        apart.append(f"{max(values) - min(values):.1f} {label}" if values else "")
    return f"the protocol alone moves COCO's AP by {' and by '.join(filter(None, apart))} points"


def check_line(measured: "Measured") -> str:
    """Return what pycocotools measured, and whether it agrees."""
    from gaplab.spec.protocols import protocol_key

    checked = measured.checked
    assert checked is not None  # the caller has asked
    ap, ap_nms = (points(checked.gap.metrics[name]) for name in ("ap", "ap_nms"))
    verdict = "agree" if checked.agrees else "DIFFER"
    return (
        f"pycocotools, protocol {protocol_key(measured.protocol)}: AP {ap} without NMS, {ap_nms} "
        f"with NMS; {checked.compared} values {verdict} (largest difference "
        f"{checked.difference:.1g} points)"
    )


def heads_table(heads: "Heads") -> PlainTable:
    """Return the head gap and the differences of two inputs."""
    labels = {"ap": "AP", "ap_nms": "AP NMS", "gap": "NMS gap", "duplicates": "duplicates"}
    rows = [["head gap: first with NMS minus second without", *_pair(heads.head_gap)]]
    rows += [
        [f"NMS gap of the {which}", *_pair(pair)]
        for which, pair in zip(("first", "second"), heads.gaps, strict=True)
    ]
    rows += [[f"{labels[n]}: first minus second", *_pair(p)] for n, p in heads.differences.items()]
    columns = [text("difference", rank=0), number("value"), text("95 % interval", wrap=False)]
    return plain_table(columns, rows, caption="percent points; duplicates per object, without NMS")


def _pair(pair: "Paired") -> tuple[str, str]:
    value = "-" if pair.value is None else f"{pair.value:+.2f}"
    low_high = pair.interval
    return value, "" if low_high is None else f"[{low_high.low:+.2f}, {low_high.high:+.2f}]"


def sentence(measured: "Measured") -> str:
    """Return the verdict in one sentence."""
    word = {"yes": "yes", "no": "no", "undecided": "not decided"}[measured.verdict]
    gap = measured.summary.gap.metrics["gap"]
    why = "" if measured.gap_interval else "; no interval over images"
    if measured.input.detections.findings.suppressed is not None:
        why = "; the detections were suppressed already"
    return f"needs NMS: {word}, {signed(gap)} AP{_interval(measured.gap_interval)}{why}"


def _interval(found: Any) -> str:
    return "" if found is None else f" [{signed(found.low)}, {signed(found.high)}]"
