"""`gaplab bench`: how fast this machine trains detectors and loads images."""

import json
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.errors import StorageError, UserError
from gaplab.formatting import plural, printable

if TYPE_CHECKING:
    from gaplab.trial.speed.machine import MachineSpeed

GPU_DEFAULTS, CPU_DEFAULTS = (800, 8, 20), (320, 1, 3)
"""Shorter side of the images, images per step, steps."""


def bench(  # noqa: PLR0913 - every argument is an option of the command
    cpu: Annotated[bool, typer.Option("--cpu", help="Measure the CPU, with small images.")] = False,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="A detector of a spec, as published with ResNet-50, or fcos-poto; repeatable "
            "[default: all]."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32 or bf16; repeatable [default: both; with --cpu fp32]."),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Also measure training.compile, which takes minutes for each."
        ),
    ] = False,
    side: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=4096,
            help="Shorter side of the images; the longer one is 5/3 of it [default: 800; with "
            "--cpu 320].",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Images per step [default: 8; with --cpu 1]."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Steps to time; fewer if they take over 30 s [default: 20; with --cpu 3].",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Also write everything as JSON."),
    ] = None,
) -> None:
    """Measure how fast this machine trains detectors and loads images.

    Needs no data set: images are noise, and JPEG files are generated. Each measurement ends after
    30 seconds. Torchvision's FCOS is measured, too, if torchvision can be imported.
    """
    import torch

    from gaplab.trial.speed.machine import PRECISIONS, measure_machine
    from gaplab.trial.speed.setups import SETUPS
    from gaplab.trial.speed.steps import Load

    names = list(dict.fromkeys(detector or SETUPS))
    precisions = list(dict.fromkeys(precision or (["fp32"] if cpu else PRECISIONS)))
    problems = [*_unknown("--detector", names, SETUPS)]
    problems += _unknown("--precision", precisions, PRECISIONS)
    if not cpu and not torch.cuda.is_available():
        problems.append("no GPU that PyTorch can use; measure the CPU with --cpu")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        problems.append(f"--output {output}: not a file in an existing folder; correct the path")
    if problems:
        raise UserError(*problems)
    usual_side, usual_batch, usual_steps = CPU_DEFAULTS if cpu else GPU_DEFAULTS
    load = Load(
        torch.device("cpu" if cpu else "cuda"),
        side or usual_side,
        batch or usual_batch,
        steps or usual_steps,
    )
    with progress_line("starting") as show:
        found = measure_machine(names, precisions, load, show, compiled=compiled)
    if output is not None:
        _write(output, found)
    _print(found)


def _unknown(option: str, values: Iterable[str], known: Collection[str]) -> Iterator[str]:
    for value in values:
        if value not in known:
            yield f"{option} {printable(value)}: unknown; choose from {', '.join(known)}"


def _write(path: Path, found: "MachineSpeed") -> None:
    """Write the measurements. Raises StorageError."""
    try:
        path.write_text(json.dumps(found.plain(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"--output {path}: can't be written ({error.strerror}); choose another file"
        ) from error


def _print(found: "MachineSpeed") -> None:
    open_console().print(steps_table(found))
    for line in lines(found):
        sys.stdout.write(printable(line) + "\n")


def steps_table(found: "MachineSpeed") -> PlainTable:
    """Return the table of training steps: one row per detector and precision."""
    parts = list(found.steps[0].parts)
    load, facts = found.load, found.plain()
    place = (facts["gpu"] or {}).get("name") or facts["machine"]["cpu"]
    high, wide = load.size
    columns = [
        text("detector", wrap=False),
        text("precision", wrap=False),
        text("mode", wrap=False),
        number("images/s"),
        *(number(f"{part} %") for part in parts),
        number("waits/step"),
        number("TFLOP/s"),
        number("of bf16 peak"),
        number("GiB"),
    ]
    rows = [
        [
            each.name,
            each.precision,
            "compiled" if each.compiled else "eager",
            f"{each.images_per_second:.4g}",
            *(f"{100 * each.parts[part]:.1f}" for part in parts),
            str(each.synchronisations),
            f"{each.teraflops:.3g}",
            "-" if each.precision != "bf16" else _share(each.peak_share),
            f"{each.memory_mib / 1024:.1f}",
        ]
        for each in found.steps
    ]
    title = f"Training steps of {plural(load.batch, 'image')}, {high}x{wide}, on {place}"
    return plain_table(columns, rows, title=title, remedy="a wider terminal or a pipe (| cat)")


def lines(found: "MachineSpeed") -> list[str]:
    """Return one line about the loader, and one or more about torchvision's FCOS."""
    loading, written = found.loading, []
    where = plural(loading.processes, "worker") if loading.processes else "this process"
    written.append(f"loader: {loading.images_per_second:.4g} images/s in {where}")
    first = found.steps[0].images_per_second
    if loading.trained_per_second is not None:
        share = loading.trained_per_second / first
        written[0] += (
            f"; training {loading.trained} on them {loading.trained_per_second:.4g} images/s, "
            f"{100 * share:.0f} % of the rate without loading"
        )
    for precision, speed in found.torchvision.items():
        wanted = ("fcos", precision, False)
        ours = [s for s in found.steps if (s.name, s.precision, s.compiled) == wanted]
        times = f"; fcos is {ours[0].images_per_second / speed:.2f} times as fast" if ours else ""
        written.append(f"torchvision's FCOS in {precision}: {speed:.4g} images/s{times}")
    if found.torchvision_note:
        written.append(f"torchvision's FCOS: not measured ({found.torchvision_note})")
    return written


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
