"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from gaplab.storage.home import check_is_path


def _home(value: str | Path) -> Path:
    """Return the path as given: `Path` would turn `s3://bucket` into a folder `s3:`."""
    check_is_path(str(value))
    return Path(value)


MAX_EPOCH = 2**31 - 1
"""Largest number of an epoch that a ledger can hold, as in `training.epochs`."""
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="GAPLAB_HOME",
        metavar="PATH",
        parser=_home,
        help="Folder of the ledger, checkpoints and MLflow's data.",
    ),
]
SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.")]
ProfileOption = Annotated[
    str | None,
    typer.Option(help="Profile of the spec to apply [default: laptop, if it has one]."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a dotted key of the spec; repeatable."),
]
RowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--row",
        metavar="ROW",
        help="Only this row of the spec, and those that it starts from; repeatable.",
    ),
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting that is no part of a trial's id, such as run.at_once or "
        "resources.workers; repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
ParquetOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write a Parquet file; an existing one is replaced."),
]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
LatexOption = Annotated[bool, typer.Option("--latex", help="Print LaTeX.")]
HtmlOption = Annotated[bool, typer.Option("--html", help="Print an HTML page.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Also show this metric, such as ap_small; repeatable."),
]
BranchOption = Annotated[
    str | None, typer.Option(help="o2o, o2m or o2f [default: the one kept at inference].")
]
RerunOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rerun",
        metavar="TRIAL",
        help="Train a finished trial of the sweep again, or `all` of them; repeatable. Earlier "
        "results move to the home folder's trials/TRIAL/replaced.",
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        help='Ray cluster to use: "local" starts one on this machine; else "auto" or HOST:PORT.'
    ),
]
