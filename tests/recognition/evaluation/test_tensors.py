"""The tensor-to-scalar ratio of spectra: known ones, and drawn ones."""

import numpy as np
import pytest

from foreglow.errors import ShapeError
from foreglow.recognition.evaluation.tensors import tensor_ratio
from foreglow.sky.cmb import cmb_spectra, tensor_bb

L_MAX = 95
NOISE = np.full(L_MAX + 1, 1e-6)


def test_left_that_looks_like_tensors_is_taken_for_them():
    r = np.array([0.0, 1e-4, 0.01, 0.5, 20.0])
    found = tensor_ratio(r[:, None] * tensor_bb(L_MAX), NOISE)
    np.testing.assert_allclose(found.bias, r, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("r", [0.0, 0.01])
@pytest.mark.parametrize("sky_fraction", [1.0, 0.6])
def test_r_of_drawn_spectra_is_recovered_within_its_error(r, sky_fraction):
    """A hundred skies: C_ell of Gaussian fields, of as many modes as the sky has."""
    rng, ell = np.random.default_rng(3), np.arange(L_MAX + 1)
    known = cmb_spectra(L_MAX)[2] + NOISE
    modes = sky_fraction * (2 * ell + 1)
    mean = known + r * tensor_bb(L_MAX)
    drawn = mean * rng.gamma(0.5 * modes, 2 / modes, (100, L_MAX + 1))
    found = tensor_ratio(drawn - known, NOISE, sky_fraction)
    spread = found.bias.std(ddof=1)
    assert found.bias.mean() == pytest.approx(r, abs=3 * spread / 10)
    if r == 0:
        assert spread == pytest.approx(found.error, rel=0.25)


def test_more_noise_and_less_sky_cost():
    nothing = np.zeros((1, L_MAX + 1))
    plain, loud, small = (
        tensor_ratio(nothing, *a).error for a in ((NOISE,), (10 * NOISE,), (NOISE, 0.25))
    )
    assert loud > 2 * plain
    assert small == pytest.approx(2 * plain)


def test_shapes_that_do_not_agree():
    for left, noise in ((np.zeros((2, 5)), np.zeros(6)), (np.zeros((2, 2)), np.zeros(2))):
        with pytest.raises(ShapeError, match="expected spectra of shape"):
            tensor_ratio(left, noise)
