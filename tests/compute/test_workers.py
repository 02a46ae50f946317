"""Pieces of work on Dask's workers: as `map` does it, bounded, and whatever happens to a worker."""

import math
import os
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client, KilledWorker

from foreglow.compute.workers import _spread_over, _validate_versions, open_workers
from foreglow.errors import MapError, RunError
from pieces import die, die_once, first_waits_for_last, refuse, square, where_done


def test_no_cluster_is_map():
    with open_workers(None) as map_fn:
        assert map_fn is map


def test_results_are_those_of_map_in_order(map_fn):
    for mine, plain in zip(map_fn(square, range(20)), map(square, range(20)), strict=True):
        np.testing.assert_array_equal(mine, plain)
    assert list(map_fn(square, [])) == []


def test_work_is_done_elsewhere(map_fn):
    pids = set(map_fn(where_done, range(20)))
    assert os.getpid() not in pids
    assert len(pids) == 2


def test_errors_of_the_work_come_back(map_fn):
    with pytest.raises(MapError, match="a better map"):
        list(map_fn(refuse, range(8)))


def test_no_more_is_begun_than_the_workers_have_in_hand(map_fn):
    """Who takes results slowly is not flooded: two pieces a worker, and one for each taken."""
    begun = []
    results = map_fn(square, (begun.append(n) or n for n in range(50)))
    for taken in range(3):
        next(results)
        assert len(begun) <= 4 + taken
    results.close()


@pytest.mark.usefixtures("map_fn")
def test_all_can_be_begun_while_the_first_takes_long(tmp_path):
    """As trainings are: those after the longest do not wait for its end."""
    map_fn = _spread_over(Client.current(), "local:2", ahead=math.inf)
    assert all(map_fn(first_waits_for_last, [(n, str(tmp_path)) for n in range(10)]))


@dataclass
class Piece:
    """A future that is done when told."""

    item: int = 0
    is_done: bool = False

    def done(self):
        return self.is_done

    def release(self):
        pass


def test_none_lies_behind_a_long_one(monkeypatch):
    """However long the first takes, each worker has one piece at a time."""
    begun = []

    def submit(_, item, **__):
        begun.append(Piece(item))
        return begun[-1]

    def wait(pieces, **_):
        in_hand = [piece for piece in begun if not piece.is_done]
        assert pieces == in_hand
        assert len(in_hand) == min(2, 9 - sum(piece.is_done for piece in begun))
        in_hand[-1].is_done = True

    monkeypatch.setattr("distributed.wait", wait)
    client = SimpleNamespace(
        nthreads=lambda: {"tcp://a": 1, "tcp://b": 1}, submit=submit, cancel=lambda _: None,
        gather=lambda piece, **_: piece.item,
    )  # fmt: skip
    assert list(_spread_over(client, "local:2", ahead=math.inf)(abs, range(9))) == list(range(9))


@pytest.mark.slow
def test_workers_that_begin_as_a_user_s_do():
    """Without the server that the other tests fork theirs from."""
    with open_workers("local:1") as map_fn:
        assert list(map_fn(math.isqrt, range(5))) == [0, 1, 1, 1, 2]


def test_lost_worker_costs_time_only(map_fn, tmp_path):
    jobs = [(n, str(tmp_path)) for n in range(10)]
    assert list(map_fn(die_once, jobs)) == list(range(10))
    assert (tmp_path / "died").exists()


def test_processes_that_are_all_lost_are_not_waited_for(monkeypatch):
    def wait(*_, **__):
        raise TimeoutError

    monkeypatch.setattr("distributed.wait", wait)
    client = SimpleNamespace(
        nthreads=dict, submit=lambda *_, **__: Piece(), cancel=lambda _: None, gather=None
    )
    with pytest.raises(RunError, match="all processes were lost"):
        list(_spread_over(client, "local:2")(abs, [0]))


def test_work_that_kills_every_worker_is_given_up(monkeypatch):
    monkeypatch.setattr("distributed.wait", lambda *_, **__: None)

    def gather(*_, **__):
        raise KilledWorker("die", SimpleNamespace(address="tcp://a"), 3)

    client = SimpleNamespace(
        nthreads=lambda: {"tcp://a": 1}, submit=lambda *_, **__: Piece(0, True), gather=gather,
        cancel=lambda _: None,
    )  # fmt: skip
    message = "one worker after another.*; keep memory= below what each worker was given"
    with pytest.raises(RunError, match=message):
        list(_spread_over(client, "tcp://a")(abs, [0]))


@pytest.mark.slow
def test_work_that_does_kill_every_worker():
    with (
        open_workers("local:2") as map_fn,
        pytest.raises(RunError, match="one worker after another"),
    ):
        list(map_fn(die, [0]))


@pytest.mark.parametrize("where", ["", "local", "local:0", "local:two", "8786", "slurm:", "tcp:x"])
def test_unknown_places_are_refused(where):
    with pytest.raises(RunError, match="expected workers= as tcp://"), open_workers(where):
        pass


def test_absent_scheduler_is_told_when_there_is_work(monkeypatch):
    monkeypatch.setattr("foreglow.compute.workers._PATIENCE", "1s")
    with (
        open_workers("tcp://127.0.0.1:1") as map_fn,
        pytest.raises(RunError, match="no Dask scheduler answers"),
    ):
        list(map_fn(abs, [1]))


def test_workers_of_another_version_are_refused():
    client = SimpleNamespace(run=lambda *_: {"tcp://a": "0.0.1"})
    with pytest.raises(RunError, match=r"got 0\.0\.1"):
        _validate_versions(client, "tcp://a")


def test_workers_without_foreglow_are_refused():
    client = SimpleNamespace(run=lambda *_: version("no such package"))
    with pytest.raises(RunError, match="have no foreglow"):
        _validate_versions(client, "tcp://a")


def test_slurm_file_must_be_there(tmp_path):
    with pytest.raises(RunError, match="TOML"), open_workers(f"slurm:{tmp_path / 'no.toml'}"):
        pass


def test_slurm_file_must_say_how_many_jobs(tmp_path):
    file = tmp_path / "slurm.toml"
    file.write_text("cores = 4\nmemory = '8 GB'\n")
    with pytest.raises(RunError, match="jobs"), open_workers(f"slurm:{file}"):
        pass


def test_slurm_jobs_are_submitted(tmp_path, monkeypatch):
    """A `sbatch` that runs what it is given, here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/job.sh\nsh {tmp_path}/job.sh >{tmp_path}/log 2>&1 &\n'
        "echo Submitted batch job 1\n"
    )
    (folder / "scancel").write_text("#!/bin/sh\n")
    for name in ("sbatch", "scancel"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    file = tmp_path / "slurm.toml"
    file.write_text(
        "jobs = 1\nqueue = 'short'\ncores = 1\nmemory = '1 GB'\nwalltime = '00:10:00'\n"
        "interface = 'lo'\n"
    )
    with open_workers(f"slurm:{file}") as map_fn:
        assert list(map_fn(math.isqrt, range(5))) == [0, 1, 1, 1, 2]
    assert "#SBATCH -p short" in (tmp_path / "job.sh").read_text()
