"""Bandpasses: what a band of some width sees of a spectrum.

A detector takes in power, so the brightness of a band in uK_RJ is the mean of the spectrum over
frequency, weighed by response times frequency squared: Rayleigh-Jeans brightness is power over
frequency squared. Every spectrum of foreglow is smooth across a band, so a few nodes of Gauss's
quadrature for just that weight do the integral, whatever the shape of the response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from foreglow.errors import InstrumentError
from foreglow.sky import seds

N_NODES = 4  # exact for polynomials of degree 7: 1e-6 for any component in a band of 40%
_MOST_NODES = 12  # of responses with far wings
_EXACT = 1e-5  # of the spectra that bands see

Response = Literal["power", "temperature"]

Nodes = tuple[tuple[float, float], ...]
"""Frequency [GHz] and weight of each node of a band; the weights sum to 1."""


@dataclass(frozen=True, eq=False)
class Bands:
    """Where the spectra of some bands are evaluated, and how they are averaged.

    Parameters
    ----------
    node_ghz : Tensor, shape (n_node,)
    weight : Tensor, shape (n_node, n_band), optional
        Of each node in each band; by default every node is a band, infinitely narrow.
    """

    node_ghz: Tensor
    weight: Tensor | None = None

    @classmethod
    def of(cls, frequency_ghz: "Tensor | Bands") -> "Bands":
        """The narrow bands of some frequencies (n_band,), or bands as they are."""
        return frequency_ghz if isinstance(frequency_ghz, Bands) else cls(frequency_ghz)

    def __len__(self) -> int:
        return len(self.node_ghz) if self.weight is None else self.weight.shape[1]

    def average(self, spectrum: Tensor, dim: int = -1) -> Tensor:
        """Spectra at the nodes along `dim` as the bands see them [uK_RJ]."""
        if self.weight is None:
            return spectrum
        return (spectrum.movedim(dim, -1) @ self.weight).movedim(-1, dim)

    def some(self, wanted: Tensor) -> Self:
        """Some of the bands, by a mask or by their places."""
        if self.weight is None:
            return type(self)(self.node_ghz[wanted])
        weight = self.weight[:, wanted]
        nodes = (weight != 0).any(1)
        return type(self)(self.node_ghz[nodes], weight[nodes])

    def to(self, device: torch.device | str) -> Self:
        """The same in double precision on a device; itself where it is there."""
        if self.node_ghz.device == torch.device(device) and self.node_ghz.dtype == torch.float64:
            return self
        weight = None if self.weight is None else self.weight.to(device, torch.float64)
        return type(self)(self.node_ghz.to(device, torch.float64), weight)


def bands_of(nodes: tuple[Nodes, ...]) -> Bands:
    """Bands, each with nodes of its own."""
    weight = torch.zeros(sum(map(len, nodes)), len(nodes), dtype=torch.float64)
    start = 0
    for k, band in enumerate(nodes):
        weight[start : start + len(band), k] = torch.tensor(
            [w for _, w in band], dtype=torch.float64
        )
        start += len(band)
    frequency = [nu for band in nodes for nu, _ in band]
    return Bands(torch.tensor(frequency, dtype=torch.float64), weight)


def top_hat(low_ghz: float, high_ghz: float) -> Nodes:
    """A response, in power, that is the same from one edge to the other.

    Raises
    ------
    InstrumentError
        If the edges are not positive and ascending.
    """
    if not 0 < low_ghz < high_ghz < np.inf:
        raise InstrumentError(
            "expected edges of a band above 0 GHz, the lower first, got "
            f"{low_ghz:g} and {high_ghz:g} GHz."
        )
    x, w = np.polynomial.legendre.leggauss(2 * N_NODES)
    nu = 0.5 * (low_ghz + high_ghz + (high_ghz - low_ghz) * x)
    return _gauss(nu, w * nu**2)


def tabulated(frequency_ghz: ArrayLike, response: ArrayLike, of: Response = "power") -> Nodes:
    """A measured response, integrated by trapezoids as PySM3 does.

    Parameters
    ----------
    frequency_ghz, response : array_like, shape (n,)
        Ascending; of the response only the shape counts, and what is below zero is noise.
    of : str
        "power": of the response to an intensity per frequency, as PySM3 has it. "temperature": to a
        brightness temperature, which is that over frequency squared.

    Raises
    ------
    InstrumentError
        If the frequencies do not ascend from above zero, or nothing responds.

    References
    ----------
    `pysm3.utils.normalize_weights`.
    """
    return nodes_of([measure(frequency_ghz, response, of)])


def measure(
    frequency_ghz: ArrayLike, response: ArrayLike, of: Response = "power"
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (n,) that respond, and their weights (n,) in a mean of brightness in uK_RJ.

    Parameters, and errors, are those of `tabulated`.
    """
    nu, gain = np.asarray(frequency_ghz, float), np.asarray(response, float)
    if nu.ndim != 1 or nu.shape != gain.shape or len(nu) < 2:
        raise InstrumentError(
            f"expected two rows or more of frequency and response, got {nu.shape} and {gain.shape}."
        )
    if not (np.isfinite(nu).all() and np.isfinite(gain).all() and (gain > 0).any()):
        raise InstrumentError("expected finite numbers, and a response above 0 somewhere.")
    if nu[0] <= 0 or (np.diff(nu) <= 0).any():
        raise InstrumentError("expected frequencies above 0 GHz that ascend, each once.")
    step = np.diff(nu)
    width = 0.5 * (np.append(step, 0) + np.append(0, step))
    weight = width * gain.clip(0) * (nu**2 if of == "power" else 1.0)
    return nu[weight > 0], weight[weight > 0]


def nodes_of(detectors: Sequence[tuple[np.ndarray, np.ndarray]]) -> Nodes:
    """Of the mean of detectors, each a `measure`, that were calibrated on the CMB alike."""
    if len(detectors) == 1:
        return _gauss(*detectors[0])
    nu = np.concatenate([one for one, _ in detectors])
    weight = np.concatenate([w / (w @ _usual(n)[:, 0]) for n, w in detectors])
    nu, place = np.unique(nu, return_inverse=True)
    return _gauss(nu, np.bincount(place, weight))


def _gauss(nu: np.ndarray, measure: np.ndarray) -> Nodes:
    """As few nodes as give the spectra that bands see, of a discrete measure."""
    measure = measure / measure.sum()
    exact, position, weight = measure @ _usual(nu), nu, measure
    for n in range(min(N_NODES, len(nu)), min(_MOST_NODES, len(nu)) + 1):
        position, weight = _quadrature(nu, measure, n)
        if np.allclose(weight @ _usual(position), exact, rtol=_EXACT, atol=0):
            break
    return tuple(zip(position.tolist(), weight.tolist(), strict=True))


def _usual(nu: np.ndarray) -> np.ndarray:
    """CMB, dust and synchrotron at some frequencies [GHz], (n, 3)."""
    at = torch.from_numpy(nu)
    found = seds.cmb(at), seds.modified_blackbody(at), seds.synchrotron(at, -3.0)
    return torch.stack(found, 1).numpy()


def _quadrature(nu: np.ndarray, measure: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's n nodes and weights for a measure, by Lanczos' recurrence (Golub & Welsch 1969)."""
    middle, half = 0.5 * (nu[0] + nu[-1]), max(0.5 * (nu[-1] - nu[0]), 1e-9 * nu[0])
    x = (nu - middle) / half
    basis = [np.sqrt(measure)]
    for _ in range(n - 1):
        column = x * basis[-1]
        for _ in range(2):  # once more for what rounding left
            column = column - sum(b * (b @ column) for b in basis)
        basis.append(column / np.linalg.norm(column))
    jacobi = np.array([[a @ (x * b) for b in basis] for a in basis])
    position, vectors = np.linalg.eigh(jacobi)
    return middle + half * position, vectors[0] ** 2
