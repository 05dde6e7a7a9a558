"""The loop that trains every network of the starter: what comes back after a stop."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.starter import training
from engine.starter.training import Schedule, train


class Clock:
    """Every look at it is a second later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.mark.parametrize("muon", [False, True])
def test_a_training_that_goes_on_learns_as_fast_as_one_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, muon: bool
) -> None:
    """The first ends with a learning rate of nearly 0, which must not stay."""
    monkeypatch.setattr(training, "time", Clock())
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 1))

    def loss_of(generator: torch.Generator) -> Tensor:
        return (network(torch.randn(8, 4, generator=generator)) - 1e3).square().mean()

    def moved() -> float:
        before = [parameter.detach().clone() for parameter in network.parameters()]
        schedule = Schedule(minutes=1, learning_rate=1e-3, warmup_steps=1, muon=muon)
        train("network", tmp_path, {"network": network}, loss_of, schedule)
        pairs = zip(before, network.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5

    assert moved() == pytest.approx(moved(), rel=0.3)
