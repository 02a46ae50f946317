"""Muon with Adam as one optimiser, and how rates rise and fall."""

import numpy as np
import pytest
import torch
from torch import nn

from foreglow.compute.optimisers import adamw, muon
from foreglow.errors import RunError


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


def steps(network, made, count, first=0):
    """Some steps on a task that is to be learned; the loss before the last."""
    for k in range(first, first + count):
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(k))
        loss = nn.functional.cross_entropy(network(x), (x[:, 0] * x[:, 1] > 0).long())
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return loss.item()


def test_matrices_of_hidden_layers_go_by_muon():
    network = Dense()
    optimiser = muon(network, 0.02, 100)["optimizer"]
    matrices, others = ({id(p) for p in group["params"]} for group in optimiser.param_groups)
    assert matrices == {id(layer.weight) for layer in network.hidden}
    assert matrices | others == {id(p) for p in network.parameters()}
    rates = [group["initial_lr"] for group in optimiser.param_groups]
    assert rates == pytest.approx([0.02, 0.002])


def test_it_learns():
    network = Dense()
    assert steps(network, muon(network, 0.02, 400), 400) < 0.2  # of log 2 = .69 at chance


def test_a_state_that_was_stored_goes_on_as_if_it_had_not_been():
    whole, first = Dense(), Dense()
    steps(whole, muon(whole, 0.02, 20), 20)
    begun = muon(first, 0.02, 20)
    steps(first, begun, 8)
    then = Dense(seed=1)
    then.load_state_dict(first.state_dict())
    resumed = muon(then, 0.02, 20)
    resumed["optimizer"].load_state_dict(begun["optimizer"].state_dict())
    schedule = resumed["lr_scheduler"]["scheduler"]
    schedule.load_state_dict(begun["lr_scheduler"]["scheduler"].state_dict())
    steps(then, resumed, 12, first=8)
    for mine, theirs in zip(then.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("make", "rise"), [(adamw, 10), (muon, 5)])
def test_rates_rise_and_fall_to_zero(make, rise):
    network = Dense()
    made = make(network if make is muon else network.parameters(), 1.0, 100)
    rates = []
    for k in range(100):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        steps(network, made, 1, first=k)
    assert np.argmax(rates) in (rise - 1, rise)
    assert rates[0] == pytest.approx(1 / rise, rel=0.01)
    assert rates[-1] < 1e-3


def test_a_pytorch_without_muon(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RunError, match=r"expected PyTorch 2\.9 or later, which has Muon"):
        muon(Dense(), 0.02, 10)
