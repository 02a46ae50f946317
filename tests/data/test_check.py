"""Every product of the registry against a file of its exact form; and files that are wrong."""

import gzip

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits

import product_forms as forms
from foreglow.data.check import check_file
from foreglow.data.registry import load_registry
from foreglow.errors import ForeglowError
from foreglow.hi_cube.cube import write_cube
from foreglow.maps.conventions import MapWarning
from foreglow.maps.io import open_intensity_map, open_plain_map, open_polarisation_map
from foreglow.survey.bands import available_surveys, load_survey

TAKEN = {
    "hi4pi-cube": ("dust prepare --cube", ["(channel 21)"]),
    "hi4pi-tiles": ("dust prepare --cube", ["(channel 21)"]),
    "gass-cutouts": ("dust prepare --cube", ["(channel 21)"]),
    "galfa-hi-narrow": ("dust prepare --cube", ["(channel 21)"]),
    "hi4pi-nhi": ("to compare with", ["NHI"]),
    "planck-commander-dust": ("--dust FILE[I_ML_FULL]", ["I_ML_FULL"]),
    "planck-commander-dust-256": ("--dust FILE[I_ML]", ["I_ML"]),
    "planck-commander-qu": ("--maps BAND=FILE", ["Q_ML_FULL", "U_ML_FULL"]),
    "planck-gnilc-dust": ("--dust FILE", ["I"]),
    "planck-gnilc-iqu": ("--dust FILE", ["I_STOKES", "Q_STOKES", "U_STOKES"]),
    "planck-gnilc-iqu-80": ("--maps BAND=FILE", ["I_STOKES", "Q_STOKES", "U_STOKES"]),
    "planck-mask-apo0": ("[GAL070]' of foreglow dust train", ["GAL070"]),
    "planck-mask-apo2": ("[GAL070]' of foreglow dust train", ["GAL070"]),
    "planck-mask-apo5": ("[GAL070]' of foreglow dust train", ["GAL070"]),
    "planck-mask-sources": ("[F545]' of foreglow dust train", ["F545"]),
    "planck-mask-lr72": ("--mask", ["TEMPERATURE"]),
    "planck-rimo": ("[BANDPASS_F100] as power'", []),
    "quijote-mfi-mask": ("of foreglow recognize survey", ["MASK"]),
    "pysm-templates": ("PYSM_LOCAL_DATA", ["TEMPERATURE"]),
}


def test_every_product_has_a_file_of_its_form():
    surveys = [load_survey(name) for name in available_surveys()]  # their forms: survey_forms.py
    of_surveys = {f.product.name for survey in surveys for f in survey.remote_files(halves=True)}
    assert {p.name for p in load_registry()} - of_surveys == set(forms.FORMS) == set(TAKEN)


@pytest.mark.parametrize("name", forms.FORMS)
def test_a_file_of_the_exact_form_is_recognised_and_fits(name, tmp_path):
    report = check_file(forms.FORMS[name](tmp_path))
    use, columns = TAKEN[name]
    assert report.problems == ()
    assert report.product == name
    assert [c.name for c in report.columns] == columns
    assert any(use in text for text in report.fits)
    product = next(p for p in load_registry() if p.name == name)
    if product.kind == "map":
        assert {c.unit for c in report.columns} == {product.unit}
        assert [c.unobserved for c in report.columns] == [2] * len(columns)
        assert product.ordering in report.what


@pytest.mark.parametrize("name", ["planck-gnilc-iqu", "planck-gnilc-iqu-80", "planck-mask-apo0"])
def test_a_file_of_another_name_is_recognised_by_its_columns(name, tmp_path):
    path = forms.FORMS[name](tmp_path).rename(tmp_path / "mine.fits")
    assert check_file(path).product == name


def test_the_emissivity_of_pysm(tmp_path):
    report = check_file(forms.pysm_emissivity(tmp_path))
    assert (report.product, report.sound) == ("pysm-templates", True)
    path = tmp_path / "emissivity.txt"
    path.write_text("1 2 3\n4 5 6\n")
    assert "expected two columns" in check_file(path).problems[0]
    path.write_text("no numbers here\n")
    with pytest.raises(ForeglowError, match=r"expected a table of numbers.*fetch it again"):
        check_file(path)


def test_nhi_is_found_though_it_is_the_last_column_and_the_pixels_are_numbered(tmp_path):
    path = forms.hi4pi_nhi(tmp_path)
    nhi = open_plain_map(f"{path}[NHI]")  # its unit is none of a map's
    glat = hp.pix2ang(forms.NSIDE, np.arange(forms.N_PIX), lonlat=True)[1]
    np.testing.assert_allclose(nhi.read(np.arange(forms.N_PIX)), 1e20 * np.abs(glat))


def test_readers_take_the_column_that_the_registry_names(tmp_path):
    pixels = np.arange(forms.N_PIX)
    dust = open_intensity_map(forms.commander_dust(tmp_path))
    expected = forms.sky(0)[hp.ring2nest(forms.NSIDE, pixels)]
    expected[expected == hp.UNSEEN] = np.nan
    np.testing.assert_allclose(dust.read(pixels), expected, rtol=1e-6)
    assert open_polarisation_map(forms.commander_qu(tmp_path)).columns[1].name == "U_ML_FULL"
    mask = open_plain_map(f"{forms.galactic_mask(tmp_path)}[gal070]")
    assert 0.65 < mask.read(pixels).mean() < 0.75


def test_an_unknown_column_is_named(tmp_path):
    path = forms.galactic_mask(tmp_path)
    with pytest.raises(ForeglowError, match=r"expected one column GAL071, got columns GAL020, .*"):
        open_intensity_map(f"{path}[GAL071]", "uK_RJ")


def test_a_copy_of_lower_resolution_is_said_to_be_one(tmp_path):
    report = check_file(forms.gnilc_dust(tmp_path))
    assert report.notes == ("Nside 8, the archive's is 2048: a copy",)


def test_a_map_of_nobody(tmp_path):
    columns = [(f"{letter}_STOKES", "E", "uK_CMB", forms.sky()) for letter in "QU"]
    path = forms.healpix(tmp_path / "mine.fits", columns, POLCCONV="COSMO")
    report = check_file(path)
    assert (report.product, report.sound) == (None, True)
    assert report.fits == ("--maps BAND=FILE of foreglow recognize classify, fit (Q,U)",)
    one = forms.healpix(tmp_path / "m.fits", [("MASK", "E", None, np.ones(forms.N_PIX))])
    assert check_file(one).fits[0].startswith("--mask FILE, or --dust FILE --unit UNIT, of")


def test_boolean_masks_of_healpy(tmp_path):
    whole = np.arange(forms.N_PIX) % 3 > 0
    hp.write_map(tmp_path / "one.fits", whole, dtype=bool, coord="G")
    hp.write_map(tmp_path / "two.fits", [whole, ~whole], dtype=bool, coord="G")
    report = check_file(tmp_path / "one.fits")
    assert (report.sound, report.columns[0].greatest) == (True, 1.0)
    assert report.fits[0].startswith(f"--mask '{tmp_path / 'one.fits'}' of foreglow dust train")
    report = check_file(tmp_path / "two.fits")
    assert [text.split("'")[1] for text in report.fits] == [
        f"{tmp_path / 'two.fits'}[{name}]" for name in ("Q_POLARISATION", "U_POLARISATION")
    ]


def test_noise_beside_the_maps(tmp_path):
    stokes = [(f"{letter}_STOKES", "E", "uK_CMB", forms.sky()) for letter in "QU"]
    cards = {"POLCCONV": "COSMO"}
    weights = [(f"WEI_{letter}", "E", None, forms.sky()) for letter in "QU"]
    report = check_file(forms.healpix(tmp_path / "w.fits", stokes + weights, **cards))
    assert [text.split()[0] for text in report.fits] == ["--maps"]
    assert "[WEI_Q,WEI_U] as inverse variance in mK_CMB^-2'" in report.notes[0]
    variances = [(f"{x}_COV", "E", "K_CMB^2", forms.sky()) for x in ("QQ", "UU")]
    report = check_file(forms.healpix(tmp_path / "v.fits", stokes + variances, **cards))
    assert [text.split()[0] for text in report.fits] == ["--maps", "--noise"]


def test_a_cube_of_somebody_named_as_a_survey_is_not_taken_for_it(tmp_path):
    path = forms.hi4pi_cube(tmp_path)
    fits.setval(path, "OBJECT", value="mine")
    assert check_file(path).product is None
    (tmp_path / "hi4pi").mkdir()
    assert check_file(path.rename(tmp_path / "hi4pi" / "CAR.fits")).product == "hi4pi-cube"


def test_a_column_can_be_named(tmp_path):
    path = forms.galactic_mask(tmp_path)
    report = check_file(path.with_name(f"{path.name}[GAL020]"))
    assert [c.name for c in report.columns] == ["GAL020"]
    assert f"--mask '{path}[GAL020]' of" in report.fits[0]
    nhi = forms.hi4pi_nhi(tmp_path).rename(tmp_path / "mine.fits")
    report = check_file(nhi.with_name("mine.fits[GLAT]"))
    assert [c.name for c in report.columns] == ["GLAT"]
    with pytest.raises(ForeglowError, match=r"expected one column GAL000, got columns GAL020"):
        check_file(path.with_name(f"{path.name}[GAL000]"))


def test_how_much_a_mask_leaves_is_told(tmp_path):
    assert check_file(forms.galactic_mask(tmp_path)).notes[-1] == "70.8% of the sky is above zero"


def test_what_is_odd_of_a_cube_is_noted(tmp_path):
    """Not said aloud beside the report, and once."""
    path = forms.hi4pi_cube(tmp_path)
    fits.setval(path, "BMAJ", value=16.2)
    fits.delval(path, "CUNIT3")
    report = check_file(path)
    assert report.sound
    assert "beam unknown" in report.what
    assert [note.split(",")[0] for note in report.notes[1:]] == [
        "no unit of velocity in the header (CUNIT3)",
        "expected a beam in deg in the header",
    ]


def test_cubes_and_sky_directories(tmp_path, real_data):
    assert "a sky directory" in check_file(real_data / "pysm64").what
    cube = write_cube(tmp_path / "hi.zarr", [-10.0, 0.0], np.ones((2, 192)), 4, None, "test")
    report = check_file(cube.path)
    assert report.what.startswith("an HI cube of foreglow, 2 channels from -10.00 to 0.00 km/s")
    assert "does not reach over -64.5 to 17 km/s" in report.notes[0]


def test_conventions_that_a_reader_assumes_are_told_and_not_warned_of(tmp_path):
    columns = [(f"{letter}_STOKES", "E", "uK_CMB", forms.sky()) for letter in "QU"]
    path = forms.healpix(tmp_path / "mine.fits", columns)
    report = check_file(path)
    assert report.notes == ("no POLCCONV in the header, taken as COSMO; set it to silence this",)
    with pytest.warns(MapWarning):
        open_polarisation_map(path)


def broken_name(folder):
    return forms.healpix(
        folder / "COM_CompMap_Dust-GNILC-F353_2048_R2.00.fits",
        [("I", "E", "K_CMB", forms.sky())],
    )


def without_ordering(folder):
    path = forms.gnilc_dust(folder)
    fits.delval(path, "ORDERING", ext=1)
    return path


def without_unit(folder):
    columns = [(f"{letter}_STOKES", "E", None, forms.sky()) for letter in "QU"]
    return forms.healpix(folder / "d.fits", columns)


def turned(folder):
    path = forms.gnilc_dust(folder)
    fits.setval(path, "COORDSYS", value="C", ext=1)
    return path


def with_nan(folder):
    values = forms.sky()
    values[5] = np.nan
    path = folder / "COM_CompMap_Dust-GNILC-F353_2048_R2.00.fits"
    return forms.healpix(path, [("I", "E", "MJy/sr", values)])


def celestial(folder):
    columns = [("I_STOKES", "E", "uK_RJ", forms.sky())]
    return forms.healpix(folder / "mine.fits", columns, COORDSYS="C")


def closed_mask(folder):
    columns = [(name, "B", None, np.zeros(forms.N_PIX)) for name in forms.GAL]
    return forms.healpix(folder / "mask.fits", columns, BAD_DATA=None)


def nothing_observed(folder):
    path = folder / "COM_CompMap_Dust-GNILC-F353_2048_R2.00.fits"
    return forms.healpix(path, [("I", "E", "MJy/sr", np.full(forms.N_PIX, hp.UNSEEN))])


def renamed_columns(folder):
    path = forms.galactic_mask(folder)
    fits.setval(path, "TTYPE4", value="SEVENTY", ext=1)
    return path


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (broken_name, "expected MJy/sr in column I, got unit 'K_CMB'; the file is another product"),
        (without_ordering, "expected ORDERING RING or NESTED in the header, got none"),
        (without_unit, "expected a unit (TUNIT) for column Q_STOKES, got none"),
        (turned, "expected COORDSYS G, got C; it was turned"),
        (with_nan, "expected finite values in column I, got NaN or Inf in 1 pixels"),
        (nothing_observed, "expected a map in column I, got no observed pixel"),
        (celestial, "expected a Galactic map (COORDSYS = G), got frame C"),
        (closed_mask, "expected some sky above zero in column GAL070, got none"),
        (renamed_columns, "got none called GAL070"),
    ],
)
def test_what_is_wrong_is_said(make, problem, tmp_path):
    report = check_file(make(tmp_path))
    assert not report.sound
    assert any(problem in text for text in report.problems), report.problems
    assert report.fits == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty one; fetch or copy it again"),
        (b"<!DOCTYPE html><html>", "got a web page, as archives send that want a browser"),
        (b"plain text that is no FITS", "got a file that does not begin as FITS does"),
        (gzip.compress(b"no FITS either", mtime=0), "expected a FITS cube"),
    ],
)
def test_what_is_no_fits_is_refused(content, message, tmp_path):
    path = tmp_path / "download.fits"
    path.write_bytes(content)
    with pytest.raises(ForeglowError) as caught:
        check_file(path)
    assert message in str(caught.value)


def test_a_truncated_gzip_is_refused(tmp_path):
    path = tmp_path / "NHI_HPX.fits.gz"
    path.write_bytes(gzip.compress(forms.hi4pi_nhi(tmp_path).read_bytes())[:-900])
    with pytest.raises(ForeglowError):
        check_file(path)


def test_bandpasses_are_told_and_must_be_there(tmp_path):
    path = forms.planck_rimo(tmp_path)
    assert "BANDPASS_F100, BANDPASS_F143, BANDPASS_F217, BANDPASS_F353" in check_file(path).what
    whole = path.read_bytes()
    path.write_bytes(whole[:-6000])
    assert "expected a whole FITS file, got" in check_file(path).problems[0]
    forms.rimo(path, {}, "1/cm")
    assert "expected extensions BANDPASS_..., got none" in check_file(path).problems[0]


@pytest.mark.parametrize("name", ["hi4pi-tiles", "planck-mask-apo0", "hi4pi-nhi"])
def test_a_truncated_file_is_refused(name, tmp_path):
    path = forms.FORMS[name](tmp_path)
    path.write_bytes(path.read_bytes()[:-6000])
    with pytest.raises(ForeglowError, match="truncated"):
        check_file(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ForeglowError, match="got none; check the path"):
        check_file(tmp_path / "nothing.fits")
