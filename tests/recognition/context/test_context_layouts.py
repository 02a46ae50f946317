import healpy as hp
import numpy as np
import pytest
import torch

from foreglow.compute.random import make_generator
from foreglow.maps.faces import face_order
from foreglow.recognition.context.layouts import BlobLaw, LayoutLaw

CPU = torch.device("cpu")
LAW = BlobLaw(16, CPU)


def generator(seed=0):
    return make_generator(CPU, seed, 0)


def test_the_fields_have_the_spectrum_of_the_beam():
    fwhm = torch.full((200,), 20.0)
    fields = LAW._fields(fwhm, 1, generator())[:, 0]
    assert abs(float(fields.var()) - 1) < 0.03
    ring = np.empty(3072)
    power = np.zeros(41)
    for field in fields.numpy():
        ring[face_order(16).numpy()] = field
        power += hp.anafast(ring, lmax=40, iter=3)
    ell = np.arange(41)
    sigma = np.radians(20) / np.sqrt(8 * np.log(2))
    beam = np.exp(-ell * (ell + 1) * sigma**2)
    measured, expected = power[1:13] / power[1], beam[1:13] / beam[1]
    np.testing.assert_allclose(measured, expected, rtol=0.25)


def test_layouts_hold_every_class_and_follow_the_seed():
    label = LAW.layouts(64, 3, generator())
    assert label.shape == (64, 3072)
    assert label.dtype == torch.int64
    assert set(label.unique().tolist()) == {0, 1, 2}
    share = torch.bincount(label.flatten(), minlength=3) / label.numel()
    assert (abs(share - 1 / 3) < 0.12).all()
    assert torch.equal(label, LAW.layouts(64, 3, generator()))
    assert not torch.equal(label, LAW.layouts(64, 3, generator(1)))


def test_layouts_are_patches():
    label = torch.empty(16, 3072, dtype=torch.int64)
    label[:, face_order(16)] = LAW.layouts(16, 2, generator())
    around = hp.get_all_neighbours(16, np.arange(3072))
    same = (label[:, around[0]] == label).float().mean()
    assert same > 0.8


def test_layouts_of_all_kinds():
    """Blobs, lunes, cells and skies of one model, a class as often as another."""
    law = LayoutLaw(16, CPU)
    label = law.layouts(400, 4, generator())
    number = torch.stack([(label == k).any(1) for k in range(4)]).sum(0)
    assert 0.07 < (number == 1).float().mean() < 0.2  # some blobs and cells, too
    share = torch.stack([(label == k).float().mean() for k in range(4)])
    assert (abs(share - 1 / 4) < 0.04).all()
    area = torch.stack([(label == k).float().mean(1) for k in range(4)])
    equal = (abs(area - 1 / 4) < 0.004).all(0).float().mean()
    assert 0.05 < equal < 0.16
    assert torch.equal(label, law.layouts(400, 4, generator()))


@pytest.mark.parametrize("n_class", [2, 3])
def test_sectors_have_straight_edges_about_any_axis(n_class):
    law = LayoutLaw(16, CPU)
    draws = generator(2)
    places = []
    for _ in range(20):
        label = law._sectors(n_class, draws)
        assert set(label.tolist()) == set(range(n_class))
        # a half sphere about the middle of a lune narrower than that holds all of it
        lune = min(range(n_class), key=lambda k: int((label == k).sum()))
        middle = torch.nn.functional.normalize(law._vectors[label == lune].mean(0), dim=0)
        assert ((law._vectors[label == lune] @ middle) > -0.06).all()
        places.append(middle)
    assert torch.stack(places).mean(0).norm() < 0.6


def test_footprints_are_whole_or_part_and_never_empty():
    seen = LAW.footprints(400, generator())
    whole = seen.all(1).float().mean()
    assert 0.4 < whole < 0.65
    assert seen.any(1).all()
    part = seen[~seen.all(1)].float().mean(1)
    assert part.min() < 0.4
    assert part.max() > 0.7
