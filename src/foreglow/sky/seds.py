"""Spectral energy distributions in Rayleigh-Jeans brightness temperature.

Every function is pure, takes and returns tensors, and is 1 at its reference
frequency (the CMB excepted, whose reference is thermodynamic temperature).
"""

import math

import torch
from torch import Tensor

Factor = tuple[tuple[float, float], ...]
"""Frequencies [GHz] and the factors on a spectrum there."""

# h / k_B in K per GHz (CODATA 2018, exact), and the CMB temperature (Fixsen 2009)
PLANCK_OVER_BOLTZMANN = 0.04799243073366221
CMB_TEMPERATURE = 2.7255

SYNCHROTRON_PIVOT_GHZ = 23.0
KOGUT_CURVATURE = -0.052  # Kogut 2012, as Farsian et al. 2020 use it
DUST_REFERENCE_GHZ = 353.0
DUST_BETA = 1.54
DUST_TEMPERATURE = 20.0
# two dust populations, Meisner & Finkbeiner 2015 (arXiv:1410.7523), as in their public code
_TWO_DUSTS = (0.0485 * 8.219 / (1 - 0.0485), 1.63, 2.82)  # f1 q1 / (f2 q2), indices cold and hot
_TWO_DUSTS_PIVOT_GHZ = 2997.92458
HOT_DUST_TEMPERATURE = 16.0
AME_REFERENCE_GHZ = 30.0
AME_PEAK_GHZ = 30.0  # of the emissivity below
AME_POLARISATION_FRACTION = 0.02

# Chebyshev fit to ln j(nu)/j(30 GHz) over 1-160 GHz of the spinning-dust emissivity of a cold
# neutral medium (SpDust2: Silsbee, Ali-Haimoud & Hirata 2011); it follows the table to 0.8%
_AME_RANGE_GHZ = (1.0, 160.0)
_AME_LOG_EMISSIVITY = (
    -5.877616,
    2.515178,
    -4.479194,
    -1.400057,
    0.06398919,
    0.2528593,
    0.1160142,
    -0.007719739,
    -0.04640215,
    -0.04226059,
    -0.007426805,
    0.02308227,
    0.01876657,
    -0.002754057,
    -0.01013748,
    -0.002512974,
    0.004410791,
)


def cmb(frequency_ghz: Tensor) -> Tensor:
    """CMB anisotropies: the derivative of the Planck law, in uK_RJ per uK_CMB.

    Parameters
    ----------
    frequency_ghz : Tensor, any shape
        Frequency [GHz].

    Returns
    -------
    Tensor, shape of `frequency_ghz`
    """
    half_x = PLANCK_OVER_BOLTZMANN / CMB_TEMPERATURE * frequency_ghz / 2
    return (half_x / torch.sinh(half_x)) ** 2  # x^2 e^x / (e^x - 1)^2, which overflows later


def synchrotron(
    frequency_ghz: Tensor,
    beta: Tensor | float,
    curvature: Tensor | float = 0.0,
    reference_ghz: float = SYNCHROTRON_PIVOT_GHZ,
) -> Tensor:
    """Synchrotron power law, or curved power law.

    Parameters
    ----------
    frequency_ghz : Tensor
        Frequency [GHz].
    beta, curvature : Tensor or float
        Spectral index and its running C per unit of natural log; broadcast against frequency.
    reference_ghz : float
        Pivot [GHz], where the SED is 1.

    References
    ----------
    Farsian et al. 2020, eq. 2.1; Kogut 2012.
    """
    log_ratio = torch.log(frequency_ghz / reference_ghz)
    return torch.exp((beta + curvature * log_ratio) * log_ratio)


def modified_blackbody(
    frequency_ghz: Tensor,
    beta: Tensor | float = DUST_BETA,
    temperature: Tensor | float = DUST_TEMPERATURE,
    reference_ghz: float = DUST_REFERENCE_GHZ,
) -> Tensor:
    """Thermal dust.

    Parameters
    ----------
    frequency_ghz : Tensor
        Frequency [GHz].
    beta : Tensor or float
        Emissivity index.
    temperature : Tensor or float
        Dust temperature [K].
    reference_ghz : float
        Where the SED is 1 [GHz].

    References
    ----------
    Farsian et al. 2020, eq. 2.2, in brightness temperature.
    """
    ratio = frequency_ghz / reference_ghz
    x = PLANCK_OVER_BOLTZMANN * frequency_ghz / temperature
    return ratio ** (beta + 1.0) * torch.expm1(x / ratio) / torch.expm1(x)


def dust_temperature_slope(frequency_ghz: Tensor, temperature: Tensor | float) -> Tensor:
    """Derivative of the logarithm of the modified blackbody by temperature [1/K]."""

    def logarithmic(nu: Tensor) -> Tensor:  # -d ln(exp(x) - 1) / d ln T
        x = PLANCK_OVER_BOLTZMANN * nu / temperature
        return x / -torch.expm1(-x)

    reference = torch.full_like(frequency_ghz, DUST_REFERENCE_GHZ)
    return (logarithmic(frequency_ghz) - logarithmic(reference)) / temperature


def dust_temperature_bend(frequency_ghz: Tensor, temperature: Tensor) -> Tensor:
    """Second derivative of the logarithm of the modified blackbody by temperature [1/K^2]."""

    def logarithmic(nu: Tensor) -> Tensor:  # T^2 times it, the sign turned
        x = PLANCK_OVER_BOLTZMANN * nu / temperature
        share = 1 / -torch.expm1(-x)
        return x * share * (2 + x * (1 - share))

    reference = torch.full_like(frequency_ghz, DUST_REFERENCE_GHZ)
    return (logarithmic(reference) - logarithmic(frequency_ghz)) / temperature**2


def two_temperature_dust(
    frequency_ghz: Tensor,
    hot_temperature: float = HOT_DUST_TEMPERATURE,
    reference_ghz: float = DUST_REFERENCE_GHZ,
) -> Tensor:
    """Thermal dust of a cold and a hot population in one radiation field.

    Parameters
    ----------
    frequency_ghz : Tensor
        Frequency [GHz].
    hot_temperature : float
        Of the hot population [K]; the cold one's follows, because both are heated alike: 10 K
        for 16 K.
    reference_ghz : float
        Where the SED is 1 [GHz].

    References
    ----------
    Finkbeiner, Davis & Schlegel 1999, eqs. 14-16; Meisner & Finkbeiner 2015.
    """
    reference = torch.as_tensor(reference_ghz, dtype=frequency_ghz.dtype)
    both = _two_dusts(frequency_ghz, hot_temperature) / _two_dusts(reference, hot_temperature)
    return both * (reference_ghz / frequency_ghz) ** 2


def _two_dusts(frequency_ghz: Tensor, hot: float) -> Tensor:
    """Intensity of both populations, in any unit."""
    ratio, cold_beta, hot_beta = _TWO_DUSTS
    x = frequency_ghz / _TWO_DUSTS_PIVOT_GHZ
    cold = _cold_temperature(hot)
    intensity = torch.zeros_like(frequency_ghz)
    for weight, beta, temperature in ((ratio, cold_beta, cold), (1.0, hot_beta, hot)):
        h_nu = PLANCK_OVER_BOLTZMANN * frequency_ghz / temperature
        intensity = intensity + weight * x ** (3 + beta) / torch.expm1(h_nu)
    return intensity


def _cold_temperature(hot: float) -> float:
    """Where what the cold population takes in is what it gives off (FDS99, eq. 14)."""
    from scipy.special import gamma, zeta  # for two temperatures alone

    _, cold_beta, hot_beta = _TWO_DUSTS
    x0 = PLANCK_OVER_BOLTZMANN * _TWO_DUSTS_PIVOT_GHZ

    def emission(beta: float) -> float:  # FDS99, eq. 16
        return float(zeta(4 + beta) * gamma(4 + beta))

    balance = emission(hot_beta) / emission(cold_beta) * x0 ** (cold_beta - hot_beta) / 8.219
    return (balance * hot ** (4 + hot_beta)) ** (1 / (4 + cold_beta))


def log_factor(table: Factor, frequency_ghz: Tensor, reference_ghz: float) -> Tensor:
    """Natural logarithm of a factor by frequency, less that at a reference; 0 of an empty table.

    Parameters
    ----------
    table : tuple of (GHz, factor)
        Between and beyond the frequencies a power law.
    frequency_ghz : Tensor
    reference_ghz : float

    Returns
    -------
    Tensor, shape of `frequency_ghz`
    """
    if not table:
        return torch.zeros_like(frequency_ghz)
    x, y = torch.log(torch.tensor(table, dtype=torch.float64)).unbind(1)
    reference = frequency_ghz.new_tensor(reference_ghz)
    found = []
    for nu in (frequency_ghz, reference):
        log_nu = torch.log(nu.detach().double().cpu())
        place = torch.searchsorted(x[1:-1].contiguous(), log_nu.contiguous())
        slope = (y[place + 1] - y[place]) / (x[place + 1] - x[place])
        found.append(y[place] + slope * (log_nu - x[place]))
    return (found[0] - found[1]).to(frequency_ghz)


def spinning_dust(
    frequency_ghz: Tensor,
    reference_ghz: float = AME_REFERENCE_GHZ,
    peak_ghz: Tensor | float = AME_PEAK_GHZ,
) -> Tensor:
    """AME of a cold neutral medium: emissivity / frequency^2.

    Parameters
    ----------
    frequency_ghz : Tensor
        Frequency [GHz]; above 160 GHz, where less than 1e-5 of the peak is left, and below
        1 GHz the logarithm of the emissivity goes on along its tangent.
    reference_ghz : float
        Where the SED is 1 [GHz].
    peak_ghz : Tensor or float
        Where the emissivity peaks [GHz]: that of the medium, shifted in ln frequency, as PySM3
        does; broadcast against frequency.

    References
    ----------
    Ali-Haimoud, Hirata & Dickinson 2009; Silsbee, Ali-Haimoud & Hirata 2011.
    """
    reference = torch.as_tensor(reference_ghz, dtype=frequency_ghz.dtype)
    shift = AME_PEAK_GHZ / torch.as_tensor(peak_ghz, dtype=frequency_ghz.dtype)
    log_ratio = _log_emissivity(shift * frequency_ghz) - _log_emissivity(shift * reference)
    return torch.exp(log_ratio) * (reference_ghz / frequency_ghz) ** 2


def _log_emissivity(frequency_ghz: Tensor) -> Tensor:
    low, high = (math.log(edge) for edge in _AME_RANGE_GHZ)
    position = (2 * torch.log(frequency_ghz) - low - high) / (high - low)
    inside = position.clamp(-1.0, 1.0)
    value, slope = _chebyshev(inside, _AME_LOG_EMISSIVITY)
    return value + slope * (position - inside)


def _chebyshev(x: Tensor, coefficients: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Clenshaw's recurrence for a Chebyshev series and its derivative."""
    zero = torch.zeros_like(x)
    b1, b2, d1, d2 = zero, zero, zero, zero
    for c in reversed(coefficients[1:]):
        b1, b2, d1, d2 = 2 * x * b1 - b2 + c, b1, 2 * b1 + 2 * x * d1 - d2, d1
    return x * b1 - b2 + coefficients[0], b1 + x * d1 - d2
