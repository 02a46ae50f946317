import healpy as hp
import numpy as np
import torch

from foreglow.compute.random import make_generator
from foreglow.maps.faces import face_order
from foreglow.recognition.context.layouts import BlobLaw

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


def test_footprints_are_whole_or_part_and_never_empty():
    seen = LAW.footprints(400, generator())
    whole = seen.all(1).float().mean()
    assert 0.4 < whole < 0.65
    assert seen.any(1).all()
    part = seen[~seen.all(1)].float().mean(1)
    assert part.min() < 0.4
    assert part.max() > 0.7
