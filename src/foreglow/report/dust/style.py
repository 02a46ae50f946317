"""Names and looks of the models that predict dust, the same in every figure and table."""

from typing import Any

from foreglow.report.page.style import CLASS_HUES, INK

MODELS = {
    "integrated": "integrated intensity",
    "linear": "linear",
    "linear_scale_dependent": "linear, scale dependent",
    "unet": "U-Net",
    "unet_zhang2019": "U-Net of the paper",
    "unet_zhang2019_annealed": "U-Net of the paper, annealed",
    "mock-dust": "U-Net of other mock skies",
    "zhang2019-dust": "U-Net of the paper, of other mock skies",
    "unet_single": "U-Net, one network",
    "integrated_wide": "integrated intensity, wider range",
    "unet_wide": "U-Net, wider range of velocities",
    "unet_moments": "U-Net on moment maps",
    "unet_integrated": "U-Net on the integrated map",
    "hough": "Rolling Hough Transform",
    "hough_averaged": "Hough Transform, integrated map, angles averaged",
    "gradients": "gradients of the integrated map",
    "unet_polarised": "U-Net, polarised",
    "mock-dust-polarised": "U-Net, polarised, of other mock skies",
    "mean_field": "all gas in one mean field",
    "planck_353": "the observed 353 GHz map",
    "perfect_gas": "perfect knowledge of the gas",
    "perfect_field": "perfect knowledge of the field",
    "true_dust": "the true dust",
}
"""Models in the order to show, in words."""

# hues and dashes of the paper's Figure 5 where it has them, darkened as everywhere
_LOOKS: dict[str, tuple[str, Any, str]] = {
    "integrated": (CLASS_HUES[0], "-", "o"),
    "linear": (CLASS_HUES[2], (0, (6, 1.5)), "o"),
    "linear_scale_dependent": (CLASS_HUES[4], (0, (1, 1)), "s"),
    "unet": (CLASS_HUES[1], (0, (4, 1, 1, 1)), "^"),
    "unet_zhang2019": (CLASS_HUES[3], (0, (9, 2, 1, 2, 1, 2)), "D"),
    "unet_zhang2019_annealed": (CLASS_HUES[5], (0, (9, 2, 3, 2)), "d"),
    "mock-dust": (CLASS_HUES[1], "-", "p"),
    "zhang2019-dust": (CLASS_HUES[3], "-", "H"),
    "unet_single": (CLASS_HUES[1], (0, (3, 1.2)), "v"),
    "integrated_wide": (CLASS_HUES[0], (0, (2, 1)), "s"),
    "unet_wide": (CLASS_HUES[2], (0, (4, 1, 1, 1, 1, 1)), "P"),
    "unet_moments": (CLASS_HUES[3], (0, (6, 2, 1, 2)), "X"),
    "unet_integrated": (CLASS_HUES[5], (0, (8, 1.5)), "*"),
    "hough": (CLASS_HUES[2], (0, (6, 1.5)), "o"),
    "hough_averaged": (CLASS_HUES[3], (0, (9, 2, 1, 2)), "s"),
    "gradients": (CLASS_HUES[0], "-", "o"),
    "unet_polarised": (CLASS_HUES[1], (0, (4, 1, 1, 1)), "^"),
    "perfect_gas": (INK, (0, (1, 2)), ""),
    "mock-dust-polarised": (CLASS_HUES[1], "-", "p"),
    "mean_field": (CLASS_HUES[4], (0, (1, 1)), "v"),
    "planck_353": (CLASS_HUES[5], (0, (8, 1.5)), "D"),
    "perfect_field": (INK, (0, (5, 2)), ""),
}
_OTHER: tuple[str, Any, str] = (CLASS_HUES[5], "-", "h")


def model_name(model: str) -> str:
    """A model in words; one that has none keeps its own name."""
    return MODELS.get(model, model)


def model_place(model: str) -> int:
    """Place of a model in the order to show; any other comes last."""
    order = list(MODELS)
    return order.index(model) if model in order else len(order)


def template_name(template: str) -> str:
    """A template in words: one model, several fitted together ("a + b"), or "none"."""
    if template == "none":
        return "nothing fitted"
    return " and ".join(model_name(one) for one in template.split(" + "))


def template_place(template: str) -> tuple[int, ...]:
    """Place of a template in the order to show: none, single ones, then several together."""
    if template == "none":
        return (0,)
    models = template.split(" + ")
    return (len(models), *map(model_place, models))


def model_look(model: str) -> dict[str, Any]:
    """Colour and dashes of a model's line."""
    hue, dashes, _ = _LOOKS.get(model, _OTHER)
    return {"color": hue, "linestyle": dashes}


def model_marker(model: str) -> dict[str, Any]:
    """Colour and marker of a model's points."""
    hue, _, marker = _LOOKS.get(model, _OTHER)
    return {"color": hue, "marker": marker or "."}
