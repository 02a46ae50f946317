"""Correlations by scale: identities, modes counted once, both definitions, gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreglow.dust.spectra import (
    Bands,
    fundamental_bands,
    fundamental_ell,
    independent_modes,
    mode_correlation,
    mode_ell,
    paper_bands,
    spectrum_correlation,
)
from foreglow.errors import ShapeError
from foreglow.maps.gnomonic import Grid

BOTH = pytest.mark.parametrize("correlation", [mode_correlation, spectrum_correlation])
GRID = Grid()
BANDS = paper_bands(GRID)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def steep(batch, seed=0, dtype=torch.float64):
    """Maps whose spectrum falls as that of dust, to ell^-2.5."""
    modes = torch.fft.rfft2(noise(batch, 64, 64, seed=seed, dtype=torch.float64))
    return torch.fft.irfft2(modes * (1 + mode_ell(GRID)) ** -1.25, s=(64, 64)).to(dtype)


def plain_mode_correlation(a, b, low, high):
    """The definition read aloud: a loop over half of the plane of modes, in numpy."""
    fa, fb = np.fft.fft2(a), np.fft.fft2(b)
    n, found = len(a), []
    for j in range(n):
        for i in range(n):
            if (j, i) > ((n - j) % n, (n - i) % n):  # the conjugate of a mode that was counted
                continue
            kj, ki = (j + n // 2) % n - n // 2, (i + n // 2) % n - n // 2
            ell = math.hypot(kj, ki) * 360 / (n * GRID.pixel_arcmin / 60)
            if low <= ell * (1 + 1e-9) < high:
                found.append((fa[j, i] * fb[j, i].conj()).real / abs(fa[j, i]) / abs(fb[j, i]))
    return np.mean(found), len(found)


def test_agrees_with_the_definition():
    a, b = steep(1, 0)[0], steep(1, 0)[0] + 0.7 * steep(1, 1)[0]
    found = mode_correlation(a[None], b[None], BANDS)[0]
    for band, edges in enumerate([(360 / 24.96, 100), (100, 200)]):
        expected, count = plain_mode_correlation(a.numpy(), b.numpy(), *edges)
        assert float(found[band]) == pytest.approx(expected, abs=1e-12)
        assert float(BANDS.n_mode[band]) == count


@pytest.mark.parametrize("n", [2, 5, 8, 63, 64])
def test_independent_modes_are_half_of_the_plane(n):
    """As many as a real map has, the self-conjugate ones included."""
    own_conjugates = 4 if n % 2 == 0 else 1
    assert int(independent_modes(n).sum()) == (n * n - own_conjugates) // 2 + own_conjugates


def test_bands_of_the_paper():
    assert fundamental_ell(GRID) == pytest.approx(14.42, abs=0.01)
    assert BANDS.edges == pytest.approx((14.423, 100, 200), abs=1e-3)
    # every mode from 1 to 6.93 ell_F, the fundamental itself included
    assert BANDS.n_mode.tolist() == [72, 224]
    assert float(BANDS.member.sum(1).max()) == 1
    assert fundamental_bands(GRID).member.shape[1] == 31
    assert fundamental_bands(GRID).n_mode.min() > 3


@BOTH
def test_a_map_with_itself_and_its_negative(correlation):
    a = steep(3)
    torch.testing.assert_close(correlation(a, a, BANDS), torch.ones(3, 2).double())
    torch.testing.assert_close(correlation(a, -a, BANDS), -torch.ones(3, 2).double())


@BOTH
@settings(max_examples=30)
@given(st.floats(1e-30, 1e30), st.floats(-1e3, 1e3), st.integers(0, 100))
def test_amplitude_and_mean_do_not_matter(correlation, factor, mean, seed):
    """Column densities of 1e20 have no square in float32."""
    a, b = steep(2, seed, torch.float32), steep(2, seed + 1, torch.float32)
    expected = correlation(a, b, BANDS)
    torch.testing.assert_close(correlation(a * factor, b, BANDS), expected, atol=1e-4, rtol=0)
    # a mean costs digits
    torch.testing.assert_close(
        correlation(a.double() + mean, b.double(), BANDS), expected.double(), atol=1e-4, rtol=0
    )


@BOTH
@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_symmetric_and_bounded(correlation, seed):
    a, b = steep(2, seed), steep(2, seed) + steep(2, seed + 1)
    r = correlation(a, b, BANDS)
    assert bool((r.abs() <= 1 + 1e-12).all())
    torch.testing.assert_close(r, correlation(b, a, BANDS))


@BOTH
@settings(max_examples=20)
@given(st.integers(0, 63), st.integers(0, 63))
def test_shifting_both_maps_changes_nothing(correlation, dy, dx):
    a, b = steep(2, 0), steep(2, 0) + steep(2, 1)
    shifted = [m.roll((dy, dx), (1, 2)) for m in (a, b)]
    torch.testing.assert_close(correlation(*shifted, BANDS), correlation(a, b, BANDS))


def test_a_shift_of_one_map_is_a_linear_phase():
    """r of a map with its shifted self is the mean cosine of k.d over the modes."""
    a = steep(1)
    found = mode_correlation(a, a.roll(3, 2), BANDS)[0]
    k = torch.fft.rfftfreq(64, 1 / 64, dtype=torch.float64).expand(64, 33).reshape(-1)
    cosine = torch.cos(2 * math.pi * k * 3 / 64)
    expected = (cosine @ BANDS.member.double()) / BANDS.n_mode
    torch.testing.assert_close(found, expected)


def test_definitions_agree_for_proportional_spectra_only():
    """Both see the phases; only the ratio of spectra sees which modes are strong."""
    a = steep(4)
    tilted = torch.fft.irfft2(torch.fft.rfft2(a) * (1 + mode_ell(GRID)), s=(64, 64))
    modes, spectra = (f(a, tilted, BANDS) for f in (mode_correlation, spectrum_correlation))
    torch.testing.assert_close(modes, torch.ones_like(modes))
    assert bool((spectra < 0.99).all())
    for factor in (-3.0, 0.2):
        torch.testing.assert_close(
            mode_correlation(a, factor * a, BANDS), spectrum_correlation(a, factor * a, BANDS)
        )


@BOTH
def test_independent_maps_do_not_correlate(correlation):
    r = correlation(noise(500, 64, 64), noise(500, 64, 64, seed=1), BANDS)
    assert float(r.mean(0).abs().max()) < 0.02


@BOTH
def test_empty_maps_and_modes_count_as_zero(correlation):
    a = noise(2, 64, 64)
    flat = torch.full_like(a, 3.3)
    assert correlation(a, flat, BANDS).tolist() == [[0, 0], [0, 0]]
    assert correlation(a, torch.zeros_like(a), BANDS).tolist() == [[0, 0], [0, 0]]
    # one mode alone: of the first band it is one in 72
    wave = torch.cos(2 * math.pi * 2 * torch.arange(64) / 64).expand(1, 64, 64)
    r = correlation(wave, wave, BANDS)
    expected = 1 / 72 if correlation is mode_correlation else 1.0
    assert r[0].tolist() == pytest.approx([expected, 0], abs=1e-6)


@BOTH
@pytest.mark.parametrize("empty", [False, True])
def test_gradients_are_finite_and_right(correlation, empty):
    bands = paper_bands(Grid(16, 60.0))
    b = noise(1, 16, 16, dtype=torch.float64)
    a = torch.zeros_like(b) if empty else b + noise(1, 16, 16, seed=1, dtype=torch.float64)
    a.requires_grad_()
    correlation(a, b, bands).sum().backward()
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())
    if not empty:
        assert torch.autograd.gradcheck(lambda x: correlation(x, b, bands), a)


@BOTH
def test_correlation_can_be_climbed(correlation):
    target = steep(1, 0, torch.float32)
    guess = noise(1, 64, 64).requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.1)
    before = correlation(guess, target, BANDS).mean().item()
    for _ in range(60):
        optimiser.zero_grad()
        (-correlation(guess, target, BANDS).mean()).backward()
        optimiser.step()
    assert correlation(guess, target, BANDS).mean().item() > before + 0.5


def test_bad_bands_and_maps_are_refused():
    with pytest.raises(ShapeError, match="expected two or more rising edges of ell"):
        Bands.of(GRID, (100, 50))
    with pytest.raises(ShapeError, match=r"expected a mode in every band, got none in some of"):
        Bands.of(GRID, (1, 2))
    with pytest.raises(ShapeError, match=r"two batches of maps \(batch, 64, 64\), got \(64, 64\)"):
        mode_correlation(noise(64, 64), noise(64, 64), BANDS)
