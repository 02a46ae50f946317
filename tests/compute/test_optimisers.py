"""Muon with Adam as one optimiser, and how rates rise and fall."""

import numpy as np
import pytest
import torch
from torch import nn

from foreglow.compute.optimisers import MuonAndAdam, adamw, muon, orthogonal, whitening

INPUTS = torch.randn(256, 6, generator=torch.Generator().manual_seed(99))


class Dense(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8)])
            self.output = nn.Linear(8, 2)

    def forward(self, x):
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.output(x)


def steps(network, made, count, first=0, mixed=None):
    """Some steps on a task that is to be learned; the loss before the last."""
    for k in range(first, first + count):
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(k))
        seen = x if mixed is None else x @ mixed
        loss = nn.functional.cross_entropy(network(seen), (x[:, 0] * x[:, 1] > 0).long())
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return loss.item()


def test_matrices_of_hidden_layers_go_by_muon():
    network = Dense()
    optimiser = muon(network, 0.02, 100, INPUTS)["optimizer"]
    others, matrices = ({id(p) for p in group["params"]} for group in optimiser.param_groups)
    assert matrices == {id(layer.weight) for layer in network.hidden}
    assert matrices | others == {id(p) for p in network.parameters()}
    rates = [group["initial_lr"] for group in optimiser.param_groups]
    assert rates == pytest.approx([0.002, 0.02])


@pytest.mark.parametrize("shape", [(34, 34), (17, 68), (68, 17)])
def test_orthogonal_keeps_the_directions_and_levels_the_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonal(matrix) @ vt.mT  # diagonal in the directions of the matrix
    values = found.diagonal()
    assert (found - values.diag()).abs().max() < 1e-3
    assert values[:-1].min() > 0.6
    assert values.max() < 1.3


def test_the_first_steps_are_those_of_pytorch():
    mine, theirs = Dense(), Dense()
    matrices = [layer.weight for layer in theirs.hidden]
    others = [p for p in theirs.parameters() if not any(p is m for m in matrices)]
    parts = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0)]
    parts.append(torch.optim.Adam(others, lr=0.002))
    hidden = [layer.weight for layer in mine.hidden]
    rest = [p for p in mine.parameters() if not any(p is m for m in hidden)]
    optimiser = MuonAndAdam(hidden, rest, 0.02, 0.002)
    for k in range(3):
        for network, steppers in ((mine, [optimiser]), (theirs, parts)):
            x = torch.randn(64, 6, generator=torch.Generator().manual_seed(k))
            loss = nn.functional.cross_entropy(network(x), (x[:, 0] > 0).long())
            network.zero_grad()
            loss.backward()
            for stepper in steppers:
                stepper.step()
    for a, b, begun in zip(
        mine.parameters(), theirs.parameters(), Dense().parameters(), strict=True
    ):  # theirs are found in bfloat16
        angle = nn.functional.cosine_similarity((a - begun).flatten(), (b - begun).flatten(), 0)
        assert angle > 0.95


def test_it_learns():
    network = Dense()
    assert steps(network, muon(network, 0.02, 400, INPUTS), 400) < 0.2  # of log 2 = .69 at chance


def test_inputs_made_white_have_no_directions():
    mixed = INPUTS @ torch.diag(torch.logspace(-3, 0, 6)) + 0.5
    white = mixed @ whitening(mixed)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6), atol=2e-3, rtol=0)
    flat = torch.cat([mixed, torch.zeros(256, 1)], 1)  # a column that nothing is in
    assert whitening(flat).isfinite().all()


def test_how_inputs_are_mixed_makes_no_difference():
    """Of inputs that differ by a thousand in size it learns what it learns of equal ones."""
    mixed = torch.randn(6, 6, generator=torch.Generator().manual_seed(5)).double()
    mixed = torch.diag(torch.logspace(-3, 0, 6, dtype=torch.float64)) @ torch.linalg.qr(mixed)[0]
    plain, other, inputs = Dense().double(), Dense().double(), INPUTS.double()
    with torch.no_grad():
        other.hidden[0].weight.copy_(plain.hidden[0].weight @ torch.linalg.inv(mixed).mT)
    torch.set_default_dtype(torch.float64)
    try:
        a = steps(plain, muon(plain, 0.02, 50, inputs), 50)
        b = steps(other, muon(other, 0.02, 50, inputs @ mixed), 50, mixed=mixed)
    finally:
        torch.set_default_dtype(torch.float32)
    assert a == pytest.approx(b, rel=1e-6)


def test_a_state_that_was_stored_goes_on_as_if_it_had_not_been():
    whole, first = Dense(), Dense()
    steps(whole, muon(whole, 0.02, 20, INPUTS), 20)
    begun = muon(first, 0.02, 20, INPUTS)
    steps(first, begun, 8)
    then = Dense(seed=1)
    then.load_state_dict(first.state_dict())
    resumed = muon(then, 0.02, 20, INPUTS)
    resumed["optimizer"].load_state_dict(begun["optimizer"].state_dict())
    schedule = resumed["lr_scheduler"]["scheduler"]
    schedule.load_state_dict(begun["lr_scheduler"]["scheduler"].state_dict())
    steps(then, resumed, 12, first=8)
    for mine, theirs in zip(then.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("make", "rise"), [(adamw, 10), (muon, 5)])
def test_rates_rise_and_fall_to_zero(make, rise):
    network = Dense()
    made = muon(network, 1.0, 100, INPUTS) if make is muon else make(network.parameters(), 1.0, 100)
    rates = []
    for k in range(100):
        rates.append(made["optimizer"].param_groups[-1]["lr"])
        steps(network, made, 1, first=k)
    assert np.argmax(rates) in (rise - 1, rise)
    assert rates[0] == pytest.approx(1 / rise, rel=0.01)
    assert rates[-1] < 1e-3
