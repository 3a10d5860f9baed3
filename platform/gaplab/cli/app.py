"""The command tree."""

import typer

from gaplab.cli import clustering, evaluating, exporting, papers, results, runs, ui
from gaplab.cli.doctor.command import doctor

app = typer.Typer(
    name="gaplab",
    help="How much does an object detector still need NMS, and which label assignment frees it?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.command()(runs.plan)
app.command()(runs.models)
app.command()(runs.run)
app.command()(runs.resume)
app.command()(clustering.submit)
app.command()(clustering.status)
app.command()(clustering.logs)
app.command()(clustering.cancel)
app.command()(results.leaderboard)
app.command()(results.compare)
app.command()(results.show)
app.command()(papers.table)
app.command()(evaluating.reevaluate)
app.command()(evaluating.explain)
app.command()(evaluating.protocols)
app.command()(exporting.export)
app.command()(ui.ui)
app.command()(ui.mirror)
app.command()(doctor)
