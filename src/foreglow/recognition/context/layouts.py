"""Random layouts of models, and random footprints, on the device: what context is trained on."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreglow.maps import healpix as hp
from foreglow.maps.faces import face_order

BLOB_DEG = (12.0, 180.0)  # FWHM of the smoothing, drawn log-uniform
_OFFSET = 0.7  # rms of a model's lead over the others, so that areas differ and may vanish
_LMAX = 40  # blobs of 12 degrees are smooth there
_FOOTPRINT_DEG = 60.0
_BLOBS, _SECTORS, _CELLS = 0.5, 0.2, 0.2  # shares of the kinds of layouts; one model in the rest
_CELL_NUMBER = (2.0, 200.0)  # of a sky, drawn log-uniform
_LEAST_SECTOR = 0.05


class BlobLaw:
    """Draws layouts: the model of a pixel is that of the highest of smooth Gaussian fields.

    Parameters
    ----------
    nside : int
    device : torch.device
    """

    def __init__(self, nside: int, device: torch.device):
        self._modes = _harmonics(nside).to(device)  # (pixel, mode), face order
        self._ell = _degrees().to(device)
        self._order = face_order(nside).numpy()

    def layouts(self, n: int, n_class: int, generator: torch.Generator) -> Tensor:
        """Classes of every pixel, int64, shape (n, n_pix) in face order."""
        device = self._modes.device
        low, high = np.log(BLOB_DEG)
        fwhm = torch.exp(low + (high - low) * torch.rand(n, generator=generator, device=device))
        lead = _OFFSET * torch.randn(n, n_class, 1, generator=generator, device=device)
        return (self._fields(fwhm, n_class, generator) + lead).argmax(1)

    def maps(self, n: int, n_class: int, generator: torch.Generator) -> NDArray[np.int64]:
        """The same as RING maps, shape (n, n_pix)."""
        found = np.empty((n, len(self._modes)), np.int64)
        found[:, self._order] = self.layouts(n, n_class, generator).cpu().numpy()
        return found

    def footprints(self, n: int, generator: torch.Generator) -> Tensor:
        """Which pixels are observed, bool, shape (n, n_pix): the whole sky for every second."""
        device = self._modes.device
        fwhm = torch.full((n,), _FOOTPRINT_DEG, device=device)
        field = self._fields(fwhm, 1, generator)[:, 0]
        least = 1.5 * torch.rand(n, 1, generator=generator, device=device) - 1
        whole = torch.rand(n, 1, generator=generator, device=device) < 0.5
        return (field > least) | whole | (field >= field.amax(1, keepdim=True))

    def _fields(self, fwhm_deg: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Fields of unit variance, shape (n, k, n_pix)."""
        n, device = len(fwhm_deg), self._modes.device
        sigma = torch.deg2rad(fwhm_deg)[:, None] / (8 * np.log(2)) ** 0.5
        beam = torch.exp(-0.5 * self._ell * (self._ell + 1) * sigma**2)  # (n, mode)
        beam = beam / (beam**2).sum(1, keepdim=True).sqrt()
        white = torch.randn(n, k, len(self._ell), generator=generator, device=device)
        return (white * beam[:, None]) @ self._modes.T


class LayoutLaw(BlobLaw):
    """Draws layouts of many kinds, so that a context learns to tell of which kind a map is.

    Half are blobs; the others are sectors about any axis, equal or not, random cells (the nearest
    of some points, each of any class), and skies of one model. None follows the pixels or the
    Galactic frame.

    Parameters
    ----------
    nside : int
    device : torch.device
    """

    def __init__(self, nside: int, device: torch.device):
        super().__init__(nside, device)
        vectors = np.stack(hp.pix2vec(nside, self._order), 1)
        self._vectors = torch.from_numpy(vectors.astype(np.float32)).to(device)

    def layouts(self, n: int, n_class: int, generator: torch.Generator) -> Tensor:
        """Classes of every pixel, int64, shape (n, n_pix) in face order."""
        device = self._vectors.device
        label = super().layouts(n, n_class, generator)
        kind = torch.rand(n, generator=generator, device=device) - _BLOBS
        for place in torch.nonzero(kind >= 0).flatten().tolist():
            one = float(kind[place])
            if one < _SECTORS:
                label[place] = self._sectors(n_class, generator)
            elif one < _SECTORS + _CELLS:
                label[place] = self._cells(n_class, generator)
            else:
                label[place] = torch.randint(n_class, (), generator=generator, device=device)
        return label

    def _sectors(self, n_class: int, generator: torch.Generator) -> Tensor:
        """Lunes about an axis, one a class, equal in half of the skies."""
        device = self._vectors.device
        axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, device=device))[0]
        x, y, _ = (self._vectors @ axes).unbind(1)
        turn = torch.atan2(x, y) / (2 * torch.pi) + 0.5
        width = torch.rand(n_class, generator=generator, device=device) + _LEAST_SECTOR
        if torch.rand((), generator=generator, device=device) < 0.5:
            width = torch.ones_like(width)
        edges = (width / width.sum()).cumsum(0)[:-1]
        order = torch.randperm(n_class, generator=generator, device=device)
        return order[torch.searchsorted(edges, turn.contiguous())]

    def _cells(self, n_class: int, generator: torch.Generator) -> Tensor:
        """Voronoi cells of points of any class."""
        device = self._vectors.device
        low, high = np.log(_CELL_NUMBER)
        share = torch.rand((), generator=generator, device=device)
        number = int(torch.exp(low + (high - low) * share))
        points = torch.randn(number, 3, generator=generator, device=device)
        points = torch.nn.functional.normalize(points, dim=1)
        classes = torch.randint(n_class, (number,), generator=generator, device=device)
        return classes[(self._vectors @ points.T).argmax(1)]


@cache
def _harmonics(nside: int) -> Tensor:
    """Real spherical harmonics of l >= 1, variance 1 a mode over the sky, (n_pix, mode)."""
    size = hp.Alm.getsize(_LMAX)
    columns = []
    for index in range(size):
        ell, m = hp.Alm.getlm(_LMAX, index)
        if ell == 0:
            continue
        for phase in (1, 1j) if m else (1,):
            alm = np.zeros(size, complex)
            alm[index] = phase * (2**-0.5 if m else 1)
            columns.append(hp.alm2map(alm, nside, lmax=_LMAX))
    modes = np.sqrt(4 * np.pi) * np.stack(columns, 1)[face_order(nside).numpy()]
    return torch.from_numpy(modes.astype(np.float32))


def _degrees() -> Tensor:
    """Degree of each mode of `_harmonics`."""
    ell, m = hp.Alm.getlm(_LMAX)
    return torch.from_numpy(np.repeat(ell[ell > 0], np.where(m[ell > 0] > 0, 2, 1))).float()
