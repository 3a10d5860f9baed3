"""Write the generated pages of the reference: options, protocols, metrics and commands.

A hook of MkDocs. The pages come from the classes and tables that gaplab itself uses, so they
change with them.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.core import TyperGroup
from typer.main import get_command

from detectors.evaluation.metrics import (
    DUPLICATES,
    DUPLICATES_SCORE,
    LABELS,
    LOWER_IS_BETTER,
    MEASURED,
    TRAINING,
    names_of,
)
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.options import Options
from gaplab.cli.app import app
from gaplab.spec.describe import (
    SECTIONS,
    TABLES,
    Option,
    Sections,
    default_text,
    description_of,
    nested,
    options_of,
)

PAGES: Mapping[str, tuple[str, str]] = {
    "assignments": ("Label assignments", "assignment"),
    "detectors": ("Detectors", "detector"),
    "backbones": ("Backbones", "detector.backbone"),
    "gates": ("Gates", "detector.gate"),
    "data": ("Data sets", "data"),
}
"""Page -> its title, and the key of a spec that takes the entries it lists."""
HEADINGS = {
    "spec": "Keys of a spec",
    "perceptron": "perceptron (a spec of its own, for `gaplab perceptron`)",
}
SPEC: Sections = {
    HEADINGS.get(key, key): model for key, model in SECTIONS.items() if model is not Protocol
}
"""Heading -> the class whose options are listed below it."""

SPEC_INTRODUCTION = """\
A spec is a YAML file; [Specs](../specs.md) explains how to write one. Its top-level keys are those
of the first table and the sections of one experiment: [`data`](data.md),
[`detector`](detectors.md), [`assignment`](assignments.md), `evaluation`, `training`, `resources`,
`checkpoints`, and `seed` (an integer from 0, default 0)."""
STAR = "An option marked with a star (*) is not part of a trial's id: it cannot change a result."
PROTOCOL_INTRODUCTION = """\
A protocol says how the NMS gap is measured; [Measuring](../measuring.md) explains why it matters.
Commands and specs take the name of a preset, or a mapping of the options below."""
METRICS_INTRODUCTION = """\
Every metric is stored without NMS, with NMS, and as the difference of the two, in percent points.
`gaplab leaderboard --metric NAME` adds one as a column."""
DUPLICATES_ARE = (
    "The number of detections of at least that score that overlap an object of their class by an "
    "IoU of at least 0.5, minus one, averaged over the objects that have such a detection; "
    "undefined if no object has one."
)
CLI_INTRODUCTION = "The text that `gaplab COMMAND --help` prints."


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages. MkDocs calls this function by its name."""
    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Return the Markdown text of every generated page, by name."""
    return {
        "spec": _join("# Options of a spec", SPEC_INTRODUCTION, STAR, *_sections(SPEC)),
        **{page: _join(*_table_page(title, key)) for page, (title, key) in PAGES.items()},
        "protocols": _join(*_protocols()),
        "metrics": _join(*_metrics()),
        "cli": _join("# Commands", CLI_INTRODUCTION, *_commands()),
    }


def _join(*blocks: str) -> str:
    return "\n\n".join(blocks) + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(header), *(list(row) for row in rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _table_page(title: str, key: str) -> Iterator[str]:
    yield f"# {title}"
    yield f"Values of the key `{key}`. `name` selects one; its options are keys beside `name`."
    yield STAR
    yield from _sections(TABLES[key])
    yield from _sections(nested(TABLES[key]))


def _sections(sections: Sections) -> Iterator[str]:
    for heading, model in sections.items():
        title = f"`{heading}`" if heading.islower() else heading
        yield f"## {title} {{#{_anchor(heading)}}}"
        yield _text(description_of(model))
        yield _options(model)


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-").replace(".", "-")


def _options(model: type[Options]) -> str:
    """Return a table with one row per option of `model`."""
    rows = [_option(each) for each in options_of(model, _reference)]
    return _table(("option", "values", "default", "meaning"), rows) if rows else "No options."


def _option(option: Option) -> tuple[str, ...]:
    star = "" if option.counted else " *"
    values = _entries(option.table) or option.values
    return f"`{option.name}`{star}", values, option.default, _cell(option.meaning)


def _entries(table: Sections) -> str:
    """Return links to the entries of a table; empty for an empty one."""
    return ", ".join(f"[`{name}`]({_page(model)}#{name})" for name, model in table.items())


def _page(model: type[Options]) -> str:
    """Return the file name of the page that lists `model` as an entry."""
    pages = (page for page, (_, key) in PAGES.items() if model in TABLES[key].values())
    return f"{next(pages)}.md"


def _reference(name: str) -> str:
    """Return a link to the section of the class of this name."""
    if name == Protocol.__name__:
        return "[name or mapping](protocols.md)"
    sections = {"spec": SPEC, **{page: nested(TABLES[key]) for page, (_, key) in PAGES.items()}}
    return next(
        f"[mapping]({page}.md#{_anchor(heading)})"
        for page, found in sections.items()
        for heading, model in found.items()
        if model.__name__ == name
    )


def _cell(text: str) -> str:
    """Return text for one cell of a table: one line, without cell borders."""
    return _text(" ".join(text.split())).replace("|", "\\|")


def _text(text: str) -> str:
    """Return text in which Markdown and HTML find no markup but code between backticks."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = parts[i].replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return "`".join(parts)


def _protocols() -> Iterator[str]:
    yield "# Protocols"
    yield PROTOCOL_INTRODUCTION
    yield "## Options"
    yield _text(inspect.cleandoc(Protocol.__doc__ or ""))
    yield _options(Protocol)
    yield "## Presets"
    keys = [key for key in Protocol.model_fields if key != "preset"]
    presets = {name: preset.model_dump(mode="json") for name, preset in PROTOCOLS.items()}
    rows = [
        (f"`{key}`", *(default_text(preset[key]) for preset in presets.values())) for key in keys
    ]
    yield _table(("option", *(f"`{name}`" for name in presets)), rows)


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield METRICS_INTRODUCTION
    for evaluator, metrics in MEASURED.items():
        yield f"## Evaluator `{evaluator}`"
        rows = ((LABELS[name], *(f"`{each}`" for each in names_of(name))) for name in metrics)
        yield _table(("metric", "without NMS", "with NMS", "gap"), rows)
    lower = ", ".join(LABELS[name] for name in sorted(LOWER_IS_BETTER))
    yield f"Larger is better, except for {lower}."
    yield "## Duplicates"
    names = " and ".join(f"`{name}`" for name in DUPLICATES)
    yield f"Duplicates per object at score {DUPLICATES_SCORE:g}, without NMS and with it: {names}."
    yield DUPLICATES_ARE
    yield "## Training"
    names = " and ".join(f"`{name}`" for name in TRAINING)
    yield f"Metrics of the assignments in an epoch: {names} (in percent)."


def _commands() -> Iterator[str]:
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    context = command.make_context("gaplab", [], resilient_parsing=True, max_content_width=92)
    yield _help("gaplab", command.get_help(context))
    yield from _inner(command, context, "")


def _inner(group: TyperGroup, context: Any, prefix: str) -> Iterator[str]:
    """Yield the help of the commands of a group, also of those in groups inside it."""
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        assert command is not None
        below = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield _help(f"{prefix}{name}", command.get_help(below))
        if isinstance(command, TyperGroup):
            yield from _inner(command, below, f"{name} ")


def _help(name: str, text: str) -> str:
    return f"## `{name}`\n\n```text\n{text.rstrip()}\n```"
