"""SEDs: identities, agreement with PySM3, FGBuster and SpDust, and properties."""

import healpy as hp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreglow.sky import seds

BANDS = torch.tensor([11.0, 13, 40, 68, 100, 166, 235, 337, 402], dtype=torch.float64)
FGBUSTER_H_OVER_K = 6.62607015e-34 * 1e9 / 1.380649e-23
# Spinning dust of a cold neutral medium in brightness, over that at 30 GHz: the SpDust2 curve
# that PySM and Farsian et al. use
SPDUST_RATIOS = {
    1.0: 0.008634, 2.0: 0.03555, 5.0: 0.2595, 10.0: 0.9768, 15.0: 1.4784, 20.0: 1.4945,
    23.0: 1.3975, 41.0: 0.36266, 60.0: 0.033673, 80.0: 3.1777e-3, 100.0: 4.4081e-4,
}  # fmt: skip

frequencies = st.floats(1.0, 900.0)
betas = st.floats(-4.0, -2.0)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- identities ------------------------------------------------------------------------------


@given(beta=betas, reference=frequencies)
def test_a_curved_power_law_without_curvature_is_the_power_law(beta, reference):
    flat = seds.synchrotron(BANDS, beta, 0.0, reference)
    np.testing.assert_allclose(flat, (BANDS / reference) ** beta, rtol=1e-12)


@given(beta=betas, curvature=st.floats(-0.2, 0.2), reference=st.floats(1.0, 900.0))
def test_one_at_the_reference(beta, curvature, reference):
    nu = tensor(reference)
    for sed in (
        seds.synchrotron(nu, beta, curvature, reference),
        seds.modified_blackbody(nu, -beta / 2, 20.0, reference),
        seds.spinning_dust(nu, reference),
    ):
        np.testing.assert_allclose(sed, 1.0, rtol=1e-12)


def test_the_slope_at_the_pivot_is_beta():
    nu = tensor(seds.SYNCHROTRON_PIVOT_GHZ).requires_grad_()
    torch.log(seds.synchrotron(nu, -3.1, seds.KOGUT_CURVATURE)).backward()
    assert nu.grad is not None
    assert nu.grad.item() * seds.SYNCHROTRON_PIVOT_GHZ == pytest.approx(-3.1)


def test_the_cmb_is_rayleigh_jeans_at_low_frequency_and_falls_at_high():
    assert seds.cmb(tensor(1e-3)).item() == pytest.approx(1, abs=1e-9)
    assert seds.cmb(torch.tensor([1e4, 1e5])).tolist() == [0, 0]  # float32, far in the Wien tail


def test_parameters_broadcast_against_frequency():
    beta = torch.linspace(-3.2, -2.8, 5)[:, None]
    assert seds.synchrotron(BANDS, beta, -0.052).shape == (5, len(BANDS))
    assert seds.modified_blackbody(BANDS, -beta / 2, 10 - beta).shape == (5, len(BANDS))


# ---- agreement -------------------------------------------------------------------------------


def emission(component, frequency_ghz):
    import pysm3.units as pu

    return component.get_emission(frequency_ghz * pu.GHz).value[1, 0]


def test_agrees_with_pysm():
    import pysm3
    import pysm3.units as pu

    one = np.ones(hp.nside2npix(1)) * pu.uK_RJ
    maps = {"map_I": one, "map_Q": one, "map_U": one, "nside": 1}
    synchrotron = {"freq_ref_I": "408 MHz", "freq_ref_P": "23 GHz", "map_pl_index": -3.1}
    power_law = pysm3.PowerLaw(**maps, **synchrotron)
    curved = pysm3.CurvedPowerLaw(
        **maps, **synchrotron, spectral_curvature=-0.052, freq_curve="23 GHz"
    )
    dust = pysm3.ModifiedBlackBody(
        **maps,
        freq_ref_I="545 GHz",
        freq_ref_P="353 GHz",
        map_mbb_index=1.6,
        map_mbb_temperature=19.0,
        unit_mbb_temperature="K",
    )
    for nu in (11.0, 100.0, 402.0):
        ours = seds.synchrotron(tensor(nu), -3.1), seds.synchrotron(tensor(nu), -3.1, -0.052)
        np.testing.assert_allclose(ours[0], emission(power_law, nu), rtol=1e-6)
        np.testing.assert_allclose(ours[1], emission(curved, nu), rtol=1e-6)
        ours = seds.modified_blackbody(tensor(nu), 1.6, 19.0)
        np.testing.assert_allclose(ours, emission(dust, nu), rtol=1e-6)
        kelvin = (1 * pu.K_CMB).to_value(pu.K_RJ, pu.cmb_equivalencies(nu * pu.GHz))
        np.testing.assert_allclose(seds.cmb(tensor(nu)), kelvin, rtol=1e-6)


def test_agrees_with_fgbuster():
    # the analytic expressions of fgbuster.component_model 2.0 with units K_RJ
    nu, x = BANDS.numpy(), FGBUSTER_H_OVER_K * BANDS.numpy()
    to_cmb = np.expm1(x / 2.7255) ** 2 / (np.exp(x / 2.7255) * (x / 2.7255) ** 2)
    np.testing.assert_allclose(seds.cmb(BANDS), 1 / to_cmb, rtol=1e-6)

    x_0 = FGBUSTER_H_OVER_K * 353.0
    dust = (np.exp(x_0 / 20) - 1) / (np.exp(x / 20) - 1) * (nu / 353.0) ** (1 + 1.54)
    np.testing.assert_allclose(seds.modified_blackbody(BANDS), dust, rtol=1e-6)

    # FGBuster's running has a pivot of its own, 70 GHz unless told; ours is the reference
    curved = (nu / 23.0) ** (-3.1 - 0.052 * np.log(nu / 23.0))
    np.testing.assert_allclose(seds.synchrotron(BANDS, -3.1, -0.052), curved, rtol=1e-6)
    elsewhere = (nu / 23.0) ** (-3.1 - 0.052 * np.log(nu / 70.0))
    beta = -3.1 - 0.052 * np.log(23.0 / 70.0)
    np.testing.assert_allclose(seds.synchrotron(BANDS, beta, -0.052), elsewhere, rtol=1e-6)


@pytest.mark.parametrize("model", ["power_law", "curved"])
def test_fits_of_fgbuster_have_the_same_chi_square_here(fgbuster, model):
    nu, sigma = torch.from_numpy(fgbuster["frequency_ghz"]), fgbuster["sigma_uK_RJ"]
    chi2 = []
    for data, found in zip(fgbuster["data_uK_RJ"], fgbuster[f"parameters_{model}"], strict=True):
        components = seds.cmb(nu), seds.modified_blackbody(nu), seds.synchrotron(nu, *found)
        mixing = np.stack(components, axis=1) / sigma[:, None]  # (band, component)
        weighted = (data / sigma).T  # (band, stokes)
        amplitudes, *_ = np.linalg.lstsq(mixing, weighted, rcond=None)
        chi2.append(((weighted - mixing @ amplitudes) ** 2).sum())
    np.testing.assert_allclose(chi2, fgbuster[f"chi2_{model}"], rtol=1e-5)


def test_spinning_dust_follows_the_published_curve():
    nu = tensor(*SPDUST_RATIOS)
    np.testing.assert_allclose(seds.spinning_dust(nu), [*SPDUST_RATIOS.values()], rtol=0.01)


def test_spinning_dust_follows_the_whole_table(real_data):
    table = np.loadtxt(real_data / "pysm64" / "spinning_dust_emissivity.txt", unpack=True)
    nu, emissivity = table[:, (table[0] >= 1) & (table[0] <= 160)]
    expected = emissivity / np.interp(30.0, *table) / (nu / 30.0) ** 2
    np.testing.assert_allclose(seds.spinning_dust(torch.from_numpy(nu)), expected, rtol=0.01)


@pytest.mark.parametrize("edge", [1.0, 160.0])
def test_spinning_dust_goes_on_smoothly_past_its_table(edge):
    nu = tensor(edge * (1 - 1e-6), edge * (1 + 1e-6)).requires_grad_()
    values = seds.spinning_dust(nu)
    (slopes,) = torch.autograd.grad(torch.log(values).sum(), nu)
    np.testing.assert_allclose(values[0].item(), values[1].item(), rtol=1e-4)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-3)
    assert seds.spinning_dust(tensor(402.0)).item() < 1e-6


# ---- properties ------------------------------------------------------------------------------


@given(nu=frequencies, beta=betas, curvature=st.floats(-0.1, 0.1), temperature=st.floats(10, 40))
def test_positive_and_the_same_in_single_precision(nu, beta, curvature, temperature):
    def all_seds(dtype):
        x = torch.tensor([nu], dtype=dtype)
        return torch.stack(
            [
                seds.cmb(x),
                seds.synchrotron(x, beta, curvature),
                seds.modified_blackbody(x, -beta / 2, temperature),
                seds.spinning_dust(x.clamp(max=200.0)),
            ]
        )

    double, single = all_seds(torch.float64), all_seds(torch.float32)
    assert single.dtype == torch.float32
    assert (double > 0).all()
    np.testing.assert_allclose(single, double, rtol=2e-4)


@given(
    beta=st.floats(1.54, 2.0),
    temperature=st.floats(20.0, 40.0),
    low=st.floats(1.0, 899.0),
    step=st.floats(0.1, 900.0),
)
def test_dust_rises_with_frequency_below_its_peak(beta, temperature, low, step):
    nu = tensor(low, min(low + step, 900.0))  # in brightness the default law peaks at 950 GHz
    values = seds.modified_blackbody(nu, beta, temperature)
    assert values[1] > values[0]


def test_gradients_flow():
    def points(*values):
        return tensor(*values).requires_grad_()

    nu = points(11.0, 40.0, 150.0, 300.0)
    assert torch.autograd.gradcheck(seds.cmb, (nu,))
    assert torch.autograd.gradcheck(seds.synchrotron, (nu, points(-3.0), points(-0.05)))
    assert torch.autograd.gradcheck(seds.modified_blackbody, (nu, points(1.5), points(20.0)))
    assert torch.autograd.gradcheck(seds.spinning_dust, (points(5.0, 30.0, 90.0, 200.0),))
