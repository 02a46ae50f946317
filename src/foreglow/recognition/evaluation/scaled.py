"""What the paper's scaling of each vector to [0, 1] leaves of the evidence.

A vector scaled by its own extremes has lost two numbers, an offset and a factor, and with them how
bright the pixel is, and how bright beside the noise. No network behind such a scaling can be right
more often than the one that chooses the model of largest evidence of the scaled vector: the
evidence of `ceiling`, integrated over every offset and factor that the vector may have had.
"""

import math

import torch
from torch import Tensor

from foreglow.recognition.evaluation.ceiling import log_evidence
from foreglow.recognition.models import BETA_MEAN
from foreglow.sky import seds
from foreglow.sky.instrument import Instrument
from foreglow.sky.templates import Templates

_LOG_FACTORS = torch.linspace(-1.2, 1.2, 17, dtype=torch.float64)


def log_evidence_of_scaled(
    data: Tensor,
    sigma: Tensor,
    templates: Templates,
    instrument: Instrument,
    models: tuple[str, ...],
) -> Tensor:
    """Log evidence of each model for vectors of which only the scaled numbers are known.

    They are (d - min d) / (max d - min d) over the 2 n_band numbers d of a vector.

    The integral over the logarithm of the factor is a sum over nodes around the true one; that over
    the offset, which the noise holds to a narrow Gaussian, is Laplace's, model by model.

    Parameters
    ----------
    data : Tensor, shape (n, 2, n_band)
        Q, U [uK_RJ] before the scaling.
    sigma : Tensor, shape (n_band,)
        Noise rms [uK_RJ].
    templates : Templates
        The sky that the vectors were drawn from, at their Nside.
    instrument : Instrument
    models : tuple of str

    Returns
    -------
    Tensor, float64, shape (n, n_class)
        Up to a constant a vector.
    """
    data = data.double()
    free = data[0].numel() - 1  # of the measure: factor^(numbers - 2), by its logarithm once more
    width = offset_error(sigma, instrument)
    law = (sigma, templates, instrument, models)
    middle = len(_LOG_FACTORS) // 2
    found: dict[int, Tensor] = {}
    for side in (range(middle, len(_LOG_FACTORS)), range(middle - 1, -1, -1)):
        offset = torch.zeros(len(data), dtype=torch.float64)
        for node in side:
            log_factor = float(_LOG_FACTORS[node])
            stretched = math.exp(log_factor) * data
            _, offset = _over_offsets(stretched, offset, width, law)  # nearer, and once more
            value, offset = _over_offsets(stretched, offset, width, law)
            found[node] = value + free * log_factor
    return torch.stack([found[node] for node in sorted(found)]).logsumexp(0)


def offset_error(sigma: Tensor, instrument: Instrument) -> float:
    """Rms error [uK_RJ] of an offset common to Q and U of all bands, the components being free."""
    bands = instrument.bands
    ratio = torch.log(bands.node_ghz / seds.SYNCHROTRON_PIVOT_GHZ)
    synchrotron = torch.exp(BETA_MEAN * ratio)
    spectra = [synchrotron, synchrotron * ratio]
    spectra += [seds.modified_blackbody(bands.node_ghz), seds.cmb(bands.node_ghz)]
    columns = bands.average(torch.stack(spectra).double()).T / sigma.double()[:, None]
    offset = 1 / sigma.double()
    fitted = columns @ torch.linalg.lstsq(columns, offset[:, None]).solution
    return float((2 * (offset - fitted[:, 0]).square().sum()).rsqrt())


def _over_offsets(data: Tensor, offset: Tensor, width: float, law: tuple) -> tuple[Tensor, Tensor]:
    """(n, n_class) log integral over an offset common to all numbers, and where it is largest (n,).

    A parabola through three values is the log-likelihood itself, nearly: it is Gaussian.
    """
    three = [log_evidence(data + (offset + k * width)[:, None, None], *law) for k in (-1, 0, 1)]
    slope, bend = _parabola(*three)
    value = three[1] + 0.5 * slope**2 / bend - 0.5 * torch.log(bend)
    slope, bend = _parabola(*(f.logsumexp(1) for f in three))
    return value, offset + width * slope / bend


def _parabola(left: Tensor, centre: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and downward bend at the centre by a unit step; of a Gaussian of that width, bend 1."""
    return 0.5 * (right - left), (2 * centre - left - right).clamp(0.25, 4.0)
