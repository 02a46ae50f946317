"""Train a recogniser, and a context, for a user's own instrument, models and sky."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foreglow.compute.device import pick_device
from foreglow.compute.precision import validate_precision
from foreglow.compute.processes import ALONE, Processes, run_on_all_ranks
from foreglow.model_files import close_training, model_to_be, open_training
from foreglow.plans import read_plan
from foreglow.recognition.context import train as contexts
from foreglow.recognition.context.model import ContextModel
from foreglow.recognition.context.train import ContextPlan
from foreglow.recognition.models import definitions_of, models_of
from foreglow.recognition.network import train as recognisers
from foreglow.recognition.network.recogniser import Recogniser
from foreglow.recognition.network.train import TrainingPlan
from foreglow.sky.instrument_files import load_instrument
from foreglow.sky.templates import Templates, load_templates


def train_recogniser(
    instrument: Any = "quijote+litebird",
    models: str | Path | Sequence[str] | Mapping[str, Any] = "four",
    *,
    sky: Any = "mock",
    network: str = "foreglow",
    plan: TrainingPlan | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    processes: Processes = ALONE,
) -> Recogniser:
    """Train a network that tells models apart in the bands of an instrument.

    Parameters
    ----------
    instrument : Instrument, or what `load_instrument` takes
    models : str, path, sequence of str or mapping
        A problem (curvature, ame, four), names of `MODELS`, or the user's own: a TOML file, or a
        mapping of name to `ForegroundModel`; as `models_of` takes them.
    sky : str, path, Templates or pysm3.Sky
        What the training law draws amplitudes from, as `load_templates` takes it.
    network : str
        "foreglow", "foreglow_template" or "farsian2020".
    plan : TrainingPlan, mapping of its fields or path of a TOML file, optional
        The regime of noise, and how long; by default `TrainingPlan.usual(network)`.
    out : path, optional
        Model directory to write. Checkpoints and logs lie in `OUT.training` beside it until it is
        whole; of several processes the first one writes.
    seed : int
    device : str
        "auto", "cpu" or "cuda".
    resume : bool
        Go on with an interrupted training of the same settings, by its checkpoints beside `out`.
    processes : Processes
        Those that train together.

    Returns
    -------
    Recogniser
        On the device; `card["history"]` has loss and accuracy of each epoch.

    Raises
    ------
    ModelError
        If `out` exists, or there is no such network.
    InstrumentError, SkyError, ForeglowError
        If there is no such instrument, sky or model.
    RunError
        If the device or a field of the plan is none, an interrupted training had other settings,
        or the processes cannot share a batch.
    """
    with model_to_be(out, resume, processes.size) as to_be:

        def prepare() -> tuple[Recogniser, Templates, TrainingPlan, Path]:
            chosen = read_plan(plan, TrainingPlan.usual(network))
            processes.validate_batch(chosen.batch)
            validate_precision(chosen.precision)
            candidates = models_of(models)
            bands = load_instrument(instrument)
            model = Recogniser.untrained(network, bands, candidates, seed)
            templates = load_templates(sky)  # before a folder is made: there may be no such sky
            settings = {"sky": templates.source, "models": candidates, "network": network}
            settings |= {"definitions": definitions_of(candidates), "seed": seed}
            settings |= {"instrument": asdict(bands), "plan": asdict(chosen)}
            return model, templates, chosen, open_training(to_be, settings, resume)

        where = pick_device(device)
        model, templates, chosen, work = run_on_all_ranks(processes, prepare)
        model.card["history"] = recognisers.train(
            model, templates, chosen, work, seed, where, resume, processes
        )
        if processes.rank == 0:
            model.save(to_be)
            close_training(to_be)
        return model


def train_context(
    model: Recogniser | str | Path = "mock-four",
    *,
    sky: Any = "mock",
    network: str = "unet",
    plan: ContextPlan | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    processes: Processes = ALONE,
) -> ContextModel:
    """Teach a spatial context, on random layouts, what the neighbours of a pixel say.

    Parameters
    ----------
    model : Recogniser, path or str
        Whose probabilities it refines: a model, its directory, or the name of one that comes with
        foreglow.
    sky : str, path, Templates or pysm3.Sky
        What skies to classify are made of, as `load_templates` takes it.
    network : str
        "unet" or "potts".
    plan : ContextPlan, mapping of its fields or path of a TOML file, optional
    out : path, optional
        Context directory to write. Checkpoints and logs lie in `OUT.training` beside it until it
        is whole.
    seed, device, resume, processes
        As for `train_recogniser`.

    Returns
    -------
    ContextModel
        On the device; `card["history"]` has loss and accuracy of each epoch, over random layouts
        and noise.

    Raises
    ------
    ModelError
        If `out` exists, or the model or network is none.
    SkyError, RunError
        As for `train_recogniser`.
    """
    with model_to_be(out, resume, processes.size) as to_be:
        where = pick_device(device)

        def prepare() -> tuple[ContextModel, Recogniser, Templates, ContextPlan, Path]:
            chosen = read_plan(plan, ContextPlan())
            processes.validate_batch(chosen.batch)
            context = ContextModel.untrained(network, seed)
            recogniser = model if isinstance(model, Recogniser) else Recogniser.load(model, where)
            templates = load_templates(sky)  # before a folder is made: there may be no such sky
            named = recogniser.card.get("training") if isinstance(model, Recogniser) else str(model)
            settings = {"sky": templates.source, "model": named, "network": network, "seed": seed}
            settings |= {"plan": asdict(chosen)}
            return context, recogniser, templates, chosen, open_training(to_be, settings, resume)

        context, recogniser, templates, chosen, work = run_on_all_ranks(processes, prepare)
        ensemble = contexts.pixel_ensemble(
            recogniser, templates, seed, nside=chosen.nside, processes=processes
        )
        context.card["history"] = contexts.train(
            context, ensemble, chosen, work, seed, where, resume, processes
        )
        if processes.rank == 0:
            context.save(to_be)
            close_training(to_be)
        return context
