"""`gaplab claims`: sentences of papers, and whether our evaluations confirm them."""

import json as jsonlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectors.evaluation.metrics import label
from gaplab.cli.opening import read_ledger
from gaplab.cli.options import AddressOption, HomeOption, JsonOption, ProfileOption
from gaplab.cli.render.progress import progress_line
from gaplab.cli.results import Resampling
from gaplab.errors import UserError
from gaplab.formatting import plural, points, printable, rounded, signed
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from gaplab.results.papers.claims import Claim, ClaimSpec, Finding
    from gaplab.spec.perceptron import PerceptronSpec

_RESAMPLES = 500
"""Resamples of the images per evaluation."""


def claims(  # noqa: PLR0913 - every argument is an option of the command
    file: Annotated[Path, typer.Argument(metavar="CLAIMS", help="The claims, a YAML file.")] = Path(
        "experiments/claims.yaml"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="Only claims on this spec, as in the file; repeatable."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--run", help="First train and measure what the claims need.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted from 0.")] = 3,
    profile: ProfileOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the verdicts as Markdown.")
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Check sentences of papers against the ledger.

    A claim holds, fails or is undecided. The interval of a claim covers seeds and images. Claims on
    one spec are corrected together (Holm): the chance of any wrong verdict among them is 5 %.
    Claims on perceptrons (000 section 4) are computed at once and need no ledger.
    """
    chosen = _chosen(file, only)
    computed = _perceptrons(chosen, file.parent, seeds)
    trained = {key: claim for key, claim in chosen.items() if claim.spec not in computed}
    names = dict.fromkeys(claim.spec for claim in trained.values())
    specs = {name: _read_spec(file.parent / name, profile, seeds) for name in names}
    folder = Home(home)
    if train and trained:  # what it prints is no part of the JSON
        with redirect_stdout(sys.stderr) if json else nullcontext():
            _train(trained, specs, folder, address)
        _remeasure(trained, specs, folder)
    findings = _look_up(trained, specs, folder) if trained else []
    if computed:
        others = {key: claim for key, claim in chosen.items() if claim.spec in computed}
        findings += _compute(others, computed, seeds)
    by_id = {each.id: each for each in findings}
    found = [by_id[key] for key in chosen]
    sys.stdout.write(to_json(found) if json else to_text(found))
    if output:
        _write(output, markdown(found))


def to_text(found: "Sequence[Finding]") -> str:
    """Return two lines per claim, its verdict and its sentence, and the counts."""
    width = max(len(each.id) for each in found)
    lines = []
    for each in found:
        lines.append(f"{each.verdict:<9}  {each.id:<{width}}  {_measured(each)}")
        lines.append(f"{'':<9}  {each.claim.sentence} ({each.claim.source})")
    return "\n".join([*lines, _counts(found), *_undecided(found)]) + "\n"


def to_json(found: "Sequence[Finding]") -> str:
    """Return a JSON list with one object per claim; numbers are percent points."""
    return jsonlib.dumps([_plain(each) for each in found], indent=2, ensure_ascii=False) + "\n"


def markdown(found: "Sequence[Finding]") -> str:
    """Return a table in Markdown with one line per claim, and the counts."""
    head = "| claim | verdict | measured | sentence | source |\n| --- | --- | --- | --- | --- |\n"
    rows = [
        (each.id, each.verdict, _measured(each), each.claim.sentence, each.claim.source)
        for each in found
    ]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    body = "".join(f"| {' | '.join(row)} |\n" for row in cells)
    lines = [f"Written by `gaplab claims --output`. {_counts(found)}.", *_undecided(found)]
    written = "\n".join(lines)
    return f"# Claims of the papers\n\n{written}\n\n{head}{body}"


def _chosen(file: Path, only: Sequence[str] | None) -> "dict[str, Claim]":
    """Return the claims of the file, or those on the specs named."""
    from gaplab.results.papers.claims import read_claims

    found = read_claims(file)
    known = {each.spec for each in found.values()}
    if unknown := [name for name in only or () if name not in known]:
        raise UserError(
            *(
                f"--only {name}: no claim is on this spec; known are {', '.join(sorted(known))}"
                for name in unknown
            )
        )
    return {key: each for key, each in found.items() if not only or each.spec in only}


def _read_spec(path: Path, profile: str | None, seeds: int) -> "ClaimSpec":
    from gaplab.results.papers.claims import ClaimSpec
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import row_records

    resolved = load_spec(path, profile, [f"grid.seed={list(range(seeds))}"])
    return ClaimSpec(resolved.spec, row_records(resolved))


def _perceptrons(
    claims: "Mapping[str, Claim]", folder: Path, seeds: int
) -> "dict[str, PerceptronSpec]":
    """Return the specs of perceptrons; claims on them need no ledger. Raises UserError."""
    from gaplab.results.papers.perceptron import check_claims, check_seeds
    from gaplab.spec.perceptron import is_perceptron, read_perceptron

    names = dict.fromkeys(claim.spec for claim in claims.values())
    specs = {name: read_perceptron(folder / name) for name in names if is_perceptron(folder / name)}
    if specs:
        check_seeds(seeds)
    check_claims({key: claim for key, claim in claims.items() if claim.spec in specs}, specs)
    return specs


def _compute(
    claims: "Mapping[str, Claim]", specs: "Mapping[str, PerceptronSpec]", seeds: int
) -> "list[Finding]":
    """Train perceptrons, and return the verdicts on claims about them."""
    from gaplab.results.papers.perceptron import measure, perceptron_verdicts

    with progress_line("training perceptrons") as show:
        found = {name: measure(spec, seeds, show) for name, spec in specs.items()}
    return perceptron_verdicts(claims, found)


def _look_up(
    claims: "Mapping[str, Claim]", specs: "Mapping[str, ClaimSpec]", home: Home
) -> "list[Finding]":
    """Return the verdicts on claims about trials of the ledger."""
    from gaplab.results.papers.claims import find_verdicts

    with read_ledger(home) as ledger, progress_line("checking claims") as show:
        resampling = Resampling(_RESAMPLES, home.path, show)
        found = find_verdicts(claims, specs, ledger, resampling)
    for problem in resampling.problems():
        sys.stderr.write(f"gaplab: {printable(problem)}\n")
    return found


def _train(
    claims: "Mapping[str, Claim]", specs: "Mapping[str, ClaimSpec]", home: Home, address: str
) -> None:
    """Run, for each spec, the rows that claims refer to. Raises UserError if a sweep has failed."""
    from gaplab.cli.run import SweepRun
    from gaplab.results.papers.claims import check_rows
    from gaplab.spec.resolve import resolve
    from gaplab.spec.sweep import expand

    check_rows(claims, specs)
    for name, each in specs.items():
        rows = {term.row for claim in claims.values() if claim.spec == name for term in claim.rows}
        sweep = expand(resolve(each.spec).only(rows))
        if code := SweepRun(sweep, home, address, json=False).execute():
            raise typer.Exit(code)


def _remeasure(claims: "Mapping[str, Claim]", specs: "Mapping[str, ClaimSpec]", home: Home) -> None:
    """Measure trials under the protocols that claims read them under. Raises UserError."""
    from gaplab.ledger import Ledger
    from gaplab.results.candidates.reevaluate import find_sources, find_trials, reevaluate
    from gaplab.results.papers.claims import other_protocols
    from gaplab.storage.filesystem import Storage

    storage = Storage(str(home.path))
    with Ledger.open(home.ledger_url, create=False) as ledger:
        for protocol, ids in other_protocols(claims, specs).items():
            sources = find_sources(ledger, storage, find_trials(ledger, ids), None, None)
            for _ in reevaluate(ledger, sources, [protocol], storage):
                pass  # it writes them to the ledger


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {path}: can't be written ({error.strerror})") from error


def _measured(finding: "Finding") -> str:
    """Return what was compared and found, in one line."""
    claim = finding.claim
    terms = [f"{label(term.metric or claim.metric)} {term.row}" for term in claim.rows]
    what = " - ".join(terms) if len(terms) < 3 else f"steps {', '.join(terms)}"
    if finding.value is None:
        return f"{what}: {finding.reason}"
    form = points if len(terms) == 1 and not _is_gap(claim) else signed
    value = f"{what}: {form(finding.value)}"
    if finding.interval is None or finding.p is None:
        return f"{value}, {finding.reason}"
    low, high = map(form, finding.interval)
    over = "seeds and images" if finding.images else "seeds"
    return f"{value} [{low}, {high}] over {over}, {_limit(claim)}, p {finding.p:.2g}"


def _is_gap(claim: "Claim") -> bool:
    return (claim.rows[0].metric or claim.metric).endswith("gap")


def _limit(claim: "Claim") -> str:
    if claim.within is not None:
        return f"claimed within {claim.within:g}"
    side, value = ("above", claim.above) if claim.above is not None else ("below", claim.below)
    return f"claimed {side} {value:g}"


def _counts(found: "Sequence[Finding]") -> str:
    count = Counter(each.verdict for each in found)
    hold, fail = ("hold", "holds")[count["holds"] == 1], ("fail", "fails")[count["fails"] == 1]
    return (
        f"{plural(len(found), 'claim')}: {count['holds']} {hold}, {count['fails']} {fail}, "
        f"{count['undecided']} undecided"
    )


def _undecided(found: "Sequence[Finding]") -> list[str]:
    """Return why claims are undecided and what would decide them, in at most two lines."""
    from gaplab.results.verdicts import LEVEL

    left = [each for each in found if each.verdict == "undecided"]
    close = [each for each in left if each.p is not None]
    claimed = sum(each.as_claimed for each in close)
    lines = []
    if close:
        lines.append(
            f"Undecided with a p value above {LEVEL / 2:g}: {len(close)}, of which {claimed} are "
            "measured as claimed. More seeds (--seeds) or validation images decide more."
        )
    if missing := len(left) - len(close):
        lines.append(f"Undecided for lack of results: {missing}. --run trains and measures them.")
    return lines


def _plain(finding: "Finding") -> dict[str, Any]:
    low, high = finding.interval or (None, None)
    return {
        "id": finding.id,
        "source": finding.claim.source,
        "sentence": finding.claim.sentence,
        "spec": finding.claim.spec,
        "verdict": finding.verdict,
        "value": rounded(finding.value),
        "interval": None if low is None else [rounded(low), rounded(high)],
        "p": finding.p,
        "seeds": finding.seeds,
        "images": finding.images,
        "reason": finding.reason,
    }
