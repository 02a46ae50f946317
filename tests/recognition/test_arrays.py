"""Maps in memory: the same bits as from files, and nothing that matters is guessed."""

import copy
import pickle
import warnings
from multiprocessing.pool import ThreadPool

import astropy.units as u
import healpy as hp
import numpy as np
import pysm3.units as pysm_units
import pytest
from astropy.io import fits
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.errors import ForeglowError, InstrumentError, MapError, RunError, ShapeError
from foreglow.maps.conventions import MapWarning
from foreglow.maps.write import write_maps, write_polarisation_map
from foreglow.recognition.classify import classify
from foreglow.recognition.fit_maps import fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.observation.given import OpenedMaps
from foreglow.recognition.simulate import simulate_sky

SAID = {"frame": "G", "convention": "COSMO"}
BANDS = slice(0, 6)  # enough for the fits
FITTED = {"models": PROBLEMS["curvature"], "curvature": -0.052, "noise_scale": 0.1}


def bits(found):
    return {name: np.asarray(values).tobytes() for name, (values, _) in found.columns().items()}


def write_all(folder, maps, unit, nest=False, **options):
    paths = {}
    for k, (band, qu) in enumerate(maps.items()):
        paths[band] = folder / f"{k}.fits"
        bare = np.ma.filled(qu, hp.UNSEEN) if np.ma.isMaskedArray(qu) else np.asarray(qu)
        bare = np.where(np.isnan(bare), hp.UNSEEN, bare).astype(bare.dtype)
        if nest:
            bare = np.stack([hp.reorder(row, r2n=True) for row in bare])
        order = "NESTED" if nest else "RING"
        write_polarisation_map(paths[band], bare, unit, ordering=order, **options)
    return paths


@pytest.fixture(scope="module")
def arrays(sky, instrument):
    return {band: sky.data[:, k] for k, band in enumerate(instrument.band)}


@pytest.fixture(scope="module")
def few(arrays, instrument):
    """What fits need to show a thing: some bands, of a quarter of the sky."""
    seen = np.arange(3072) < 768
    return {b: np.where(seen, arrays[b], np.float32(np.nan)) for b in instrument.band[BANDS]}


@pytest.fixture(scope="module")
def plain(instrument, few):
    """Its fits where the noise of the first band is one number."""
    return fit(few, instrument, noise={"11": "1.5 uK_RJ"}, unit="uK_RJ", **FITTED, **SAID)


FORMS = {
    "float32": lambda qu: qu,
    "float64": lambda qu: qu.astype(np.float64),
    "mK_RJ": lambda qu: u.Quantity(1e-3 * qu, pysm_units.mK_RJ),
    "NaN": lambda qu: np.where(np.arange(3072) < 700, np.nan, qu),
    "masked": lambda qu: np.ma.masked_array(qu, np.broadcast_to(np.arange(3072) > 2000, qu.shape)),
    "UNSEEN": lambda qu: np.where(np.arange(3072) % 7 == 0, np.float32(hp.UNSEEN), qu),
}


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_as_from_files(paper_model, arrays, tmp_path, form, nest):
    maps = {band: FORMS[form](qu) for band, qu in arrays.items()}
    unit = "mK_RJ" if form == "mK_RJ" else "uK_RJ"
    bare = {b: qu.value if isinstance(qu, u.Quantity) else qu for b, qu in maps.items()}
    paths = write_all(tmp_path, bare, unit, nest)
    if nest:
        maps = {
            b: np.ma.masked_array([hp.reorder(np.ma.filled(r, hp.UNSEEN), r2n=True) for r in qu])
            if np.ma.isMaskedArray(qu)
            else np.stack([hp.reorder(np.asarray(r), r2n=True) for r in qu]) * (
                qu.unit if isinstance(qu, u.Quantity) else 1
            )
            for b, qu in maps.items()
        }  # fmt: skip
    said = SAID if isinstance(next(iter(maps.values())), u.Quantity) else SAID | {"unit": unit}
    from_files = classify(paths, model=paper_model, noise_scale=0.1)
    from_arrays = classify(maps, model=paper_model, noise_scale=0.1, nest=nest, **said)
    assert bits(from_arrays) == bits(from_files)
    assert from_files.observed.any()


def test_a_mask_of_astropy_hides_too(paper_model, arrays):
    """Its numbers stay beneath it: they must not be taken for observed."""
    hidden = np.broadcast_to(np.arange(3072) > 2000, (2, 3072))
    by_astropy = {b: Masked(u.Quantity(a, pysm_units.uK_RJ), hidden) for b, a in arrays.items()}
    by_numpy = {b: np.ma.masked_array(a, hidden) for b, a in arrays.items()}
    found = classify(by_astropy, model=paper_model, **SAID)
    assert found.observed.sum() == 2001
    assert bits(found) == bits(classify(by_numpy, model=paper_model, unit="uK_RJ", **SAID))


@settings(max_examples=8)
@given(st.sampled_from(["K_CMB", "uK_CMB", "mK_RJ", "MJy/sr"]), st.sampled_from("GCE"),
       st.sampled_from(["COSMO", "IAU"]))  # fmt: skip
def test_units_frames_and_conventions(
    paper_model, sky, instrument, tmp_path_factory, unit, frame, convention
):
    factor = 1e-4 if unit in ("K_CMB", "mK_RJ", "MJy/sr") else 1.0
    maps = {band: factor * sky.data[:, k] for k, band in enumerate(instrument.band)}
    folder = tmp_path_factory.mktemp("maps")
    paths = write_all(folder, maps, unit, frame=frame)
    for path in paths.values():
        fits.setval(path, "POLCCONV", value=convention, ext=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of levels: the numbers are those of another unit
        one = classify(paths, model=paper_model)
        other = classify(
            maps, model=paper_model, unit=unit, frame=frame, convention=convention
        )  # fmt: skip
    assert bits(one) == bits(other)


def test_one_array_of_all_bands_with_intensity(paper_model, arrays, instrument):
    cube = np.stack([np.stack([np.full(3072, 9e9), *qu]) for qu in arrays.values()])
    whole = classify(cube, model=paper_model, unit="uK_RJ", **SAID)
    by_band = {f * u.GHz: arrays[b] for f, b in
               zip(instrument.frequency_ghz, instrument.band, strict=True)}  # fmt: skip
    assert bits(whole) == bits(classify(by_band, model=paper_model, unit="uK_RJ", **SAID))


@pytest.mark.parametrize("power", [1, 2, -2])
def test_noise_maps_in_memory(instrument, few, tmp_path, power):
    """What a Quantity of noise holds is known by its unit."""
    rms = np.linspace(1.0, 2.0, 3072)
    given = u.Quantity(rms**power, pysm_units.uK_RJ**power)
    unit = {1: "uK_RJ", 2: "uK_RJ^2", -2: "uK_RJ^-2"}[power]
    write_maps(tmp_path / "noise.fits", {"VALUES": (rms**power, unit)}, frame="G")
    paths = write_all(tmp_path, few, "uK_RJ")
    a = fit(paths, instrument, noise={"11": tmp_path / "noise.fits"}, **FITTED)
    b = fit(few, instrument, noise={11.0: given}, unit="uK_RJ", **SAID, **FITTED)
    assert a.fitted.sum() == 768
    assert bits(a) == bits(b)
    both = np.stack([given.value, given.value]) * given.unit
    c = fit(few, instrument, noise={"11": both}, unit="uK_RJ", **SAID, **FITTED)
    assert bits(a) == bits(c)


@pytest.mark.parametrize(
    "given",
    [
        (np.full(3072, 1.5), "rms in uK_RJ"),
        (np.full((2, 3072), 2.25), "variance in uK_RJ^2"),
        (np.full(3072, 4.0), "hits of 3 uK_RJ"),
        (np.stack([np.full(3072, 2.25), np.zeros(3072), np.full(3072, 2.25)]),
         "covariance in uK_RJ^2"),
        # the unit, which these leave open, is that of the maps
        (np.full(3072, 2.25), "variance"),
        u.Quantity(np.full(3072, 1.5), "uK"),
        u.Quantity(np.full(3072, 2.25), "uK2"),
    ],
)  # fmt: skip
def test_noise_arrays_with_words(instrument, few, plain, given):
    said = fit(few, instrument, noise={"11": given}, unit="uK_RJ", **FITTED, **SAID)
    np.testing.assert_array_equal(said.fitted, plain.fitted)
    np.testing.assert_allclose(said.chi2, plain.chi2, rtol=1e-4)


def test_noise_is_asked_for_where_the_map_observed_alone(instrument, few):
    """A variance of zero beyond the mask says nothing."""
    maps = few | {"11": few["11"].copy()}
    maps["11"][:, :300] = hp.UNSEEN
    rms = np.where(np.arange(3072) < 300, 0.0, 1.5)
    options = {"unit": "uK_RJ", **FITTED, **SAID}
    zero = fit(maps, instrument, noise={"11": (rms, "rms in uK_RJ")}, **options)
    plain = fit(maps, instrument, noise={"11": "1.5 uK_RJ"}, **options)
    np.testing.assert_allclose(zero.chi2, plain.chi2, rtol=1e-4)


def test_a_unit_of_astropy(paper_model, arrays):
    one = classify(arrays, model=paper_model, unit=pysm_units.uK_RJ, **SAID)
    assert bits(one) == bits(classify(arrays, model=paper_model, unit="uK_RJ", **SAID))


def test_a_file_out_and_a_pool(paper_model, arrays, tmp_path):
    paths = write_all(tmp_path, arrays, "uK_RJ")
    paper_model.save(tmp_path / "model")
    found = classify(paths, model=paper_model, noise_scale=0.1)
    found.to_fits(tmp_path / "a.fits")
    with ThreadPool(2) as pool:
        counts = classify(
            paths, model=tmp_path / "model", noise_scale=0.1, out=tmp_path / "b.fits", pool=pool
        )
    classify(
        arrays, model=paper_model, noise_scale=0.1, unit="uK_RJ", **SAID, out=tmp_path / "c.fits"
    )
    assert counts == found.counts
    with pytest.raises(AttributeError, match=r"ModelCounts has no probability; .* leave out= out"):
        _ = counts.probability
    with pytest.raises(AttributeError, match=r"Classification has no beta_s; .* foreglow.fit\("):
        _ = found.beta_s
    with pytest.raises(AttributeError, match=r"Classification has no colour$"):
        _ = found.colour
    assert pickle.loads(pickle.dumps(found)).counts == copy.copy(counts)
    a, b, c = ((tmp_path / f"{name}.fits").read_bytes() for name in "abc")
    assert a == b == c


@pytest.mark.parametrize("unit", ["uK_RJ", "uK_CMB"])
def test_one_resolution_of_arrays_is_that_of_files(paper_model, arrays, tmp_path, unit):
    """Their noise as well, and with a unit for all, by which smoothed maps are written."""
    paths = write_all(tmp_path, arrays, unit)
    rms = np.linspace(0.5, 1.5, 3072)
    write_maps(tmp_path / "rms.fits", {"RMS": (rms, unit)}, frame="G")
    options = {"model": paper_model, "noise_scale": 0.1, "unit": unit}
    from_files = classify(
        paths, noise={"11": tmp_path / "rms.fits"}, common_fwhm="1200 arcmin", **options
    )
    wide = 20 * u.deg
    from_arrays = classify(arrays, noise={"11": (rms, f"rms in {unit}")}, common_fwhm=wide,
                           **options, **SAID)  # fmt: skip
    assert from_files.nside == 4
    assert bits(from_arrays) == bits(from_files)


def test_fits_at_one_resolution_and_what_is_left_of_them(instrument, arrays, tmp_path):
    """Workers take the arrays too, for they lie in files; and no file of them stays."""
    few = {band: arrays[band] for band in instrument.band[BANDS]}
    few["11"] = np.repeat(few["11"], 4, axis=1)  # its Nside is 32
    (tmp_path / "in").mkdir()
    paths = write_all(tmp_path / "in", few, "uK_RJ")
    options = {
        "models": "curvature",
        "curvature": -0.052,
        "common_fwhm": "20 deg",
        "noise_scale": 0.1,
    }
    said = SAID | {"unit": "uK_RJ"}
    found = fit(few, instrument, **options, **said)
    fit(paths, instrument, **options, out=tmp_path / "files.fits")
    with ThreadPool(2) as pool:
        counts = fit(few, instrument, **options, **said, pool=pool, out=tmp_path / "arrays.fits")
    assert counts == found.counts
    found.to_fits(tmp_path / "found.fits")
    names = ("files", "arrays", "found")
    assert len({(tmp_path / f"{name}.fits").read_bytes() for name in names}) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"in", *(f"{name}.fits" for name in names)}


@pytest.mark.parametrize("given", [70, "70", 2 * u.K, [60, 70] * u.arcmin])
def test_a_common_beam_is_an_angle(paper_model, arrays, given):
    with pytest.raises(MapError, match="expected common_fwhm= as an angle with its unit, got"):
        classify(arrays, model=paper_model, common_fwhm=given, unit="uK_RJ", **SAID)


def test_a_common_beam_of_half_the_sky(paper_model, arrays):
    with pytest.raises(MapError, match=r"at most 1800 arcmin .30 deg., got 100000 arcmin; check"):
        classify(
            arrays, model=paper_model, common_fwhm="100000 arcmin", unit="uK_RJ", mask=[1.0], **SAID
        )


def test_a_mask_beside_a_common_beam(instrument, arrays):
    few = {band: arrays[band] for band in instrument.band[BANDS]}
    with pytest.raises(MapError, match="as the maps after common_fwhm=, got Nside 16, frame G"):
        fit(
            few, instrument, models="curvature", common_fwhm="20 deg", mask=np.ones(3072),
            unit="uK_RJ", **SAID,
        )  # fmt: skip


def test_what_opens_by_itself_has_no_beam(paper_model, instrument, arrays):
    source = OpenedMaps(None, {}, {}, 1.0, None)
    with pytest.raises(MapError, match="has no beam; leave common_fwhm= out"):
        classify(source, model=paper_model, common_fwhm="70 arcmin")


def test_what_arrays_cannot_say_is_said(paper_model, arrays):
    with pytest.raises(MapError, match=r"map of 11: expected a unit .* pass unit="):
        classify(arrays, model=paper_model, **SAID)
    with pytest.warns(MapWarning, match="taken as frame='G' and convention='COSMO'"):
        classify(arrays, model=paper_model, unit="uK_RJ")


MASKS = {
    "truth": lambda keep: keep,
    "numbers": lambda keep: np.where(keep, 0.5, -1.0),
    "masked": lambda keep: np.ma.masked_array(np.ones(3072, bool), ~keep),
    "UNSEEN": lambda keep: np.where(keep, 1.0, hp.UNSEEN),
}


@pytest.mark.parametrize("form", MASKS)
def test_a_mask_leaves_what_counts(paper_model, arrays, form):
    keep = np.arange(3072) % 3 > 0
    said = SAID | {"unit": "uK_RJ", "frame": "C"}
    hidden = {band: np.where(keep, qu, np.nan) for band, qu in arrays.items()}
    expected = classify(hidden, model=paper_model, **said)
    found = classify(arrays, model=paper_model, mask=MASKS[form](keep), **said)
    assert bits(found) == bits(expected)
    np.testing.assert_array_equal(found.observed, keep)
    order = hp.nest2ring(16, np.arange(3072))
    nested = {band: qu[:, order] for band, qu in arrays.items()}
    mask = MASKS[form](keep)[order]
    again = classify(nested, model=paper_model, mask=mask, nest=True, **said)
    np.testing.assert_array_equal(again.observed, keep)


def test_a_mask_in_a_file(instrument, arrays, tmp_path):
    keep = np.arange(3072) > 2800
    maps = {band: arrays[band] for band in instrument.band[BANDS]}
    write_maps(tmp_path / "mask.fits", {"MASK": (keep.astype(np.float32), "")}, frame="G")
    options = {"models": "curvature", "unit": "uK_RJ", **SAID}
    found = fit(maps, instrument, mask=tmp_path / "mask.fits", **options)
    np.testing.assert_array_equal(found.fitted, keep)
    assert bits(found) == bits(fit(maps, instrument, mask=keep, **options))
    paths = write_all(tmp_path, maps, "uK_RJ")
    assert bits(found) == bits(fit(paths, instrument, models="curvature", mask=keep))


def test_a_mask_hides_noise_that_is_none(instrument, arrays):
    keep = np.arange(3072) > 2800
    maps = {band: arrays[band] for band in instrument.band[BANDS]}
    options = {"models": "curvature", "unit": "uK_RJ", "mask": keep, **SAID}
    found = fit(maps, instrument, noise={"11": (np.where(keep, 2.0, 0), "rms in uK_RJ")}, **options)
    np.testing.assert_array_equal(found.fitted, keep)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (None, 1),
        ("rms in uK_RJ", 1),
        ("variance in uK_RJ^2", 2),
        ("hits of 1.2 uK_RJ", 1),
        ("inverse covariance in uK_RJ^-2", 3),
        (None, 3),
    ],
)
def test_arrays_go_to_workers(instrument, arrays, tmp_path, words, rows):
    """In files with the same bits, which are gone when the work is done."""
    values = np.random.default_rng(0).uniform(1, 2, (rows, 3072))
    if rows == 3:
        values[1] *= 0.1
    values = values[0] if rows == 1 else values
    unit = pysm_units.uK_RJ**2 if rows == 3 else pysm_units.uK_RJ
    noise = {"13": (values, words) if words else u.Quantity(values, unit)}
    maps = {band: arrays[band].astype(float) for band in instrument.band[BANDS]}
    options = {"models": "curvature", "unit": "uK_RJ", "noise": noise}
    options |= {"mask": np.arange(3072) > 2900, "frame": "E", "convention": "IAU"}
    here = fit(maps, instrument, **options)
    with ThreadPool(1) as pool:
        there = fit(maps, instrument, pool=pool, **options)
        counts = fit(maps, instrument, pool=pool, out=tmp_path / "fit.fits", **options)
    with pytest.raises(AttributeError, match=r"FitCounts has no p_value; .* leave out= out"):
        _ = counts.p_value
    assert bits(there) == bits(here)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.fits"]


def test_workers_load_a_model_from_its_directory(paper_model, arrays, tmp_path):
    """Which is what a user does who is told that a model at hand cannot be sent."""
    options = SAID | {"unit": "uK_RJ", "mask": np.arange(3072) > 2900}
    with ThreadPool(1) as pool:
        with pytest.raises(RunError, match="expected the directory or name of a model"):
            classify(arrays, model=paper_model, pool=pool, **options)
        paper_model.save(tmp_path / "model")
        there = classify(arrays, model=tmp_path / "model", pool=pool, **options)
    assert bits(there) == bits(classify(arrays, model=paper_model, **options))


def test_maps_of_ours_say_what_they_are(paper_model, instrument):
    """Also of some bands, and in double precision; noise lies as its map does."""
    sky = simulate_sky(instrument, nside=16)
    assert classify(sky.maps, model=paper_model).frame == "G"
    maps = {band: sky.maps[band].astype(float) for band in instrument.band[BANDS]}
    rms = {"11": u.Quantity(np.full(3072, 0.5), pysm_units.uK_RJ)}
    options = {"models": "curvature", "noise": rms, "mask": np.arange(3072) < 768}
    stated = fit(maps, instrument, **options)
    said = fit(maps, instrument, **options, **SAID)
    assert bits(stated) == bits(said)


def test_what_is_said_goes_before_what_a_quantity_states(paper_model, instrument):
    sky = simulate_sky(instrument, nside=16)
    assert classify(sky.maps, model=paper_model, frame="C").frame == "C"
    sky.maps["11"].info.meta["frame"] = "galactic"
    assert classify(sky.maps, model=paper_model).frame == "G"
    sky.maps["11"].info.meta["frame"] = "fk4"
    with pytest.raises(MapError, match=r"map of 11: frame of its info.meta: expected a frame G"):
        classify(sky.maps, model=paper_model)


MISTAKES = {
    "shape": (lambda a: a | {"11": a["11"].T}, {}, ShapeError, r"map of 11: .*\(2, n_pix\)"),
    "pixels": (lambda a: a | {"11": a["11"][:, :99]}, {}, ShapeError, "Nside.2 pixels, got 99"),
    "Nside": (
        lambda a: a | {"11": a["11"][:, :768]}, {}, MapError, "one Nside and one frame for all",
    ),
    "truth": (lambda a: a | {"11": a["11"] > 0}, {}, MapError, "expected numbers, got bool"),
    "bands": (lambda a: np.stack(list(a.values()))[:5], {}, InstrumentError, "an array of 5"),
    "infinite": (
        lambda a: a | {"11": np.where(a["11"] > 0, np.inf, a["11"])}, {}, MapError, "finite values",
    ),
    "kelvin": (
        lambda a: {b: u.Quantity(qu, "K") for b, qu in a.items()}, {"unit": None}, MapError,
        "one of K_CMB",
    ),
    "contradiction": (
        lambda a: {b: u.Quantity(qu, pysm_units.uK_CMB) for b, qu in a.items()}, {}, MapError,
        "expected the unit uK_RJ, as given",
    ),
    "noise": (lambda a: a, {"noise": {"11": np.ones(3072)}}, MapError, "noise as a Quantity"),
    "noise in K": (
        lambda a: a, {"noise": {"11": "3 uK arcmin"}}, MapError,
        r"noise of 11: expected one of .*\(_RJ\); name one of them",
    ),
    "noise, a number": (
        lambda a: a, {"noise": {"11": 0.5}}, MapError, "expected noise as .* got '0.5' of 11",
    ),
    "noise, other words": (
        lambda a: a, {"noise": {"11": (np.ones(3072), "hits")}}, MapError, "the rms of one hit",
    ),
    "few": (
        lambda a: a, {"noise": {"11": np.ones(2) * pysm_units.uK_RJ}}, ShapeError, "pixels, got 2",
    ),
    "three rows of noise": (
        lambda a: a, {"noise": {"11": np.ones((3, 3072)) * pysm_units.uK_RJ}}, ShapeError,
        r"noise of 11: expected noise of .* or \(3, n_pix\) of QQ, QU and UU .* in uK_RJ; give the",
    ),
    "four rows of noise": (
        lambda a: a, {"noise": {"11": np.ones((4, 3072)) * pysm_units.uK_RJ**2}}, ShapeError,
        r"got \(4, 3072\) in uK_RJ2; give the rows of Q and of U, or their covariance",
    ),
    "three rows said to be rms": (
        lambda a: a, {"noise": {"11": (np.ones((3, 3072)), "rms in uK_RJ")}}, ShapeError,
        r"got \(3, 3072\), said to be 'rms in uK_RJ'; give the rows of Q and of U, or their",
    ),
    "three rows in the unit of an rms": (
        lambda a: a, {"noise": {"11": (np.ones((3, 3072)), "in uK_RJ")}}, ShapeError,
        r"got \(3, 3072\), said to be 'in uK_RJ'; give the rows",
    ),
    "words of nothing": (
        lambda a: a, {"noise": {"11": (np.ones(3072) * pysm_units.uK_RJ, "varience")}}, MapError,
        "noise of 11: expected words .* got 'varience'; write them as in .array, 'rms in uK_CMB'",
    ),
    "words without a unit": (
        lambda a: {b: u.Quantity(qu, pysm_units.uK_RJ) for b, qu in a.items()},
        {"unit": None, "noise": {"11": (np.ones(3072), "variance")}}, MapError,
        "noise of 11: expected words .* and in which unit, got 'variance'; write",
    ),
    "words of a number": (
        lambda a: a, {"noise": {"11": (np.float64(3), "rms in uK_RJ")}}, ShapeError, "got 1; fill",
    ),
    "noise for all": (
        lambda a: a, {"noise": 36 * u.uK * u.arcmin}, InstrumentError,
        "expected a noise for each band, .* got <Quantity 36.* uK>; give .band: noise, ",
    ),
    "a number": (lambda _: 3.0, {}, InstrumentError, "expected a map for each band, .* got 3.0;"),
    "a path": (lambda a: "maps.fits", {}, InstrumentError, "a mapping of band to file or array"),
    "frame": (lambda a: a, {"frame": "X"}, MapError, "^frame: expected a frame G"),
    "convention": (
        lambda a: a, {"convention": "healpix"}, MapError,
        "^convention: expected .* COSMO .that of HEALPix and Planck. or IAU, got 'healpix'; name",
    ),
    "mask of other pixels": (
        lambda a: a, {"mask": np.ones(768)}, MapError,
        "^mask: expected a mask of Nside 16 in frame G, as the maps, got Nside 8, frame G; bring",
    ),
    "mask of nothing": (
        lambda a: a, {"mask": np.zeros(3072, bool)}, MapError, "^mask: expected .* above zero some",
    ),
    "pool": (lambda a: a, {"pool": 3}, RunError, "a pool with a method map"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes(paper_model, arrays, what):
    change, options, error, message = MISTAKES[what]
    options = SAID | {"unit": "uK_RJ"} | options
    with pytest.raises(error, match=message):
        classify(change(arrays), model=paper_model, **options)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # healpy's, of matplotlib
def test_results_are_shown(paper_model, instrument, arrays, few):
    found = classify(arrays, model=paper_model, unit="uK_RJ", **SAID)
    table = found.to_xarray()
    assert table.sizes == {"pixel": 3072}
    np.testing.assert_array_equal(table["CLASS"], found.best)
    page = found._repr_html_()
    assert all(f"<td>{name}</td>" in page for name in found.models)
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    for column in (None, found.models[0]):
        assert found.plot(column).get_title() in ("CLASS", f"P_{found.models[0].upper()}")
        plt.close("all")
    found.plot(found.models[0], vmin=0.2, vmax=0.4)
    assert (0.2, 0.4) in {one.get_clim() for ax in plt.gcf().axes for one in ax.collections}
    plt.close("all")
    with pytest.raises(ForeglowError, match="expected a column among P_POWER_LAW"):
        found.plot("beta")
    fitted = fit(few, instrument, models="curvature", unit="uK_RJ", **SAID)
    assert {"BETA_S", "P_VALUE"} <= set(fitted.to_xarray())
    assert "none of these" in fitted._repr_html_()
