"""The shells of the mock Galaxy: a table of the gas and the electrons along the line of sight.

Units inside: columns in 1e20 cm-2, distances in kpc, the field over its mean strength.
"""

from typing import NamedTuple

SUN_RADIUS_KPC = 8.2  # distance of the Sun from the Galactic centre


class Shell(NamedTuple):
    """One layer along the line of sight: an exponential disc between two distances."""

    stream: int  # names the shell's own random draws; never reuse or renumber
    near: float  # kpc
    far: float  # kpc
    height: float  # scale height, kpc
    density: float  # midplane, 1e20 cm-2 per kpc (1 cm-3 is 31); relative for synchrotron
    rms: float  # of the logarithm of the column
    slope: float  # of its angular spectrum
    outer_ell: int  # no structure on scales larger than this multipole
    filaments: float  # share of the small-scale variance drawn out along the field
    turbulence: float  # turbulent over mean field strength
    turbulence_slope: float
    shared: float  # share of the turbulent variance common to all shells
    tangled: float  # mean square of the field tangled below every scale, over the mean field's
    cold_logit: float = 0.0  # logit of the typical cold fraction
    dust_ratio: float = 1.0  # dust to gas, relative to the local gas
    velocity: float = 0.0  # mean motion away from the local standard of rest, km/s
    velocity_rms: float = 0.0  # of the field of velocities around it, km/s


GAS_SHELLS = (  # local, local, near arm, far arm, intermediate and high velocity
    #    near  far   height dens  rms  slope l0  fil  turb tslope shar tang cold dust  vel  rms
    Shell(1, 0.08, 0.20, 0.12, 36.0, 0.75, -2.6, 4, 0.95, 0.65, -2.75, 0.4, 0.0, -0.5, 1.0, 1, 4),
    Shell(2, 0.20, 0.50, 0.12, 45.0, 0.75, -2.6, 5, 0.90, 0.65, -2.75, 0.3, 0.0, 0.3, 1.0, -5, 5),
    Shell(3, 0.50, 2.00, 0.12, 34.0, 0.75, -2.6, 8, 0.60, 0.65, -2.75, 0.2, 1.2, 0.3, 1.0, -8, 6),
    Shell(6, 2.00, 10.0, 0.12, 23.0, 0.75, -2.6, 12, 0.0, 0.65, -2.75, 0.1, 2.5, 0.3, 1.0, -8, 8),
    Shell(4, 0.50, 1.50, 1.00, 0.80, 0.75, -2.6, 4, 0.0, 0.80, -2.75, 0.3, 0.5, -1, 0.55, -45, 10),
    Shell(5, 3.00, 10.0, 10.0, 0.06, 0.75, -2.6, 4, 0.0, 0.80, -2.75, 0.0, 0.5, -2, 0.1, -110, 20),
)

ELECTRON_SHELLS = (  # the nearby field lines, the thick disc, the thin disc
    #     near  far   height dens rms  slope  l0  fil  turb tslope shar tang
    Shell(11, 0.05, 1.00, 0.60, 10.6, 0.60, -2.55, 6, 0.98, 0.45, -4.0, 0.2, 0.5),
    Shell(12, 1.00, 12.0, 4.00, 1.95, 0.40, -3.40, 5, 0.00, 0.45, -4.0, 0.2, 4.0),
    Shell(13, 0.30, 12.0, 0.25, 10.0, 0.60, -2.70, 10, 0.0, 0.40, -4.0, 0.2, 1.5),
)
