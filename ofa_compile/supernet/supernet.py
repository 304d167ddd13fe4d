"""Supernets: one set of weights that holds every architecture of a search space."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_compile.space import Architecture, SearchSpace
from ofa_compile.supernet.elastic import ElasticDepthwiseConv2d
from ofa_compile.supernet.functional import skip_initialization


class Supernet(nn.Module):
    """The weight-sharing network of a search space.

    Attributes
    ----------
    space
        Search space whose architectures the supernet computes.
    num_classes
        Length of the logits.
    metadata
        Facts that travel with the weights: ``mean``, ``std``, ``labels``.
    """

    space: SearchSpace

    def __init__(
        self, space: SearchSpace, num_classes: int, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.space = space
        self.num_classes = num_classes
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.dropout_rate = 0.0

    @abstractmethod
    def _forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        """Compute the logits of one architecture."""

    @abstractmethod
    def _build_subnet(self, architecture: Architecture) -> nn.Module: ...

    @abstractmethod
    def _source_name(self, architecture: Architecture, name: str) -> str:
        """Return the name in the supernet of a parameter of the subnet (block renumbered)."""

    def forward(self, x: Tensor, architecture: Architecture | None = None) -> Tensor:
        """Compute logits with the weights of one architecture.

        Parameters
        ----------
        x
            Images of shape (N, 3, H, W); the size need not be the architecture's resolution.
        architecture
            Member of the space; None for the largest.

        Returns
        -------
        Logits of shape (N, classes).

        Raises
        ------
        ArchitectureError
            If the architecture lies outside the space.
        """
        if architecture is None:
            architecture = self.space.largest()
        else:
            self.space.validate(architecture)
        return self._forward(x, architecture)

    def extract(self, architecture: Architecture) -> nn.Module:
        """Build the static subnet of an architecture, with its own copy of the weights.

        Returns
        -------
        A plain module in evaluation mode: (N, 3, H, W) float32 in, logits (N, classes) out.

        Raises
        ------
        ArchitectureError
            If the architecture lies outside the space.
        """
        self.space.validate(architecture)
        with skip_initialization():
            subnet = self._build_subnet(architecture)
        sources = {plain_name(name): value for name, value in self.state_dict().items()}
        state = {
            name: self._slice(self._source_name(architecture, name), target.shape, sources)
            for name, target in subnet.state_dict().items()
        }
        subnet.load_state_dict(state, assign=True)
        return subnet.eval()

    @torch.no_grad()
    def _slice(self, name: str, shape: torch.Size, sources: dict[str, Tensor]) -> Tensor:
        """Return the leading part of a weight; depthwise kernels go through the transforms."""
        owner_name, _, _ = name.rpartition(".")
        if name.endswith(".depth_conv.conv.weight"):
            owner = self.get_submodule(owner_name)
            if isinstance(owner, ElasticDepthwiseConv2d):
                return owner.active_weight(shape[0], shape[-1]).detach().clone()
        part = sources[name][tuple(slice(0, length) for length in shape)]
        return part.detach().clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def sort_channels_by_importance(self, kept_ratios: Sequence[float] = ()) -> None:
        """Reorder each block's middle channels so that a slice keeps the most important ones.

        The largest subnet's function does not change.

        Parameters
        ----------
        kept_ratios
            Expand ratios already trained: their channels stay theirs (sorted among themselves).
        """
        for module in self.modules():
            sort = getattr(module, "sort_channels", None)
            if callable(sort):
                sort(kept_ratios)

    @property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and float32 values of all weights and statistics."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if name.endswith("num_batches_tracked"):
                continue
            digest.update(f"{name}:{tuple(value.shape)}\n".encode())
            array = value.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(array.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    def initialize(self, seed: int) -> None:
        """Draw fresh weights: He (fan-out per group) convolutions, identity transforms."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = 1.0 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.zeros_(module.bias)

    def _classifier_input(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return F.dropout(x, self.dropout_rate, self.training) if self.dropout_rate else x


def plain_name(name: str) -> str:
    """Return a parameter's name without the doubling that elastic wrappers bring."""
    return (
        name.replace(".conv.conv.weight", ".conv.weight")
        .replace(".bn.bn.", ".bn.")
        .replace(".linear.linear.", ".linear.")
    )
