"""The heartbeat of a driver: its lease, its reports, and drivers that are marked as lost."""

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
from gaplab.launch import heartbeat as module
from gaplab.launch.decisions import Demand
from gaplab.launch.heartbeat import Heartbeat, HeartbeatReport, mark_lost_drivers
from gaplab.launch.process import this_process
from gaplab.ledger import Ledger
from gaplab.ledger.views import DriverView
from gaplab.records import CancelRequest, Claim, DriverRecord
from tests.builders import driver_record, sweep_record, trial_record

TRIALS = tuple(trial_record(f"t{n}") for n in range(3))


def driver(identity: str, **changes: Any) -> DriverRecord:
    """Build a driver that runs in this process."""
    here = {"cluster": "c", "priority": 2, **vars(this_process())}
    return replace(driver_record(identity), **(here | changes))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.add_sweep(sweep_record("s1", *TRIALS))
        yield opened


class AheadLedger:
    """A ledger whose clock is ahead, so that leases have expired."""

    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self._ledger, self._ahead = ledger, timedelta(seconds=seconds)

    def now(self) -> Any:
        return self._ledger.now() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def ahead(ledger: Ledger, seconds: float) -> Any:
    return AheadLedger(ledger, seconds)


def running(ledger: Ledger, identity: str) -> DriverView:
    """Read a driver, which must be running."""
    (found,) = (each for each in ledger.drivers() if each.id == identity)
    return found


class TestBeat:
    def test_report(self, ledger: Ledger) -> None:
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
        assert report.held == frozenset({attempt})
        assert report.cancelled == CancelRequest(trials=frozenset({"t2"}))
        assert set(report.demands) == {Demand("d1", 2, 3), Demand("d2", 7, 4)}
        found = running(ledger, "d1")
        assert (found.demand, found.waits_for) == (3, "two others")
        assert found.lease_until > ledger.now() + timedelta(seconds=50)

    def test_a_driver_never_marks_itself_as_lost(self, ledger: Ledger) -> None:
        """As if the ledger had been away for longer than the lease just after its renewal."""
        ledger.add_driver(driver("d1"), 60.0)
        attempt = ledger.start_attempt(Claim("t0", "s1", "d1"))
        heartbeat = Heartbeat(ahead(ledger, 90.0), driver("d1"), 60.0)
        assert heartbeat.beat().held == {attempt}
        assert running(ledger, "d1")
        assert ledger.states(["t0"]) == {"t0": "running"}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats without pauses."""
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "RETRY", 0.01)


@pytest.mark.usefixtures("fast")
class TestThread:
    def test_renews_the_lease_reports_and_ends_the_driver(self, ledger: Ledger) -> None:
        reports: list[HeartbeatReport] = []
        held = threading.Event()

        def on_report(report: HeartbeatReport) -> None:
            reports.append(report)
            if report.held:
                held.set()

        with Heartbeat(ledger, driver("d1"), 60.0, on_report=on_report) as heartbeat:
            assert len(reports) >= 1, "before anything starts"
            first = running(ledger, "d1").lease_until
            heartbeat.demand.slots = 9
            attempt = ledger.start_attempt(Claim("t0", "s1", "d1"))
            held.wait()
            found = running(ledger, "d1")
        assert (found.demand, found.lease_until > first) == (9, True)
        assert [report.at for report in reports] == sorted(report.at for report in reports)
        assert reports[0].held == frozenset()
        assert attempt in reports[-1].held
        assert ledger.drivers() == []
        assert ledger.drivers("s1")[0].ended_at is not None
        assert not any(each.name == "gaplab-heartbeat" for each in threading.enumerate())

    @pytest.mark.parametrize("error", [UserError("out of reach"), RuntimeError("anything")])
    def test_survives_an_error(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        failed, again, renew = threading.Event(), threading.Event(), ledger.renew_lease

        def fail_once(*given: Any) -> set[int]:
            if failed.is_set():
                again.set()
            elif threading.current_thread().name == "gaplab-heartbeat":
                failed.set()
                raise error
            return renew(*given)

        monkeypatch.setattr(ledger, "renew_lease", fail_once)
        with Heartbeat(ledger, driver("d1"), 60.0):
            again.wait()
        assert failed.is_set()

    def test_a_short_lease_is_renewed_more_often(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The interval would be far too long."""
        monkeypatch.setattr(module, "INTERVAL", 3600.0)
        renewed = threading.Event()

        def on_report(report: HeartbeatReport) -> None:
            if threading.current_thread().name == "gaplab-heartbeat":
                renewed.set()

        with Heartbeat(ledger, driver("d1"), 0.04, on_report=on_report):
            renewed.wait()


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


class TestLostDrivers:
    def test_a_killed_driver_is_lost_before_its_lease_ends(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        command = [sys.executable, "-c", _DRIVER, f"sqlite:///{tmp_path}/ledger.db"]
        with subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "running\n"
            assert mark_lost_drivers(ledger, {}) == []
            assert ledger.states(["t0", "t1"]) == {"t0": "running", "t1": "running"}
            child.send_signal(signal.SIGKILL)
            child.wait()
        with Heartbeat(ledger, driver("next"), 60.0):
            assert ledger.states(["t0", "t1"]) == {"t0": "interrupted", "t1": "interrupted"}
            assert [each.id for each in ledger.drivers()] == ["next"]
        assert {ledger.attempts(t)[0].reason for t in ("t0", "t1")} == {"its driver died"}

    def test_a_driver_of_another_machine_is_lost_by_its_lease_alone(self, ledger: Ledger) -> None:
        ledger.add_driver(driver("far", machine="other", pid=1, born=1), 6000.0)
        ledger.start_attempt(Claim("t0", "s1", "far"))
        expired: dict[str, datetime] = {}
        assert mark_lost_drivers(ledger, expired) == []
        assert mark_lost_drivers(ahead(ledger, 2000.0), expired) == []
        assert mark_lost_drivers(ahead(ledger, 6001.0), expired) == [], "found expired once"
        assert mark_lost_drivers(ahead(ledger, 6002.0), expired) == ["t0"]
        assert "no heartbeat" in ledger.attempts("t0")[0].reason

    def test_orphaned_attempts_and_an_empty_ledger(self, ledger: Ledger) -> None:
        assert mark_lost_drivers(ledger, {}) == []
        ledger.start_attempt(Claim("t0", "s1", "a driver that is not in the ledger"))
        assert mark_lost_drivers(ledger, {}) == ["t0"]
        assert ledger.attempts("t0")[0].reason == "its driver is not known"
