"""Fits by patch: against FGBuster, against pixels by themselves, and against plain minimisation."""

from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from foreglow.errors import ModelError, ShapeError
from foreglow.recognition.fits import patches as module
from foreglow.recognition.fits.choice import choose
from foreglow.recognition.fits.integrand import AME_BRIGHTER, integrands_of, sum_of
from foreglow.recognition.fits.laplace import log_evidence
from foreglow.recognition.fits.optimise import fit, whiten
from foreglow.recognition.fits.patches import fit_patches
from foreglow.recognition.fits.skymodel import (
    bent_spectra,
    candidate,
    fixed_spectra,
    without_priors,
)
from foreglow.sky.bandpass import Bands

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fgbuster.npz")
NU = torch.from_numpy(GOLDEN["frequency_ghz"])
BANDS = Bands.of(NU)
DATA = torch.from_numpy(GOLDEN["data_uK_RJ"])
N = len(DATA)
SIGMA = torch.from_numpy(GOLDEN["sigma_uK_RJ"]).expand(N, -1)
COVARIANCE = torch.stack([SIGMA**2, 0.3 * SIGMA**2, 1.4 * SIGMA**2], 1)
PARENT = torch.from_numpy(hp.ring2nest(4, np.arange(N)) // 16)
"""The pixels of Nside 1, as FGBuster's patches."""
MODELS = ("power_law", "curved", "power_law_ame", "curved_ame")


def chi2_of(model, data, sigma, parameters):
    """Chi-square of pixels that share parameters, in plain least squares."""
    fixed = fixed_spectra(model, NU)
    bent, _ = bent_spectra(model, NU, torch.tensor([parameters], dtype=torch.float64))
    mixing = torch.cat([fixed, bent[0]], 1) / sigma[:, None]
    whitened = (data / sigma).permute(2, 0, 1).flatten(1)
    return float((whitened - mixing @ torch.linalg.lstsq(mixing, whitened).solution).square().sum())


@pytest.mark.parametrize("name", ["power_law", "curved"])
def test_fgbuster_finds_the_same_or_less(name):
    found = fit_patches(candidate(name), NU, DATA, SIGMA, PARENT)
    # FGBuster numbers its patches as RING, which at Nside 1 is NESTED
    theirs = np.bincount(PARENT, GOLDEN[f"chi2_{name}_patches"])
    assert found.converged.all()
    assert (found.chi2.numpy() <= theirs + 1e-5).all()
    for k, parameter in enumerate(found.values):
        away = found.values[parameter].numpy() - GOLDEN[f"parameters_{name}_patches"][:, k]
        assert np.abs(away / found.errors[parameter].numpy()).max() < 0.01


@pytest.mark.parametrize("noise", [SIGMA, COVARIANCE], ids=["rms", "covariance"])
@pytest.mark.parametrize("name", ["power_law", "curved_ame"])
def test_a_pixel_a_patch_is_the_fit_of_the_pixel(name, noise):
    model = candidate(name)
    found = fit_patches(model, NU, DATA, noise, torch.arange(N).flip(0))
    alone = fit(model, NU, DATA, noise)
    assert found.region.tolist() == list(range(N))[::-1]
    torch.testing.assert_close(found.chi2.flip(0), alone.chi2, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.pixels.chi2, alone.chi2, rtol=0, atol=1e-6)
    assert torch.equal(found.dof.flip(0), alone.dof)
    error = alone.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found.pixels.parameters - alone.parameters) / error).abs().max() < 0.01
    torch.testing.assert_close(
        found.pixels.amplitude_covariance, alone.amplitude_covariance, rtol=0.01, atol=1e-3
    )


@pytest.mark.parametrize("noise", [SIGMA, COVARIANCE], ids=["rms", "covariance"])
@pytest.mark.parametrize("name", ["curved", "power_law_ame"])
def test_evidence_of_a_pixel_a_patch_is_that_of_the_pixel(name, noise):
    model = candidate(name, priors=True)
    found = fit_patches(model, NU, DATA, noise, torch.arange(N), evidence=model)
    expected = log_evidence(model, NU, DATA, noise)
    if not model.ame:
        torch.testing.assert_close(found.log_evidence, expected, rtol=0, atol=1e-3)
        return
    # AME of three brightnesses: there about the mode of their sum, here about that of each
    off = (found.log_evidence - expected).abs()
    assert off.quantile(0.9) < 0.1
    assert off.max() < 1


@pytest.mark.parametrize("noise", [SIGMA, COVARIANCE], ids=["rms", "covariance"])
def test_derivatives_of_a_sum_of_integrands(noise):
    """Beside differences of its cost, where no one brightness of the AME rules."""
    model = without_priors(candidate("curved_ame"))
    terms = integrands_of(model, BANDS, whiten(DATA[:64], noise[:64]))
    assert len(terms) == len(AME_BRIGHTER)

    def point(parameters):
        each = [term.linearise(model, BANDS, parameters) for term in terms]
        return sum_of(terms, each)

    here = torch.tensor([[-2.9], [-0.03]], dtype=torch.float64).expand(2, 64)
    middle = point(here)
    for k in range(2):
        step = torch.zeros_like(here)
        step[k] = 1e-5
        high, low = point(here + step), point(here - step)
        torch.testing.assert_close(
            middle.fall[k], -(high.cost - low.cost) / 4e-5, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            middle.hessian[k], (low.fall - high.fall) / 2e-5, rtol=1e-4, atol=1e-3
        )


def test_evidence_of_a_patch_is_the_integral():
    """Beta of a power law on a fine grid, the pixels' evidence given beta multiplied."""
    few = torch.arange(0, 48)
    data, sigma = DATA[few], SIGMA[few]
    model = candidate("power_law", priors=True)
    patches = torch.div(few, 16, rounding_mode="floor")
    found = fit_patches(model, NU, data, sigma, patches, evidence=model)
    fixed = fixed_spectra(model, NU)
    mean, rms = model.beta_s.prior
    for k in range(3):
        mine = patches == k
        near = float(found.values["beta_s"][k]), float(found.errors["beta_s"][k])
        beta = np.linspace(near[0] - 8 * near[1], near[0] + 8 * near[1], 801)
        log_value = []
        for b in beta:
            bent, _ = bent_spectra(model, NU, torch.tensor([[b]], dtype=torch.float64))
            mixing = torch.cat([fixed, bent[0]], 1) / sigma[0][:, None]
            volume = -float(torch.logdet(mixing.T @ mixing)) * int(mine.sum())
            chi2 = chi2_of(model, data[mine], sigma[0], [b])
            log_value.append(volume - 0.5 * chi2 - 0.5 * ((b - mean) / rms) ** 2)
        log_value = np.array(log_value)
        top = log_value.max()
        integral = top + np.log(np.trapezoid(np.exp(log_value - top), beta) / rms)
        integral -= 0.5 * np.log(2 * np.pi)  # Laplace's, without the powers of 2 pi
        assert float(found.log_evidence[k]) == pytest.approx(integral, abs=0.02)


@pytest.mark.parametrize("name", ["power_law", "curved"])
def test_no_plain_minimisation_finds_less(name):
    model = candidate(name)
    found = fit_patches(model, NU, DATA, SIGMA, PARENT)
    for patch in range(3):
        mine = patch == PARENT
        start = [float(found.values[p][patch]) for p in found.values]

        def cost(parameters, mine=mine):
            return chi2_of(model, DATA[mine], SIGMA[0], list(parameters))

        assert float(found.chi2[patch]) == pytest.approx(cost(start), abs=1e-6)
        assert minimize(cost, start, method="Nelder-Mead").fun > cost(start) - 1e-6


def test_patches_of_parameters_that_differ():
    """Beta in quarters of the patches of C: between one patch for both and quarters for both."""
    model, quarter = candidate("curved"), torch.from_numpy(hp.ring2nest(4, np.arange(N)) // 4)
    coarse = fit_patches(model, NU, DATA, SIGMA, PARENT)
    mixed = fit_patches(model, NU, DATA, SIGMA, {"beta_s": quarter, "curvature": PARENT})
    fine = fit_patches(model, NU, DATA, SIGMA, quarter)
    assert {name: len(values) for name, values in mixed.values.items()} == {
        "beta_s": 48, "curvature": 12,
    }  # fmt: skip
    assert (coarse.dof - mixed.dof).tolist() == [3] * 12
    assert (mixed.chi2 < coarse.chi2).all()
    assert (mixed.chi2 > torch.bincount(torch.arange(48) // 4, fine.chi2)).all()
    assert mixed.converged.all()
    assert torch.equal(mixed.pixels.parameters[:, 1], mixed.values["curvature"][PARENT])
    # the error of C, against how chi-square rises when all betas follow
    moved = torch.full((N,), float(mixed.values["curvature"][0] + mixed.errors["curvature"][0]))
    mine = PARENT == 0
    rise = -float(mixed.chi2[0])
    for k in torch.unique(quarter[mine]):
        here = quarter == k

        def cost(beta, here=here):
            return chi2_of(model, DATA[here], SIGMA[0], [*beta, float(moved[0])])

        rise += minimize(cost, [float(mixed.values["beta_s"][k])], method="Nelder-Mead").fun
    assert rise == pytest.approx(1, abs=0.05)


def test_patches_that_overlap_are_one_region():
    shifted = (torch.arange(N) + 8) // 16
    patches = {"beta_s": torch.arange(N) // 16, "curvature": shifted}
    found = fit_patches(candidate("curved"), NU, DATA, SIGMA, patches)
    assert found.region.unique().tolist() == [0]
    assert found.dof.tolist() == [2 * N * (17 - 3) - 12 - 13]
    assert found.converged.all()


def test_what_batches_there_are_changes_nothing(monkeypatch):
    whole = fit_patches(candidate("curved"), NU, DATA, SIGMA, PARENT)
    monkeypatch.setattr(module, "BATCH", 20)
    again = fit_patches(candidate("curved"), NU, DATA, SIGMA, PARENT)
    torch.testing.assert_close(again.chi2, whole.chi2, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        again.values["beta_s"], whole.values["beta_s"], rtol=0, atol=1e-3 * 5e-3
    )


@pytest.mark.parametrize("name", ["power_law", "curved_ame"])
def test_many_pixels_alike_are_as_good_as_few(name, monkeypatch):
    """Sums of pixels of one noise are found from a few rows; others stay as they are."""
    data, sigma = DATA.clone(), SIGMA.clone()
    sigma[::50] *= 1.3  # in the first patch and the last, not alike
    data[150, :, 3] = torch.nan
    patches = torch.tensor([0] * 50 + [1] * 10 + [2] * 90 + [3] * 42)
    found = fit_patches(candidate(name), NU, data, sigma, patches)
    monkeypatch.setattr(module, "compressed", lambda *same: same)
    every = fit_patches(candidate(name), NU, data, sigma, patches)
    torch.testing.assert_close(found.chi2, every.chi2, rtol=1e-9, atol=0)
    for parameter, error in every.errors.items():
        away = found.values[parameter] - every.values[parameter]
        assert (away / error).abs().max() < 1e-3
        torch.testing.assert_close(found.errors[parameter], error, rtol=1e-5, atol=0)


def test_a_prior_counts_once_a_patch():
    model = candidate("power_law", priors=True)
    flat = fit_patches(candidate("power_law"), NU, DATA, SIGMA, PARENT)
    found = fit_patches(model, NU, DATA, SIGMA, PARENT)
    mean, rms = model.beta_s.prior
    value, error = flat.values["beta_s"], flat.errors["beta_s"]
    weight = error**-2 + rms**-2
    torch.testing.assert_close(found.errors["beta_s"], weight**-0.5, rtol=0.05, atol=0)
    pulled = (value * error**-2 + mean * rms**-2) / weight
    assert ((found.values["beta_s"] - pulled) / error).abs().max() < 0.05


def test_pixels_that_cannot_count_are_left_out():
    data, patches = DATA.clone(), PARENT.clone()
    patches[0] = -1
    data[5, :, 2:] = torch.nan  # two bands left of seventeen
    data[PARENT == 3] = torch.nan
    found = fit_patches(candidate("power_law"), NU, data, SIGMA, patches)
    without = torch.isnan(found.pixels.chi2)
    assert without.tolist() == ((patches < 0) | torch.isnan(data).any((1, 2))).tolist()
    assert (found.region < 0).tolist() == without.tolist()
    assert torch.nonzero(torch.isnan(found.values["beta_s"])).tolist() == [[3]]
    kept = fit_patches(
        candidate("power_law"), NU, data[~without], SIGMA[~without], patches[~without]
    )
    torch.testing.assert_close(kept.chi2, found.chi2)
    nothing = fit_patches(candidate("power_law"), NU, DATA, SIGMA, torch.full((N,), -1))
    assert nothing.chi2.shape == (0,)
    assert torch.isnan(nothing.pixels.amplitudes).all()


def test_a_choice_by_patches():
    """Curvature is told by the patch what no pixel of it tells; a model a patch."""
    is_curved = torch.from_numpy(GOLDEN["is_curved"])
    patches = torch.where(is_curved, 0, 1)
    found = choose(MODELS, NU, DATA, SIGMA, patches=patches)
    alone = choose(MODELS, NU, DATA, SIGMA)
    assert found.chi2[patches == 0][0].tolist() != found.chi2[patches == 1][0].tolist()
    for k in range(2):
        mine = patches == k
        assert len(found.probability()[mine].unique(dim=0)) == 1
        assert len(found.dof[mine].unique(dim=0)) == 1
    assert found.n_data[is_curved].unique().tolist() == [34 * int(is_curved.sum())]
    one = {int(n) for n in found.n_parameters[is_curved][0] - 6 * is_curved.sum()}
    assert one == {1, 2, 1 + 2 * int(is_curved.sum()), 2 + 2 * int(is_curved.sum())}
    # where beta is that of the pixel, patches of a pixel choose alike
    single = choose(MODELS, NU, DATA, SIGMA, patches=torch.arange(N))
    for criterion in ("chi2", "aic", "bic", "evidence"):
        off = single.probability(criterion) - alone.probability(criterion)
        assert off.abs().max() < (0.1 if criterion == "evidence" else 1e-3)


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (PARENT[:5], r"patches of beta_s as whole numbers of shape \(192,\), got int64 of shape"),
        (PARENT.double(), r"whole numbers of shape \(192,\), got float64"),
        ({"beta_s": PARENT}, "expected patches of beta_s, curvature, the free parameters, got"),
        ({"beta_s": PARENT, "beta_d": PARENT}, "got those of beta_s, beta_d"),
        ({}, "got those of none"),
    ],
)
def test_wrong_patches_are_refused(patches, message):
    with pytest.raises(ShapeError, match=message):
        fit_patches(candidate("curved"), NU, DATA, SIGMA, patches)


def test_too_many_parameters_together(monkeypatch):
    monkeypatch.setattr(module, "MOST_TOGETHER", 100)
    patches = {"beta_s": torch.arange(N), "curvature": torch.zeros(N, dtype=torch.int64)}
    with pytest.raises(ShapeError, match="at most 100 parameters that hang together, got 193"):
        fit_patches(candidate("curved"), NU, DATA, SIGMA, patches)


def test_evidence_needs_priors():
    model = candidate("power_law")
    with pytest.raises(ModelError, match="expected Gaussian priors"):
        fit_patches(model, NU, DATA, SIGMA, PARENT, evidence=model)
