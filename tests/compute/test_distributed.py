"""Trainings by two processes: they agree with one, and end with a word when one is lost.

One process draws what two draw together, so their curves differ by rounding only: by 1e-5 of a
value for recognition, by 1e-4 for the dust U-Net, whose convolutions of other batches add up in
another order.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tomllib

import pytest
import torch

from foreglow.compute import processes as module
from foreglow.compute.processes import ALONE, Processes, join, start, together
from foreglow.errors import RunError
from forked import begin_foreglow

CPU = torch.device("cpu")
RECOGNIZE = ["recognize", "train", "--problem", "ame", "--epochs", 3, "--steps", 4,
             "--batch", 128, "--device", "cpu"]  # fmt: skip
DUST = ["dust", "train", "--sky", "mock", "--nside", 32, "--epochs", 2, "--steps", 3,
        "--batch", 4, "--width", 2, "--device", "cpu"]  # fmt: skip
LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


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
    "foreglow.dust.train": {
        "VALIDATION_CUTOUTS": 16, "_STANDARDISATION_CUTOUTS": 16, "_CALIBRATION_CENTRES": 4,
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


# imported by every Python that finds it; the second process of the training dies by it
STRIKE = f"""
import os, signal
if "RANK" in os.environ:{SHRINK.replace(chr(10), chr(10) + "    ")}
if os.environ.get("RANK") == "1":
    from foreglow.recognition.network import train as training
    draw, drawn = training.VectorSimulator.draw, 0
    def strike(self, n, *arguments):
        global drawn
        drawn += n == 128
        if drawn == 7:  # four batches of the first epoch, one to validate, two of the second
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(self, n, *arguments)
    training.VectorSimulator.draw = strike
"""


@pytest.mark.usefixtures("one_thread", "small")
def test_killed_with_two_processes_and_resumed_with_one(run, tmp_path):
    assert run(*RECOGNIZE, "--out", tmp_path / "one")[0] == 0
    whole = history_of(tmp_path / "one")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(STRIKE)
    words = [*RECOGNIZE, "--out", tmp_path / "two", "--devices", 2, "--strategy", "ddp"]
    path = os.pathsep.join((str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")))
    ended = begin_foreglow(*words, environment=environment(PYTHONPATH=path))()
    assert ended.code == 2, ended.err
    assert "rank 1 of 2 processes was ended by SIGKILL" in ended.err
    assert "--resume goes on after the last finished epoch" in ended.err
    assert ended.out.count("epoch 1/3") == 1  # one process speaks
    assert (tmp_path / "two.training" / "last.ckpt").is_file()
    assert not (tmp_path / "two").exists()
    assert run(*RECOGNIZE, "--out", tmp_path / "two", "--resume")[0] == 0
    assert_same_history(history_of(tmp_path / "two"), whole, rtol=1e-5)


@pytest.mark.usefixtures("one_thread", "small")
def test_dust_under_slurm_on_two_nodes(run, tmp_path):
    """Two tasks as srun starts them, by the variables that it sets."""
    assert run(*DUST, "--out", tmp_path / "one")[0] == 0
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "dust", "SLURM_NODELIST": "127.0.0.1",
           "SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
           "SLURM_LOCALID": "0", "MASTER_PORT": str(free_port())}  # fmt: skip
    words = [*DUST, "--out", tmp_path / "two", "--devices", 1, "--num-nodes", 2]
    tasks = [
        begin_foreglow(
            *words, environment=environment(SLURM_PROCID=n, SLURM_NODEID=n, **job), before=SHRINK
        )
        for n in "01"
    ]
    first, second = (end() for end in tasks)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "model: " in first.out
    assert second.out == ""
    assert_same_history(history_of(tmp_path / "two"), history_of(tmp_path / "one"), rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def free_port():
    """A port that nobody is given who asks for any: those lie above."""
    for port in range(20000 + os.getpid() % 10000, 32000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_mistake_under_torchrun_is_said_once(tmp_path):
    (tmp_path / "two").mkdir()
    words = [*RECOGNIZE, "--out", tmp_path / "two", "--devices", 2]
    ended = subprocess.run(
        [*LAUNCHED, "-m", "foreglow", *map(str, words)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert ended.stderr.count("exists; give another --out") == 1


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
    with pytest.raises(RunError, match="6 processes can share evenly, but 16 came; use 12 or 18"):
        Processes(3, 2).validate_batch(16)
    with pytest.raises(RunError, match="but 2 came; use 4"):
        Processes(4).validate_batch(2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Processes(strategy="fsdp"), "expected strategy auto or ddp, but 'fsdp' came"),
        (Processes(0), "expected one device and one node or more, but --devices 0"),
        (Processes(2, 2), "start it on all of them by srun or torchrun"),
    ],
)
def test_start_refuses(asked, message):
    with pytest.raises(RunError, match=message):
        start(asked, CPU)


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RunError, match="--devices 2: PyTorch sees 1 CUDA devices here"):
        start(Processes(2), torch.device("cuda"))


def test_other_number_than_the_launcher_started(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RunError, match="torchrun started 4 processes, but --devices 2"):
        start(Processes(2), CPU)


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
    start(ALONE, CPU)
    with join(Processes(strategy="ddp"), CPU) as found:
        assert found.size == 1
        assert together(found, lambda: 7) == 7
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({1: -9, 0: 2}, "rank 1 of 2 processes was ended by SIGKILL, most often for want of"),
        ({0: -15, 1: -11}, "rank 1 of 2 processes was ended by SIGSEGV, and the training"),
        ({1: -15, 0: -15}, "rank 1 of 2 processes was ended by SIGTERM"),
    ],
)
def test_which_process_was_lost(codes, said):
    with pytest.raises(RunError, match=said):
        module._explain(Processes(2), codes)


@pytest.mark.parametrize("codes", [{1: 2}, {0: 2, 1: -15}, {1: 2, 0: 2}])
def test_who_failed_has_said_why(codes):
    with pytest.raises(SystemExit) as caught:
        module._explain(Processes(2), codes)
    assert caught.value.code == 2


def test_message_of_gloo_is_short():
    text = (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer "
        "[127.0.0.1]:29931. This is typically caused by a remote worker crashing."
    )
    assert module._is_loss(RuntimeError(text))
    assert not module._is_loss(RuntimeError("out of memory"))
    assert module._brief(text) == "Connection closed by peer [127.0.0.1]:29931"
