"""Models of the dust: physical maps in and out, ensembles, and what is written of them."""

import numpy as np
import pytest
import torch

from foreglow.dust.model import DustModel
from foreglow.dust.spectra import paper_bands
from foreglow.errors import ModelError, ShapeError
from foreglow.maps.gnomonic import Grid
from foreglow.model_files import write_model

GRID = Grid(32)
VELOCITY = np.linspace(-50, 15, 6)  # 13 km/s apart


def make_maps(seed=0):
    g = torch.Generator().manual_seed(seed)
    inputs = 20 * torch.rand(3, len(VELOCITY), 32, 32, generator=g)
    mask = torch.rand(3, 32, 32, generator=g) > 0.2
    return inputs * mask.unsqueeze(1), mask


def make_model(network="unet", inputs="channels", members=2):
    model = DustModel.untrained(
        network, inputs, 4, VELOCITY, GRID, 64, "MJy/sr", seeds=range(members)
    )
    x, mask = make_maps()
    for k, member in enumerate(model.networks):
        member.standardise(x, 0.01 * x.sum(1) * (1 + x[:, 0] / 20), mask, paper_bands(GRID))
        if network == "unet":  # not the integrated map any more, and not the same
            g = torch.Generator().manual_seed(k)
            weight = member.pixel_gain.weight
            weight.data = 0.1 * torch.randn(weight.shape, generator=g)
    return model


@pytest.fixture(
    params=[("unet", "channels"), ("unet", "moments"), ("unet_zhang2019", "integrated")]
)
def model(request):
    return make_model(*request.param)


def test_saved_and_loaded_says_the_same(model, tmp_path):
    x, mask = make_maps(1)
    model.card["note"] = {"r50": 0.8}
    model.save(tmp_path / "model")
    again = DustModel.load(tmp_path / "model")
    for name in ("network", "inputs", "width", "velocity_kms", "grid", "nside", "target_unit"):
        assert getattr(again, name) == getattr(model, name), name
    assert again.card["note"] == {"r50": 0.8}
    assert torch.equal(again.each(x, mask), model.each(x, mask))
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert names == {"weights.safetensors", "model.toml"}


def test_the_mean_of_the_members(model):
    x, mask = make_maps(1)
    each = model.each(x, mask)
    assert each.shape == (2, 3, 32, 32)
    assert not torch.equal(each[0], each[1])
    assert torch.equal(model(x, mask), each.mean(0))


def test_what_is_masked_does_not_matter(model):
    x, mask = make_maps(1)
    filled = torch.where(mask.unsqueeze(1), x, torch.nan)
    out = model(filled, mask)
    assert torch.equal(out, model(x, mask))
    assert (out[~mask] == 0).all()
    assert torch.isfinite(out).all()


def test_masks_of_another_kind():
    model = make_model()
    x, mask = make_maps()
    for wrong in (mask.float(), mask[:, :16], mask[0]):
        with pytest.raises(ShapeError, match="expected a mask of bool"):
            model(x, wrong)
    with pytest.raises(ShapeError, match=r"expected inputs \(batch, 6, n, n\)"):
        model(x[:, :4], mask)


def test_channels_of_a_wider_and_finer_cube_are_found():
    model = make_model()
    cube = np.arange(-100, 100, 1.0)
    found = model.find_channels(cube)
    np.testing.assert_allclose(cube[found], VELOCITY, atol=0.5)
    assert np.array_equal(model.find_channels(VELOCITY + 6.4), np.arange(6))


@pytest.mark.parametrize(
    ("velocity", "got"),
    [
        (VELOCITY + 7, "6 from -43 to 22 km/s"),
        (VELOCITY[1:], "5 from -37 to 15 km/s"),
        (np.arange(-60, 30, 30.0), "3 from -60 to 0 km/s"),
        (np.arange(0.0), "none"),
    ],
    ids=["moved", "one less", "coarser", "none"],
)
def test_other_channels_are_refused(velocity, got):
    message = rf"the 6 channels .*, 6 from -50 to 15 km/s, each within 6.5 km/s, got {got}"
    with pytest.raises(ModelError, match=message):
        make_model().find_channels(velocity)


def test_no_model_there(tmp_path):
    with pytest.raises(ModelError, match="does not exist; give the folder that `foreglow dust"):
        DustModel.load(tmp_path)


def test_a_model_for_something_else(tmp_path):
    write_model(tmp_path / "model", torch.nn.Linear(1, 1), "recognition", {})
    with pytest.raises(ModelError, match="holds a model for recognition, not for dust"):
        DustModel.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("width = 4", ""), ("width = 4", "width = 8"), ("members = 2", "members = 3"),
        ('network = "unet"', 'network = "vnet"'), ("n = 64", "sides = 64"),
    ],
)  # fmt: skip
def test_damaged_cards(tmp_path, line, instead):
    make_model().save(tmp_path / "model")
    card = tmp_path / "model" / "model.toml"
    text = card.read_text()
    card.write_text(text.replace(line.replace("n = 64", "n = 32"), instead, 1))
    assert card.read_text() != text
    with pytest.raises(ModelError, match=r"not a whole model|expected network|another network"):
        DustModel.load(tmp_path / "model")
