"""What Zhang et al. 2019 found and chose."""

WINS = {"r50": 0.764, "r150": 0.889}
"""Share of 1,000 southern cutouts in which the U-Net beats the integrated map (Figure 4)."""

LOW_KMS, HIGH_KMS = -64.5, 17.0
"""Range of the 64 channels (Figure 1)."""

WEIGHT = 30.0
"""The lambda of its results."""
