"""What a survey will take: disk, memory and time, before it begins.

Sizes follow from the registry and Nside. Times are estimates by rates measured on one core of
another machine, which docs/howto/survey.md tells of.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foreglow.data.cost import cost_lines
from foreglow.data.registry import find_files
from foreglow.maps import healpix as hp
from foreglow.recognition.observation.smoothing import Resolution
from foreglow.survey.bands import HALVES, Survey, is_of_registry

_FINEST = 2048
_BYTES_A_PIXEL = 60  # of a map with unobserved pixels, by `common_beam.bytes_for`
_LIBRARIES = 450 << 20
_SMOOTHED = 3.5e5  # pixels a second: of a part of the sky; of all of it three times as many
_FITTED = 800.0  # pixels a second of four models, Q and U correlated
_TRAINED, _NEIGHBOURS = 120.0, 400.0  # seconds of the usual plans of network and context
_KEPT = 60  # bytes a pixel and band of what the run directory keeps
_PAGE = 16 << 20  # of the report, its figures and the network


@dataclass(frozen=True)
class SurveyCost:
    """What a survey takes.

    Attributes
    ----------
    download, run, memory : int
        Bytes: still to be fetched; of the run directory; of memory at the peak.
    seconds : dict of str to float
        By stage, on one core.
    """

    download: int
    run: int
    memory: int
    seconds: dict[str, float]

    def lines(self) -> Iterator[str]:
        """For the log."""
        disk = {"or more to fetch": self.download, "for the run": self.run}
        return cost_lines(disk, self.memory, self.seconds, "one core")


def predict_cost(
    survey: Survey,
    fwhm_arcmin: float,
    nside: int | None,
    halves: bool,
    network: bool,
    context: bool,
    download: int,
    draws: int = 0,
) -> SurveyCost:
    """What a survey takes; parameters are those of `recognize_survey`.

    Parameters
    ----------
    download : int
        Bytes still to be fetched.
    draws : int
        Maps of noise a band.
    """
    which = (None, *HALVES) if halves else (None,)
    sizes = [
        hp.nside2npix(_nside(band.files_of(half)[0])) for half in which for band in survey.bands
    ]
    finest = max(sizes)
    pixels = hp.nside2npix(nside or Resolution.of(fwhm_arcmin, _FINEST).nside)
    n_band = survey.instrument.n_band
    runs = 1 + n_band + (len(HALVES) if halves else 0)
    return SurveyCost(
        download,
        _KEPT * pixels * n_band * (len(which) + 1) + _PAGE,
        _BYTES_A_PIXEL * finest + _LIBRARIES,
        {
            "smoothing": sum(sizes) / _SMOOTHED,
            f"{draws} maps of noise a band": draws * sum(sizes) / _SMOOTHED,
            "fits": runs * pixels / _FITTED,
            "training": network * _TRAINED + context * _NEIGHBOURS,
        },
    )


def _nside(name: str) -> int:
    """Of the file of a product; of one's own files nothing is known before they are read."""
    if not is_of_registry(name):
        return 1
    return find_files(name)[0].product.nside or 1
