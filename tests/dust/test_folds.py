"""Sectors: of equal size, each hidden from its member and from no other."""

import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.dust.cutouts import CutoutSampler, SkyCube
from foreglow.dust.folds import held_out, held_out_member
from foreglow.maps.gnomonic import Grid
from foreglow.maps.hemispheres import EAST, NORTH, SOUTH, WEST

NSIDE = 32
N_PIX = hp.nside2npix(NSIDE)


@pytest.mark.parametrize("region", [NORTH, SOUTH, EAST, WEST])
@pytest.mark.parametrize("n_member", [2, 4, 5])
def test_sectors_are_equal_and_meet_at_the_axis(region, n_member):
    own = held_out_member(NSIDE, region, n_member)
    share = np.bincount(own + 1, minlength=n_member + 1) / N_PIX
    np.testing.assert_allclose(share[1:], 1 / max(n_member, 4), atol=0.01)
    near = hp.query_disc(NSIDE, region.axis, np.radians(15))
    found = set(own[near].tolist()) - {-1}
    assert found == set(range(n_member))


def test_a_single_network_has_seen_all():
    assert (held_out_member(NSIDE, NORTH, 1) == -1).all()
    sky = SkyCube(torch.ones(N_PIX, 1), torch.ones(N_PIX, 2))
    assert held_out(sky, NORTH, 0, 1) is sky


def test_orders_agree():
    ring, nested = held_out_member(NSIDE, NORTH, 3), held_out_member(NSIDE, NORTH, 3, nest=True)
    np.testing.assert_array_equal(hp.reorder(ring, r2n=True), nested)


def test_no_cutout_shows_a_member_the_dust_of_its_sector():
    number = torch.arange(1, N_PIX + 1, dtype=torch.float32)
    sky = SkyCube(torch.ones(N_PIX, 1), torch.stack([number, torch.ones(N_PIX)], 1))
    own = held_out_member(NSIDE, NORTH, 4, nest=True)
    for member in range(4):
        sampler = CutoutSampler(held_out(sky, NORTH, member, 4), NORTH, Grid(32, 46.8))
        cut = sampler.draw(40, torch.Generator().manual_seed(member))
        seen = np.unique(cut.target[cut.mask].numpy().astype(int)) - 1
        assert not (own[seen] == member).any()
        assert set(own[seen].tolist()) == {0, 1, 2, 3} - {member}
        assert not cut.target[~cut.mask].any()
    assert float(sky.target[:, 1].min()) == 1  # the sky itself is as it was
