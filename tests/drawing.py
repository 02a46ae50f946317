"""Figures of runs drawn quickly: as a reader sees them they take half the time of a run."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_small(figure: Figure, folder: Path, name: str, pdf_fonts: int = 42) -> None:
    """As `report.recognition.figures.save`, but a small PNG alone, put in its place as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.set_layout_engine("none")
    figure.set_dpi(20)
    FigureCanvasAgg(figure).print_png(folder / f"{name}.png")  # savefig would draw it twice


def draw_coarse(figure: Figure, folder: Path, name: str) -> Path:
    """As `report.recognition.figures.save`, laid out as there, but a coarse PNG alone."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=40)
    return path
