"""What a training run is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes
    ----------
    data
        Folder or archive of images, one folder per class.
    output
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end, ``supernet.safetensors``. A
        checkpoint there is continued.
    space
        Name of the search space.
    recipe
        Name of a shipped recipe or path of a TOML file.
    init
        Supernet to start from (name or path); None for fresh weights.
    seed
        Seed of weights, order, augmentation and sampling.
    max_steps
        Stop after this many steps of the schedule; None for all.
    image_size
        Size that images are scaled to; None for the space's largest resolution up to 64, else
        the size of the first image.
    cache
        Folder for the decoded images; None for `output`.
    checkpoint_every_s
        Seconds between checkpoints.
    threads
        Threads of PyTorch; None leaves them.
    device
        "cpu", "cuda", or "auto" for CUDA where there is a GPU.
    parts
        Parts that each batch is split into, each normalised by itself; a multiple of the number
        of processes. None for as many as processes. The result depends on the parts, not on how
        many processes share them.
    tensorboard
        Also write the log for TensorBoard, below ``output/tensorboard``.
    """

    data: Path
    output: Path
    space: str = "ofa_mbv3_cifar"
    recipe: str = "cifar"
    init: str | None = None
    seed: int = 0
    max_steps: int | None = None
    image_size: int | None = None
    cache: Path | None = None
    checkpoint_every_s: float = 120.0
    threads: int | None = None
    device: str = "auto"
    parts: int | None = None
    tensorboard: bool = False
