"""What Farsian et al. 2020 found, and in which of their figures."""

PAPER_NOISELESS = {
    "curvature": {"train": 0.99, "test": 0.98},
    "ame": {"train": 0.93, "test": 0.97},
    "four": {"train": 0.87, "test": 0.93},
}
"""Table 2: noiseless accuracy by problem and set."""

PAPER_NOISY = {
    "curvature": {"noiseless": 0.82, "one_noise": 0.95, "many_noise": 0.97},
    "ame": {"noiseless": 0.78, "one_noise": 0.92, "many_noise": 0.94},
    "four": {"noiseless": 0.68, "one_noise": 0.90, "many_noise": 0.93},
}
"""Table 3: accuracy on noisy test skies by problem and training."""

PAPER_FITS = {("curvature", "chi2"): 0.73}
"""Section 5: accuracy of a choice after fits, by problem and criterion."""

PAPER_VECTORS = {"curvature": 70 * 4e7, "ame": 70 * 4e7, "four": 220 * 4e7}
"""Section 4.1.1: vectors seen in the noiseless training, epochs times four fifths of 5e7."""

HISTORY_FIGURE = {"curvature": "3", "ame": None, "four": "6"}
MAP_FIGURE = {"curvature": "4", "ame": "5", "four": "7"}
