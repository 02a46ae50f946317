"""What a process is told of threads and memory."""

import os
import subprocess
import sys

import pytest

from foreglow import doctor
from foreglow.compute.cpu import ENVIRONMENT, available_cores

FAULTS = """
import resource
{first}
import numpy as np

def work():
    [np.ones(2 << 20) for _ in range(6)]  # 96 MiB

work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
TUNE = "from foreglow.compute.cpu import tune; tune()"


def run(script, **said):
    bare = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT} | said
    answer = subprocess.run(
        [sys.executable, "-c", script], env=bare, capture_output=True, text=True, check=True
    )
    return answer.stdout


def test_memory_is_kept_for_what_follows():
    # given back, at least 48 huge pages fault at each of 20 turns
    assert int(run(FAULTS.format(first=TUNE))) < 100 < int(run(FAULTS.format(first="")))


def test_what_a_user_said_stays():
    script = f"{TUNE}; import os; print(*(os.environ.get(name) for name in {list(ENVIRONMENT)}))"
    said = ENVIRONMENT | {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "None"}
    assert run(script, OMP_WAIT_POLICY="ACTIVE").split() == list(said.values())


def test_cores_are_those_of_this_process():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("cores", "found"), [(6, 6), (None, 1)])
def test_cores_where_no_system_tells_of_affinity(monkeypatch, cores, found):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert available_cores() == found
    assert [f.found.split(",")[0] for f in doctor._processor()] == [f"{found} of {cores} usable"]
