"""Beyond one pixel: what neighbours add, on layouts never trained on, and what limits it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from foreglow.compute.random import make_generator
from foreglow.maps import healpix as hp
from foreglow.maps.regions import layout
from foreglow.recognition.context import train as training
from foreglow.recognition.context.layouts import BlobLaw
from foreglow.recognition.context.limits import boundary_oracle, distance_to_boundary
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.context.networks import CONTEXT_NETWORKS
from foreglow.recognition.context.train import ContextPlan, pixel_ensemble
from foreglow.recognition.evaluation.evaluate import Evaluation, choose_on_sky, evaluate
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.calibration import (
    accuracy_against_coverage,
    expected_calibration_error,
    reliability,
)
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.report.recognition import curves, neighbours, skymaps
from foreglow.reproduce.farsian2020.experiment import Captions, Experiment, joined, log
from foreglow.reproduce.farsian2020.paper import PAPER_NOISY
from foreglow.reproduce.farsian2020.worker import REGIONS, WorkerContext
from foreglow.reproduce.progress import log_progress

_SECTION = "Neighbours"
_REGULAR = "regular"  # halves or quadrants, the paper's
_PATCHES = "patches"  # a law of the training, other draws
_BELTS = "belts"  # of latitude, two a class: in no law of the training
_PIXEL = "one pixel"
_BY_PATCH = "patch_evidence"
_PATCH_NSIDE = 4  # at the Nside of the test skies, 16, sixteen pixels
_FITS = {"network": None, "training": None}
_ORACLES = {"oracle_rings": True, "oracle_meridian": False}


@dataclass(frozen=True)
class _Trial:
    """What each method said of the skies of a problem, layout and noise; labels sky by sky.

    right: by method, bool (sky, pixel); evaluations: by method, all skies in a row. By patches only
    the first skies.
    """

    label: NDArray[np.int64]
    right: dict[str, NDArray[np.bool_]]
    evaluations: dict[str, Evaluation]


def spatial_context(experiment: Experiment) -> Captions:
    """Accuracy with neighbours by layout, its calibration, and how far boundaries can be placed."""
    experiment.trained("four", "foreglow", "conditioned")
    trained_contexts(experiment)
    captions: Captions = {}
    regular, patches = {}, {}
    with experiment.run.stage("neighbours"):
        for problem in experiment.settings["problems"]:
            for kind in (_REGULAR, *experiment.settings["context_layouts"]):
                for scale in experiment.settings["context_noise_scales"]:
                    trial = _try(experiment, problem, kind, scale)
                    _record(experiment, trial, problem, kind, scale)
                    if scale == 1 and kind in (_REGULAR, _PATCHES):
                        (regular if kind == _REGULAR else patches)[problem] = trial
    for problem, trial in regular.items():
        captions |= _maps(experiment, problem, trial)
    if regular:
        captions |= _boundary_figure(experiment, regular)
    if patches:
        captions |= _trust_figures(experiment, patches)
    return captions


def trained_contexts(experiment: Experiment) -> dict[str, ContextModel]:
    """Train each kind of context on the conditioned network, or load what was trained before."""
    settings = experiment.settings["context"]
    contexts: dict[str, ContextModel] = {}
    ensemble = None
    for kind in CONTEXT_NETWORKS:
        folder = experiment.run.models / f"context_{kind}"
        if (folder / "model.toml").is_file():
            contexts[kind] = ContextModel.load(folder, experiment.device)
            if experiment.resume:
                log.info("%s: trained already", folder.name)
            continue
        with experiment.run.stage(f"train context_{kind}"):
            if ensemble is None:
                pixel, _ = experiment.trained("four", "foreglow", "conditioned")
                ensemble = pixel_ensemble(
                    pixel, experiment.templates, experiment.seed, settings["realisations"],
                    settings["noise_range"],
                )  # fmt: skip
            contexts[kind] = ContextModel.untrained(kind, experiment.seed)
            training.train(
                contexts[kind], ensemble, ContextPlan(**settings[kind]),
                experiment.run.folder / "training" / folder.name, experiment.seed,
                experiment.device, experiment.resume,
            )  # fmt: skip
        contexts[kind].save(folder)
    return contexts


def _try(experiment: Experiment, problem: str, kind: str, noise_scale: float) -> _Trial:
    """Recognise skies of one layout by each method; of regular ones by the oracles, too."""
    # calibration is measured on patches: it takes more skies than an accuracy
    skies = experiment.settings["patch_skies" if kind == _PATCHES else "context_skies"]
    fitted = experiment.settings["fit_skies"]  # of the skies the first, for fits take long
    numbers = [(k, k < fitted) for k in range(skies)]
    found = experiment.map_fn(
        partial(_try_sky, experiment.worker, problem, kind, noise_scale), numbers
    )
    labels: list[NDArray[np.int64]] = []
    said: dict[str, list[Evaluation]] = {}
    right: dict[str, list[NDArray[np.bool_]]] = {}
    for label, evaluations, hits in log_progress(found, skies, f"neighbours, {problem}, {kind}"):
        labels.append(label)
        for name, evaluation in evaluations.items():
            said.setdefault(name, []).append(evaluation)
        for name, hit in hits.items():
            right.setdefault(name, []).append(hit)
    return _Trial(
        np.array(labels),
        {name: np.array(values) for name, values in right.items()},
        {name: joined(values) for name, values in said.items()},
    )


def _try_sky(
    worker: WorkerContext, problem: str, kind: str, noise_scale: float, sky_number: tuple[int, bool]
) -> tuple[NDArray[np.int64], dict[str, Evaluation], dict[str, NDArray[np.bool_]]]:
    """The true models of a sky, what each method said of it, and where each was right.

    The sky by its number, and whether it is fitted by patches, too.
    """
    number, by_patch = sky_number
    models, nside = PROBLEMS[problem], worker.templates.nside
    rng = np.random.default_rng([worker.seed, 12, number])
    label = _label(kind, problem, nside, number, rng)
    sky = simulate_sky(worker.templates, worker.instrument, models, label, noise_scale, rng)
    alone = evaluate(worker.recogniser("four_foreglow_conditioned"), sky, models)
    said = {_PIXEL: alone}
    for name in CONTEXT_NETWORKS:
        said[name] = alone.with_neighbours(worker.context(f"context_{name}"))
    if by_patch:
        choice = choose_on_sky(
            sky, worker.instrument, models, device=worker.device, patch_nside=_PATCH_NSIDE
        )
        said[_BY_PATCH] = Evaluation(models, choice.probability().T.cpu().numpy(), label)
    right = {name: found.predicted == label for name, found in said.items()}
    if kind == _REGULAR:
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(alone.probability), -50)
        for name, by_ring in _ORACLES.items():
            right[name] = boundary_oracle(logs, label, by_ring)
    return label, said, right


def _label(
    kind: str, problem: str, nside: int, number: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A layout: the classes change places from sky to sky."""
    n_class = len(PROBLEMS[problem])
    if kind == "single":
        return layout(f"single:{number % n_class}", nside, n_class)
    if kind == _PATCHES:
        generator = make_generator(torch.device("cpu"), number, 14)
        return BlobLaw(nside, generator.device).maps(1, n_class, generator)[0]
    if kind.startswith("blobs"):
        return layout("blobs", nside, n_class, 1000 + number, float(kind.removeprefix("blobs:")))
    if kind == _BELTS:
        height = hp.pix2vec(nside, np.arange(hp.nside2npix(nside)))[2]
        return (
            np.minimum(((height + 1) * n_class).astype(int), 2 * n_class - 1) + number
        ) % n_class
    label = (layout(REGIONS[problem], nside, n_class) + number) % n_class
    if kind == "tilted":  # the same regions, turned so that no boundary lies along the pixels
        turn = Rotation.random(rng=rng).as_matrix()
        vectors = turn @ np.array(hp.pix2vec(nside, np.arange(len(label))))
        label = label[hp.vec2pix(nside, *vectors)]
    return label


def _record(
    experiment: Experiment, trial: _Trial, problem: str, kind: str, noise_scale: float
) -> None:
    where = REGIONS[problem] if kind == _REGULAR else kind
    fields: dict[str, Any] = {
        "problem": problem, "network": "foreglow", "training": "conditioned", "noise": "table1",
        "noise_scale": noise_scale, "set": "test", "class": None, "layout": where,
        "nside": experiment.settings["test_nside"],
    }  # fmt: skip
    target = PAPER_NOISY[problem]["many_noise"] if kind == _REGULAR and noise_scale == 1 else None
    for name, right in trial.right.items():
        by_sky = right.mean(1)
        error = float(by_sky.std(ddof=1) / np.sqrt(len(by_sky))) if len(by_sky) > 1 else None
        found = trial.evaluations.get(name)
        ece = expected_calibration_error(found.probability, found.label) if found else None
        experiment.run.records.append(
            {
                **fields, **(_FITS if name == _BY_PATCH else {}), "n_pixels": right.size,
                "method": name if name in (*_ORACLES, _BY_PATCH) else "network",
                "context": "pixel" if name == _PIXEL else "spatial",
                "spatial": None if name == _PIXEL or name in _ORACLES else name,
                "accuracy": float(right.mean()), "error": error, "ece": ece, "paper": target,
            }
        )  # fmt: skip
        log.info(
            "%s, %s, noise scale %g, %s: accuracy %.4f", problem, where, noise_scale, name,
            right.mean(),
        )  # fmt: skip


def _maps(experiment: Experiment, problem: str, trial: _Trial) -> Captions:
    n_pix = trial.label.shape[1]
    before, after = (trial.evaluations[name].probability[:, :n_pix] for name in (_PIXEL, "unet"))
    share = {name: trial.right[name][0].mean() for name in (_PIXEL, "unet")}
    return experiment.draw(
        skymaps.recognition_maps_before_after(
            before, after, trial.label[0], PROBLEMS[problem], f"{problem}, Table 1 noise",
            row_titles=("Pixel by pixel", "With neighbours"),
        ),
        f"context_{problem}",
        _SECTION,
        f"With neighbours: {problem}",
        f"The same test sky with Table 1 noise, judged pixel by pixel (accuracy "
        f"{share[_PIXEL]:.1%}) and with spatial context (U-Net; {share['unet']:.1%}). Context was "
        "trained on random patches, sectors about any axis, cells and skies of one model; never "
        "on these regions.",
    )  # fmt: skip


def _boundary_figure(experiment: Experiment, regular: dict[str, _Trial]) -> Captions:
    names = {
        _PIXEL: "one pixel", "potts": "Potts field", "unet": "U-Net",
        "oracle_rings": "oracle, ring by ring", "oracle_meridian": "oracle, meridian",
    }  # fmt: skip
    panels = {}
    for problem, trial in regular.items():
        distance = np.array([distance_to_boundary(label) for label in trial.label]).ravel()
        panels[problem] = (
            distance,
            {shown: trial.right[name].ravel() for name, shown in names.items()},
        )
    return experiment.draw(
        neighbours.accuracy_by_distance(panels, "Table 1 noise, regular regions"),
        "context_boundary",
        _SECTION,
        "How far a boundary can be placed",
        "Accuracy against distance from the nearest pixel of another model. The oracles know "
        "which model holds at the centre of every region and look for the boundary between two "
        "alone, by the same probabilities of pixels: ring by ring, as if nothing were known of its "
        "shape, or along one meridian. What separates the U-Net from the last is that it must "
        "find the shape; what is wrong far from a boundary is a region taken for another.",
    )


def _trust_figures(experiment: Experiment, patches: dict[str, _Trial]) -> Captions:
    said = {
        f"{problem}, {'with neighbours' if name == 'unet' else name}": trial.evaluations[name]
        for problem, trial in patches.items()
        for name in (_PIXEL, "unet")
    }
    bins = {name: reliability(e.probability, e.label) for name, e in said.items()}
    kept = {name: accuracy_against_coverage(e.probability, e.label) for name, e in said.items()}
    return experiment.draw(
        curves.reliability_diagram(bins, "Table 1 noise, random patches"),
        "reliability",
        "Calibration",
        "Do probabilities mean what they say?",
        "How often the most probable model was right, by the probability it was given; below, how "
        "many pixels were so sure. Other skies and other patches than in training, of the same "
        "law of patches; for other layouts see the table.",
    ) | experiment.draw(
        curves.coverage_curve(kept, "Table 1 noise, random patches"),
        "coverage",
        "Calibration",
        "Accuracy where the least certain pixels are left out",
        "Pixels in order of the probability of their most probable model.",
    )
