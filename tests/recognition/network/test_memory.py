"""What a network remembers of its sky: the memory alone, in the network, and after training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm

from foreglow.errors import SkyError
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network import features as module
from foreglow.recognition.network.features import CleanedLogFeatures, TemplatePrior
from foreglow.recognition.network.networks import foreglow_with_memory
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.sky import seds
from foreglow.sky.templates import Templates

FRACTION = 0.02  # of the AME that is polarised
SCATTER = 0.3  # of the amplitudes in the training law
FIT_ERROR = np.array([1.0, 1.0, 0.06, 0.06])  # what the noise leaves in them
SIGNS = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, 16)


def some_templates(amplitude, ame):
    """Templates of any number of pixels from amplitudes (synchrotron Q, U and dust Q, U; pixel)."""
    amplitude = np.asarray(amplitude, np.float32)
    return Templates("test", 1, amplitude[:2], amplitude[2:], np.asarray(ame, np.float32))


def remembered(templates):
    memory = TemplatePrior(len(templates.ame))
    memory.remember(templates)
    return memory


def ask(memory, amplitude):
    """Expected AME and its features, float64, of amplitudes (4, n)."""
    synchrotron, dust = torch.tensor(np.asarray(amplitude).T).float().split(2, 1)
    expected, features = memory(synchrotron.contiguous(), dust.contiguous())
    return expected.double().numpy(), features.double().numpy()


@pytest.fixture(scope="module")
def sixteen():
    """Templates that differ in their signs: more than six standard deviations apart."""
    mean = SIGNS * np.array([50.0, 80.0, 5.0, 3.0])[:, None]
    return mean, some_templates(mean, 10.0 * (1 + np.arange(16)))


@pytest.fixture(scope="module")
def vectors(templates, instrument):
    law = VectorSimulator(templates, instrument, PROBLEMS["four"])
    return law.draw(1500, NoiseLaw.fixed(1.0), torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def amplitude(vectors, instrument):
    """Rough amplitudes of noisy vectors, (4, n)."""
    found = CleanedLogFeatures(instrument).amplitudes(vectors.data).double()
    return torch.cat([found[..., 2], found[..., 1]], 1).numpy().T


# ---- the kernel average ----------------------------------------------------------------------


def test_of_one_template_its_ame_is_expected_everywhere():
    memory = remembered(some_templates([[10.0], [-20.0], [1.0], [0.0]], [70.0]))
    anywhere = np.random.default_rng(0).normal(0, 100, (4, 50))
    expected, features = ask(memory, anywhere)
    np.testing.assert_allclose(expected, FRACTION * 70, rtol=1e-6)
    np.testing.assert_allclose(features[:, 0], np.log(FRACTION * 70), rtol=1e-6)
    np.testing.assert_allclose(features[:, 1], np.log(1e-2), rtol=1e-5)  # no doubt: see below


def test_templates_far_apart_are_recalled(sixteen):
    mean, templates = sixteen
    expected, features = ask(remembered(templates), mean)
    np.testing.assert_allclose(expected, FRACTION * templates.ame, rtol=1e-5)
    np.testing.assert_allclose(features[:, 1], np.log(1e-2), rtol=0.1)


def test_they_are_recalled_from_shaken_amplitudes(sixteen):
    mean, templates = sixteen
    rng = np.random.default_rng(1)
    true = rng.integers(0, 16, 4000)
    shaken = mean[:, true] * (1 + SCATTER * rng.normal(size=(4, 4000)))
    expected, _ = ask(remembered(templates), shaken)
    right = abs(expected / (FRACTION * templates.ame[true]) - 1) < 0.01
    assert right.mean() > 0.98
    assert not right.all()  # a sign may turn


def test_between_two_templates_it_is_in_doubt():
    memory = remembered(some_templates([[50.0, -50.0], [80.0, 80.0], [5.0, 5.0], [0, 0]], [10, 30]))
    expected, features = ask(memory, [[0.0], [80.0], [5.0], [0.0]])
    assert expected[0] == pytest.approx(FRACTION * 20, rel=1e-5)
    assert features[0, 0] == pytest.approx(np.log(FRACTION * 300**0.5), rel=1e-4)
    assert features[0, 1] == pytest.approx(np.log(0.5 + 1e-2), rel=1e-4)


def test_agrees_with_a_kernel_average_in_float64(templates, amplitude):
    mean = np.concatenate([templates.synchrotron, templates.dust]).astype(float)  # (4, pixel)
    rms = np.hypot(SCATTER * mean, FIT_ERROR[:, None])
    weight = softmax(
        sum(norm.logpdf(x[:, None], m, s) for x, m, s in zip(amplitude, mean, rms, strict=True)),
        axis=1,
    )
    ame = FRACTION * templates.ame.astype(float)
    wanted = weight @ ame
    scatter = np.sqrt((weight * (ame - wanted[:, None]) ** 2).sum(1))
    found, features = ask(remembered(templates), amplitude)
    assert wanted.std() > 0.1 * wanted.mean()  # else agreement would mean nothing
    # results are float32, rounded to 6e-8 of their size; the float64 before them loses less than
    # 1e-5: squares of the AME differ by 2e-16 where the spread is none, its root is 1.5e-8 of the
    # AME, and the logarithm divides that by 1e-2
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(features[:, 0], weight @ np.log(ame), atol=1e-5)
    np.testing.assert_allclose(features[:, 1], np.log(scatter / wanted + 1e-2), atol=1e-5)


def test_what_no_template_has_does_not_drown_what_tells_them_apart():
    """Dust of 500 uK in U where all templates have none: x^2 / v is 7e7, the same for all."""
    templates = some_templates([[50.0, 60.0], [20.0, 20.0], [5.0, 5.0], [0.0, 0.0]], [10.0, 30.0])
    expected, _ = ask(remembered(templates), [[55.0], [20.0], [5.0], [500.0]])
    rms = np.hypot(SCATTER * np.array([50.0, 60.0]), 1.0)
    weight = softmax(norm.logpdf(55.0, [50.0, 60.0], rms))
    # 7e7 in float64 is rounded to 1.5e-8, a few times over
    np.testing.assert_allclose(expected, FRACTION * weight @ [10.0, 30.0], rtol=1e-6)


def test_it_is_the_mean_of_the_law(instrument, templates):
    """Of vectors of which much the same is expected, the mean AME is what is expected."""
    rng = np.random.default_rng(2)
    pixel = rng.integers(0, len(templates.ame), 20000)
    mean = np.concatenate([templates.synchrotron, templates.dust])[:, pixel]
    amplitude = mean * (1 + SCATTER * rng.normal(size=mean.shape))
    amplitude += FIT_ERROR[:, None] * rng.normal(size=mean.shape)
    expected, _ = ask(remembered(templates), amplitude)
    true = FRACTION * templates.ame[pixel]
    for part in np.array_split(np.argsort(expected), 8):
        error = float(true[part].std()) / len(part) ** 0.5
        assert true[part].mean() == pytest.approx(expected[part].mean(), abs=5 * error)


def test_the_size_of_a_block_does_not_matter(templates, amplitude, monkeypatch):
    whole = ask(remembered(templates), amplitude)
    monkeypatch.setattr(module, "_MEMORY_BLOCK", 7)
    for a, b in zip(ask(remembered(templates), amplitude), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)  # as beside float64


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e6, 1e12])
def test_finite_whatever_comes(templates, level):
    x = level * np.random.default_rng(0).normal(size=(4, 20))
    for found in ask(remembered(templates), x):
        assert np.isfinite(found).all()


# ---- in the network --------------------------------------------------------------------------


def turned(data, angle=np.pi / 2):
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float32)
    return torch.einsum("ij,njb->nib", rotation, data)


def test_the_network_asks_for_what_it_sees(instrument, templates):
    """Of its last inputs, the expected AME is that of the amplitudes which made the vectors."""
    network = foreglow_with_memory(instrument, 4).eval()
    network.remember(templates)
    amplitude = np.concatenate([templates.synchrotron, templates.dust])[:, ::30].astype(float)
    frequency = torch.tensor(instrument.frequency_ghz, dtype=torch.float64)
    sed = [seds.synchrotron(frequency, -3.0).numpy(), seds.modified_blackbody(frequency).numpy()]
    data = np.einsum("csn,cb->nsb", amplitude.reshape(2, 2, -1), sed)
    sigma = torch.from_numpy(instrument.noise_rms(16)).expand(len(data), -1).float()
    seen = []
    network.input.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().double()))
    network(torch.from_numpy(data).float(), sigma)
    _, features = ask(network.memory, amplitude)
    np.testing.assert_allclose(seen[0][:, -2:], features, atol=0.02)
    assert features[:, 0].std() > 0.1


def test_a_turn_of_the_sky_is_noticed(model, memory_model, vectors):
    """By the network that knows where on its sky a direction is found, and by no other."""

    def change(recogniser):
        before, after = (
            recogniser.log_probability(data, vectors.sigma).exp()
            for data in (vectors.data, turned(vectors.data))
        )
        return (before - after).abs().amax(1)

    assert change(model).quantile(0.99) < 1e-3
    assert change(memory_model).median() > 0.01


def test_without_a_sky_it_is_blind(instrument, vectors):
    """Before `remember` it expects the same of all pixels."""
    network = foreglow_with_memory(instrument, 4).eval()
    before, after = (
        network(data, vectors.sigma).detach() for data in (vectors.data, turned(vectors.data))
    )
    assert (before - after).abs().quantile(0.99) < 1e-2


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_sky_with_places_without_ame_is_finite(instrument, templates, vectors, kept):
    """Zeros in a user's AME map, which a pixel may be sure to come from."""
    network = foreglow_with_memory(instrument, 4).eval()
    ame = np.where(np.arange(3072) < kept * 3072, templates.ame, 0)
    network.remember(replace(templates, ame=ame.astype(np.float32)))
    network.standardise(vectors.data, vectors.sigma)
    assert torch.isfinite(network(vectors.data, vectors.sigma)).all()


def test_a_sky_too_coarse_to_remember(instrument, templates):
    with pytest.raises(SkyError, match="have Nside 8, but Nside 16 was asked for"):
        foreglow_with_memory(instrument, 4).remember(templates.degraded(8))


# ---- after training --------------------------------------------------------------------------


def test_training_fills_the_memory(memory_model, fine_templates):
    memory = memory_model.network.memory
    expected = remembered(fine_templates.degraded(16))
    assert memory.constant.shape == (3072,)
    assert (memory.constant != 0).all()
    for name in ("quadratic", "constant", "ame"):
        assert torch.equal(getattr(memory, name), getattr(expected, name)), name


def test_the_statistics_are_those_of_a_filled_memory(memory_model):
    """It remembers before it standardises: the expected AME varies in the sample."""
    mean, scale = (getattr(memory_model.network, name)[-2:] for name in ("mean", "scale"))
    assert torch.isfinite(scale).all()
    assert (mean != 0).all()


def test_the_memory_is_saved(memory_model, tmp_path):
    memory_model.save(tmp_path / "model")
    loaded = type(memory_model).load(tmp_path / "model")
    assert loaded.kind == "foreglow_template"
    for name, values in memory_model.network.memory.state_dict().items():
        assert torch.equal(loaded.network.memory.state_dict()[name], values), name
