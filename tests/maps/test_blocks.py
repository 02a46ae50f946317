"""Neighbouring pixels: numbered in either ordering, and read as single pixels are."""

import healpy as hp
import numpy as np
import pytest

from foreglow.maps.blocks import PixelBlock, PixelBlocks, ring_numbers
from foreglow.maps.io import open_polarisation_map
from foreglow.maps.write import write_polarisation_map

NSIDE = 16
N_PIX = hp.nside2npix(NSIDE)


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_blocks_are_the_sky(ordering):
    blocks = PixelBlocks(NSIDE, ordering, 1000)
    assert [len(block) for block in blocks] == [1000, 1000, 1000, 72]
    assert sorted(np.concatenate([block.ring for block in blocks])) == list(range(N_PIX))
    for block in blocks:
        own = np.arange(block.start, block.stop)
        assert block.numbers(ordering) == slice(block.start, block.stop)
        ring = own if ordering == "RING" else hp.nest2ring(NSIDE, own)
        np.testing.assert_array_equal(ring_numbers(block), ring)
        other = "NESTED" if ordering == "RING" else "RING"
        wanted = hp.ring2nest(NSIDE, ring) if other == "NESTED" else ring
        np.testing.assert_array_equal(block.numbers(other), wanted)


@pytest.mark.parametrize("stored", ["RING", "NESTED"])
@pytest.mark.parametrize("asked", ["RING", "NESTED"])
@pytest.mark.parametrize("limits", [(0, 3072), (1000, 1001), (1023, 2050), (5, 900)])
def test_a_block_reads_as_its_pixels(tmp_path, stored, asked, limits):
    qu = np.arange(2 * N_PIX, dtype=np.float32).reshape(2, N_PIX)
    qu[:, 40:60] = np.nan
    write_polarisation_map(tmp_path / "m.fits", qu, "uK_RJ", ordering=stored)
    opened = open_polarisation_map(tmp_path / "m.fits")
    block = PixelBlock(NSIDE, asked, *limits)
    np.testing.assert_array_equal(opened.read(block), opened.read(block.ring))


def test_blocks_keep_no_numbers():
    """Those of a whole sky of Nside 2048 would take 400 MB."""
    blocks = PixelBlocks(NSIDE, "NESTED", 1000)
    for block in blocks:
        assert len(block.ring) == len(block)
    assert not any("ring" in vars(block) for block in blocks)
    with pytest.raises(IndexError):
        blocks[len(blocks)]
