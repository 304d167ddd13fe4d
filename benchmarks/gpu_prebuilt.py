"""Subnets built for a GPU benchmark here, small enough to be carried to the machine with the GPU.

Weights have seven values each: random ones do not compress, and neither time nor verification
needs them to. They are kept once as codes for other runtimes, and inside the compiled libraries.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from subnets import PROXYLESS, W12, fixed

from ofa_compile.space import Architecture, search_space

if TYPE_CHECKING:
    import torch

    from ofa_compile.hardware.target_spec import TargetSpec

PREFIX = "ofa_bench_"
_LEVELS = 3
_IMAGES = 2


def gpu_subnets() -> dict[str, Architecture]:
    """Return the subnets compared: from the smallest of MobileNetV3 to ResNet50."""
    rng = np.random.default_rng(0)
    proxyless = search_space(PROXYLESS).sample(rng).to_dict()
    return {
        "cifar-largest": search_space("ofa_mbv3_cifar").largest(32),
        **fixed(),
        "w1.2-largest": search_space(W12).largest(224),
        "proxyless": Architecture.from_dict({**proxyless, "resolution": 224}),
        "resnet50-smallest": search_space("ofa_resnet50").smallest(224),
    }


def quick_subnets() -> dict[str, Architecture]:
    """Return what shows that the benchmark works."""
    return {"cifar-smallest": search_space("ofa_mbv3_cifar").smallest(24)}


def images(architecture: Architecture, count: int) -> NDArray[np.float32]:
    """Return the benchmark's input: few images, repeated."""
    size = architecture.resolution
    values = np.random.default_rng(0).integers(-64, 64, (_IMAGES, 3, size, size))
    few = (values / 32).astype(np.float32)
    return np.concatenate([few] * -(-count // _IMAGES))[:count]


def coarse_subnet(architecture: Architecture, codes: Path) -> torch.nn.Module:
    """Return a subnet whose weights come from a file of codes, which is made at the first call."""
    import torch

    from ofa_compile.supernet.checkpoint import load_supernet

    subnet = load_supernet(None, space=architecture.space).extract(architecture)
    weights = {n: p for n, p in subnet.named_parameters() if p.ndim > 1}
    if not codes.is_file():
        coded: dict[str, Any] = {}
        for name, weight in weights.items():
            values = weight.detach().numpy()
            scale = np.abs(values).max() / _LEVELS
            coded[name] = np.round(values / scale).astype(np.int8)
            coded[f"{name}:scale"] = np.float32(scale)
        np.savez_compressed(codes, **coded)
    with np.load(codes) as stored, torch.no_grad():
        for name, weight in weights.items():
            values = stored[name].astype(np.float32) * stored[f"{name}:scale"]
            weight.copy_(torch.from_numpy(values))
    return subnet.eval()


def build(
    folder: Path, name: str, architecture: Architecture, batch: int, target: TargetSpec
) -> None:
    """Compile one subnet for one batch, with what a run needs to know; nothing if it is there."""
    import torch

    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.space import macs

    place = folder / name / f"batch-{batch}"
    if (place / "facts.json").is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    subnet = coarse_subnet(architecture, folder / name / "weights.npz")
    onnx = place / "subnet.onnx"
    export_onnx(subnet, onnx, resolution=architecture.resolution, batch=batch, check=False)
    compiled = compile_onnx(onnx, target, place, symbol_prefix=PREFIX)
    onnx.unlink()
    with torch.inference_mode():
        logits = subnet(torch.from_numpy(images(architecture, _IMAGES))).numpy()
    facts = {
        "subnet": name,
        "architecture": json.loads(architecture.to_json()),
        "batch": batch,
        "target": target.name,
        "kind": target.kind,
        "precision": target.precision,
        "macs": batch * macs(architecture),
        "num_kernels": len(compiled.steps),
        "logits": logits.tolist(),
    }
    (place / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def prebuild(
    folder: Path, subnets: Mapping[str, Architecture], batches: Sequence[int], target: Any
) -> Path:
    """Build all, and pack them into `folder`.tar.xz; what was built before is kept."""
    for name, architecture in subnets.items():
        for batch in batches:
            build(folder, name, architecture, batch, target)
    packed = folder.parent / f"{folder.name}.tar.xz"
    # The highest preset sees equal weights of the other batch 50 MB away.
    with tarfile.open(packed, "w:xz", preset=9) as archive:
        for name in subnets:
            archive.add(folder / name, name)
    return packed


def unpack(packed: Path, folder: Path) -> Path:
    """Return the folder with what was built: the one given, or the archive's contents."""
    if packed.is_dir():
        return packed
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder


def networks(folder: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return the folders of all networks built, with their facts: small batches first."""
    found = [
        (path.parent, json.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("*/*/facts.json")
    ]
    return sorted(found, key=lambda item: (item[1]["batch"], item[1]["macs"]))
