"""Files and folders that are written whole or not at all, whenever the writer is killed."""

import errno
import os
import resource

import numpy as np
import pytest

from foreglow import files as module
from foreglow.errors import WriteError
from foreglow.files import (
    new_directory,
    new_file,
    replace_directory,
    scratch_directory,
    settle,
    write_text,
)
from forked import run_script


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_half(new, error):
    with new as path:
        (path / "half" if path.is_dir() else path).write_text("half")
        raise error


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    with new_directory(".") as path:
        (path / "a").touch()
    assert names(tmp_path / "mine") == ["a"]
    assert os.path.samefile(".", tmp_path / "mine")


def test_a_new_file_takes_its_place_when_all_went_well(tmp_path):
    write_text(tmp_path / "a" / "one.txt", "old")
    with new_file(tmp_path / "a" / "one.txt") as path:
        path.write_text("new")
        assert (tmp_path / "a" / "one.txt").read_text() == "old"
    assert (tmp_path / "a" / "one.txt").read_text() == "new"
    assert names(tmp_path / "a") == ["one.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_was_there_stays_when_the_writer_fails(tmp_path, error):
    (tmp_path / "one.txt").write_text("old")
    with pytest.raises(error):
        write_half(new_file(tmp_path / "one.txt"), error)
    with pytest.raises(error):
        write_half(new_directory(tmp_path / "folder"), error)
    assert names(tmp_path) == ["one.txt"]
    assert (tmp_path / "one.txt").read_text() == "old"


def test_a_new_directory_replaces_the_earlier_one(tmp_path):
    for text in ("old", "new"):
        with new_directory(tmp_path / "folder") as path:
            (path / text).touch()
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["folder"]


KILLED = """
import os, signal
from pathlib import Path
from foreglow import files
folder, seam = Path({folder!r}), {seam}
calls = []
for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
    def strike(*a, _real=getattr(os, name), **k):
        calls.append(1)
        if len(calls) == seam:
            os.kill(os.getpid(), signal.SIGKILL)
        return _real(*a, **k)
    setattr(os, name, strike)
with files.new_directory(folder / "target") as new:
    (new / "new").touch()
    (new / "more").touch()
files.write_text(folder / "file", "new")
"""


@pytest.mark.parametrize("seam", range(1, 9))
def test_killed_at_any_seam_there_is_the_old_or_the_new(tmp_path, seam):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").touch()
    (tmp_path / "file").write_text("old")
    run_script(KILLED.format(folder=str(tmp_path), seam=seam))
    settle(tmp_path / "target")
    assert names(tmp_path / "target") in (["old"], ["more", "new"])
    assert (tmp_path / "file").read_text() in ("old", "new")
    with new_directory(tmp_path / "target") as new:  # the next one clears away
        (new / "next").touch()
    write_text(tmp_path / "file", "next")
    assert names(tmp_path) == ["file", "target"]
    assert names(tmp_path / "target") == ["next"]


def test_the_earlier_folder_comes_back(tmp_path):
    (tmp_path / ".target.earlier").mkdir()
    (tmp_path / ".target.earlier" / "old").touch()
    (tmp_path / "new").mkdir()
    replace_directory(tmp_path / "new", tmp_path / "target")  # nobody had settled it
    assert names(tmp_path) == ["target"]
    (tmp_path / ".target.earlier").mkdir()
    settle(tmp_path / "target")
    assert names(tmp_path) == ["target"]


def test_what_others_write_is_left_alone(tmp_path):
    mine = tmp_path / f".a.{module._HOST}-{os.getppid()}-0.tmp"  # pytest's parent runs
    elsewhere = tmp_path / ".a.another_host-1-0.tmp"
    users = tmp_path / ".notes.tmp"
    for path in (mine, elsewhere, users):
        path.touch()
    with new_file(tmp_path / "one") as first, new_file(tmp_path / "one") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "one").read_text() == "first"
    assert len(names(tmp_path)) == 4


def test_scratch_goes_away(tmp_path):
    with scratch_directory(tmp_path / "map.fits") as folder:
        (folder / "part").touch()
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_no_room_is_told(tmp_path, number):
    (tmp_path / "one").write_text("old")
    with pytest.raises(WriteError, match=r"one: cannot be written \(.*\); check that its folder"):
        write_half(new_file(tmp_path / "one"), OSError(number, os.strerror(number)))
    assert (tmp_path / "one").read_text() == "old"
    assert names(tmp_path) == ["one"]


def test_no_room_for_an_array_is_told(tmp_path):
    """NumPy says so without an errno."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(WriteError, match="one: cannot be written"), new_file(
            tmp_path / "one"
        ) as temporary, temporary.open("wb") as file:  # fmt: skip
            np.zeros(5000).tofile(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_errors_of_inputs_are_not_blamed_on_the_output(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "out" / "one"):
        (tmp_path / "absent").read_text()


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        write_text(tmp_path / "file" / "one", "text")
