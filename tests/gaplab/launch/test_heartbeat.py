"""A driver's heartbeat: leases, report and the burial of drivers that died."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.launch.decisions import Demand
from gaplab.launch.heartbeat import Heartbeat, HeartbeatReport, mark_lost_drivers
from gaplab.launch.process import this_process
from gaplab.ledger import Ledger
from gaplab.ledger.views import DriverView
from gaplab.records import CancelRequest, Claim, DriverRecord, SweepRecord, TrialRecord

TRIALS = tuple(TrialRecord(f"t{n}", {}, "poto", "o2o", "shapes", 0, 3, 1) for n in range(3))


def driver(identity: str, **changes: Any) -> DriverRecord:
    known = DriverRecord(identity, "s1", "node", **vars(this_process()), cluster="c", priority=2)
    return replace(known, **changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.add_sweep(SweepRecord("s1", "s1", "name: s", TRIALS))
        yield opened


class Later:
    """A ledger whose clock is ahead: leases that were given are over."""

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self._ledger, self._ahead = ledger, timedelta(seconds=seconds)

    def now(self) -> Any:
        return self._ledger.now() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def lives(ledger: Ledger, identity: str) -> DriverView | None:
    return next((each for each in ledger.drivers() if each.id == identity), None)


class TestBeat:
    def test_what_it_brings(self, ledger: Ledger) -> None:
        mine, heartbeat = driver("d1"), Heartbeat(ledger, driver("d1"), 60.0)
        ledger.add_driver(mine, 1.0)
        for other in (driver("d2", priority=7), driver("d3", cluster="elsewhere")):
            ledger.add_driver(other, 60.0)
            ledger.renew_lease(other.id, 60.0, 4, "")
        attempt = ledger.start_attempt(Claim("t0", "s1", "d1"))
        ledger.start_attempt(Claim("t1", "s1", "d2"))
        ledger.cancel("s1", ["t2"])
        heartbeat.demand.slots, heartbeat.demand.waits_for = 3, "two others"
        report = heartbeat.beat()
        assert (report.held, report.cancelled) == (
            {attempt},
            CancelRequest(trials=frozenset({"t2"})),
        )
        assert set(report.demands) == {Demand("d1", 2, 3), Demand("d2", 7, 4)}
        found = lives(ledger, "d1")
        assert (found.demand, found.waits_for) == (3, "two others")
        assert found.lease_until > ledger.now() + timedelta(seconds=50)

    def test_it_never_buries_itself(self, ledger: Ledger) -> None:
        """As if the ledger had been away for longer than the lease, right after it was renewed."""
        ledger.add_driver(driver("d1"), 60.0)
        attempt = ledger.start_attempt(Claim("t0", "s1", "d1"))
        heartbeat = Heartbeat(Later(ledger, 90.0), driver("d1"), 60.0)  # type: ignore[arg-type]
        assert heartbeat.beat().held == {attempt}
        assert lives(ledger, "d1")
        assert ledger.states(["t0"]) == {"t0": "running"}


class TestThread:
    def wait(self, moment: threading.Event) -> None:
        assert moment.wait(60.0)

    def test_it_renews_tells_news_and_retires(self, ledger: Ledger) -> None:
        heard: list[HeartbeatReport] = []
        thrice = threading.Event()

        def on_report(report: HeartbeatReport) -> None:
            heard.append(report)
            if len(heard) >= 3:
                thrice.set()

        with Heartbeat(ledger, driver("d1"), 1.0, on_report=on_report) as heartbeat:
            assert len(heard) >= 1  # before anything starts
            attempt = ledger.start_attempt(Claim("t0", "s1", "d1"))
            first = lives(ledger, "d1").lease_until
            heartbeat.demand.slots = 9
            self.wait(thrice)
            found = lives(ledger, "d1")
        assert (found.demand, found.lease_until > first) == (9, True)
        assert [report.at for report in heard] == sorted(report.at for report in heard)
        assert heard[0].held == frozenset()
        assert attempt in heard[-1].held
        assert lives(ledger, "d1") is None
        assert ledger.drivers("s1")[0].ended_at is not None
        assert not any(each.name == "gaplab-heartbeat" for each in threading.enumerate())

    @pytest.mark.parametrize("error", [UserError("out of reach"), RuntimeError("anything")])
    def test_it_survives_an_error(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        failed, again, renew = threading.Event(), threading.Event(), ledger.renew_lease

        def sometimes(*given: Any) -> set[int]:
            if failed.is_set():
                again.set()
                return renew(*given)
            if threading.current_thread().name == "gaplab-heartbeat":
                failed.set()
                raise error
            return renew(*given)

        monkeypatch.setattr(ledger, "renew_lease", sometimes)
        with Heartbeat(ledger, driver("d1"), 1.0):
            self.wait(again)
        assert failed.is_set()


_DRIVER = """
import sys
from gaplab.launch.heartbeat import Heartbeat
from gaplab.ledger import Ledger
from gaplab.launch.process import this_process
from gaplab.records import Claim, DriverRecord
ledger = Ledger.open(sys.argv[1])
mine = DriverRecord("child", "s1", "node", **vars(this_process()), cluster="c", priority=0)
with Heartbeat(ledger, mine, 600.0):
    for trial in ("t0", "t1"):
        ledger.start_attempt(Claim(trial, "s1", "child"))
    print("running", flush=True)
    sys.stdin.read()
"""


class TestBurying:
    def test_a_killed_driver_is_buried_before_its_lease_ends(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        arguments = [sys.executable, "-c", _DRIVER, f"sqlite:///{tmp_path}/ledger.db"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(arguments, text=True, **pipes) as child:
            assert child.stdout.readline() == "running\n"
            assert mark_lost_drivers(ledger, {}) == []
            assert ledger.states(["t0", "t1"]) == {"t0": "running", "t1": "running"}
            child.send_signal(signal.SIGKILL)
            child.wait()
        with Heartbeat(ledger, driver("next"), 60.0):
            assert ledger.states(["t0", "t1"]) == {"t0": "interrupted", "t1": "interrupted"}
            assert [each.id for each in ledger.drivers()] == ["next"]
        assert {ledger.attempts(t)[0].reason for t in ("t0", "t1")} == {"its driver died"}

    def test_one_of_another_machine_by_its_lease_alone(self, ledger: Ledger) -> None:
        ledger.add_driver(driver("far", machine="other", pid=1, born=1), 60.0)
        ledger.start_attempt(Claim("t0", "s1", "far"))
        silent: dict[str, datetime] = {}
        assert mark_lost_drivers(ledger, silent) == []
        assert mark_lost_drivers(Later(ledger, 20.0), silent) == []  # type: ignore[arg-type]
        assert mark_lost_drivers(Later(ledger, 61.0), silent) == []  # type: ignore[arg-type]
        assert mark_lost_drivers(Later(ledger, 62.0), silent) == ["t0"]  # type: ignore[arg-type]
        assert "no heartbeat" in ledger.attempts("t0")[0].reason

    def test_strangers_and_an_empty_ledger(self, ledger: Ledger) -> None:
        assert mark_lost_drivers(ledger, {}) == []
        ledger.start_attempt(Claim("t0", "s1", "an old home"))
        assert mark_lost_drivers(ledger, {}) == ["t0"]
        assert ledger.attempts("t0")[0].reason == "its driver is not known"
