"""Supernets in PyTorch: shared weights, extraction of subnets, checkpoints."""

from ofa_compile.supernet.checkpoint import embedded_supernets, load_supernet, save_supernet
from ofa_compile.supernet.families import build_supernet
from ofa_compile.supernet.subnet import compute_logits
from ofa_compile.supernet.supernet import Supernet

__all__ = [
    "Supernet",
    "build_supernet",
    "compute_logits",
    "embedded_supernets",
    "load_supernet",
    "save_supernet",
]
