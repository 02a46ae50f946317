"""Recognition networks: training beside a plain PyTorch loop and scikit-learn's, and accuracy.

`python benchmarks/vectors.py` prints these rows alone.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator

from foreglow.compute.cpu import tune

tune()  # as the command line does, before PyTorch is imported

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import nn

from foreglow.compute.optimisers import adamw, muon
from foreglow.compute.random import make_generator
from foreglow.recognition.models import PROBLEMS
from foreglow.recognition.network.networks import NETWORKS, ForeglowNetwork
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import train
from foreglow.recognition.simulation.vectors import NoiseLaw, Vectors, VectorSimulator
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import load_templates
from measure import OURS, devices, in_turn, side_by_side, wait
from steps import recipe, recognition_steps

PROBLEM = "four"
BATCH = 4096
STEPS = {"cpu": 12, "cuda": 200}  # a turn
REPEATS = 5
SAMPLE = 2**16  # vectors drawn before, for those who keep them in memory
WIDTHS = (272, 136, 68, 34, 17)  # the paper's
SECONDS = 15.0  # of training before accuracies are taken
NOISE = NoiseLaw(5e-4, 4.0, 0.2)  # the law that `TrainingPlan("conditioned", ...)` draws from
NOISE_SCALE = 0.1  # of the test
_INSTRUMENT = load_instrument("quijote+litebird")
_CLASSES = np.arange(len(PROBLEMS[PROBLEM]))


def training(device: torch.device) -> Iterator[dict]:
    """Vectors a second of training: ours draws them anew, the others have them in memory."""
    simulator = _simulator().to(device)
    sample = simulator.draw(SAMPLE, NOISE, make_generator(device, 1))
    steps = STEPS[device.type]
    for kind in ("farsian2020", "foreglow"):
        works = {
            OURS: lambda kind=kind: recognition_steps(kind, PROBLEM, BATCH, steps, device),
            "plain PyTorch loop": _plain(kind, sample, steps),
        }
        if device.type == "cpu" and kind == "farsian2020":
            works["scikit-learn MLPClassifier"] = _scikit(sample, steps)
        rates: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(REPEATS + 1):
            for name, work in list(works.items())[:: -1 if turn % 2 else 1]:
                seconds = float(np.median(work()))
                if turn:  # the first warms up
                    rates[name].append(BATCH / seconds)
        row = {"benchmark": f"train, `{kind}`", "device": device.type, "unit": "vectors"}
        row |= {"batch": BATCH, "threads": torch.get_num_threads()}
        yield from side_by_side(row, rates)
        step = BATCH / float(np.median(rates[OURS]))
        share = _draw_seconds(simulator, steps) / step
        yield {**row, "what": "share of a step that drawing vectors takes", "value": share}


def classifying() -> Iterator[dict]:
    """Pixels a second through the paper's network, ours in turn with scikit-learn's."""
    model = Recogniser.untrained("farsian2020", _INSTRUMENT, PROBLEMS[PROBLEM], 0)
    sample = _simulator().draw(SAMPLE, NOISE, make_generator(torch.device("cpu"), 2))
    other = _classifier()
    other.partial_fit(_scaled(sample)[:BATCH], sample.label.numpy()[:BATCH], classes=_CLASSES)

    def ours() -> int:
        for data, sigma in zip(sample.data.split(8192), sample.sigma.split(8192), strict=True):
            model.log_probability(data, sigma)
        return SAMPLE

    def theirs() -> int:
        other.predict_proba(_scaled(sample))
        return SAMPLE

    row = {"benchmark": "classify, `farsian2020`", "device": "cpu", "unit": "pixels"}
    row["threads"] = torch.get_num_threads()
    works = {OURS: ours, "scikit-learn MLPClassifier": theirs}
    yield from side_by_side(row, in_turn(works, REPEATS))


def accuracy() -> Iterator[dict]:
    """What the same seconds of training on this machine bring: accuracy on new vectors."""
    simulator, device = _simulator(), torch.device("cpu")
    test = simulator.draw(SAMPLE, NoiseLaw.fixed(NOISE_SCALE), make_generator(device, 3))
    row = {"benchmark": "accuracy", "device": "cpu", "problem": PROBLEM, "seconds": SECONDS}
    row |= {"noise_scale": NOISE_SCALE, "n": SAMPLE}
    for kind in ("foreglow", "farsian2020"):
        found, vectors = _trained(kind)
        guess = found.log_probability(test.data, test.sigma).argmax(1)
        value = float((guess == test.label).double().mean())
        yield {**row, "what": f"{OURS}, network `{kind}`", "vectors": vectors, "value": value}
    other, vectors = _trained_scikit(simulator)
    value = float(np.mean(other.predict(_scaled(test)) == test.label.numpy()))
    what = "scikit-learn MLPClassifier, the widths of `farsian2020`"
    yield {**row, "what": what, "vectors": vectors, "value": value}


def _simulator() -> VectorSimulator:
    """Vectors as `recognize train` draws them."""
    return VectorSimulator(load_templates("mock"), _INSTRUMENT, PROBLEMS[PROBLEM], 16)


def _plain(kind: str, sample: Vectors, steps: int) -> Callable[[], list[float]]:
    """A loop as one writes it: shuffled arrays in memory, nothing looked at but the loss."""
    device = sample.data.device
    network = NETWORKS[kind](_INSTRUMENT, len(_CLASSES)).to(device)
    if isinstance(network, ForeglowNetwork):
        network.standardise(sample.data, sample.sigma)
        optimiser = adamw(network.parameters(), 2e-3, 10**6)["optimizer"]
    else:
        inputs = network.inputs(sample.data, sample.sigma)
        optimiser = muon(network, 2e-2, 10**6, inputs)["optimizer"]
    network.train()

    def work() -> list[float]:
        times, order = [], torch.randperm(SAMPLE, device=device)
        for k in range(steps):
            start = time.perf_counter()
            chosen = order[k * BATCH % SAMPLE :][:BATCH]
            logits = network(sample.data[chosen], sample.sigma[chosen])
            loss = nn.functional.cross_entropy(logits, sample.label[chosen])
            optimiser.zero_grad()
            loss.backward()
            if isinstance(network, ForeglowNetwork):
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            wait(device)
            times.append(time.perf_counter() - start)
        return times

    return work


def _classifier() -> MLPClassifier:
    """The paper's widths and tanh; dropout and Muon it does not have."""
    return MLPClassifier(WIDTHS, activation="tanh", batch_size=BATCH, max_iter=1, random_state=0)


def _scaled(vectors: Vectors) -> np.ndarray:
    """Each vector to [0, 1], as `farsian2020` does itself: (n, 2 n_band), float32."""
    x = vectors.data.flatten(1).numpy()
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    return (x - low) / (high - low)


def _scikit(sample: Vectors, steps: int) -> Callable[[], list[float]]:
    model, x, y = _classifier(), _scaled(sample), sample.label.numpy()

    def work() -> list[float]:
        times = []
        for k in range(steps):
            part = slice(k * BATCH % SAMPLE, k * BATCH % SAMPLE + BATCH)
            start = time.perf_counter()
            model.partial_fit(x[part], y[part], classes=_CLASSES)
            times.append(time.perf_counter() - start)
        return times

    return work


def _trained(kind: str) -> tuple[Recogniser, int]:
    """A network after so many seconds, and the vectors that it saw."""
    import tempfile
    from pathlib import Path

    rate = BATCH / float(np.median(recognition_steps(kind, PROBLEM, BATCH, 5, torch.device("cpu"))))
    steps = max(1, int(SECONDS * rate / BATCH))
    model = Recogniser.untrained(kind, _INSTRUMENT, PROBLEMS[PROBLEM], 0)
    plan = recipe(kind, steps, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        train(model, load_templates("mock"), plan, Path(folder), 0, torch.device("cpu"))
    return model, steps * BATCH


def _trained_scikit(simulator: VectorSimulator) -> tuple[MLPClassifier, int]:
    """The same for scikit-learn, whose vectors are drawn while the clock stands still."""
    model, spent, place = _classifier(), 0.0, 0
    while spent < SECONDS:
        drawn = simulator.draw(BATCH, NOISE, make_generator(torch.device("cpu"), 4, place))
        x, y = _scaled(drawn), drawn.label.numpy()
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.partial_fit(x, y, classes=_CLASSES)
        spent += time.perf_counter() - start
        place += 1
    return model, place * BATCH


def _draw_seconds(simulator: VectorSimulator, steps: int) -> float:
    generator = make_generator(simulator.sigma.device, 5)
    times = []
    for _ in range(5 * steps):
        start = time.perf_counter()
        simulator.draw(BATCH, NOISE, generator)
        wait(simulator.sigma.device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _print(rows: Iterator[dict]) -> None:
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    for device in devices():
        _print(training(device))
    _print(classifying())
    _print(accuracy())
