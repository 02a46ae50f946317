"""What a user says of a file, read and written back."""

import pytest

from foreglow.errors import MapError
from foreglow.maps.given import GivenFile


@pytest.mark.parametrize(
    ("text", "paths", "columns", "rest"),
    [
        ("a.fits", ["a.fits"], [()], ("", None, None)),
        ("a.fits in mK_CMB", ["a.fits"], [()], ("", None, "mK_CMB")),
        ("q.fits, u.fits in mK", ["q.fits", "u.fits"], [(), ()], ("", None, "mK")),
        ("d/a.fits[X]", ["d/a.fits"], [("X",)], ("", None, None)),
        ("a.fits[X,Y] as variance", ["a.fits"], [("X", "Y")], ("variance", None, None)),
        ("a.fits as inverse variance in 1/K", ["a.fits"], [()], ("inverse variance", None, "1/K")),
        ("a.fits[H] as hits of 900 muK_CMB", ["a.fits"], [("H",)], ("hits", 900.0, "uK_CMB")),
        ("q.fits[A],u.fits[B] as rms", ["q.fits", "u.fits"], [("A",), ("B",)], ("rms", None, None)),
        ("maps in use/a.fits in mK", ["maps in use/a.fits"], [()], ("", None, "mK")),
    ],
)  # fmt: skip
def test_what_is_said_of_a_file(text, paths, columns, rest):
    given = GivenFile.of(text)
    assert [str(path) for path in given.paths] == paths
    assert list(given.columns) == columns
    assert (given.kind, given.sigma0, given.unit) == rest
    assert GivenFile.of(str(given)) == given
    assert all(path.is_absolute() for path in given.absolute().paths)


@pytest.mark.parametrize("name", ["a,b.fits", "a[X].fits", "a in mK", "a.fits as rms"])
def test_a_file_of_that_name_is_that_file(tmp_path, name):
    (tmp_path / name).touch()
    assert GivenFile.of(tmp_path / name) == GivenFile((tmp_path / name,), ((),))
    assert GivenFile.of(f"{tmp_path / name} in mK_CMB").paths == (tmp_path / name,)


def test_three_files():
    with pytest.raises(MapError, match=r"one of Q and one of U, got 3: i.fits,q.fits,u.fits; give"):
        GivenFile.of("i.fits,q.fits,u.fits")
