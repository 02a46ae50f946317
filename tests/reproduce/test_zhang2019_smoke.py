"""The smoke preset as it is: in a module of its own, for another makes settings smaller."""

import pytest

from foreglow.reproduce import read_records, zhang2019

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_smoke(tmp_path):
    zhang2019.reproduce(tmp_path / "run", "smoke", device="cpu")
    records = read_records(tmp_path / "run")
    found = {r["model"]: r for r in records if r["step"] == "models" and r["set"] == "test"}
    assert found["unet"]["r50"] > found["integrated"]["r50"]
