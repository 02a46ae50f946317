"""Fetching from a server on this machine that stalls, cuts, moves, forgets and lies."""

import hashlib
import json
import os
import stat
from dataclasses import replace

import filelock
import pytest

import product_forms as forms
from file_server import serve
from foreglow.data import cache
from foreglow.data.download import Patience
from foreglow.data.fetch import fetch, plan
from foreglow.data.registry import RemoteFile, find_product, in_words
from foreglow.errors import DataError

PIECE = 1 << 15  # what is kept of a cut download is a multiple of this
QUICK = Patience(attempts=3, wait_s=0.001, stall_s=600)  # a busy machine is no stall


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return forms.hi4pi_nhi(tmp_path_factory.mktemp("made"), nside=32).read_bytes()


@pytest.fixture
def archive(content):
    with serve(files={"NHI_HPX.fits": content}) as running:
        yield running


@pytest.fixture
def nhi(archive):
    product = replace(find_product("hi4pi-nhi"), base=archive.url, bytes=None)
    return RemoteFile(product, "NHI_HPX.fits")


def place(folder):
    return folder / "hi4pi" / "NHI_HPX.fits"


def test_a_file_and_its_checksum(archive, nhi, content, tmp_path):
    seen = []
    found = fetch(nhi, tmp_path, QUICK, lambda done, total: seen.append((done, total)))
    assert place(tmp_path).read_bytes() == content
    assert (found.path, found.new, found.published) == (place(tmp_path), True, "none")
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    record = (tmp_path / "hi4pi" / "NHI_HPX.fits.sha256").read_text()
    assert record == f"{found.sha256}  NHI_HPX.fits\n"
    assert seen[-1] == (len(content), len(content))
    assert archive.requests == [("NHI_HPX.fits", None)]
    left = {p.name for p in place(tmp_path).parent.iterdir()} - {".NHI_HPX.fits.lock"}
    assert left == {"NHI_HPX.fits", "NHI_HPX.fits.sha256"}


def test_what_is_there_is_not_fetched_again(archive, nhi, tmp_path):
    first = fetch(nhi, tmp_path, QUICK)
    again = fetch(nhi, tmp_path, QUICK)
    assert (again.new, again.sha256) == (False, first.sha256)
    assert len(archive.requests) == 1


def test_a_shared_folder_may_be_read_by_others(nhi, tmp_path):
    old = os.umask(0o022)
    try:
        path = fetch(nhi, tmp_path, QUICK).path
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_cut_is_gone_on_from(archive, nhi, content, tmp_path):
    archive.cuts = [2 * PIECE + 100, PIECE + 5]
    fetch(nhi, tmp_path, QUICK)
    assert place(tmp_path).read_bytes() == content
    ranges = [None, f"bytes={2 * PIECE}-", f"bytes={3 * PIECE}-"]
    assert [wanted for _, wanted in archive.requests] == ranges


def test_a_stall_is_gone_on_from(archive, nhi, content, tmp_path):
    archive.stalls = [2 * PIECE]
    fetch(nhi, tmp_path, Patience(attempts=50, wait_s=0.001, stall_s=1))
    assert place(tmp_path).read_bytes() == content
    # again where the machine was too busy to answer the second in time
    assert list(dict.fromkeys(archive.requests)) == [
        ("NHI_HPX.fits", None), ("NHI_HPX.fits", f"bytes={2 * PIECE}-"),
    ]  # fmt: skip


def test_an_interrupted_download_is_gone_on_from_by_the_next_command(
    archive, nhi, content, tmp_path
):
    archive.cuts = [PIECE, 0, 0, 0]
    with pytest.raises(DataError) as caught:
        fetch(nhi, tmp_path, QUICK)
    part = tmp_path / "hi4pi" / "NHI_HPX.fits.part"
    for text in ("nothing new in 3 attempts", f"32 KiB are kept in {part}", str(place(tmp_path))):
        assert text in str(caught.value)
    assert plan(nhi, tmp_path).state == "begun"
    assert not place(tmp_path).exists()
    archive.requests.clear()
    fetch(nhi, tmp_path, QUICK)
    assert archive.requests == [("NHI_HPX.fits", f"bytes={PIECE}-")]
    assert place(tmp_path).read_bytes() == content


def test_a_server_without_ranges_sends_all_again(archive, nhi, content, tmp_path):
    archive.ranges = False
    archive.cuts = [2 * PIECE]
    fetch(nhi, tmp_path, QUICK)
    assert place(tmp_path).read_bytes() == content


def test_two_versions_are_never_joined(archive, nhi, content, tmp_path):
    archive.cuts = [PIECE, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(nhi, tmp_path, QUICK)
    archive.etag = '"two"'
    archive.files["NHI_HPX.fits"] = content[:2880] + content[2880:].replace(b"GLON", b"LLON")
    fetch(nhi, tmp_path, QUICK)
    assert place(tmp_path).read_bytes() == archive.files["NHI_HPX.fits"]


def test_a_part_that_is_whole_already(archive, nhi, content, tmp_path):
    place(tmp_path).parent.mkdir()
    place(tmp_path).with_name("NHI_HPX.fits.part").write_bytes(content)
    assert fetch(nhi, tmp_path, QUICK).new
    assert place(tmp_path).read_bytes() == content


def test_a_part_longer_than_the_file_starts_anew(archive, nhi, content, tmp_path):
    place(tmp_path).parent.mkdir()
    place(tmp_path).with_name("NHI_HPX.fits.part").write_bytes(content + b"more")
    fetch(nhi, tmp_path, QUICK)
    assert place(tmp_path).read_bytes() == content


def test_a_cut_that_the_server_does_not_tell_is_found(archive, nhi, content, tmp_path):
    """As from the Planck archive, which states no size."""
    archive.states_size = False
    archive.cuts = [3 * PIECE + 7]
    fetch(nhi, tmp_path, QUICK)
    assert place(tmp_path).read_bytes() == content
    archive.cuts = [3 * PIECE + 7]
    known = replace(nhi.product, bytes=len(content), bytes_exact=True, folder="other")
    fetch(RemoteFile(known, nhi.name), tmp_path, QUICK)
    assert (tmp_path / "other" / "NHI_HPX.fits").read_bytes() == content


def test_a_server_in_trouble_is_asked_again(archive, nhi, tmp_path):
    archive.statuses = [503, 429]
    fetch(nhi, tmp_path, QUICK)
    assert len(archive.requests) == 3


def test_a_file_that_moved_is_not_asked_for_twice(archive, nhi, tmp_path):
    archive.files.clear()
    with pytest.raises(DataError) as caught:
        fetch(nhi, tmp_path, QUICK)
    assert "got HTTP 404" in str(caught.value)
    assert f"put it at {place(tmp_path)}" in str(caught.value)
    assert len(archive.requests) == 1


def test_a_web_page_is_no_file(archive, nhi, tmp_path):
    archive.kind = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="got a web page, as archives send that want a browser"):
        fetch(nhi, tmp_path, QUICK)
    archive.kind = "application/fits"
    archive.files["NHI_HPX.fits"] = b"<html>prove that you are no robot</html>"
    with pytest.raises(DataError, match="got a web page, and nothing new in 3 attempts; run the"):
        fetch(nhi, tmp_path, QUICK)
    assert not list(place(tmp_path).parent.glob("*.part"))


def test_no_server(nhi, tmp_path):
    nowhere = replace(nhi.product, base="http://127.0.0.1:9/")
    with pytest.raises(DataError, match="got no connection, and nothing new in 3 attempts"):
        fetch(RemoteFile(nowhere, nhi.name), tmp_path, QUICK)


def test_a_published_checksum(archive, nhi, content, tmp_path):
    md5 = hashlib.md5(content).hexdigest()
    right = replace(nhi.product, md5=md5, md5_source="a test")
    assert fetch(RemoteFile(right, nhi.name), tmp_path, QUICK).published == "agrees"
    wrong = replace(nhi.product, md5="0" * 32, md5_source="a test", folder="other")
    with pytest.raises(DataError) as caught:
        fetch(RemoteFile(wrong, nhi.name), tmp_path, QUICK)
    assert "expected md5 000" in str(caught.value)
    assert "by hand, and it is accepted" in str(caught.value)
    assert not (tmp_path / "other" / "NHI_HPX.fits").exists()
    # by hand it is accepted, and told to differ
    (tmp_path / "other" / "NHI_HPX.fits").write_bytes(content)
    found = fetch(RemoteFile(wrong, nhi.name), tmp_path, QUICK)
    assert (found.new, found.published) == (False, "differs")
    assert "DIFFERS from the published checksum" in found.summary()


def test_a_file_put_there_by_hand_is_accepted(archive, nhi, content, tmp_path):
    place(tmp_path).parent.mkdir()
    place(tmp_path).write_bytes(content)
    found = fetch(nhi, tmp_path, QUICK)
    assert (found.new, archive.requests) == (False, [])
    assert cache.recorded_sha256(place(tmp_path)) == found.sha256


def test_a_gzipped_twin_is_accepted(archive, nhi, tmp_path):
    import gzip

    place(tmp_path).parent.mkdir()
    packed = tmp_path / "hi4pi" / "NHI_HPX.fits.gz"
    packed.write_bytes(gzip.compress(archive.files["NHI_HPX.fits"]))
    assert fetch(nhi, tmp_path, QUICK).path == packed
    assert archive.requests == []


def test_a_file_that_changed_is_not_trusted(nhi, content, tmp_path):
    path = fetch(nhi, tmp_path, QUICK).path
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError, match=r"if you replaced it remove NHI_HPX.fits.sha256, else"):
        fetch(nhi, tmp_path, QUICK)
    (tmp_path / "hi4pi" / "NHI_HPX.fits.sha256").write_text("rubbish")
    with pytest.raises(DataError, match="expected a line of sha256sum"):
        fetch(nhi, tmp_path, QUICK)


@pytest.mark.parametrize("damage", [b"", b"<html>", b"SIMPLE  = nothing"])
def test_a_damaged_file_put_there_by_hand_is_refused(damage, nhi, tmp_path):
    place(tmp_path).parent.mkdir()
    place(tmp_path).write_bytes(damage)
    with pytest.raises(DataError, match="remove it and fetch it again"):
        fetch(nhi, tmp_path, QUICK)


def test_a_truncated_file_put_there_by_hand_is_refused(nhi, content, tmp_path):
    place(tmp_path).parent.mkdir()
    place(tmp_path).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cut"):
        fetch(nhi, tmp_path, QUICK)


def test_two_at_once(nhi, tmp_path):
    place(tmp_path).parent.mkdir()
    with (
        filelock.FileLock(tmp_path / "hi4pi" / ".NHI_HPX.fits.lock"),
        pytest.raises(DataError, match="got another process at it; wait"),
    ):
        fetch(nhi, tmp_path, QUICK)


def test_no_room(archive, nhi, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"expected room for 58. KiB, got 10 bytes; free some"):
        fetch(nhi, tmp_path, QUICK)


def test_a_cache_that_is_a_file(nhi, tmp_path):
    folder = tmp_path / "cache"
    folder.write_text("no folder")
    with pytest.raises(DataError, match="or set FOREGLOW_DATA"):
        fetch(nhi, folder, QUICK)


def test_a_plan_touches_nothing(archive, nhi, content, tmp_path):
    made = plan(nhi, tmp_path / "new")
    assert (made.state, made.bytes_there) == ("to fetch", 0)
    assert json.loads(json.dumps(made.record()))["url"] == f"{archive.url}NHI_HPX.fits"
    assert (list(tmp_path.iterdir()), archive.requests) == ([], [])
    fetch(nhi, tmp_path, QUICK)
    assert plan(nhi, tmp_path).summary().endswith(f": there already, {in_words(len(content))}")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("FOREGLOW_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "data"
    monkeypatch.setenv("FOREGLOW_DATA", str(tmp_path / "shared"))
    assert cache.cache_folder() == tmp_path / "shared"
    assert cache.cache_folder(tmp_path / "mine") == tmp_path / "mine"
