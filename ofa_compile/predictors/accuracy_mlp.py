"""The model behind the accuracy predictor: a quadratic part, then MLPs on what it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ofa_compile.predictors.accuracy_basis import Basis, fit_basis

__all__ = ["PAPER_CONFIG", "FitConfig", "fit_weights"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit.

    Attributes
    ----------
    members
        MLPs in the ensemble; each sees its own bootstrap sample.
    layers, hidden
        Hidden layers, and their width.
    steps
        Full-batch AdamW steps.
    learning_rate, weight_decay
        Of AdamW.
    ridge
        Penalty of the quadratic part: the more subnets, the less it holds back. None leaves that
        part out.
    folds
        Parts of the cross-validation behind the reported errors.
    seed
        Seed of folds, bootstrap and weights.
    """

    members: int = 4
    layers: int = 2
    hidden: int = 32
    steps: int = 60
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    ridge: float | None = 5.0
    folds: int = 5
    seed: int = 0


# The network of the Once-for-All paper: three hidden layers of 400, on the encoding alone.
PAPER_CONFIG = FitConfig(
    members=1, layers=3, hidden=400, steps=150, learning_rate=1e-3, weight_decay=0.1, ridge=None
)


def _forward(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Return what the MLPs predict, of shape (members, n); as `AccuracyPredictor._forward`."""
    last = max(int(name.split(".")[1]) for name in weights)
    hidden = x[None]
    for layer in range(last + 1):
        weight, bias = weights[f"mlp.{layer}.weight"], weights[f"mlp.{layer}.bias"]
        hidden = hidden @ weight + bias[:, None]
        if layer < last:
            hidden = torch.relu(hidden)
    return hidden[:, :, 0]


def fit_weights(
    codes: NDArray[np.float32],
    top1: NDArray[np.float64],
    basis: Basis,
    config: FitConfig,
) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a predictor fitted on encodings and accuracies."""
    mean, std = float(top1.mean()), max(float(top1.std()), 1e-6)
    target = (top1 - mean) / std
    weights = {"linear.weight": np.zeros(codes.shape[1], np.float32)}
    fitted = np.zeros(len(codes))
    if config.ridge is not None:
        weights, fitted = fit_basis(codes, target, basis, config.ridge)
    residual = torch.from_numpy((target - fitted).astype(np.float32))
    generator = torch.Generator().manual_seed(config.seed)
    sizes = (codes.shape[1], *[config.hidden] * config.layers, 1)
    mlp = _initial(sizes, config.members, generator)
    share = torch.poisson(torch.ones(config.members, len(codes)), generator=generator)
    _train(mlp, torch.from_numpy(codes), residual, share, config)
    weights.update({name: tensor.detach().numpy() for name, tensor in mlp.items()})
    weights["scale"] = np.array([mean, std], np.float32)
    return weights


def _initial(sizes: Sequence[int], members: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the weights of all members; the last layer starts small."""
    mlp: dict[str, Tensor] = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        gain = (2.0 / fan_in) ** 0.5 if i < len(sizes) - 2 else 0.1 * fan_in**-0.5
        shape = (members, fan_in, fan_out)
        mlp[f"mlp.{i}.weight"] = torch.randn(shape, generator=generator) * gain
        mlp[f"mlp.{i}.bias"] = torch.zeros(members, fan_out)
    return mlp


def _train(
    mlp: dict[str, Tensor], x: Tensor, target: Tensor, share: Tensor, config: FitConfig
) -> None:
    """Fit all members at once, in place; `share` weighs each member's subnets."""
    for tensor in mlp.values():
        tensor.requires_grad_(True)
    groups = [
        {
            "params": [tensor for name, tensor in mlp.items() if name.endswith(kind)],
            "weight_decay": decay,
        }
        for kind, decay in (("weight", config.weight_decay), ("bias", 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for _ in range(config.steps):
        optimizer.zero_grad()
        error = _forward(x, mlp) - target
        loss = (share * error * error).mean(dim=1).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
