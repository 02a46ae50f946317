"""What the `foreglow` network sees of a pixel: cleaned log spectra and score statistics.

Both are made in the frame of the pixel's own dust polarisation, so a rotation of Q,U changes
nothing, and in units of the pixel's own noise, so one network serves any depth.

All of it in float64: a bright pixel is a million times its noise, and what is left of it once the
fitted power law is taken away is of the order of that noise; in float32 every kind of processor
would leave something else.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from foreglow.errors import InstrumentError
from foreglow.recognition.models import AMPLITUDE_SCATTER, BETA_MEAN
from foreglow.recognition.power_law import (
    BETA_PRECISION,
    along,
    complement,
    derivatives,
    dot,
    fit_index,
    log_ratio_of,
    modes_of_powers,
)
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands
from foreglow.sky.instrument import Instrument

if TYPE_CHECKING:
    from foreglow.sky.templates import Templates

NOISE_FLOOR = 1e-3  # of the instrument's noise at Nside 16: what 'noiseless' means to the network
_REFERENCE_NSIDE = 16
_CLEANED_BELOW_GHZ = 100.0
_NEWTON_STEPS = 3
_LEAST_STEP = 0.03  # in ln frequency: bands of one frequency have no slope between them
_TINY = 1e-12


class Frame(NamedTuple):
    """A batch rotated so that dust lies along +Q."""

    data: Tensor  # (n, 2, n_band), uK_RJ
    dust: Tensor  # (n,) polarised dust amplitude, uK_RJ at 353 GHz
    synchrotron: Tensor  # (n, 2) rough Q,U amplitude, uK_RJ at 23 GHz
    sign: Tensor  # (n, 2) its sign


class CleanedLogFeatures(nn.Module):
    """Log spectra after subtraction of CMB and dust, and score tests of curvature and AME.

    *Log spectra.* CMB, dust, a synchrotron of index -3 and its derivative by the index are fitted
    to all bands by least squares; CMB and dust are subtracted from the bands below 100 GHz, which
    go through asinh(y / sigma), a log that survives noise, with their first and second divided
    differences in ln frequency: index and curvature, band by band.

    *Score statistics.* CMB and dust are projected out of all bands; amplitudes and index of a
    power law are fitted by three Gauss-Newton steps; there, Rao's efficient scores of C and of an
    AME along the dust, and their Fisher information, say how much the data want either. With
    them come the log likelihood ratios that they imply for the candidate models.

    Both weigh the bands as the instrument's sensitivities do; the noise of a vector enters by
    its own level in each band.

    Parameters
    ----------
    instrument : Instrument
        At least two bands above and three below 100 GHz.
    dust_tests : tuple of str
        Departures from the paper's dust to be tested too, of `models.dust_tests`.

    Raises
    ------
    InstrumentError
        If the bands cannot tell CMB, dust and synchrotron apart.

    References
    ----------
    Rao 1948 for the score test; the rest is foreglow's own.
    """

    sigma: Tensor
    fit: Tensor
    clean: Tensor
    clean_squared: Tensor
    projection: Tensor
    from_nodes: Tensor
    log_ratio: Tensor
    ame: Tensor
    log_step: Tensor
    dust_changes: Tensor

    def __init__(self, instrument: Instrument, dust_tests: tuple[str, ...] = ()):
        super().__init__()
        centre = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
        low = centre < _CLEANED_BELOW_GHZ
        if low.sum() < 3 or (~low).sum() < 2:
            raise InstrumentError(
                "the foreglow network needs at least 3 bands below 100 GHz and 2 above, but "
                f"{instrument.name!r} has {int(low.sum())} and {int((~low).sum())}."
            )
        sigma = torch.from_numpy(instrument.noise_rms(_REFERENCE_NSIDE))
        bands = instrument.bands
        frequency = bands.node_ghz
        log_ratio = log_ratio_of(bands)
        power_law = seds.synchrotron(frequency, BETA_MEAN)
        cleaned = torch.stack([seds.cmb(frequency), seds.modified_blackbody(frequency)])
        columns = torch.cat([cleaned, torch.stack([power_law, log_ratio * power_law])])
        cleaned, columns = bands.average(cleaned), bands.average(columns)
        fit = torch.linalg.pinv((columns / sigma).T) / sigma  # (component, band)
        clean = (torch.eye(len(centre), dtype=torch.float64) - cleaned.T @ fit[:2])[low]
        projection = complement((cleaned / sigma).T).T / sigma  # (mode, band)
        step = torch.log(centre / seds.SYNCHROTRON_PIVOT_GHZ)[low].diff().clamp_min(_LEAST_STEP)
        buffers = {
            "sigma": sigma,
            "fit": fit.T,
            "clean": clean.T,
            "clean_squared": (clean**2).T,
            "projection": projection.T,
            "from_nodes": modes_of_powers(bands, projection),
            "log_ratio": log_ratio,
            "ame": projection @ bands.average(seds.spinning_dust(frequency)),
            "log_step": step,
            "dust_changes": _dust_changes(bands, dust_tests) @ projection.T,
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.contiguous(), persistent=False)

    def forward(self, data: Tensor, sigma: Tensor, ame: Tensor | None = None) -> Tensor:
        """Features of a batch.

        Parameters
        ----------
        data : Tensor, shape (n, 2, n_band)
            Q, U [uK_RJ].
        sigma : Tensor, shape (n, n_band)
            Noise rms [uK_RJ].
        ame : Tensor, shape (n,), optional
            Polarised AME to expect [uK_RJ at 30 GHz] where a model has it; by default what is
            typical for the dust.

        Returns
        -------
        Tensor, float32, shape (n, n_feature)
        """
        sigma = torch.maximum(sigma.double(), NOISE_FLOOR * self.sigma)
        log_depth = torch.log(sigma / self.sigma)
        frame = self._dust_frame(data)
        general = [
            log_depth,
            torch.log(frame.dust)[:, None],
            torch.log(frame.synchrotron.abs() + 1e-6),
            frame.sign[:, :1],  # that of U is a convention, that of Q says where AME points
        ]
        ame = _TYPICAL_AME_PER_DUST * frame.dust if ame is None else ame
        scores = self._scores(frame, torch.exp(log_depth.mean(1)), ame)
        return torch.cat([*general, *self._log_spectra(frame, sigma), scores], 1).float()

    def amplitudes(self, data: Tensor) -> Tensor:
        """Rough amplitudes (n, 2, 4) of CMB, dust, synchrotron and its change by the index."""
        return data.double() @ self.fit

    def _dust_frame(self, data: Tensor) -> Frame:
        data = data.double()
        amplitude = self.amplitudes(data)  # (n, stokes, component)
        dust = amplitude[..., 1]
        modulus = torch.hypot(*dust.unbind(1)).clamp_min(_TINY)
        cos, sin = (dust / modulus[:, None]).unbind(1)
        synchrotron = _turn(amplitude[..., 2:3], cos, sin).squeeze(2)
        sign = torch.where(synchrotron >= 0, 1.0, -1.0)
        return Frame(_turn(data, cos, sin), modulus, synchrotron, sign)

    def _log_spectra(self, frame: Frame, sigma: Tensor) -> list[Tensor]:
        noise = torch.sqrt(sigma**2 @ self.clean_squared)[:, None]  # (n, 1, low band)
        cleaned = (frame.data @ self.clean) * frame.sign[:, :, None]
        spectrum = _asinh(cleaned / noise)  # (n, stokes, low band)
        slope = (spectrum + torch.log(noise)).diff(dim=2) / self.log_step
        return [
            spectrum.flatten(1),
            slope.flatten(1),
            slope.diff(dim=2).flatten(1),
            spectrum[:, 0] - spectrum[:, 1],
        ]

    def _scores(self, frame: Frame, depth: Tensor, expected_ame: Tensor) -> Tensor:
        """Score statistics, (n, 19); `depth` (n,): noise in units of the instrument's."""
        z = (frame.data @ self.projection) / depth[:, None, None]  # (n, stokes, mode), white
        beta = fit_index(z, self.log_ratio, self.from_nodes, _NEWTON_STEPS)
        template, slope, curve = derivatives(beta, self.log_ratio, self.from_nodes, order=2)
        power = dot(template, template)
        amplitude = along(z, template) / power[:, None]  # (n, stokes)
        squared = (amplitude**2).sum(1)
        ame = self.ame / depth[:, None]
        slope, curve, ame = (
            v - (dot(v, template) / power)[:, None] * template for v in (slope, curve, ame)
        )
        # Fisher matrix and gradient of (index, C, AME) after the amplitudes are eliminated
        f_bb = squared * dot(slope, slope) + BETA_PRECISION
        f_bc, f_cc = squared * dot(slope, curve), squared * dot(curve, curve)
        f_ba, f_ca = amplitude[:, 0] * dot(slope, ame), amplitude[:, 0] * dot(curve, ame)
        g_b = (amplitude * along(z, slope)).sum(1) + BETA_PRECISION * (BETA_MEAN - beta)
        g_c = (amplitude * along(z, curve)).sum(1) - f_bc / f_bb * g_b
        g_a = dot(z[:, 0], ame) - f_ba / f_bb * g_b
        # ... and after the index is eliminated too
        h_cc = (f_cc - f_bc**2 / f_bb).clamp_min(_TINY)
        h_aa = (dot(ame, ame) - f_ba**2 / f_bb).clamp_min(_TINY)
        h_ca = f_ca - f_bc * f_ba / f_bb
        residual = ((z - amplitude[:, :, None] * template[:, None]) ** 2).sum((1, 2))
        statistics = [
            *_score_tests(g_c, g_a, h_cc, h_aa, h_ca, expected_ame),
            beta,
            torch.log1p(residual),
            torch.log(squared.clamp_min(_TINY)),
            *(_asinh(amplitude * power.sqrt()[:, None]) * frame.sign).unbind(1),
        ]
        known = [v / torch.linalg.vector_norm(v, dim=1)[:, None] for v in (template, slope)]
        for change in self.dust_changes:
            test, direction = _dust_test(z, frame.dust, change / depth[:, None], known)
            statistics += test
            known.append(direction)
        return torch.stack(statistics, 1)


def _dust_changes(bands: Bands, dust_tests: tuple[str, ...]) -> Tensor:
    """Change of the dust's SED by each departure, (n_test, band)."""
    frequency = bands.node_ghz
    dust, t = seds.modified_blackbody(frequency), seds.DUST_TEMPERATURE
    change = {
        "beta": torch.log(frequency / seds.DUST_REFERENCE_GHZ) * dust,
        "temperature": t * seds.dust_temperature_slope(frequency, t) * dust,
        "two_temperatures": seds.two_temperature_dust(frequency) - dust,
    }
    columns = [change[name] for name in dust_tests]
    return bands.average(torch.stack(columns) if columns else frequency.new_zeros(0, len(dust)))


def _dust_test(
    z: Tensor, dust: Tensor, change: Tensor, known: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Test, in both Stokes, of a change of the dust beside CMB, dust and what is known.

    That is the power law, its change by the index and earlier changes of the dust, orthonormal. The
    direction that is left comes, too.
    """
    for direction in known:
        change = change - dot(change, direction)[:, None] * direction
    length = torch.linalg.vector_norm(change, dim=1).clamp_min(_TINY)
    direction = change / length[:, None]
    t = along(z, direction)
    amount = t[:, 0] / (dust * length)
    return [*_asinh(t).unbind(1), torch.log(dust * length), _asinh(20 * amount)], direction


_TYPICAL_AME_PER_DUST = 0.15  # polarised AME at 30 GHz over polarised dust at 353 GHz


def _score_tests(g_c, g_a, h_cc, h_aa, h_ca, ame) -> list[Tensor]:
    """Tests of C and AME, alone and given the other, and log likelihood ratios of the models."""
    correlation = (h_ca / (h_cc * h_aa).sqrt()).clamp(-0.99999, 0.99999)
    t_c, t_a = g_c / h_cc.sqrt(), g_a / h_aa.sqrt()
    independent = (1 - correlation**2).sqrt()
    c = seds.KOGUT_CURVATURE
    curved = c * g_c - 0.5 * c**2 * h_cc
    with_ame = ame * g_a - 0.5 * ame**2 * h_aa
    overlap = c * ame * h_ca
    compressed = [
        t_c,
        t_a,
        (t_c - correlation * t_a) / independent,
        (t_a - correlation * t_c) / independent,
        curved,
        with_ame,
        curved + with_ame - overlap,
        with_ame - overlap,
        curved - overlap,
        g_a / (h_aa * ame),
    ]
    logs = [0.5 * torch.log(h_cc), 0.5 * torch.log(h_aa)]
    return [*(_asinh(s) for s in compressed), correlation, *logs, _asinh(20 * g_c / h_cc)]


def _turn(stokes: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Q, U (n, 2, k) along and across a direction of polarisation (n,)."""
    q, u = stokes.unbind(1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([cos * q + sin * u, cos * u - sin * q], 1)


def _asinh(x: Tensor) -> Tensor:
    """As torch.asinh to the last digit or the one before, in an eighth of its time."""
    size = x.abs().clamp_max(1e18)  # whose square is finite
    return torch.copysign(torch.log1p(size + size * (size / (1 + torch.sqrt(1 + size**2)))), x)


class TemplatePrior(nn.Module):
    """The AME to expect of a pixel, from the pixels of the training sky that look like it.

    A kernel average over template pixels, as wide as the training law scatters their amplitudes:
    the posterior mean of the AME given rough amplitudes of synchrotron and dust. It knows where on
    its own sky a direction of polarisation is found, and is of no use on another.

    In float64: (x - m)^2 / v is expanded, so that a product of matrices makes it, and x^2 / v
    reaches 10^8 where a pixel is bright in what no template has, though weights hang on the last
    unit; and the spread of the AME is a difference of squares, a ten-thousandth of either.

    Parameters
    ----------
    n_pixel : int
        Of the templates to be remembered.
    """

    quadratic: Tensor
    constant: Tensor
    ame: Tensor

    def __init__(self, n_pixel: int):
        super().__init__()
        self.register_buffer("quadratic", torch.zeros(8, n_pixel, dtype=torch.float64))
        self.register_buffer("constant", torch.zeros(n_pixel, dtype=torch.float64))
        self.register_buffer("ame", torch.ones(n_pixel, 3, dtype=torch.float64))

    @torch.no_grad()
    def remember(self, templates: "Templates") -> None:
        """Keep the amplitudes of the pixels of a sky, as many as there is room for."""
        stokes = [torch.from_numpy(t).double() for t in (templates.synchrotron, templates.dust)]
        mean = torch.cat(stokes).T  # (pixel, 4)
        variance = (AMPLITUDE_SCATTER * mean) ** 2 + torch.tensor(_FIT_ERROR).double() ** 2
        log_volume = (mean**2 / variance + torch.log(variance)).sum(1)
        ame = seds.AME_POLARISATION_FRACTION * torch.from_numpy(templates.ame).double()
        ame = ame.clamp_min(_TINY)  # a map may have zeros; spread and scores are divided by it
        self.quadratic.copy_(torch.cat([-0.5 / variance, mean / variance], 1).T)
        self.constant.copy_(-0.5 * log_volume)
        self.ame.copy_(torch.stack([ame, ame**2, torch.log(ame)], 1))

    def forward(self, synchrotron: Tensor, dust: Tensor) -> tuple[Tensor, Tensor]:
        """Expected AME (n,) [uK_RJ], and features of it (n, 2), of Q,U amplitudes (n, 2)."""
        x = torch.cat([synchrotron, dust], 1).double()
        averages = []
        for block in torch.cat([x**2, x], 1).split(_MEMORY_BLOCK):
            weight = torch.softmax(torch.addmm(self.constant, block, self.quadratic), 1)
            averages.append(weight @ self.ame)
        mean, square, log_mean = torch.cat(averages).unbind(1)
        map_fn = (square - mean**2).clamp_min(0).sqrt()
        features = torch.stack([log_mean, torch.log(map_fn / mean + 1e-2)], 1)
        return mean.float(), features.float()


# rms error of the rough amplitudes of synchrotron Q, U and dust Q, U at Table 1 noise [uK_RJ]
_FIT_ERROR = (1.0, 1.0, 0.06, 0.06)
_MEMORY_BLOCK = 256  # vectors whose weights stay in the cache
