import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.errors import ModelError, ShapeError
from foreglow.recognition.fits.likelihood import linearise, project
from foreglow.recognition.fits.optimise import fit
from foreglow.recognition.fits.skymodel import (
    FREE_BETA_D,
    FREE_CURVATURE,
    FREE_DUST_TEMPERATURE,
    Free,
    SkyModel,
    candidate,
    fixed_spectra,
)
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands, bands_of
from foreglow.sky.instrument_files import load_instrument

INSTRUMENT = load_instrument("quijote+litebird")
NU = torch.tensor(INSTRUMENT.frequency_ghz, dtype=torch.float64)
SIGMA = torch.from_numpy(INSTRUMENT.noise_rms(16))


def mixture(parameters, amplitudes, ame=False):
    """Q,U (2, n_band) in numpy, independent of the fit: amplitudes (2, cmb, dust, sync[, ame])."""
    nu = NU.numpy()
    beta, c, beta_d, temperature = parameters
    x = 0.04799243073366221 * nu / temperature
    x0 = 0.04799243073366221 * 353 / temperature
    y = 0.04799243073366221 * nu / 2.7255
    columns = [
        y**2 * np.exp(y) / np.expm1(y) ** 2,
        (nu / 353) ** (beta_d + 1) * np.expm1(x0) / np.expm1(x),
        (nu / 23) ** (beta + c * np.log(nu / 23)),
    ]
    if ame:
        columns.append(seds.spinning_dust(NU).numpy())
    return np.asarray(amplitudes) @ np.array(columns)


def pixels(n, noise_scale, parameters=(-3.1, 0.0, 1.54, 20.0), seed=0, bright=1.0):
    amplitudes = np.array([[0.3, 5.0, 30.0], [-0.2, -3.0, 22.0]]) * bright
    clean = torch.from_numpy(mixture(parameters, amplitudes))
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(n, 2, len(NU), generator=generator, dtype=torch.float64)
    sigma = (noise_scale * SIGMA).expand(n, -1).contiguous()
    return clean + sigma[:, None] * white, sigma


@pytest.mark.parametrize("name", ["power_law", "curved"])
def test_no_worse_than_fgbuster(fgbuster, name):
    frequency = torch.from_numpy(fgbuster["frequency_ghz"])
    data = torch.from_numpy(fgbuster["data_uK_RJ"])
    sigma = torch.from_numpy(fgbuster["sigma_uK_RJ"]).expand(len(data), -1)
    found = fit(candidate(name), frequency, data, sigma)
    assert found.converged.all()
    theirs = fgbuster[f"parameters_{name}"]
    free = found.model.free.values()
    inside = np.all([(f.low <= t) & (t <= f.high) for f, t in zip(free, theirs.T, strict=True)], 0)
    assert inside.mean() > 0.98  # it knows no bounds
    excess = found.chi2.numpy() - fgbuster[f"chi2_{name}"]
    assert excess[inside].max() < 1e-8
    same = inside & (excess > -1e-3)
    assert same.mean() > 0.9
    error = torch.diagonal(found.covariance, dim1=1, dim2=2).sqrt().numpy()
    shift = np.abs(found.parameters.numpy() - theirs) / error
    assert shift[same].max() < 0.01


def faint(n, noise_scale, seed):
    """Pixels of many synchrotron amplitudes, so faint that chi-square has several minima."""
    generator = torch.Generator().manual_seed(seed)
    amplitudes = torch.randn(n, 2, 3, generator=generator, dtype=torch.float64)
    amplitudes *= torch.tensor([0.5, 3.0, 20.0])
    spectra = mixture((-3.1, 0.0, 1.54, 20.0), np.eye(3))
    white = torch.randn(n, 2, len(NU), generator=generator, dtype=torch.float64)
    sigma = (noise_scale * SIGMA).expand(n, -1)
    return amplitudes @ torch.from_numpy(spectra) + sigma[:, None] * white, sigma


def lowest_on_grid(data, sigma, nodes, dust=((1.54, 20.0),)):
    """The lowest chi-square of each pixel over nodes of beta and C (node, 2), beside any dust."""
    lowest = np.full(len(data), np.inf)
    sigma, log_ratio = sigma[0].numpy(), np.log(NU.numpy() / 23)
    bent = nodes @ np.stack([log_ratio, log_ratio**2])
    bent = np.exp(bent - bent.max(1, keepdims=True)) / sigma
    for beta_d, temperature in dust:
        fixed = mixture((-3.0, 0.0, beta_d, temperature), np.eye(3)[:2]) / sigma
        basis = np.linalg.qr(fixed.T)[0]
        out = bent
        for _ in range(2):
            out = out / np.linalg.norm(out, axis=1, keepdims=True)
            out = out - out @ basis @ basis.T
        out = out / np.linalg.norm(out, axis=1, keepdims=True)
        left = data.numpy() / sigma
        left = left - left @ basis @ basis.T
        gain = sum((left[:, k] @ out.T) ** 2 for k in range(2))
        lowest = np.minimum(lowest, (left**2).sum((1, 2)) - gain.max(1))
    return lowest


def product(*axes):
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


@pytest.mark.parametrize("noise_scale", [1.0, 4.0, 16.0])
def test_power_laws_are_in_their_lowest_minimum(noise_scale):
    data, sigma = faint(300, noise_scale, seed=1)
    nodes = product(np.arange(-10, 2.001, 0.005), [0.0])
    found = fit(candidate("power_law"), NU, data, sigma)
    assert found.converged.all()
    assert (found.chi2.numpy() - lowest_on_grid(data, sigma, nodes)).max() < 1e-6


@pytest.mark.parametrize("noise_scale", [1.0, 4.0, 16.0])
def test_curved_spectra_are_in_their_lowest_minimum(noise_scale):
    data, sigma = faint(100, noise_scale, seed=2)
    nodes = product(np.arange(-10, 2.001, 0.05), np.arange(-4, 4.001, 0.04))
    found = fit(candidate("curved"), NU, data, sigma)
    assert found.converged.all()
    assert (found.chi2.numpy() - lowest_on_grid(data, sigma, nodes)).max() < 1e-6


@pytest.mark.parametrize("noise_scale", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("free", ["beta_d", "dust_temperature", "curvature and beta_d"])
def test_dust_is_in_its_lowest_minimum_too(free, noise_scale):
    data, sigma = faint(60, noise_scale, seed=3)
    nodes = product(np.arange(-10, 2.001, 0.05), [0.0])
    model, dust = SkyModel(beta_d=FREE_BETA_D), product(np.arange(0, 4.01, 0.05), [20.0])
    if free == "dust_temperature":
        model = SkyModel(dust_temperature=FREE_DUST_TEMPERATURE)
        dust = product([1.54], np.geomspace(5, 80, 80))
    elif free == "curvature and beta_d":
        model = SkyModel(curvature=FREE_CURVATURE, beta_d=FREE_BETA_D)
        nodes = product(np.arange(-10, 2.001, 0.2), np.arange(-4, 4.001, 0.1))
        dust = product(np.arange(0, 4.01, 0.1), [20.0])
    found = fit(model, NU, data, sigma)
    assert found.converged.all()
    assert (found.chi2.numpy() - lowest_on_grid(data, sigma, nodes, dust)).max() < 1e-6


@pytest.mark.parametrize(
    "model",
    [
        SkyModel(curvature=FREE_CURVATURE),
        SkyModel(curvature=FREE_CURVATURE, beta_d=FREE_BETA_D),
        SkyModel(beta_d=FREE_BETA_D, dust_temperature=FREE_DUST_TEMPERATURE),
    ],
)
def test_curvature_of_the_likelihood_is_that_of_its_slope(model):
    """At the minimum, by finite differences: else the last steps go astray."""
    data, sigma = pixels(5, 1.0)
    at = fit(model, NU, data, sigma).parameters.T
    fixed = fixed_spectra(model, NU)[..., None]
    whole = project(fixed, 1 / sigma.T, (data / sigma[:, None]).permute(2, 1, 0))
    bands, step = Bands.of(NU), 1e-6
    exact = linearise(model, bands, whole, at).hessian
    for k in range(len(at)):
        aside = torch.zeros_like(at)
        aside[k] = step
        ahead, behind = (linearise(model, bands, whole, at + s * aside).fall for s in (1, -1))
        torch.testing.assert_close((behind - ahead) / (2 * step), exact[k], rtol=1e-4, atol=1e-2)


def test_covariance_is_the_inverse_fisher_matrix_of_the_whole_model():
    """By finite differences of all parameters and amplitudes at once, nothing eliminated."""
    model = SkyModel(curvature=Free(0.0, -4.0, 4.0), beta_d=FREE_BETA_D)
    data, sigma = pixels(1, 1e-3)
    found = fit(model, NU, data, sigma)
    names = list(model.free)
    assert names == ["beta_s", "curvature", "beta_d"]
    order = [("cmb", "dust", "synchrotron").index(c) for c in model.components]
    spectral = np.append(found.parameters[0].numpy(), 20.0)
    amplitudes = np.empty((2, 3))
    amplitudes[:, order] = found.amplitudes[0].numpy()
    theta = np.concatenate([spectral[:3], amplitudes[:, order].ravel()])

    def whitened(theta):
        back = np.empty((2, 3))
        back[:, order] = theta[3:].reshape(2, 3)
        return (mixture((*theta[:3], 20.0), back) / sigma[0].numpy()).ravel()

    step = 1e-5
    jacobian = np.stack(
        [(whitened(theta + step * e) - whitened(theta - step * e)) / (2 * step) for e in np.eye(9)]
    )
    covariance = np.linalg.inv(jacobian @ jacobian.T)
    np.testing.assert_allclose(found.covariance[0], covariance[:3, :3], rtol=1e-3)
    np.testing.assert_allclose(found.amplitude_covariance[0], covariance[3:, 3:], rtol=1e-3)


def test_scatter_is_as_stated_and_chi2_has_its_mean():
    data, sigma = pixels(3000, 0.3, bright=3.0)
    found = fit(candidate("power_law"), NU, data, sigma)
    assert found.converged.all()
    assert (found.dof == 2 * 17 - 6 - 1).all()
    assert float(found.chi2.mean()) == pytest.approx(27, abs=4 * np.sqrt(2 * 27 / 3000))
    pull = (found.parameters[:, 0] + 3.1) / found.covariance[:, 0, 0].sqrt()
    assert float(pull.std()) == pytest.approx(1, abs=0.06)
    assert abs(float(pull.mean())) < 0.1


@pytest.mark.parametrize("name", ["power_law", "curved_ame"])
def test_a_million_times_the_noise_converges(name):
    """The Galactic plane at a noise of 0.01 uK: chi-square falls by 10^14, rounded to a tenth."""
    amplitudes = np.array([[0.3, 2000.0, 5000.0, 30.0], [-0.2, 900.0, -3000.0, 10.0]])
    amplitudes[:, 3] *= name == "curved_ame"
    clean = torch.from_numpy(mixture((-3.0, 0.0, 1.54, 20.0), amplitudes, ame=True))
    generator = torch.Generator().manual_seed(1)
    white = torch.randn(200, 2, len(NU), generator=generator, dtype=torch.float64)
    found = fit(candidate(name), NU, clean + 0.01 * white, torch.full((200, len(NU)), 0.01))
    assert found.converged.all()
    dof = int(found.dof[0])
    assert float(found.chi2.mean()) == pytest.approx(dof, abs=4 * np.sqrt(2 * dof / 200))
    # beta_s is known to 1e-7, of which a step that promises 1e-8 of chi-square is a ten-thousandth
    pull = (found.parameters[:, 0] + 3.0) / found.covariance[:, 0, 0].sqrt()
    assert float(pull.std()) == pytest.approx(1, abs=4 / np.sqrt(2 * 200))


def test_turning_q_and_u_changes_neither_chi2_nor_beta():
    data, sigma = pixels(50, 1.0)
    angle = torch.tensor(0.7)
    turn = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]]).double()
    for name in ("power_law", "curved"):
        one, other = (fit(candidate(name), NU, d, sigma) for d in (data, turn @ data))
        torch.testing.assert_close(one.chi2, other.chi2, rtol=1e-7, atol=1e-6)
        torch.testing.assert_close(one.parameters, other.parameters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("unlike", [False, True])
def test_bands_that_nobody_observed_are_no_bands(wide, unlike):
    """Grids of starts for all bands missed the lowest minimum of few that lie close together."""
    edges = tuple(((0.97 * nu, 0.5), (1.03 * nu, 0.5)) for nu in INSTRUMENT.frequency_ghz)
    bands = bands_of(edges) if wide else Bands.of(NU)
    keep = torch.zeros(len(NU), dtype=torch.bool)
    keep[3:7] = True
    data, noise = pixels(64, 1.0)
    data[..., ~keep] = torch.nan
    if unlike:
        noise = torch.stack([noise**2, 0 * noise, noise**2], 1)
    found = fit(candidate("power_law"), bands, data, noise)
    few = Bands(NU[keep])
    if wide:
        few = bands_of(edges[3:7])
    alone = fit(candidate("power_law"), few, data[..., keep], noise[..., keep])
    torch.testing.assert_close(found.chi2, alone.chi2)
    assert torch.equal(found.dof, alone.dof)


@pytest.mark.parametrize("unlike", [False, True])
def test_noise_of_what_nobody_observed_is_not_asked_for(unlike):
    data, noise = pixels(5, 1.0)
    data[:, :, 5], noise[:, 5] = torch.nan, 0.0
    if unlike:
        noise = torch.stack([noise**2, 0 * noise, noise**2], 1)
    assert (fit(candidate("power_law"), NU, data, noise).dof == 25).all()


def test_no_band_observed():
    data, sigma = pixels(3, 1.0)
    assert fit(candidate("curved"), NU, data * torch.nan, sigma).chi2.isnan().all()


@pytest.mark.parametrize("missing", ["data", "sigma"])
def test_a_missing_band_is_a_band_less(missing):
    data, sigma = pixels(40, 1.0)
    holed = data.clone(), sigma.clone()
    if missing == "data":
        holed[0][:, :, 5] = torch.nan
    else:
        holed[1][:, 5] = torch.inf
    keep = [k for k in range(17) if k != 5]
    one = fit(candidate("power_law"), NU, *holed)
    other = fit(candidate("power_law"), NU[keep], data[:, :, keep], sigma[:, keep])
    torch.testing.assert_close(one.chi2, other.chi2)
    torch.testing.assert_close(one.parameters, other.parameters)
    assert (one.dof == 25).all()


def test_pixels_are_fitted_each_for_itself_and_too_few_bands_are_left_out():
    data, sigma = pixels(30, 1.0)
    data[3] = torch.nan
    data[4, :, 4:] = torch.nan
    data[5] = -1.6375e30
    found = fit(candidate("curved"), NU, data, sigma)
    gone = torch.tensor([3, 4, 5])
    assert not found.converged[gone].any()
    assert found.chi2[gone].isnan().all()
    assert found.converged.sum() == 27
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    again = fit(candidate("curved"), NU, data[order], sigma[order])
    torch.testing.assert_close(again.chi2, found.chi2[order], equal_nan=True)


def test_priors_pull_and_bounds_hold():
    data, sigma = pixels(20, 50.0)  # noise leaves beta free
    free = fit(candidate("power_law"), NU, data, sigma).parameters[:, 0]
    pulled = fit(candidate("power_law", priors=True), NU, data, sigma)
    assert free.std() > 0.5
    assert (pulled.parameters[:, 0] + 3).abs().max() < 0.5
    assert pulled.covariance[:, 0, 0].sqrt().max() <= 0.2 + 1e-9
    narrow = SkyModel(Free(-3.0, -3.05, -2.95))
    inside = fit(narrow, NU, data, sigma).parameters[:, 0]
    assert inside.min() >= -3.05
    assert inside.max() <= -2.95


def test_ame_and_curvature_are_found():
    amplitudes = np.array([[0.3, 5.0, 30.0, 2.0], [-0.2, -3.0, 22.0, -1.0]])
    data = torch.from_numpy(mixture((-2.9, -0.052, 1.54, 20.0), amplitudes, ame=True))[None]
    sigma = 1e-3 * SIGMA[None]
    found = fit(candidate("curved_ame"), NU, data, sigma)
    assert found.parameters[0].tolist() == pytest.approx([-2.9, -0.052], abs=1e-6)
    assert float(found.chi2[0]) < 1e-6
    column = found.model.components.index("ame")
    assert found.amplitudes[0, :, column].tolist() == pytest.approx([2.0, -1.0], rel=1e-5)
    assert float(fit(candidate("power_law"), NU, data, sigma).chi2[0]) > 100


def test_bad_input():
    data, sigma = pixels(2, 1.0)
    with pytest.raises(ShapeError, match=r"expected data of shape \(n, 2, 17\)"):
        fit(candidate("power_law"), NU, data[:, 0], sigma)
    with pytest.raises(ShapeError, match=r"expected noise of shape \(2, 17\) or \(2, 3, 17\)"):
        fit(candidate("power_law"), NU, data, sigma[:1])
    with pytest.raises(ShapeError, match="expected noise above zero"):
        fit(candidate("power_law"), NU, data, 0 * sigma)
    with pytest.raises(ModelError, match="expected models among power_law"):
        candidate("straight")
    with pytest.raises(ModelError, match="start between the bounds"):
        Free(-3.0, -2.0, 0.0)
    with pytest.raises(ModelError, match="rms > 0"):
        Free(-3.0, -4.0, 0.0, prior=(-3.0, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unseen_is_no_datum(dtype):
    data, sigma = torch.randn(2, 2, len(NU)).to(dtype), SIGMA.expand(2, -1)
    data[0, :, 3] = hp.UNSEEN
    hole = torch.where(data == hp.UNSEEN, torch.nan, data)
    unseen, absent = (fit(candidate("power_law"), NU, d, sigma) for d in (data, hole))
    assert unseen.dof.tolist() == [25, 27]
    assert torch.equal(unseen.chi2, absent.chi2)
