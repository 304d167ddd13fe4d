"""Learning rate, optimiser and the running average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ofa_compile.training.progressive_shrinking import PhasePlan
from ofa_compile.training.recipe import Recipe

__all__ = ["WeightAverage", "cosine", "learning_rate", "make_optimizer"]


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then one cosine over all phases."""
    rates = recipe.learning_rate, recipe.final_learning_rate
    return cosine(step, total_steps, rates, recipe.warmup_steps)


def rate_of_step(recipe: Recipe, plan: PhasePlan, step: int, total_steps: int) -> float:
    """Return the learning rate of a step: its phase's own schedule, if it has one."""
    phase = plan.phase
    if phase.learning_rate == 0.0:
        return learning_rate(recipe, step, total_steps)
    length = plan.end_step - plan.first_step
    warmup = round(length * phase.warmup_epochs / phase.epochs) if phase.epochs else 0
    return cosine(step - plan.first_step, length, (phase.learning_rate, 0.0), warmup)


def cosine(step: int, length: int, rates: tuple[float, float], warmup: int) -> float:
    """Return the rate of a step: linear warm-up to the first of `rates`, a cosine to the second."""
    high, low = rates
    if step < warmup:
        return high * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, length - warmup))
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(supernet: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD that decays convolution and linear weights only."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in supernet.named_parameters():
        is_weight = parameter.ndim > 1 and not name.endswith("_matrix")
        (decayed if is_weight else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


class WeightAverage:
    """Exponential average of a network's weights, which the run ends with."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.reset()

    def reset(self) -> None:
        """Start again from the weights as they are, for instance after channels were sorted."""
        self.state = {name: value.detach().clone() for name, value in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        for name, value in self._weights().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - self.decay)
            else:
                self.state[name].copy_(value)
