"""Every table and figure of Farsian et al. 2020, sections 2 to 4."""

import json
import logging
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
import torch

from foreglow.errors import RunError
from foreglow.maps.regions import layout
from foreglow.recognition.evaluate import Evaluation, evaluate, summarise
from foreglow.recognition.evidence import draw_vectors, log_evidence
from foreglow.recognition.model import Recogniser
from foreglow.recognition.simulate import PROBLEMS
from foreglow.recognition.skies import SimulatedSky, component_maps, simulate_sky
from foreglow.recognition.train import Regime, TrainingPlan, train
from foreglow.report import figures, skymaps
from foreglow.report.html import write_report
from foreglow.runs import Run, open_run, write_text
from foreglow.sky.instrument import Instrument, load_instrument
from foreglow.sky.templates import Templates, load_templates
from foreglow.training import History, pick_device

log = logging.getLogger("foreglow")

SCALES = ("smoke", "laptop", "paper")
NETWORKS = ("farsian2020", "foreglow")
_REGIONS = {"curvature": "halves", "ame": "halves", "four": "quadrants"}
# Farsian et al. 2020, Tables 2 and 3
PAPER_NOISELESS = {
    "curvature": {"train": 0.99, "test": 0.98},
    "ame": {"train": 0.93, "test": 0.97},
    "four": {"train": 0.87, "test": 0.93},
}
PAPER_NOISY = {
    "curvature": {"noiseless": 0.82, "one_noise": 0.95, "many_noise": 0.97},
    "ame": {"noiseless": 0.78, "one_noise": 0.92, "many_noise": 0.94},
    "four": {"noiseless": 0.68, "one_noise": 0.90, "many_noise": 0.93},
}
_HISTORY_FIGURE = {"curvature": "3", "ame": None, "four": "6"}
_MAP_FIGURE = {"curvature": "4", "ame": "5", "four": "7"}


@dataclass(frozen=True)
class _Lab:
    """What every step of the reproduction needs."""

    run: Run
    settings: dict[str, Any]
    templates: Templates
    instrument: Instrument
    seed: int
    device: torch.device
    resume: bool

    def plan(self, network: str, regime: Regime, problem: str, **changes: Any) -> TrainingPlan:
        """The preset's plan, that of the problem before that of the network."""
        table = self.settings[network]
        values = table.get(problem, {}).get(regime) or table[regime]
        return TrainingPlan(regime=regime, **values, **changes)


def reproduce(
    out: Path,
    scale: str,
    sky: str = "mock",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> Path:
    """Train both networks on the three problems and write tables, figures and the report.

    Parameters
    ----------
    out : Path
        Run directory.
    scale : str
        `smoke`, `laptop` or `paper`.
    sky : str
        `mock`, `pysm:s1,d1,a2` or a sky directory.
    seed : int
    device : str
        `auto`, `cpu` or `cuda`.
    resume : bool
        Go on with an interrupted run; what it had finished is kept.

    Returns
    -------
    Path
        The report.
    """
    settings = _settings(scale)
    chosen = pick_device(device)
    instrument = load_instrument("quijote+litebird")
    templates = load_templates(sky, None if Path(sky).is_dir() else settings["template_nside"])
    config = {
        "experiment": "farsian2020", "scale": scale, "sky": sky, "seed": seed,
        "device": str(chosen), "settings": settings,
    }  # fmt: skip
    with open_run(out, config, resume) as run:
        lab = _Lab(run, settings, templates, instrument, seed, chosen, resume)
        captions = {}
        with run.stage("Figure 1"):
            captions |= _figure_rms(lab)
        for problem in settings["problems"]:
            for network in NETWORKS:
                captions |= _one_network(lab, problem, network)
        captions |= _noise_curve(lab)
        write_text(run.figures / "captions.json", json.dumps(captions, indent=1))
        run.save_metrics()
        return write_report(run.folder)


def _settings(scale: str) -> dict[str, Any]:
    if scale not in SCALES:
        raise RunError(f"expected scale {', '.join(SCALES)}, but {scale!r} came.")
    preset = resources.files("foreglow") / "presets" / "farsian2020.toml"
    return tomllib.loads(preset.read_text(encoding="utf-8"))[scale]


def _one_network(lab: _Lab, problem: str, network: str) -> dict[str, Any]:
    """Tables 2 and 3 for one network and problem; returns the captions of its figures."""
    paper = PAPER_NOISELESS[problem]
    common = {"problem": problem, "network": network}
    model, history = _trained(lab, problem, network, "noiseless")
    lab.run.records += _history_records(lab, model, history, paper["train"], **common)
    clean = _test(lab, model, problem, 0.0)
    _record(lab, clean, training="noiseless", noise_scale=0.0, paper=paper["test"], **common)
    noisy: dict[str, list[Evaluation]] = {}
    for regime in ("noiseless", "one_noise", "many_noise"):
        if regime != "noiseless":
            model, _ = _trained(lab, problem, network, regime)
        noisy[regime] = _test(lab, model, problem, 1.0)
        _record(
            lab, noisy[regime], training=regime, noise_scale=1.0,
            paper=PAPER_NOISY[problem][regime], **common,
        )  # fmt: skip
    return _network_figures(lab, problem, network, history, clean[0], noisy)


def _trained(
    lab: _Lab, problem: str, network: str, regime: Regime, **changes: Any
) -> tuple[Recogniser, History]:
    """Train, or load what an interrupted run had trained; later regimes go on from noiseless."""
    name = "_".join([problem, network, regime, *(f"{v:g}" for v in changes.values())])
    folder = lab.run.models / name
    if lab.resume and (folder / "model.toml").is_file():
        model = Recogniser.load(folder, lab.device)
        log.info("%s: trained before the interruption", name)
        return model, model.card["history"]
    plan = lab.plan(network, regime, problem, **changes)
    before = lab.run.models / f"{problem}_{network}_noiseless"
    if regime in ("one_noise", "many_noise") and not changes:
        model = Recogniser.load(before, lab.device)
    else:
        model = Recogniser.untrained(network, lab.instrument, PROBLEMS[problem], lab.seed)
    with lab.run.stage(f"train {name}"):
        history = train(
            model, lab.templates, plan, lab.run.folder / "training" / name, lab.seed, lab.device,
            lab.resume,
        )  # fmt: skip
    model.card["history"] = history
    model.save(folder)
    return model, history


def _test(lab: _Lab, model: Recogniser, problem: str, noise_scale: float) -> list[Evaluation]:
    """Recognise the test skies of a problem, the same for every network and regime."""
    return [evaluate(model, sky, PROBLEMS[problem]) for sky in _skies(lab, problem, noise_scale)]


def _skies(lab: _Lab, problem: str, noise_scale: float) -> list[SimulatedSky]:
    nside = lab.settings["test_nside"]
    models = PROBLEMS[problem]
    label = layout(_REGIONS[problem], nside, len(models))
    skies = []
    for number in range(lab.settings["test_skies"]):
        rng = np.random.default_rng([lab.seed, 5, number])
        # regions change places, so that every model is tested on every part of the sky
        turned = (label + number) % len(models)
        skies.append(
            simulate_sky(
                lab.templates.degraded(nside), lab.instrument, models, turned, noise_scale, rng
            )
        )
    return skies


def _record(lab: _Lab, evaluations: list[Evaluation], noise_scale: float, **fields: Any) -> None:
    together = Evaluation(
        evaluations[0].models,
        np.concatenate([e.probability for e in evaluations], axis=1),
        np.concatenate([e.label for e in evaluations]),
    )
    lab.run.records += together.records(
        **fields,
        noise="table1" if noise_scale else "none",
        noise_scale=noise_scale,
        context="pixel",
        method="network",
        set="test",
        nside=lab.settings["test_nside"],
    )
    log.info(
        "%s, %s, trained %s, test at noise scale %g: accuracy %.4f (paper %s)",
        fields["problem"], fields["network"], fields["training"], noise_scale, together.accuracy,
        fields.get("paper"),
    )  # fmt: skip


def _history_records(
    lab: _Lab, model: Recogniser, history: History, paper: float, **fields: Any
) -> list[dict[str, Any]]:
    """Accuracy on training and validation sets at the last epoch."""
    training = model.card["training"]
    records = []
    for name, n, value in (("train", training["steps"], paper), ("validation", None, None)):
        records.append(
            {
                **fields,
                "training": "noiseless", "noise": "none", "noise_scale": 0.0,
                "context": "pixel", "method": "network", "set": name, "class": None,
                "nside": lab.templates.nside,
                "n_pixels": n * training["batch"] if n else None,
                "accuracy": history[f"{name}_accuracy"][-1],
                "paper": value,
            }
        )  # fmt: skip
    return records


def _network_figures(
    lab: _Lab,
    problem: str,
    network: str,
    history: History,
    clean: Evaluation,
    noisy: dict[str, list[Evaluation]],
) -> dict[str, Any]:
    folder, section = lab.run.figures, f"Network {network}"
    captions = {}

    def keep(figure: Any, name: str, title: str, caption: str) -> None:
        figures.save(figure, folder, name)
        captions[name] = {"title": title, "caption": caption, "section": section}

    number = _HISTORY_FIGURE[problem]
    what = f"{problem}, {network}"
    paper = PAPER_NOISELESS[problem]["train"]
    keep(
        figures.training_history(history, f"{what}, noiseless", paper),
        f"history_{network}_{problem}",
        f"Figure {number}: training history, {what}" if number else f"Training history, {what}",
        "Accuracy and loss by epoch, noiseless; dashed: the paper's final training accuracy.",
    )
    keep(
        skymaps.recognition_map(clean.probability, clean.label, clean.models, f"{what}, noiseless"),
        f"map_{network}_{problem}",
        f"Figure {_MAP_FIGURE[problem]}: noiseless test sky, {what}",
        "Left: probability of the true model, white where another is chosen. Right: right and "
        f"wrong pixels. Accuracy on this sky {clean.accuracy:.1%}.",
    )
    before, after = noisy["noiseless"][0], noisy["many_noise"][0]
    keep(
        skymaps.recognition_maps_before_after(
            before.probability, after.probability, after.label, after.models,
            f"{what}, Table 1 noise",
        ),
        f"noise_{network}_{problem}",
        f"Figure 8: before and after training with noise, {what}"
        if problem == "four"
        else f"Before and after training with noise, {what}",
        "Test sky with Table 1 noise, recognised after noiseless training (accuracy "
        f"{before.accuracy:.1%}) and after training with many noise realisations "
        f"({after.accuracy:.1%}).",
    )  # fmt: skip
    return captions


def _noise_curve(lab: _Lab) -> dict[str, Any]:
    """Accuracy against noise of one conditioned model, and of dedicated ones beside it."""
    model, _ = _trained(lab, "four", "foreglow", "conditioned")
    scales = lab.settings["noise_scales"]
    curves = {}
    for problem in lab.settings["problems"]:
        points = []
        for scale in scales:
            tested = _test(lab, model, problem, scale)
            _record(
                lab, tested, problem=problem, network="foreglow", training="conditioned",
                noise_scale=scale, paper=None,
            )  # fmt: skip
            summary = summarise(tested, scale)
            points.append((summary.accuracy, summary.error))
        curves[problem] = (np.array(scales), *np.array(points).T)
    for scale in lab.settings["dedicated_noise_scales"]:
        dedicated, _ = _trained(lab, "four", "foreglow", "many_noise", noise_scale=scale)
        _record(
            lab, _test(lab, dedicated, "four", scale), problem="four", network="foreglow",
            training="many_noise", noise_scale=scale, paper=None,
        )  # fmt: skip
    with lab.run.stage("ceilings"):
        ceilings = _ceilings(lab, model)
    paper = {problem: PAPER_NOISY[problem]["many_noise"] for problem in curves}
    figures.save(
        figures.noise_curve(curves, paper, chance=(0.5, 0.25), ceiling=ceilings),
        lab.run.figures,
        "noise_curve",
    )
    caption = (
        "One foreglow network, trained over noise scales, on test skies of each noise; binary "
        "problems by restricting its four classes. Dashed: ceiling of any per-pixel classifier. "
        "Stars: the paper at Table 1 noise."
    )
    return {
        "noise_curve": {
            "title": "Accuracy against noise", "caption": caption, "section": "Noise",
        }
    }  # fmt: skip


def _ceilings(lab: _Lab, model: Recogniser) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The best accuracy of any per-pixel classifier, and the network's on the same vectors.

    One set of vectors of four models serves all problems: a problem sees those of its models.
    """
    nside = lab.settings["test_nside"]
    templates = lab.templates.degraded(nside)
    four = PROBLEMS["four"]
    points: dict[str, list[tuple[float, float]]] = {p: [] for p in lab.settings["problems"]}
    for scale in lab.settings["ceiling_noise_scales"]:
        n = lab.settings["ceiling_vectors"]
        vectors = draw_vectors(templates, lab.instrument, four, scale, n, lab.seed)
        evidence = log_evidence(vectors.data, vectors.sigma[0], templates, lab.instrument, four)
        device = next(model.network.parameters()).device
        network = model.log_probability(vectors.data.to(device), vectors.sigma.to(device)).cpu()
        for problem, found in points.items():
            keep = [four.index(name) for name in PROBLEMS[problem]]
            mine = torch.isin(vectors.label, torch.tensor(keep))
            truth = vectors.label[mine]
            scores = {}
            for method, score in (("ceiling", evidence), ("network", network)):
                chosen = torch.tensor(keep)[score[mine][:, keep].argmax(1)]
                scores[method] = float((chosen == truth).double().mean())
            lab.run.records += [
                {
                    "problem": problem, "network": "foreglow" if method == "network" else None,
                    "training": "conditioned" if method == "network" else None,
                    "noise": "table1", "noise_scale": scale, "context": "pixel", "method": method,
                    "set": "test" if method == "ceiling" else "validation", "class": None,
                    "nside": nside, "n_pixels": len(truth), "accuracy": value, "paper": None,
                }
                for method, value in scores.items()
            ]  # fmt: skip
            log.info(
                "%s, noise scale %g: ceiling %.4f, conditioned network on the same vectors %.4f",
                problem, scale, scores["ceiling"], scores["network"],
            )  # fmt: skip
            found.append((scale, scores["ceiling"]))
    return {problem: tuple(np.array(found).T) for problem, found in points.items()}


def _figure_rms(lab: _Lab) -> dict[str, Any]:
    """Figure 1: rms of P by component at Nside 16, smoothed to 10 degrees."""
    nside = lab.settings["test_nside"]
    rng = np.random.default_rng([lab.seed, 6])
    parts = component_maps(lab.templates.degraded(nside), lab.instrument, rng)
    smooth = np.radians(10.0)
    rms = {}
    for name, maps in parts.items():
        values = []
        for qu in maps:  # (2, n_pix), band by band
            zero = np.zeros_like(qu[0])
            _, q, u = hp.smoothing([zero, *qu], fwhm=smooth)
            values.append(np.sqrt(np.mean(q**2) + np.mean(u**2)))
        rms[name] = np.array(values)
    rms["noise"] = np.sqrt(2) * lab.instrument.noise_rms(nside)
    figures.save(
        figures.component_rms(lab.instrument.frequency_ghz, rms), lab.run.figures, "component_rms"
    )
    caption = (
        "Rms of polarised intensity over the full sky at Nside 16, components smoothed to 10 "
        "degrees; noise of a pixel dashed."
    )
    return {
        "component_rms": {
            "title": "Figure 1: the components", "caption": caption, "section": "The sky",
        }
    }  # fmt: skip


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.json."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["records"]
