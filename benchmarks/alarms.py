"""What chi-square says of networks' answers: the tables of "Whether any model fits" in the docs.

`python benchmarks/alarms.py SKY FOLDER`: SKY as `load_templates` takes it. Networks of the default
plan, one for each systematic error and one for none, are taken from FOLDER, or trained into it (two
minutes each). Prints how often models are rejected on vectors of the training law, and what each
network says of skies with each error, at Table 1's noise and a tenth of it.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from foreglow.compute.random import make_generator
from foreglow.maps.regions import layout
from foreglow.recognition.evaluation.evaluate import evaluate
from foreglow.recognition.fits.goodness import LEVEL, goodness_of_fit
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.calibration import expected_calibration_error
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.simulation.law import SkyLaw
from foreglow.recognition.simulation.skies import simulate_sky
from foreglow.recognition.simulation.systematics import systematics_of
from foreglow.recognition.simulation.vectors import NoiseLaw, VectorSimulator
from foreglow.recognition.train import train_recogniser
from foreglow.sky.templates import Templates, load_templates

FOUR = PROBLEMS["four"]
SKIES, VECTORS = 8, 100_000
TRAINED = {
    "none": {},
    "gain": {"gain": 0.002},
    "angle": {"angle_deg": 0.1},
    "knee": {"knee_ell": 30.0},
    "uneven": {"uneven_noise": 0.3},
}
ERRORS = [
    *TRAINED.values(), {"gain": 0.01}, {"band_centre": 0.005}, {"angle_deg": 0.5},
    {"beam": 0.02},
]  # fmt: skip


def networks(sky: str, folder: Path) -> dict[str, Recogniser]:
    """Trained for each error, made where they are missing."""
    for name, sizes in TRAINED.items():
        if not (folder / name).exists():
            train_recogniser(sky=sky, plan={"systematics": sizes}, out=folder / name)
    return {name: Recogniser.load(folder / name) for name in TRAINED}


def on_vectors(model: Recogniser, templates: Templates) -> None:
    """How often the most probable model, and every model, is rejected where one is true."""
    simulator = VectorSimulator(templates, model.instrument, FOUR, 16)
    for scale in (1.0, 0.1, 0.01):
        generator = make_generator(torch.device("cpu"), 0, 0)
        vectors = simulator.draw(VECTORS, NoiseLaw.fixed(scale), generator)
        said = model.log_probability(vectors.data, vectors.sigma)
        p_value, none_fits = goodness_of_fit(
            FOUR, model.instrument, vectors.data, vectors.sigma, said
        )
        rejected = (p_value < LEVEL).double().mean()
        print(f"noise {scale:g}: rejected {rejected:.5f}, all {none_fits.double().mean():.5f}")


def on_skies(model: Recogniser, templates: Templates, sizes: dict, scale: float) -> str:
    """Accuracy, calibration error, sure and wrong, flagged of these, and where no model fits."""
    law, parts = SkyLaw(systematics=systematics_of(sizes)), []
    for number in range(SKIES):
        label = (layout("quadrants", 16, 4) + number) % 4
        rng = np.random.default_rng([0, 5, number])
        sky = simulate_sky(templates, model.instrument, FOUR, label, scale, rng, law)
        said = evaluate(model, sky)
        score = torch.from_numpy(said.probability.T)
        p_value, none_fits = goodness_of_fit(FOUR, model.instrument, *sky.vectors(), score)
        parts.append((said.probability, label[None], np.stack([p_value < LEVEL, none_fits])))
    probability, (label,), (misfit, none_fits) = (
        np.concatenate(rows, 1) for rows in zip(*parts, strict=True)
    )
    right = probability.argmax(0) == label
    wrong = ~right & (probability.max(0) > 0.9)
    flagged = misfit[wrong].mean() if wrong.any() else np.nan
    error = expected_calibration_error(probability, label)
    return f"{right.mean():.3f} {error:.3f} {wrong.mean():.4f} {flagged:.3f} {none_fits.mean():.3f}"


if __name__ == "__main__":
    sky, folder = sys.argv[1], Path(sys.argv[2])
    models = networks(sky, folder)
    on_vectors(models["none"], load_templates(sky))
    coarse = load_templates(sky, 16)
    print("accuracy, calibration error, sure and wrong, flagged of these, no model fits")
    for sizes in ERRORS:
        for scale in (1.0, 0.1):
            for name, model in models.items():
                if name == "none" or not sizes or TRAINED[name] == sizes:
                    print(sizes, f"noise {scale:g}, trained {name}:", end=" ")
                    print(on_skies(model, coarse, sizes, scale), flush=True)
