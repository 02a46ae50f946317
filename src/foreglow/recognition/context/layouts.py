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
