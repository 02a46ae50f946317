"""Grids over all of the range of the spectral parameters, as fine as the spectra are different.

Where the dust is free, each of its nodes has nodes of synchrotron of its own: the likelihood has
narrow hills where the two are nearly alike, and these lie elsewhere beside each dust.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from foreglow.recognition.fits.skymodel import Free, SkyModel, bent_spectra, fixed_spectra
from foreglow.sky import seds
from foreglow.sky.bandpass import Bands

# nodes of the dust: of one free parameter alone, and of each of two
_DUST = {"beta_d": (16, 10), "dust_temperature": (20, 12)}
_NEAR = 0.3  # nodes of C are even within this of its start
# turn [rad] that the whole range of beta_s counts as, whatever the spectrum does; most that it may,
# if it went on as at a point; and that of the whole of its prior; and likewise of the dust
_DRIFT, _STEEP, _PRIOR = 1.0, 60.0, 2.0
_DUST_DRIFT, _DUST_PRIOR = 0.5, 1.0
_BESIDE = (-2.0, 2.0, 41)  # beta_s beside which the dust turns: it is like dust near zero
_FINE = 400  # points on which the turn is followed
# rows where the best node is a start in any case: on either side of the hill where the spectrum
# turns up in the highest bands, which is too narrow for a grid
_CURVATURES = (0.0, 0.7)


@dataclass(frozen=True)
class Grid:
    """Nodes of all free parameters.

    Parameters
    ----------
    shape : tuple of int
        Nodes along the axes: the dust's free parameters, C, beta_s; neighbours along them are
        neighbours in the parameters.
    nodes : Tensor, shape (n_node, n_param)
    spectra : Tensor, float32, shape (n_dust or 1, n_band, n_node / n_dust)
        Of synchrotron beside each dust, up to a factor a node.
    dust : Tensor, shape (n_dust, n_band)
        Spectra of the dust; none where it has no nodes.
    penalty : Tensor, float32, shape (n_node, 1)
        What the priors add to chi-square.
    rows : tuple of int
        Places along the axis of C where the highest node is a start in any case.
    """

    shape: tuple[int, ...]
    nodes: Tensor
    spectra: Tensor
    dust: Tensor
    penalty: Tensor
    rows: tuple[int, ...] = ()


@lru_cache(maxsize=32)  # of some MiB each, and made anew for each block of pixels else
def grid(
    model: SkyModel, bands: Bands, n_curvature: int, n_beta: int, with_dust: bool = True
) -> Grid:
    """Nodes of beta_s, and of C and the dust where they are free.

    Parameters
    ----------
    model : SkyModel
    bands : Bands
    n_curvature, n_beta : int
        Nodes, of C if it is free.
    with_dust : bool
        Whether to have nodes of the dust where it is free; else it is at its start.
    """
    start = bands.node_ghz.new_tensor([free.start for free in model.free.values()])
    axes, places = _dust(model, bands, start) if with_dust else ([], start[None])
    found = [_synchrotron(model, bands, n_curvature, n_beta, place) for place in places]
    nodes = torch.cat([nodes for nodes, _ in found])
    c, rows = _curvatures(model, n_curvature)
    return Grid(
        (*axes, len(c), n_beta),
        nodes,
        torch.stack([spectra for _, spectra in found]),
        spectra_of(model, bands, places, 1) if axes else start.new_empty(0, len(bands)),
        _penalty(model, nodes.T).float()[:, None],
        rows,
    )


def spectra_of(model: SkyModel, bands: Bands, parameters: Tensor, component: int) -> Tensor:
    """Spectra (..., n_band) of one of the bent components at parameters (..., n_param)."""
    shape = parameters.shape[:-1]
    bent = bent_spectra(model, bands.node_ghz, parameters.reshape(-1, parameters.shape[-1]))[0]
    return bands.average(bent[..., component]).unflatten(0, shape)


def _dust(model: SkyModel, bands: Bands, start: Tensor) -> tuple[list[int], Tensor]:
    """Numbers of nodes along the axes of the dust, and all nodes (n_dust, n_param)."""
    mine = [(k, name) for k, name in enumerate(model.free) if name in _DUST]
    if not mine:
        return [], start[None]
    counts = [_DUST[name][len(mine) - 1] for _, name in mine]
    axes = [_dust_axis(model, bands, start, k, n) for (k, _), n in zip(mine, counts, strict=True)]
    values = torch.cartesian_prod(*axes).reshape(-1, len(mine))
    places = start.repeat(len(values), 1)
    places[:, [k for k, _ in mine]] = values
    return counts, places


def _dust_axis(model: SkyModel, bands: Bands, start: Tensor, place: int, count: int) -> Tensor:
    """Nodes of a parameter of the dust: even steps of its turn, the mean beside synchrotrons."""
    name, free = list(model.free.items())[place]
    t = torch.linspace(0, 1, _FINE).to(start)
    fine = start.repeat(_FINE, 1)
    fine[:, place] = free.low + (free.high - free.low) * t
    if name == "dust_temperature":
        fine[:, place] = free.low * (free.high / free.low) ** t
    beside = start.repeat(_BESIDE[2], 1)
    beside[:, 0] = torch.linspace(*_BESIDE).to(start)
    dust, fixed = spectra_of(model, bands, fine, 1), fixed_spectra(model, bands)
    turn = torch.full_like(t[1:], _DUST_DRIFT / _FINE)
    for synchrotron in spectra_of(model, bands, beside, 0):
        outside = _outside(bands, dust, torch.cat([fixed, synchrotron[:, None]], 1))
        turn += torch.linalg.vector_norm(outside.diff(dim=0), dim=-1) / len(beside)
    turn += _DUST_PRIOR * _prior_share(free, fine[:, place]).diff()
    return fine[_even_steps(turn, count), place]


def _even_steps(turn: Tensor, count: int) -> Tensor:
    """Places (..., count) of even steps of the sum of turns (..., n - 1) between n points."""
    way = torch.nn.functional.pad(turn.cumsum(-1), (1, 0))
    wanted = way[..., -1:] * torch.linspace(0, 1, count).to(turn)
    return torch.searchsorted(way, wanted).clamp_max(way.shape[-1] - 1)


def _curvatures(model: SkyModel, count: int) -> tuple[Tensor, tuple[int, ...]]:
    """Nodes of C, and the places of `_CURVATURES`."""
    curvature = model.free.get("curvature")
    if curvature is None:
        return torch.zeros(1, dtype=torch.float64), ()
    c = _evenly(curvature, count, _NEAR)
    return c, tuple(sorted({int((c - value).abs().argmin()) for value in _CURVATURES}))


def _synchrotron(
    model: SkyModel, bands: Bands, n_curvature: int, n_beta: int, at: Tensor
) -> tuple[Tensor, Tensor]:
    """Nodes of beta_s, and of C if it is free, beside some dust, and their spectra.

    For each C the nodes of beta_s are even steps of the angle by which the spectrum turns, seen by
    bands whose noise falls as frequency squared, after all other components.
    """
    free, c = model.free, _curvatures(model, n_curvature)[0].to(at)
    t = torch.linspace(0, 1, _FINE).to(at)
    fine = at.repeat(len(c), _FINE, 1)
    fine[..., 0] = free["beta_s"].low + (free["beta_s"].high - free["beta_s"].low) * t
    if "curvature" in free:
        fine[..., 1] = c[:, None]
    others = _others(model, bands, at)
    outside = _outside(bands, spectra_of(model, bands, fine, 0), others)
    turn = (
        torch.linalg.vector_norm(outside.diff(dim=1), dim=-1).clamp_max(_STEEP / _FINE)
        + _DRIFT / _FINE
    )
    turn += _PRIOR * _prior_share(free["beta_s"], fine[0, :, 0]).diff()
    place = _even_steps(turn, n_beta)
    nodes = fine.gather(1, place[..., None].expand(-1, -1, fine.shape[2])).flatten(0, 1)
    # what is left beside the others explains as much, and single precision tells it
    spectra = _outside(bands, spectra_of(model, bands, nodes, 0), others) / _noise_slope(bands)
    return nodes, spectra.T.float().contiguous()


def _evenly(free: Free, count: int, near: float) -> Tensor:
    """Values from bound to bound, the denser the nearer to the start; even within `near` of it."""
    ends = torch.tensor([free.low, free.high], dtype=torch.float64)
    low, high = torch.asinh((ends - free.start) / near)
    return free.start + near * torch.sinh(torch.linspace(float(low), float(high), count).double())


def _prior_share(free: Free, values: Tensor) -> Tensor:
    """Share of the prior below each value; nothing where it is flat."""
    if free.prior is None:
        return torch.zeros_like(values)
    return torch.special.ndtr((values - free.prior[0]) / free.prior[1])


def _noise_slope(bands: Bands) -> Tensor:
    return (bands.average(bands.node_ghz) / seds.SYNCHROTRON_PIVOT_GHZ) ** 2


def _outside(bands: Bands, spectra: Tensor, fixed: Tensor) -> Tensor:
    """Directions (..., n_band) of spectra over noise, outside the span of others (n_band, k)."""
    slope = _noise_slope(bands)
    basis = torch.linalg.qr(slope[:, None] * fixed).Q
    left = spectra * slope
    for _ in range(2):  # twice, for what rounding leaves
        left = left / torch.linalg.vector_norm(left, dim=-1, keepdim=True)
        left = left - left @ basis @ basis.T
    return left / torch.linalg.vector_norm(left, dim=-1, keepdim=True)


def _others(model: SkyModel, bands: Bands, parameters: Tensor) -> Tensor:
    """Spectra (n_band, n) of all components but synchrotron."""
    fixed = fixed_spectra(model, bands)
    if "dust" not in model.bent:
        return fixed
    return torch.cat([fixed, spectra_of(model, bands, parameters[None], 1).T], 1)


def _penalty(model: SkyModel, parameters: Tensor) -> Tensor:
    """What the priors add to chi-square at parameters (n_param, n)."""
    penalty = torch.zeros_like(parameters[0])
    for k, free in enumerate(model.free.values()):
        if free.prior is not None:
            penalty += ((parameters[k] - free.prior[0]) / free.prior[1]) ** 2
    return penalty
