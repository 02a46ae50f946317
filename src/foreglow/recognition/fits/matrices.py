"""Small symmetric matrices, one a pixel, the pixel last: quicker so than LAPACK one by one."""

import torch
from torch import Tensor


def solve(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions (k, m, n) of symmetric systems (k, k, n), and which are positive definite (n,).

    Gauss-Jordan without pivots, so to be used where positive definite.
    """
    k = len(matrix)
    table = torch.cat([matrix, right], dim=1)
    positive = torch.ones_like(table[0, 0], dtype=torch.bool)
    for i in range(k):
        positive &= table[i, i] > 0
        row = table[i] / table[i, i]
        table -= table[:, i, None] * row
        table[i] = row
    return table[:, k:], positive


def log_determinant(matrix: Tensor) -> Tensor:
    """Of symmetric matrices (k, k, n); no number where one is not positive definite."""
    total = torch.zeros_like(matrix[0, 0])
    while len(matrix):
        pivot = torch.where(matrix[0, 0] > 0, matrix[0, 0], torch.nan)
        total = total + torch.log(pivot)
        matrix = matrix[1:, 1:] - matrix[1:, :1] * matrix[:1, 1:] / pivot
    return total


def invert(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive matrices (k, k, n) of any scale; no number where singular."""
    if len(matrix) == 1:
        return 1 / matrix
    scale = torch.diagonal(matrix).T.rsqrt()
    both = scale[:, None] * scale
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)[..., None]
    return both * solve(matrix * both, unit.expand_as(matrix))[0]
