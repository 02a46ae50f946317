"""Trainings by two processes: they agree with one, and end with a word when one is lost.

One process draws what two draw together, so their curves differ by rounding only: by 1e-5 of a
value for recognition, by 1e-4 for the dust U-Net, whose convolutions of other batches add up in
another order.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from foreglow.compute import processes as module
from foreglow.compute.processes import ALONE, Processes, join, must_be_started, run_on_all_ranks
from foreglow.errors import RunError
from forked import begin_foreglow

CPU = torch.device("cpu")
TINY = Path(__file__).parents[1] / "tiny.toml"
RECOGNIZE = ["recognize", "train", "--models", "ame", "--epochs", 3, "--steps", 4,
             "--batch", 128, "--device", "cpu"]  # fmt: skip
DUST = ["dust", "train", "--sky", "mock", "--nside", 32, "--epochs", 2, "--steps", 3,
        "--batch", 4, "--plan", TINY, "--device", "cpu"]  # fmt: skip
CONTEXT = ["recognize", "context", "--model", "mock-four", "--epochs", 1, "--steps", 2,
           "--device", "cpu"]  # fmt: skip
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def environment(**variables):
    """Of a process of its own, with one thread."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return bare | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | variables


def history_of(folder):
    return tomllib.loads((folder / "model.toml").read_text())["history"]


def assert_same_history(one, other, rtol):
    assert set(one) == set(other)
    for name, values in one.items():
        assert values == pytest.approx(other[name], rel=rtol, abs=1e-6), name


# little to standardise, to validate and to calibrate with
SMALL = {
    "foreglow.recognition.network.train": {
        "_STANDARDISATION_SAMPLE": 2048, "_CALIBRATION_SAMPLE": 2048,
    },
    "foreglow.recognition.context.train": {
        "_REALISATIONS": 8, "_VALIDATION_STEPS": 1, "_TEMPERATURE_BATCHES": 1,
    },
    "foreglow.dust.train": {
        "VALIDATION_CUTOUTS": 16, "_STANDARDISATION_CUTOUTS": 16,
    },
}  # fmt: skip
SHRINK = f"""
from importlib import import_module
for module, values in {SMALL!r}.items():
    for name, value in values.items():
        setattr(import_module(module), name, value)
"""


@pytest.fixture
def small(monkeypatch):
    for place, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(f"{place}.{name}", value)


# processes begin with the libraries imported, and something befalls the second of them
FORK = """
from functools import partial
from foreglow.cli import launch
launch.start_processes = partial(launch.start_processes, start_method="fork")
"""
STRIKE = f"""{SHRINK}{FORK}
import fcntl, os, signal
from foreglow.recognition.network import train as training
draw, drawn = training.VectorSimulator.draw, 0
def strike(self, n, *arguments):
    global drawn, alive
    if not drawn:
        alive = open("ALIVE", "w")
        fcntl.flock(alive, fcntl.LOCK_SH)
    drawn += n == 128
    # four batches of the first epoch, one to validate, two of the second
    if drawn == 7 and os.environ.get("LOCAL_RANK") != "0":
        os.kill(BLOW)
    return draw(self, n, *arguments)
training.VectorSimulator.draw = strike
"""
KILLED, INTERRUPTED = "os.getpid(), signal.SIGKILL", "os.getppid(), signal.SIGINT"


def strike(alive, blow):
    return STRIKE.replace("ALIVE", str(alive)).replace("BLOW", blow)


def struck(out, blow):
    """How a training by two processes ended, of which the second does this in the second epoch."""
    alive = out.with_name("alive")
    ended = begin_foreglow(
        *RECOGNIZE, "--out", out, "--devices", 2, environment=environment(),
        before=strike(alive, blow),
    )()  # fmt: skip
    with alive.open() as file:  # which the two hold for as long as they live
        for _ in range(1000):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return ended
            time.sleep(0.01)
    raise AssertionError("a process has outlived the command")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "small")
def test_killed_with_two_processes_and_resumed_with_one(run, tmp_path):
    assert run(*RECOGNIZE, "--out", tmp_path / "one")[0] == 0
    whole = history_of(tmp_path / "one")
    ended = struck(tmp_path / "two", KILLED)
    assert ended.code == 2, ended.err
    assert ended.err.count("error:") == 1
    assert "rank 1 of 2 processes was ended by SIGKILL, most often for want of" in ended.err
    assert "--resume goes on after the last finished epoch" in ended.err
    assert ended.out.count("epoch 1/3") == 1  # one process speaks
    assert (tmp_path / "two.training" / "last.ckpt").is_file()
    assert not (tmp_path / "two").exists()
    assert run(*RECOGNIZE, "--out", tmp_path / "two", "--resume")[0] == 0
    assert_same_history(history_of(tmp_path / "two"), whole, rtol=1e-5)


def test_interrupted_with_two_processes(tmp_path):
    ended = struck(tmp_path / "two", INTERRUPTED)
    assert ended.code == 130
    assert ended.err.strip().endswith("the same command with --resume goes on.")
    assert ended.err.count("interrupted") == 1
    assert "Traceback" not in ended.err
    assert (tmp_path / "two.training" / "last.ckpt").is_file()


@pytest.mark.usefixtures("one_thread", "small")
def test_dust_under_slurm_on_two_nodes(run, tmp_path):
    assert run(*DUST, "--out", tmp_path / "one")[0] == 0
    first, second = under_slurm(*DUST, "--out", tmp_path / "two")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "model: " in first.out
    assert second.out == ""
    assert_same_history(history_of(tmp_path / "two"), history_of(tmp_path / "one"), rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.usefixtures("one_thread", "small")
def test_context_by_two_processes(run, tmp_path):
    """Each classifies its share of the skies, and has its share of every batch."""
    plan = tmp_path / "plan.toml"
    plan.write_text("batch = 4")
    words = [*CONTEXT, "--plan", plan]
    assert run(*words, "--out", tmp_path / "one")[0] == 0
    ended = begin_foreglow(
        *words, "--out", tmp_path / "two", "--devices", 2, environment=environment(),
        before=SHRINK + FORK,
    )()  # fmt: skip
    assert ended.code == 0, ended.err
    assert_same_history(history_of(tmp_path / "two"), history_of(tmp_path / "one"), rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "plan.toml", "two"]


def test_killed_under_slurm(tmp_path):
    words = [*RECOGNIZE, "--out", tmp_path / "two"]
    first, second = under_slurm(*words, before_second=strike(tmp_path / "alive", KILLED))
    assert (first.code, second.code) == (2, -signal.SIGKILL), first.err + second.err
    assert first.err.startswith("error: rank 0 of 2 processes lost another one, which has ended")
    assert first.err.count("\n") == 1
    assert "--resume goes on after the last finished epoch" in first.err
    assert (tmp_path / "two.training" / "last.ckpt").is_file()


def under_slurm(*words, before_second=SHRINK):
    """Two tasks as srun starts them on two nodes, by the variables that it sets."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "dust", "SLURM_NODELIST": "127.0.0.1",
           "SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
           "SLURM_LOCALID": "0", "MASTER_PORT": str(free_port())}  # fmt: skip
    # srun's tasks have no parent that speaks for them, as these have
    first = f"{SHRINK}\nimport multiprocessing; multiprocessing.parent_process = lambda: None"
    tasks = [
        begin_foreglow(
            *words, "--num-nodes", 2, before=before,
            environment=environment(SLURM_PROCID=n, SLURM_NODEID=n, **job),
        )
        for n, before in (("0", first), ("1", before_second))
    ]  # fmt: skip
    return [end() for end in tasks]


def free_port():
    """A port that nobody is given who asks for any: those lie above."""
    for port in range(20000 + os.getpid() % 10000, 32000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port
    raise AssertionError("no port is free")


def test_mistake_is_said_once(tmp_path):
    (tmp_path / "two").mkdir()
    ended = begin_foreglow(
        *RECOGNIZE, "--out", tmp_path / "two", "--devices", 2, environment=environment(),
        before=FORK,
    )()  # fmt: skip
    assert ended.code == 2
    assert ended.err.count("exists; give another --out") == 1
    assert len(ended.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], TORCHRUN])
def test_mistake_is_said_once_by_new_processes(tmp_path, launcher):
    (tmp_path / "two").mkdir()
    words = [*RECOGNIZE, "--out", tmp_path / "two", "--devices", 2]
    ended = subprocess.run(
        [sys.executable, "-m", *launcher, "foreglow", *map(str, words)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == (1 if launcher else 2)
    assert ended.stderr.count("exists; give another --out") == 1
    assert launcher or len(ended.stderr.splitlines()) == 1


# ---- without processes -----------------------------------------------------------------------


def test_shares_are_equal_and_whole():
    parts = [Processes(2, 2, rank=rank).share(12) for rank in range(4)]
    assert [n for part in parts for n in range(12)[part]] == list(range(12))
    assert {len(range(12)[part]) for part in parts} == {3}
    assert ALONE.share(7) == slice(0, 7)
    # every process does the whole: the mean over processes is the same
    assert Processes(4, rank=3).share(7) == slice(0, 7)


def test_batch_that_cannot_be_shared():
    Processes(3, 2).validate_batch(12)
    with pytest.raises(RunError, match="6 processes can share evenly, got 16; use 12 or 18"):
        Processes(3, 2).validate_batch(16)
    with pytest.raises(RunError, match="got 2; use 4"):
        Processes(4).validate_batch(2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Processes(0), "expected one device and one node or more, got devices=0"),
        (Processes(2, 2), "start it on all of them by srun or torchrun"),
    ],
)
def test_what_cannot_be_started(asked, message):
    with pytest.raises(RunError, match=message):
        must_be_started(asked, CPU)


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RunError, match="devices=2: PyTorch sees 1 CUDA devices here"):
        must_be_started(Processes(2), torch.device("cuda"))


def test_other_number_than_the_launcher_started(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RunError, match="torchrun started 4 processes, but devices=2"):
        must_be_started(Processes(2), CPU)


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ({"SLURM_NTASKS": "1"}, "started were 1"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, "started were 4"),
        ({"SLURM_NTASKS": "2"}, "You set `--ntasks=2` in your SLURM bash script"),
    ],
)
def test_job_of_slurm_that_does_not_fit(monkeypatch, tasks, why):
    place = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    for name, value in (tasks | place).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError) as caught, join(Processes(2), CPU):
        pass
    assert why in str(caught.value)
    assert "ask for --nodes=1 --ntasks-per-node=2 and start foreglow by srun" in str(caught.value)


def test_alone_where_several_are_expected(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with (
        pytest.raises(RunError, match="this is the only one; start them by"),
        join(Processes(2), CPU),
    ):
        pass


def test_one_process_needs_no_connection():
    assert not must_be_started(ALONE, CPU)
    with join(Processes(), CPU) as found:
        assert found.size == 1
        assert run_on_all_ranks(found, lambda: 7) == 7
    assert not torch.distributed.is_initialized()


def test_message_of_gloo_is_short():
    text = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer "
        "[127.0.0.1]:29931. This is typically caused by a remote worker crashing."
    )
    assert module._is_loss(RuntimeError(text))
    assert not module._is_loss(RuntimeError("out of memory"))
    assert module._brief(text) == "Connection closed by peer [127.0.0.1]:29931"
