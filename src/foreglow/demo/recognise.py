"""The first job in two minutes: train, and classify a sky from FITS to FITS."""

import logging
from typing import Any

import numpy as np
import torch

from foreglow.compute.training import History
from foreglow.maps import healpix as hp
from foreglow.maps.regions import layout
from foreglow.recognition.classify import classify
from foreglow.recognition.evaluation.evaluate import Evaluation, choose_on_sky
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan, train
from foreglow.recognition.simulation.skies import simulate_sky, write_sky
from foreglow.report.page.skyview import save_view
from foreglow.report.recognition import figures, skymaps
from foreglow.report.recognition.view import recognition_view
from foreglow.reproduce.farsian2020 import PAPER_NOISELESS, PAPER_NOISY
from foreglow.runs import Run
from foreglow.sky.instrument import Instrument
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import Templates, load_templates

log = logging.getLogger("foreglow")

Captions = dict[str, dict[str, str]]

_NSIDE = 16
_MODELS = PROBLEMS["four"]
_FRESH = {"batch": 4096, "fixed_set": False, "learning_rate": 2e-3}
_PLANS = (
    TrainingPlan("noiseless", epochs=5, steps=60, **_FRESH),
    TrainingPlan("many_noise", epochs=5, steps=60, **_FRESH),
    TrainingPlan("conditioned", epochs=12, steps=60, **_FRESH),
)
_WORDS = {
    "noiseless": "without noise",
    "many_noise": "with noise",
    "conditioned": "over noise scales",
}
_NETWORKS = {"foreglow": "network", "farsian2020": "the paper's network"}
_PAPERS = ("farsian2020-four", "farsian2020-four-noisy")
"""The paper's network, trained on the mock Galaxy before."""
_NOTE = (
    "The mock Galaxy with another model in each quadrant, recognised by networks that differ in "
    "their training."
)
_SKIES = {"noiseless": 0.0, "a tenth of Table 1 noise": 0.1, "Table 1 noise": 1.0}


def recognise_models(run: Run, seed: int, device: torch.device) -> Captions:
    """Train the `foreglow` network on four models of the mock Galaxy and recognise test skies.

    Parameters
    ----------
    run : Run
        The simulated maps and their classification are kept in it.
    seed : int
    device : torch.device

    Returns
    -------
    dict
        Captions of the figures.
    """
    with run.stage("the mock Galaxy"):
        instrument = load_instrument("quijote+litebird")
        templates = load_templates("mock")
        captions = _draw_templates(run, templates)
    trained = [_train(run, plan, instrument, templates, seed, device) for plan in _PLANS]
    captions |= _draw_history(run, trained[0][1])
    models = [model for model, _ in trained] + [Recogniser.load(name, device) for name in _PAPERS]
    for name, noise_scale in _SKIES.items():
        with run.stage(f"recognise a sky: {name}"):
            captions |= _recognise(run, name, noise_scale, models, instrument, templates)
    return captions


def settings() -> dict[str, Any]:
    """What a run directory says of this part."""
    return {"nside": _NSIDE, "models": list(_MODELS)}


def _train(
    run: Run,
    plan: TrainingPlan,
    instrument: Instrument,
    templates: Templates,
    seed: int,
    device: torch.device,
) -> tuple[Recogniser, History]:
    model = Recogniser.untrained("foreglow", instrument, _MODELS, seed)
    with run.stage(f"train, {plan.regime}"):
        folder = run.folder / "training" / plan.regime
        history = train(model, templates, plan, folder, seed, device)
    model.save(run.models / plan.regime)
    return model, history


def _recognise(
    run: Run,
    name: str,
    noise_scale: float,
    models: list[Recogniser],
    instrument: Instrument,
    templates: Templates,
) -> Captions:
    """From FITS to FITS, as with a user's own maps; then compare with the truth."""
    rng = np.random.default_rng([run.config["seed"], 9])
    label = layout("quadrants", _NSIDE, len(_MODELS))
    sky = simulate_sky(templates.degraded(_NSIDE), instrument, _MODELS, label, noise_scale, rng)
    folder = run.folder / "maps" / f"noise_{noise_scale:g}"
    paths = write_sky(sky, instrument, _MODELS, folder)
    captions, chances = {}, {}
    for model in models:
        regime = model.card["training"]["regime"]
        if noise_scale not in _tested(regime):
            continue
        found = classify(paths, model=model, noise_scale=noise_scale)
        found.to_fits(folder / f"recognised_{model.kind}_{regime}.fits")
        which = f"{_NETWORKS[model.kind]} trained {_WORDS[regime]}"
        chances[which] = found.probability
        evaluation = Evaluation(_MODELS, found.probability, label)
        log.info("%s, %s: accuracy %.3f", name, which, evaluation.accuracy)
        run.records += evaluation.records(
            problem="four", network=model.kind, training=regime,
            noise="table1" if noise_scale else "none", noise_scale=noise_scale, context="pixel",
            method="network", set="test", nside=_NSIDE, paper=_paper(regime, noise_scale),
        )  # fmt: skip
        key = f"map_{noise_scale:g}_{model.kind}_{regime}"
        figure = skymaps.recognition_map(evaluation.probability, label, _MODELS, f"{name}, {which}")
        figures.save(figure, run.figures, key)
        captions[key] = {
            "title": f"{name}, {which}",
            "caption": f"Accuracy {evaluation.accuracy:.1%} of {len(label)} pixels.",
            "section": "Test skies",
        }
    choice = choose_on_sky(sky, instrument, _MODELS) if noise_scale else None
    place = len(_SKIES) - list(_SKIES).index(name)  # the noisiest first
    view = recognition_view(
        f"{place}_recognised", f"Four models, {name}", _NOTE, sky, instrument, _MODELS, chances,
        choice,
    )  # fmt: skip
    save_view(view, run.folder / "maps")
    return captions


def _tested(regime: str) -> tuple[float, ...]:
    """The noise scales at which a regime is tried; the conditioned model serves all."""
    return {"noiseless": (0.0, 1.0), "many_noise": (1.0,)}.get(regime, tuple(_SKIES.values()))


def _paper(regime: str, noise_scale: float) -> float | None:
    if noise_scale == 0.0 and regime == "noiseless":
        return PAPER_NOISELESS["four"]["test"]
    return PAPER_NOISY["four"].get(regime) if noise_scale == 1.0 else None


def _draw_templates(run: Run, templates: Templates) -> Captions:
    captions = {}
    for name, qu, where in (
        ("synchrotron", templates.synchrotron, "23 GHz"),
        ("dust", templates.dust, "353 GHz"),
    ):
        title = f"Mock Galaxy: polarised {name}, {where}"
        figure = skymaps.sky_map(np.hypot(*qu), title, "µK_RJ", stretch="log")
        figures.save(figure, run.figures, f"mock_{name}")
        captions[f"mock_{name}"] = {
            "title": title,
            "caption": f"P at Nside {hp.npix2nside(qu.shape[1])}; a stand-in for the real sky.",
            "section": "The sky",
        }
    return captions


def _draw_history(run: Run, history: History) -> Captions:
    paper = PAPER_NOISELESS["four"]["train"]
    figure = figures.training_history(history, "four models, noiseless", paper)
    figures.save(figure, run.figures, "history")
    caption = "Accuracy and loss by epoch; dashed: the paper's final training accuracy."
    return {"history": {"title": "Training", "caption": caption, "section": "Training"}}
