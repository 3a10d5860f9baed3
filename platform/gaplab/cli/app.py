"""The command tree: a table of all commands, and the group that imports a command when it is used.

Starting `gaplab --help` takes a fraction of a second, because no command's module is imported for
it. A module of commands imports whatever needs torch inside the function that uses it, so that
`gaplab COMMAND --help` and shell completion are quick, too.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gaplab import __version__


@dataclass(frozen=True)
class Command:
    """One command of `gaplab`, implemented by the function of its name in `module`."""

    name: str
    module: str
    summary: str
    """One line for `gaplab --help`; the function's docstring starts with it."""
    example: str
    """A command line for `gaplab COMMAND --help`."""
    inner: tuple["Command", ...] = ()
    """The commands of a group, in the same module."""


GROUPS: dict[str, tuple[Command, ...]] = {
    "Data": (
        Command(
            "init",
            "gaplab.cli.init",
            "Look at a folder of photographs and write a spec for it.",
            "gaplab init FOLDER",
        ),
        Command(
            "data",
            "gaplab.cli.data",
            "Check a data set or convert it to COCO's format, without training.",
            "gaplab data check FOLDER",
            (
                Command(
                    "check",
                    "gaplab.cli.data",
                    "Check and count a data set; print the section for a spec.",
                    "gaplab data check FOLDER",
                ),
                Command(
                    "convert",
                    "gaplab.cli.data",
                    "Write a data set in COCO's format, with links to its images.",
                    "gaplab data convert FOLDER NEW_FOLDER",
                ),
            ),
        ),
    ),
    "Measure": (
        Command(
            "measure",
            "gaplab.cli.measure",
            "Measure how much detections of any tool need NMS.",
            "gaplab measure results.json instances_val2017.json",
        ),
    ),
    "Run": (
        Command(
            "plan",
            "gaplab.cli.plan",
            "List the trials of a spec with their expected cost; run nothing.",
            "gaplab plan experiments/quickstart.yaml --set 'grid.seed=[0,1,2]'",
        ),
        Command(
            "options",
            "gaplab.cli.describe",
            "List what a spec may contain: detectors, assignments and options.",
            "gaplab options assignment.poto",
        ),
        Command(
            "models",
            "gaplab.cli.plan",
            "List the weights and multiply-adds of a spec's detectors.",
            "gaplab models experiments/004/t9.yaml --size 800x1280",
        ),
        Command(
            "run",
            "gaplab.cli.run",
            "Run a sweep: train unfinished trials, show progress, print results.",
            "gaplab run experiments/quickstart.yaml",
        ),
        Command(
            "resume",
            "gaplab.cli.run",
            "Continue a sweep: train its unfinished trials from checkpoints.",
            "gaplab resume quickstart",
        ),
        Command(
            "status",
            "gaplab.cli.jobs",
            "Show the running, waiting and failed trials of a sweep.",
            "gaplab status quickstart",
        ),
        Command(
            "logs",
            "gaplab.cli.jobs",
            "Show how the attempts of a trial ended, or a job's output.",
            "gaplab logs 9e542d7d",
        ),
        Command(
            "cancel",
            "gaplab.cli.jobs",
            "Stop a sweep or single trials; finished results stay.",
            "gaplab cancel quickstart",
        ),
    ),
    "Results": (
        Command(
            "leaderboard",
            "gaplab.cli.results",
            "List AP, AP with NMS and the NMS gap: one row per trial.",
            "gaplab leaderboard --where 'alpha == 0.5 and ap > 30'",
        ),
        Command(
            "compare",
            "gaplab.cli.results",
            "Compare groups of trials: means, spread, 95 % intervals.",
            "gaplab compare --sweep quickstart --to poto",
        ),
        Command(
            "report",
            "gaplab.cli.report",
            "Write a report with pictures: one HTML file for a browser.",
            "gaplab report quickstart -o report.html",
        ),
        Command(
            "show",
            "gaplab.cli.show",
            "Show everything stored about a trial or a sweep.",
            "gaplab show 9e542d7d",
        ),
        Command(
            "table",
            "gaplab.cli.table",
            "Show results beside the numbers of a paper's table.",
            "gaplab table experiments/003/t1.yaml --markdown",
        ),
        Command(
            "claims",
            "gaplab.cli.claims",
            "Check sentences of papers against the ledger.",
            "gaplab claims experiments/claims.yaml --only 003/t1.yaml",
        ),
        Command(
            "perceptron",
            "gaplab.cli.perceptron",
            "Measure how one-to-one assignment converges (000 section 4).",
            "gaplab perceptron experiments/000/s4_perceptron.yaml -o perceptron.html",
        ),
        Command(
            "reevaluate",
            "gaplab.cli.evaluate",
            "Measure trials under other protocols, without training.",
            "gaplab reevaluate quickstart --protocol onenet",
        ),
        Command(
            "explain",
            "gaplab.cli.evaluate",
            "Show where the NMS gap of a trial comes from.",
            "gaplab explain 9e542d7d --branch o2o",
        ),
        Command(
            "protocols",
            "gaplab.cli.evaluate",
            "List the protocols under which a gap can be measured.",
            "gaplab protocols",
        ),
        Command(
            "export",
            "gaplab.cli.export",
            "Write all results of the ledger as Parquet files.",
            "gaplab export results --sweep quickstart",
        ),
        Command(
            "ui",
            "gaplab.cli.mlflow",
            "Serve the results in MLflow on this machine.",
            "gaplab ui quickstart --port 5001",
        ),
    ),
    "Use": (
        Command(
            "predict",
            "gaplab.cli.use",
            "Detect objects in pictures, without and with NMS.",
            "gaplab predict 9e542d7d photo.jpg --draw drawn",
        ),
        Command(
            "weights",
            "gaplab.cli.use",
            "Write the weights of a trial as a file of safetensors.",
            "gaplab weights 9e542d7d -o poto.safetensors",
        ),
        Command(
            "onnx",
            "gaplab.cli.use",
            "Write the detector of a trial as a graph of ONNX.",
            "gaplab onnx 9e542d7d -o poto.onnx",
        ),
    ),
    "Cluster": (
        Command(
            "submit",
            "gaplab.cli.jobs",
            "Start a sweep on a Ray cluster and leave it running there.",
            "gaplab submit spec.yaml --address http://head:8265 --cluster-home /shared",
        ),
    ),
    "Maintenance": (
        Command(
            "mirror",
            "gaplab.cli.mlflow",
            "Copy results that MLflow lacks from the ledger.",
            "gaplab mirror quickstart",
        ),
        Command(
            "upgrade",
            "gaplab.cli.upgrade",
            "Upgrade a ledger that an older gaplab has written.",
            "gaplab upgrade --home results",
        ),
        Command(
            "doctor",
            "gaplab.cli.doctor.command",
            "Check versions, home, ledger, Ray, MLflow and open ports.",
            "gaplab doctor --address auto",
        ),
        Command(
            "bench",
            "gaplab.cli.bench",
            "Measure how fast this machine trains detectors and loads images.",
            "gaplab bench --output bench.json",
        ),
    ),
}
"""All commands, in the groups and the order of `gaplab --help`."""
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}


def load(command: Command) -> Any:
    """Import the module of a command and return the command, ready to parse its arguments."""
    module = import_module(command.module)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    function = getattr(module, command.name)
    if command.inner:
        alone.callback(epilog=_epilog(command), no_args_is_help=True)(function)
    for each in command.inner or (command,):
        alone.command(each.name, epilog=_epilog(each))(getattr(module, each.name))
    return typer.main.get_command(alone)


def _epilog(command: Command) -> str:
    # \b: Click keeps the lines of this paragraph as they are.
    return f"\b\nExample:\n  {command.example}"


class CommandGroup(TyperGroup):
    """All commands as placeholders; the one that is called, or completed, is loaded.

    Typer's types of contexts and formatters are private, so they are `Any` here.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in COMMANDS.values():
            self.add_command(TyperCommand(command.name, help=command.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the name, the loaded command and the remaining arguments."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, load(COMMANDS[name]) if name else placeholder, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group of commands, one line per command."""
        for group, commands in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(command.name, command.summary) for command in commands])


app = typer.Typer(
    name="gaplab",
    cls=CommandGroup,
    help="Measure how much an object detector needs NMS, under many label assignments.",
    epilog="gaplab COMMAND --help explains a command and gives an example.",
    no_args_is_help=True,
    subcommand_metavar="COMMAND [ARGUMENTS]",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gaplab {__version__}")
        raise typer.Exit


@app.callback()
def gaplab(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that come before the name of a command."""
