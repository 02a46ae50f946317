"""Training of the dust networks: what it learns, what it looks at, and that it can resume."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreglow.compute.checkpoints import PlainCheckpoints
from foreglow.dust import train as module
from foreglow.dust.cutouts import CutoutSampler
from foreglow.dust.inputs import DustSky
from foreglow.dust.load import SkySource
from foreglow.dust.model import DustModel
from foreglow.dust.plan import DustPlan
from foreglow.dust.sky_cube import SkyCube
from foreglow.dust.train import REGIONS, load_best, train, train_dust
from foreglow.dust.validation import hold_out
from foreglow.errors import ModelError, RunError, SkyError
from foreglow.maps.gnomonic import Grid, Pointings
from foreglow.maps.hemispheres import NORTH, SOUTH, reached
from forked import run_script

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
GRID = Grid(32, 46.8)
NSIDE, CHANNELS = 16, 6
PLAN = DustPlan(width=2, epochs=3, steps=5, batch=4)
SMALL = {"VALIDATION_CUTOUTS": 16, "_STANDARDISATION_CUTOUTS": 32, "_CALIBRATION_CUTOUTS": 32}


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few cutouts to standardise, to validate and to calibrate with."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(module, name, value)
        yield


def make_sky():
    """Dust whose ratio to the gas depends on the velocity."""
    rng = np.random.default_rng(3)
    n_pix = 12 * NSIDE**2
    inputs = rng.lognormal(size=(n_pix, CHANNELS)).astype(np.float32)
    target = inputs @ np.linspace(0.2, 2, CHANNELS).astype(np.float32)
    mask = rng.random(n_pix) > 0.1
    aside = np.stack([target * mask, mask.astype(np.float32)], 1)
    cube = SkyCube(torch.from_numpy(inputs * mask[:, None]), torch.from_numpy(aside))
    return DustSky(cube, np.linspace(-50, 15, CHANNELS), "uK_RJ", "made up")


def run(folder, plan=PLAN, resume=False, seed=3):
    return train(make_sky(), NORTH, plan, folder, seed, CPU, resume, GRID)


@pytest.fixture(scope="module", params=["unet", "unet_zhang2019"])
def uninterrupted(request, tmp_path_factory):
    plan = replace(PLAN, network=request.param)
    return plan, *run(tmp_path_factory.mktemp("whole"), plan)


def assert_same_weights(one, other):
    a, b = one.members.state_dict(), other.members.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


KILLED = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_train import PLAN, SMALL, CutoutSampler, module, replace, run
for name, value in SMALL.items():
    setattr(module, name, value)
draw, drawn = CutoutSampler.draw, 0
def strike(self, *arguments):
    global drawn
    drawn += 1
    if drawn == 9:  # one to standardise, five of the first epoch, then three more
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, *arguments)
CutoutSampler.draw = strike
run(Path({folder!r}), replace(PLAN, network={network!r}))
"""


def test_killed_and_resumed(uninterrupted, tmp_path):
    plan, whole, history = uninterrupted
    script = KILLED.format(
        folder=str(tmp_path), tests=str(Path(__file__).parent), network=plan.network
    )
    ended = run_script(script)
    assert ended.code == -signal.SIGKILL, ended.err[-2000:]
    state = PlainCheckpoints().load_checkpoint(tmp_path / "member0" / "last.ckpt")
    assert state["global_step"] == PLAN.steps
    resumed, again = run(tmp_path, plan, resume=True)
    assert again == history
    assert_same_weights(resumed, whole)
    finished, _ = run(tmp_path, plan, resume=True)
    assert_same_weights(finished, whole)


def test_history_and_card(uninterrupted):
    plan, model, history = uninterrupted
    parts = {"loss", "r50", "r150", "difference"}
    expected = {f"{stage}_{part}" for stage in ("train", "validation") for part in parts}
    assert set(history) == expected | {"validation_score"}
    assert all(len(values) == plan.epochs for values in history.values())
    assert model.card["training"]["sky"] == "made up"
    assert model.card["training"]["region"] == "north"
    assert model.card["training"]["network"] == plan.network
    assert model.card["cutouts"] == {"method": "nearest", "filter_cut": 460.0, "filter_order": 4}
    assert (model.nside, model.grid, model.target_unit) == (NSIDE, GRID, "uK_RJ")
    assert not model.members.training


def test_the_same_seed_gives_the_same_and_another_does_not(uninterrupted, tmp_path):
    short = replace(uninterrupted[0], epochs=1)
    one, first = run(tmp_path / "one", short)
    same, again = run(tmp_path / "same", short)
    assert first == again
    assert_same_weights(one, same)
    _, other = run(tmp_path / "other", short, seed=4)
    assert other != first


def test_it_learns_and_calibrates(tmp_path):
    plan = replace(PLAN, epochs=2, steps=60, batch=8, learning_rate=1e-2)
    model, history = run(tmp_path, plan)
    sampler = CutoutSampler(make_sky().cube, SOUTH, GRID)
    cut = sampler.at(sampler.fixed_pointings(30))
    total = cut.inputs.sum(1)

    def r(maps):
        return np.corrcoef(maps[cut.mask], cut.target[cut.mask])[0, 1]

    learned = model(cut.inputs, cut.mask)
    assert r(total) < 0.95
    assert r(learned) > 0.98
    assert history["validation_score"][1] > history["validation_score"][0]
    line = model.card["calibration"]
    calibrated = line["slope"] * learned + line["offset"]
    slope = np.polyfit(calibrated[cut.mask], cut.target[cut.mask], 1)[0]
    assert slope == pytest.approx(1, abs=0.1)
    assert line["to"].startswith("made up, north, longitudes ")


def test_members_differ(tmp_path):
    model, history = run(tmp_path, replace(PLAN, epochs=1, members=2))
    assert len(model.members) == 2
    a, b = (m.state_dict() for m in model.members)
    assert not torch.equal(a["unet.down.0.0.0.weight"], b["unet.down.0.0.0.weight"])
    assert len(history["train_loss"]) == 1
    assert all((tmp_path / f"member{k}" / "last.ckpt").is_file() for k in range(2))


def test_no_cutout_leaves_the_region(tmp_path, monkeypatch):
    """The other half of the sky could be anything."""
    sky = make_sky()
    ring = torch.from_numpy(~reached(NORTH, GRID, NSIDE, "nearest"))
    import healpy as hp

    away = ring[hp.nest2ring(NSIDE, np.arange(12 * NSIDE**2))]
    model, _ = run(tmp_path / "a", replace(PLAN, epochs=1))
    sky.cube.inputs[away] = torch.nan
    sky.cube.target[away, 0] = torch.nan
    monkeypatch.setattr(sys.modules[__name__], "make_sky", lambda: sky)
    blind, _ = run(tmp_path / "b", replace(PLAN, epochs=1))
    assert away.float().mean() > 0.4
    assert_same_weights(model, blind)


def test_the_wedge_may_be_anything(tmp_path, monkeypatch):
    """What the training learns does not depend on it, but which epoch is kept does."""
    plan = replace(PLAN, epochs=1)
    model, _ = run(tmp_path / "a", plan)
    sky = make_sky()
    (training, _) = hold_out(CutoutSampler(sky.cube, NORTH, GRID))
    wedge = (sky.cube.target[:, 1] > 0) & (training.sky.target[:, 1] == 0)
    sky.cube.inputs[wedge] *= 7
    sky.cube.target[wedge, 0] = 1 + sky.cube.target[wedge, 0].flip(0)
    monkeypatch.setattr(sys.modules[__name__], "make_sky", lambda: sky)
    blind, _ = run(tmp_path / "b", plan)
    assert_same_weights(model, blind)
    assert wedge.float().mean() > 0.1
    judged = [m.card["validation"] for m in (model, blind)]
    assert judged[0]["region"] == judged[1]["region"]
    assert judged[0]["region"].startswith("north, longitudes")
    assert all(card["held_out"] for card in judged)
    assert judged[0]["r50"] > judged[1]["r50"] + 0.1


def test_the_best_epoch_of_the_wedge_is_kept(tmp_path, monkeypatch, caplog):
    scores, last = iter([0.5] * 4 + [0.9] * 4 + [0.2] * 4), {}
    check = module._task

    def task(member, bands):
        made = check(member, bands)
        same = lambda *_: {k: torch.tensor(v) for k, v in made_up(next(scores)).items()}  # noqa: E731
        return replace(made, validate=same)

    def made_up(score):
        return {"r50": score, "r150": score, "score": 2 * score}

    def watch(network, folder):
        last.update({k: v.clone() for k, v in network.state_dict().items()})
        load_best(network, folder)

    monkeypatch.setattr(module, "_task", task)
    monkeypatch.setattr(module, "load_best", watch)
    model, history = run(tmp_path)
    assert history["validation_r50"] == pytest.approx([0.5, 0.9, 0.2])
    kept = model.networks[0].state_dict()
    best = PlainCheckpoints().load_checkpoint(tmp_path / "member0" / "best.ckpt")
    assert best["global_step"] == 2 * PLAN.steps
    assert all(torch.equal(best["state_dict"][f"network.{k}"], v) for k, v in kept.items())
    assert not all(torch.equal(last[k], v) for k, v in kept.items())
    assert "member0: overfitted. The mean of r50 and r150 is" in caplog.text
    assert "fallen from 0.900 at epoch 2, whose weights are kept" in caplog.text


def test_lines_are_moved_in_training_alone(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(module, "shift_velocity", lambda _, steps: moved.append(steps.tolist()))
    run(tmp_path / "a", replace(PLAN, epochs=1, shift_kms=30.0))  # channels are 13 km/s apart
    assert [len(steps) for steps in moved] == [PLAN.batch] * PLAN.steps
    assert {step for steps in moved for step in steps} == {-2, -1, 0, 1, 2}
    run(tmp_path / "b", replace(PLAN, epochs=1))
    assert len(moved) == PLAN.steps


def test_every_step_sees_other_cutouts_and_validation_the_same(tmp_path, monkeypatch):
    drawn, checked = [], []
    draw, at = CutoutSampler.draw, CutoutSampler.at
    key = lambda cut: float(cut.pointings.lon_deg.sum())  # noqa: E731

    def watch(self, n, *rest):
        cut = draw(self, n, *rest)
        if n == PLAN.batch:
            drawn.append(key(cut))
        return cut

    def look(self, where, *rest):
        cut = at(self, where, *rest)
        checked.append(key(cut))
        return cut

    monkeypatch.setattr(CutoutSampler, "draw", watch)
    monkeypatch.setattr(CutoutSampler, "at", look)
    monkeypatch.setattr(module, "VALIDATION_CUTOUTS", 6)
    run(tmp_path)
    assert len(drawn) == len(set(drawn)) == PLAN.steps * PLAN.epochs
    checked = checked[: 2 * PLAN.epochs]  # batches of 4 and 2, before the map of the calibration
    assert checked[:2] == checked[2:4] == checked[4:]
    assert not set(checked) & set(drawn)


def test_networks_train_as_such_and_are_checked_as_such(uninterrupted, tmp_path, monkeypatch):
    """Dropout and batch statistics belong to training alone."""
    modes = []
    see = module.DustNetwork.see
    monkeypatch.setattr(
        module.DustNetwork, "see", lambda self, x: modes.append(self.training) or see(self, x)
    )
    monkeypatch.setattr(module, "VALIDATION_CUTOUTS", 4)
    run(tmp_path, replace(uninterrupted[0], epochs=1))
    learnt = PLAN.steps + 1  # the first look measures the scales
    assert all(modes[:learnt])
    assert not any(modes[learnt:])  # validation and calibration


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, np.repeat([1e-3, 1e-4, 1e-5, 1e-6], 2)),
        ("published", np.repeat([1e-3, 1e-4, 1e-5, 1e-6], 2)),
        ("annealed", 5e-4 * (1 + np.cos(np.pi * np.arange(8) / 8))),
    ],
)
def test_schedules_of_the_papers_network(tmp_path, monkeypatch, schedule, expected):
    rates = []
    adam = torch.optim.Adam.step

    def watch(self, *arguments, **options):
        rates.append(self.param_groups[0]["lr"])
        return adam(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watch)
    run(
        tmp_path,
        replace(PLAN, network="unet_zhang2019", schedule=schedule, epochs=4, steps=2, width=1),
    )
    np.testing.assert_allclose(rates, expected)


# ---- from files or arrays ---------------------------------------------------------------------


@pytest.fixture
def train_tiny(tmp_path, monkeypatch):
    loaded = []

    def load(self):
        loaded.append(self)
        return make_sky()

    monkeypatch.setattr(SkySource, "load", load)
    monkeypatch.setattr(module, "Grid", lambda: GRID)

    def call(out="model", region="north", plan=PLAN, seed=0, device="cpu", resume=False):
        return train_dust(
            sky="mock", region=region, plan=plan, out=out and tmp_path / out, low_kms=-50,
            high_kms=15, nside=NSIDE, seed=seed, device=device, resume=resume,
        )  # fmt: skip

    call.loaded = loaded
    return call


def test_a_model_is_written(train_tiny, tmp_path, caplog):
    with caplog.at_level("INFO", "foreglow"):
        made = train_tiny()
    begun = [line.partition(":")[0] for line in caplog.messages]
    stages = [one for one in begun if one in ("preparing", "training", "measuring")]
    assert stages == ["preparing", *["training"] * PLAN.members, "measuring"]
    model = DustModel.load(tmp_path / "model")
    assert model.card["history"] == made.card["history"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ModelError, match="exists; give another out="):
        train_tiny()


def interrupt(*_):
    raise KeyboardInterrupt


def test_interrupted_training_goes_on_with_its_own_settings_only(train_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(DustModel, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_tiny()
    assert (tmp_path / "model.training" / "member0" / "last.ckpt").is_file()
    with pytest.raises(RunError, match="begun with another plan"):
        train_tiny(plan=replace(PLAN, batch=2), resume=True)
    with pytest.raises(RunError, match="resume=True goes on with it"):
        train_tiny()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"region": "up"}, RunError, "expected region north, south, east, west, got 'up'"),
        ({"device": "tpu"}, RunError, "expected device"),
        ({"plan": replace(PLAN, network="cnn")}, ModelError, "expected network unet or"),
        ({"plan": replace(PLAN, inputs="all")}, ModelError, "expected inputs channels"),
    ],
)
def test_refused_before_anything_is_loaded(train_tiny, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train_tiny(**changes)
    assert not train_tiny.loaded
    assert not list(tmp_path.iterdir())


def test_regions():
    assert set(REGIONS) == {"north", "south", "east", "west"}
    for name, region in REGIONS.items():
        middle = {"north": (0, 60), "south": (0, -60), "east": (270, 30), "west": (90, 30)}[name]
        place = Pointings(*(torch.tensor([float(v)]) for v in (*middle, 0)))
        assert bool(region.holds(place))


def test_bf16_learns_as_float32_does(uninterrupted, tmp_path):
    plan, _, history = uninterrupted
    model, other = run(tmp_path, replace(plan, precision="bf16"))
    assert {p.dtype for p in model.members.parameters()} == {torch.float32}
    assert other["train_loss"] != history["train_loss"]
    # layers round to 0.4 per cent, and a step goes on from where the last one came to
    assert other["train_loss"][0] == pytest.approx(history["train_loss"][0], rel=0.02)
    assert other["train_loss"] == pytest.approx(history["train_loss"], rel=0.2)


# ---- further skies ---------------------------------------------------------------------------


def test_further_skies_are_trained_on_and_not_measured_on(tmp_path, monkeypatch):
    """Steps see all of them; scales, epochs and errors are of the first alone."""
    first, other = make_sky(), make_sky()
    seen, drawn = set(), CutoutSampler.draw

    def draw(sampler, *arguments):
        seen.add((sampler.sky.inputs is other.cube.inputs, sampler.region.name))
        return drawn(sampler, *arguments)

    monkeypatch.setattr(CutoutSampler, "draw", draw)
    plan = replace(PLAN, steps=8)
    model, _ = train(first, NORTH, plan, tmp_path, 3, CPU, grid=GRID, others=[other])
    assert seen == {(False, NORTH.name), (True, NORTH.name), (True, SOUTH.name)}
    assert model.card["training"]["skies"] == 2
    assert model.card["validation"]["held_out"]


def test_skies_of_the_mock():
    source = SkySource("mock", nside=16, seed=4, skies=3)
    made = source.others()
    for sky, seed in zip(made, (5, 6), strict=True):
        whole = SkySource("mock", nside=16, seed=seed).load()
        assert torch.equal(sky.cube.inputs, whole.cube.inputs)
    for arguments in ({"sky": "mock", "skies": 0}, {"cube": "a", "dust": "b", "skies": 2}):
        with pytest.raises(SkyError, match="expected skies= of the mock, one or more"):
            SkySource(**arguments)
