"""The registry: complete, honest, and clear to who asks for what it has not."""

import re

import pytest

from foreglow.data.listing import details, listing, product_record
from foreglow.data.registry import find_files, find_product, in_words, load_registry
from foreglow.errors import DataError

PRODUCTS = load_registry()


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p.name)
def test_every_entry_says_all(product):
    if product.base:  # no public program fetches LR72, QUIJOTE's maps, GASS or GALFA-HI
        assert product.base.startswith(("https://", "http://pla.esac.esa.int/"))
        assert product.base.endswith(("/", "="))
    assert product.sources
    assert product.use
    assert product.cite
    if product.kind != "bandpass":
        assert product.unit
        assert product.frame == ("C" if product.name == "galfa-hi-narrow" else "G")
    assert bool(product.files) != bool(product.pattern)
    assert (product.md5 is None) == (product.md5_source is None)
    assert product.md5 is None or (
        re.fullmatch("[0-9a-f]{32}", product.md5) and len(product.files) == 1
    )
    assert bool(product.grid) == (product.kind == "cube")
    if product.kind not in ("cube", "bandpass"):
        assert product.nside
        assert product.column
    if not product.bytes_exact and product.md5 is None:
        assert any("size" in text for text in product.unverified) or product.kind == "table"


def test_names_are_distinct_and_fit_a_screen(tmp_path):
    names = [p.name for p in PRODUCTS]
    assert len(set(names)) == len(names)
    text = listing(list(PRODUCTS), tmp_path)
    assert all(name in text for name in names)
    assert max(map(len, text.splitlines())) <= max(80, 55 + len(str(tmp_path)))


def test_all_of_a_product_is_told(tmp_path):
    product = find_product("planck-mask-apo0")
    text = details(product, tmp_path)
    for part in (product.base, product.cite, product.md5, "GAL070", "NOT VERIFIED", "NESTED"):
        assert part in text
    assert product_record(product, tmp_path)["there"] == []


def test_what_is_in_the_cache_is_marked(tmp_path):
    (tmp_path / "hi4pi").mkdir()
    (tmp_path / "hi4pi" / "CAR_E01.fits").write_bytes(b"x")
    (tmp_path / "hi4pi" / "CAR_E02.fits.part").write_bytes(b"x")
    text = listing(list(PRODUCTS), tmp_path)
    assert [line.split()[1] for line in text.splitlines() if line[0] == "*"] == ["hi4pi-tiles"]
    record = product_record(find_product("hi4pi-tiles"), tmp_path)
    assert record["there"] == [str(tmp_path / "hi4pi" / "CAR_E01.fits")]


def test_one_file_of_many():
    assert len(find_files("pysm-templates")) == 13
    (file,) = find_files("hi4pi-tiles/CAR_B07.fits")
    assert file.url.endswith("/CUBES/GAL/CAR/CAR_B07.fits")
    assert str(file.place) == "hi4pi/CAR_B07.fits"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spam", r"expected a product, one of hi4pi-cube, .*pysm-templates, got 'spam'; see"),
        ("nhi", r"expected a product, one of hi4pi-nhi, got 'nhi'; see"),
        ("hi4pi-tiles", r"which has many of about 252 MiB each, got none; name it"),
        (
            "hi4pi-tiles/CAR_Z99.fits",
            r"expected a file of hi4pi-tiles, as CAR_E01.fits, got 'CAR_Z",
        ),
        ("pysm-templates/dust.fits", r"expected a file of pysm-templates, as synch_t_new.fits, "),
        ("hi4pi-tiles/../../etc/passwd", r"expected a file of hi4pi-tiles"),
        ("", r"got ''"),
    ],
)
def test_what_there_is_not(name, message):
    with pytest.raises(DataError, match=message):
        find_files(name)


def test_sizes_in_words():
    assert [in_words(n) for n in (5, 2048, 3 << 20, 33 << 30)] == [
        "5 bytes", "2 KiB", "3 MiB", "33 GiB",
    ]  # fmt: skip
