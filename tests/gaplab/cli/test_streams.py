"""Full disks, closed pipes, poor encodings and odd sizes of terminals: one line, no traceback."""

import gc
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.cli import main
from gaplab.cli.render.tabular import number, plain_table, text
from gaplab.cli.render.terminal import PlainConsole
from gaplab.cli.streams import CLOSED, FAILED, output_may_fail, standard_streams

Gaplab = Callable[..., str]
FULL_DISK = "gaplab: standard output: No space left on device\n"
PRINTS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "version": ("--version",),
    "run --help": ("run", "--help"),
    **{name: (name,) for name in ("leaderboard", "show", "status", "protocols")},
    **{f"{name} --json": (name, "--json") for name in ("leaderboard", "show", "status")},
    "leaderboard --csv": ("leaderboard", "--csv"),
    "plan": ("plan", "SPEC"),
    "models": ("models", "SPEC"),
    "table": ("table", "SPEC"),
    "compare": ("compare", "--resamples", "0"),
    "show SWEEP": ("show", "t1"),
    "show TRIAL": ("show", "TRIAL"),
    "logs": ("logs", "TRIAL"),
    "cancel": ("cancel", "t1"),
    "export": ("export", "out", "--force"),
    "doctor": ("doctor",),
    "upgrade": ("upgrade",),
    "run, before anything starts": ("run", "SPEC"),
    "resume, before anything starts": ("resume",),
}
"""Command lines that print something; SPEC and TRIAL stand for those of the fixture `measured`."""


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    measured: dict[str, tuple[str, ...]],
    table_spec: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs a command line in this process, with a file as standard output.

    Returns the exit code and standard error.
    """
    words = {"SPEC": str(table_spec), "TRIAL": measured["003-T1-01"][0]}
    monkeypatch.setenv("GAPLAB_HOME", str(home))
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)

    def run(
        *line: str, out: int | str, err: str = "err", encoding: str = "utf-8"
    ) -> tuple[int, str]:
        with (
            open(out, "w", encoding=encoding) as stdout,
            open(err, "w") as stderr,
            monkeypatch.context() as patch,
        ):
            patch.setattr(sys, "argv", ["gaplab", *(words.get(word, word) for word in line)])
            for name, stream in (("out", stdout), ("err", stderr)):
                patch.setattr(sys, f"std{name}", stream)
                patch.setattr(sys, f"__std{name}__", stream)
            with pytest.raises(SystemExit) as stop:
                main()
            assert (sys.stdout, sys.stderr) == (stdout, stderr)
        assert isinstance(stop.value.code, int | None)
        return stop.value.code or 0, Path(err).read_text() if err == "err" else ""

    return run


@pytest.fixture
def closed_pipe() -> int:
    """The end of a pipe to which nobody listens, as after `| true`."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("line", PRINTS.values(), ids=PRINTS)
def test_a_full_disk_is_one_line_and_a_closed_pipe_none(
    run: Run, line: tuple[str, ...], closed_pipe: int
) -> None:
    assert run(*line, out="/dev/full") == (FAILED, FULL_DISK)
    code, err = run(*line, out=closed_pipe)
    assert err == ""
    assert code == CLOSED or (line == ("doctor",) and code == 1), "1: it found a problem"


def test_messages_that_can_not_be_written_do_not_change_the_exit_code(run: Run) -> None:
    for line, code in ((("show", "nothing"), 2), (("leaderboard",), 0), (("leaderbord",), 2)):
        assert run(*line, out="out", err="/dev/full") == (code, "")
    assert run("leaderboard", out="/dev/full", err="/dev/full") == (1, "")


def test_the_first_error_is_the_one_that_is_printed(run: Run) -> None:
    code, err = run("show", "nothing", out="/dev/full")
    assert code == 2
    assert "standard output" not in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-16"])
@pytest.mark.parametrize("name", ["compare", "show TRIAL", "leaderboard", "doctor", "plan"])
def test_characters_that_the_encoding_lacks(run: Run, name: str, encoding: str) -> None:
    code, err = run(*PRINTS[name], out="out", encoding=encoding)
    assert (code, err) == (code if name == "doctor" else 0, "")
    printed = Path("out").read_text(encoding)
    assert "\\u" not in printed
    if name == "compare":
        assert ("±" if encoding != "ascii" else "+-") in printed


def test_names_in_other_scripts_are_escaped() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    console = PlainConsole(file=file, width=80)
    table = plain_table([text("class"), number("AP")], [["Größe 自転車", "1.0"], ["x", "22.0"]])
    console.print(table)
    console.print("score ███ Größe")
    file.seek(0)
    escaped = r"Gr\xf6\xdfe \u81ea\u8ee2\u8eca"
    wide = len(escaped)
    assert [line.rstrip() for line in file.read().splitlines() if line.strip()] == [
        f" {'class':<{wide}}    AP",
        f" {'-' * (wide + 7)}",
        f" {escaped}   1.0",
        f" {'x':<{wide}}  22.0",
        r"score ### Gr\xf6\xdfe",
    ]


@pytest.mark.parametrize("value", ["0", "00", "abc", "-5", "", " ", "²", "٣", "1e3", "9" * 5000])
def test_invalid_sizes_are_ignored(
    gaplab: Gaplab,
    measured: object,
    terminal: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    terminal(80)
    usual = gaplab("leaderboard")
    for term in ("dumb", "xterm"):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", value)
        monkeypatch.setenv("LINES", value)
        found = re.sub(r"\x1b\[\d*m", "", gaplab("leaderboard"))
        assert found == usual


@pytest.mark.parametrize("columns", [1, 2, 7, 100_000])
def test_extreme_sizes(
    gaplab: Gaplab, measured: object, terminal: Callable[[int], None], columns: int
) -> None:
    terminal(columns)
    output = gaplab("leaderboard")
    assert ("43.5" in output) == (columns > 7)
    assert max(map(len, output.splitlines())) <= columns


@pytest.mark.parametrize("variable", ["COLUMNS", "FORCE_COLOR", "TERM"])
def test_variables_about_terminals_do_not_change_what_a_pipe_gets(
    gaplab: Gaplab, measured: object, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    usual = gaplab("leaderboard")
    monkeypatch.setenv(variable, "1")
    assert gaplab("leaderboard") == usual
    assert not re.search("\x1b|no room", usual)


def test_a_sweep_goes_on_without_output(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Events are not lost with the lines about them; one line says what happened."""
    with open("/dev/full", "w") as full, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        patch.setattr(sys, "__stdout__", full)
        with standard_streams() as code:
            with output_may_fail():
                for _ in range(3):
                    sys.stdout.write("line\n")
                    sys.stdout.flush()
            assert code() == 1
    message = FULL_DISK.replace("\n", "; the sweep goes on, see gaplab status\n")
    assert capfd.readouterr().err == message


def test_libraries_may_keep_the_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colorama, which Ray uses, asks the stream that it saw first whether it is a terminal, at the
    end of the process."""
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "__stdout__", file)
        with standard_streams():
            kept = sys.stdout
            kept.write("first ")
        assert kept is not sys.stdout
        assert not kept.isatty()
        del kept
        gc.collect()
        file.write("second")
    assert (tmp_path / "out").read_text() == "first second"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """The numbers of closed files are not given to files that are opened later."""
    program = (
        "import os; from gaplab.cli.streams import standard_streams\n"
        "with standard_streams():\n"
        "    print('out'); opened = os.open('opened', os.O_CREAT)\n"
        "    open('number', 'w').write(str(opened))"
    )
    command = f"{sys.executable} -c {shlex.quote(program)} {closed}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0
    assert int((tmp_path / "number").read_text()) > 2
