"""HI4PI column density against Planck dust: the integrated model on real maps.

Reference numbers are those of `../shared/data/README.md`, each from 500 cutouts.
"""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.baselines import integrated
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.spectra import mode_correlation, paper_bands, spectrum_correlation
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import split

# mean and its standard error: r50, r150
REFERENCE = {
    "north": ((0.828, 0.004), (0.784, 0.004)),
    "south": ((0.736, 0.008), (0.676, 0.007)),
}
N = 4000  # so that the error of the difference is that of the reference, not of our draw


@pytest.fixture(scope="module")
def samplers(real_data):
    folder = real_data / "nhi64"
    # read_map keeps the half precision of the file, where 1e20 squared overflows
    column, dust, mask = (
        hp.read_map(folder / f"{name}_nside64.fits").astype(np.float32)
        for name in ("nhi_hi4pi", "ebv_planck13", "mask_fsky0.7")
    )
    sky = SkyCube.from_maps([column], 1, dust, mask)
    regions = split("north_south", Grid(), sky.nside, "nearest")
    return {region.name: CutoutSampler(sky, region) for region in regions}


def correlations(sampler, correlation, seed=0):
    where = sampler.fixed_pointings(N, seed)
    found = [
        correlation(integrated(cut.inputs), cut.target, paper_bands(sampler.grid))
        for cut in sampler.batches(where)
    ]
    return torch.cat(found)  # (cutout, band)


@pytest.mark.parametrize("half", REFERENCE)
def test_integrated_model_reproduces_the_reference(samplers, half):
    r = correlations(samplers[half], mode_correlation)
    mean, sem = r.mean(0), r.std(0) / N**0.5
    for band, (expected, error) in enumerate(REFERENCE[half]):
        found, own = float(mean[band]), float(sem[band])
        assert abs(found - expected) < 2 * np.hypot(own, error), (half, band, found, own)
        assert own * (N / 500) ** 0.5 == pytest.approx(error, rel=0.3)


@pytest.mark.slow
def test_the_south_is_worse_than_the_north(samplers):
    """As the paper found."""
    north, south = (correlations(samplers[half], mode_correlation) for half in REFERENCE)
    difference = north.mean(0) - south.mean(0)
    error = torch.hypot(north.std(0), south.std(0)) / N**0.5
    assert bool((difference > 5 * error).all())


@pytest.mark.slow
def test_the_two_definitions_differ(samplers):
    """Strong modes correlate better than the others: the ratio of spectra says more than r50."""
    modes, spectra = (
        correlations(samplers["north"], f).mean(0) for f in (mode_correlation, spectrum_correlation)
    )
    assert bool((spectra > modes + 0.08).all())
