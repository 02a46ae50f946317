"""Template cleaning where what must be left is known."""

import healpy as hp
import numpy as np
import pytest

from foreglow.dust.cleaning import (
    PLANCK_NOISE_UK_ARCMIN,
    clean,
    dust_factor,
    unseen_weight,
)
from foreglow.errors import MapError, ShapeError
from foreglow.maps.gnomonic import Grid
from foreglow.maps.harmonic import butterworth
from foreglow.maps.hemispheres import NORTH, reached
from foreglow.sky.cmb import cmb_spectra, cmb_temperature

NSIDE = 64
N_PIX = hp.nside2npix(NSIDE)
L_MAX = 2 * NSIDE
EDGES = (20, 40, 70, 110)
WINDOW = butterworth(L_MAX)


def field(seed, amplitude):
    """Dust-like: steep, as bright as the mock's dust at high latitude for an amplitude of 1."""
    rng = np.random.default_rng(seed)
    alm = rng.normal(size=hp.Alm.getsize(L_MAX)) + 0j
    power = amplitude**2 * 0.6 * (np.maximum(np.arange(L_MAX + 1), 2) / 50) ** -2.6
    return hp.alm2map(hp.almxfl(alm, np.sqrt(power)), NSIDE)


DUST = field(0, 1.0) + 100
OTHER = field(1, 0.5)
WEIGHT = np.clip((np.abs(hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]) - 20) / 10, 0, 1)


@pytest.fixture(scope="module")
def result():
    templates = {
        "true": DUST,
        "scaled": 7 * DUST - 3,
        "half": DUST + OTHER,
        "unrelated": OTHER,
        "infinite elsewhere": np.where(WEIGHT > 0, DUST, np.nan),
    }
    return clean(DUST, templates, WEIGHT, WINDOW, 217.0, ell_edges=EDGES, realisations=12)


def test_the_true_dust_leaves_only_what_the_fit_gets_wrong(result):
    assert result.share("true").mean() < 0.01
    assert result.amplitude["true"].mean() == pytest.approx(dust_factor(217.0), rel=0.03)


def test_unit_and_offset_of_a_template_do_not_matter(result):
    np.testing.assert_allclose(result.residual["scaled"], result.residual["true"], atol=1e-6)
    np.testing.assert_allclose(7 * result.amplitude["scaled"], result.amplitude["true"], rtol=1e-6)
    for key, values in result.residual.items():
        if key == "infinite elsewhere":
            np.testing.assert_allclose(values, result.residual["true"], rtol=1e-6)


def test_a_template_leaves_one_less_r_squared(result):
    """Half of the amplitude again of something else: r^2 = 1 / 1.25 at any scale."""
    assert result.share("half").mean() == pytest.approx(0.2, abs=0.06)
    assert result.share("half", by_band=True).mean() == pytest.approx(0.2, abs=0.06)


def test_an_unrelated_template_cleans_nothing(result):
    assert 0.9 < result.share("unrelated").mean() < 1.1


def test_power_before_is_that_of_the_dust(result):
    """The pseudo-spectrum over the fraction of sky is near the spectrum that was put in."""
    ell = np.arange(L_MAX + 1)
    put = 0.6 * (np.maximum(ell, 2) / 50) ** -2.6 * dust_factor(217.0) ** 2
    modes = 2 * ell + 1
    for k in range(3):
        part = slice(EDGES[k], EDGES[k + 1])
        expected = (put * modes)[part].sum() / modes[part].sum()
        # the draw has no imaginary parts: two thirds of the variance is a fair guess of the rest
        assert 0.3 < result.dust[k] / expected < 1.3
    np.testing.assert_allclose(result.ell, [29.5, 54.5, 89.5])


def test_rows(result):
    rows = result.rows()
    assert len(rows) == 5 * 3
    row = next(r for r in rows if r["model"] == "half" and r["ell_low"] == 40)
    assert row["ell_high"] == 70
    assert row["realisations"] == 12
    assert row["frequency_ghz"] == 217
    assert row["share"] == pytest.approx(result.share("half")[:, 1].mean())
    assert row["share_std"] == pytest.approx(result.share("half")[:, 1].std(ddof=1))
    assert row["residual"] == pytest.approx(row["share"] * row["dust"])


def test_same_seed_same_result():
    runs = [
        clean(DUST, {"t": OTHER}, WEIGHT, WINDOW, ell_edges=EDGES, realisations=1, seed=s)
        for s in (3, 3, 4)
    ]
    assert runs[0].amplitude["t"][0] == runs[1].amplitude["t"][0] != runs[2].amplitude["t"][0]
    assert runs[0].rows()[0]["share_std"] is None
    assert runs[0].noise_uk_arcmin == PLANCK_NOISE_UK_ARCMIN[143.0]


def test_dust_is_fainter_at_lower_frequencies():
    assert dust_factor(143.0) < dust_factor(217.0) < dust_factor(353.0)
    # 353 GHz: no modified blackbody, only the unit: 1 / 0.0776 uK_CMB per uK_RJ
    assert dust_factor(353.0) == pytest.approx(12.9, rel=0.01)


def test_cmb_maps_have_the_spectrum_asked_for():
    window = butterworth(100, 60)
    values = cmb_temperature(NSIDE, np.random.default_rng(0), window, noise_uk_arcmin=300.0)
    found = hp.anafast(values, lmax=100)
    expected = (cmb_spectra(100)[0] + np.radians(5.0) ** 2) * window**2
    ratio = (found / np.maximum(expected, 1e-12))[2:]
    assert ratio.mean() == pytest.approx(1, abs=0.05)


def test_the_weight_keeps_off_what_was_seen_in_training():
    mask = np.abs(hp.pix2ang(NSIDE, np.arange(N_PIX), lonlat=True)[1]) > 10
    weight = unseen_weight(mask, NORTH, Grid(), edge_deg=8.0)
    seen = reached(NORTH, Grid(), NSIDE, "nearest")
    assert seen.mean() > 0.45
    assert not weight[seen].any()
    assert not weight[~mask].any()
    assert weight.max() == pytest.approx(1, abs=1e-3)
    assert 0.25 < np.mean(weight) < 0.42
    neighbours = hp.get_all_neighbours(NSIDE, np.arange(N_PIX))
    steps = np.where(neighbours >= 0, weight[neighbours] - weight, 0)
    assert np.abs(steps).max() < 0.5  # no hard edge


class TestBadInput:
    def run(self, dust=DUST, template=OTHER, weight=WEIGHT, frequency=143.0, edges=EDGES):
        return clean(dust, {"t": template}, weight, WINDOW, frequency, ell_edges=edges)

    def test_a_template_of_another_nside(self):
        with pytest.raises(ShapeError, match=r"expected maps of one Nside, .* got \(48,\) of t"):
            self.run(template=np.ones(48))

    def test_a_template_with_holes(self):
        holes = np.where(WEIGHT > 0.9, np.nan, OTHER)
        with pytest.raises(MapError, match=r"finite values of t where the weight is above zero"):
            self.run(template=holes)

    def test_a_band_without_noise(self):
        with pytest.raises(MapError, match=r"a noise in uK_CMB arcmin for 100 GHz, got none"):
            self.run(frequency=100.0)

    @pytest.mark.parametrize("edges", [(20,), (20, 20), (0, 30), (20, 1000)])
    def test_edges(self, edges):
        with pytest.raises(MapError, match=r"expected rising edges of ell from 2 to 129"):
            self.run(edges=edges)

    def test_a_mask_of_what_was_seen(self):
        seen = reached(NORTH, Grid(), NSIDE, "nearest")
        with pytest.raises(MapError, match=r"sky that cutouts of the north do not reach, got none"):
            unseen_weight(seen, NORTH, Grid())


def test_workers_clean_the_same(result, map_fn, tmp_path):
    found = clean(
        DUST, {"half": DUST + OTHER}, WEIGHT, WINDOW, 217.0, ell_edges=EDGES, realisations=12,
        map_fn=map_fn, shared=tmp_path,
    )  # fmt: skip
    np.testing.assert_allclose(found.amplitude["half"], result.amplitude["half"], rtol=1e-9)
    np.testing.assert_allclose(found.residual["half"], result.residual["half"], rtol=1e-9)
    assert not list(tmp_path.iterdir())
