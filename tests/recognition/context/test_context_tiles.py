"""The context by tiles is that of the whole sky, wherever a tile ends; memory is as is said."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.maps.tiles import tile_with_rings
from foreglow.recognition.context import model as contexts
from foreglow.recognition.context import streamed
from foreglow.recognition.context.model import ContextModel

NSIDE = 32


@pytest.fixture(scope="module")
def context():
    """A U-Net with weights that are all at work."""
    made = ContextModel.untrained("unet", 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in made.network.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    made.temperature = 1.3
    return made


@pytest.fixture(scope="module")
def probability():
    """Of three classes, with a hole."""
    rng = np.random.default_rng(0)
    found = rng.dirichlet([0.5] * 3, hp.nside2npix(NSIDE)).T.astype(np.float32)
    found[:, 500:900] = np.nan
    return found


@pytest.mark.parametrize(("first", "rings"), [(0, 4), (2 * 64, 3), (15 * 64, 4), (47 * 64, 2)])
def test_a_tile_holds_all_within_its_steps(first, rings):
    nside, size = 16, 64
    tile = tile_with_rings(nside, first, size, rings)
    inside = set(range(first, first + size))
    for step in range(rings):
        assert set(tile.pixel[: tile.within[step]].tolist()) == inside
        around = hp.get_all_neighbours(nside, sorted(inside), nest=True).flatten()
        inside |= set(around[around >= 0].tolist())
    assert set(tile.pixel.tolist()) == inside
    assert len(inside) == len(tile.pixel) == tile.within[rings]
    own = tile.pixel[: len(tile.neighbour)]
    found = hp.get_all_neighbours(nside, own, nest=True).T
    np.testing.assert_array_equal(
        tile.pixel[tile.neighbour], np.where(found < 0, own[:, None], found)
    )


@pytest.mark.parametrize(("whole", "tile"), [(8, 256), (1, 1024)])
def test_tiles_give_what_the_whole_sky_gives(
    context, probability, whole, tile, tmp_path, monkeypatch
):
    """With coarse levels as a whole, or every level by tiles."""
    expected = context.refine(probability)
    for module in (streamed, contexts):
        monkeypatch.setattr(module, "WHOLE_NSIDE", whole)
    monkeypatch.setattr(streamed, "_TILE", tile)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # by threads, which know less
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    found = context.refine(probability, tmp_path / "out.fits")
    np.testing.assert_allclose(found, expected, atol=2e-5)
    said = context.log_probability(torch.from_numpy(probability).log())
    np.testing.assert_allclose(
        said.exp()[:, ~np.isnan(found[0])], found[:, ~np.isnan(found[0])], atol=1e-6
    )
    assert not list(tmp_path.iterdir())
