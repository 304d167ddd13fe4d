"""Networks built for a GPU benchmark here, small enough to be carried to the machine with the GPU.

An archive is a folder of plain files: libraries, ONNX, NumPy arrays, JSON. No file depends on the
Python, the PyTorch or the TVM that made it.

    archive.json              what it was built for, by what, and which runtimes have no files
    limits/PRECISION/         kernels that measure what the device can do at most
    tvm/                      TVM's run time
    SUBNET/weights.npz        for PyTorch
    SUBNET/*.onnx, *.so, *.param, *.bin       for the other runtimes (gpu_peer_files.py)
    SUBNET/PRECISION-batch-N/                 ours: facts.json and libsubnet.so

Weights have seven values each: random ones do not compress, and neither time nor verification
needs them to.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import provenance
from numpy.typing import NDArray
from subnets import PROXYLESS, W12, fixed

from ofa_compile.space import Architecture, search_space

if TYPE_CHECKING:
    import torch

    from ofa_compile.hardware.target_spec import TargetSpec

PREFIX = "ofa_bench_"
FACTS, ARCHIVE = "facts.json", "archive.json"
MAX_ARCHIVE_MIB = 64
_LEVELS = 3
_IMAGES = 2
# Rounding then changes logits about as much as in trained networks: TF32 by 0.0033 of the largest,
# float16 by 0.005. With maps of size 1, h-swish and the gates amplify it some five times.
_SIZE = 0.25


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
    """Return the benchmark's input: few images, repeated.

    Each is half as bright as the one before: noise looks the same to a random network.
    """
    size = architecture.resolution
    values = np.random.default_rng(0).integers(-64, 64, (_IMAGES, 3, size, size))
    few = np.stack([image / 2 ** (5 + n) for n, image in enumerate(values)]).astype(np.float32)
    return np.concatenate([few] * -(-count // _IMAGES))[:count]


def relative_error(facts: Mapping[str, Any], logits: NDArray[np.float32]) -> float:
    """Return the error relative to the largest logit of PyTorch on a processor."""
    few = np.array(facts["logits"], np.float32)
    expected = np.concatenate([few] * -(-len(logits) // len(few)))[: len(logits)]
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def coarse_subnet(architecture: Architecture, weights: Path) -> torch.nn.Module:
    """Return a subnet whose weights come from a file, which is made at the first call."""
    import torch

    from ofa_compile.space.resnet import ResNetSpace
    from ofa_compile.supernet import subnet as static

    space = search_space(architecture.space)
    if not weights.is_file():
        np.savez_compressed(weights, **_coarse_weights(architecture))  # type: ignore[arg-type]
    build = static.ResNetSubnet if isinstance(space, ResNetSpace) else static.MobileNetSubnet
    subnet = build(space, architecture, space.num_classes_default)
    with np.load(weights, allow_pickle=False) as stored:
        state = {name: stored[name] for name in subnet.state_dict()}
        for name, values in state.items():
            if values.dtype == np.int8:
                state[name] = values.astype(np.float32) * stored[f"{name}:scale"]
    subnet.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    return subnet.eval()


def _coarse_weights(architecture: Architecture) -> dict[str, NDArray[Any]]:
    """Return the state of a fresh subnet: matrices as codes of one byte and their scale."""
    import torch

    from ofa_compile.supernet.checkpoint import load_supernet

    subnet = load_supernet(None, space=architecture.space).extract(architecture)
    coded: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for name, weight in subnet.named_parameters():
            if weight.ndim > 1:
                scale = weight.abs().max() / _LEVELS
                codes = (weight / scale).round()
                weight.copy_(codes * scale)
                coded[name] = codes.numpy().astype(np.int8)
                coded[f"{name}:scale"] = scale.numpy()
        _normalise(subnet, torch.from_numpy(images(architecture, _IMAGES)))
    state = {name: value.detach().numpy() for name, value in subnet.state_dict().items()}
    return state | coded


def _normalise(subnet: torch.nn.Module, x: torch.Tensor) -> None:
    """Have every batch norm divide its own input down to a root mean square of `_SIZE`.

    Otherwise maps fade from layer to layer, below what float16 can tell from zero. The divisor is
    one for all channels of a layer, so that its weights have seven values after folding, too. No
    mean is taken off: what images differ in is so little in a random network that rounding errors
    would come near it.
    """
    import torch

    def take(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.running_mean.zero_()
        norm.running_var.fill_(inputs[0].square().mean() / _SIZE**2)

    norms = [module for module in subnet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    subnet(x)
    for handle in handles:
        handle.remove()


def onnx_file(folder: Path, batch: int, precision: str = "fp32") -> Path:
    """Return where a subnet's ONNX file is; its weights are float16 for fp16, else float32."""
    values = "-fp16" if precision == "fp16" else ""
    return folder / f"batch-{batch}{values}.onnx"


def build(
    folder: Path, name: str, architecture: Architecture, batch: int, target: TargetSpec
) -> None:
    """Compile one subnet for one batch, with what a run needs to know; nothing if it is there."""
    import torch

    from ofa_compile.compiler.build import compile_onnx
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.space import macs

    place = folder / name / f"{target.precision}-batch-{batch}"
    onnx = onnx_file(folder / name, batch)
    if (place / FACTS).is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    subnet = coarse_subnet(architecture, folder / name / "weights.npz")
    export_onnx(subnet, onnx, resolution=architecture.resolution, batch=batch, check=False)
    compiled = compile_onnx(onnx, target, place, symbol_prefix=PREFIX)
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
        "steps": [{"kind": s["workload"]["kind"], "macs": s["macs"]} for s in compiled.steps],
        "logits": logits.tolist(),
    }
    (place / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def prebuild(
    folder: Path,
    subnets: Mapping[str, Architecture],
    batches: Sequence[int],
    targets: Sequence[TargetSpec],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Build all that needs no GPU, and pack it into `folder`.tar.xz; what is there is kept.

    Parameters
    ----------
    folder
        To build in.
    subnets, batches
        What to build.
    targets
        One target in each of the precisions wanted.
    tell
        Called with what is begun: all of it takes an hour or so.

    Returns
    -------
    What archive.json says: `absent` tells for which runtimes there are no files, and why.
    """
    from gpu_limits import build_limits
    from gpu_peer_files import add_peer_files

    from ofa_compile.compiler.gpu.backend import backend_of

    for target in targets:
        # Halves of CUDA are multiplied by tensor cores, of which these kernels know nothing.
        if target.precision == "fp32" or (target.precision, target.kind) == ("fp16", "vulkan"):
            build_limits(folder / "limits" / target.precision, target)
        for name, architecture in subnets.items():
            for batch in batches:
                tell(f"{name} {target.precision} batch {batch}")
                build(folder, name, architecture, batch, target)
    archive = {
        "kind": targets[0].kind,
        "precisions": [target.precision for target in targets],
        "toolkit": asdict(backend_of(targets[0]).toolkit()),
        "absent": add_peer_files(folder, subnets, batches, targets, tell),
        "built": provenance(),
    }
    (folder / ARCHIVE).write_text(json.dumps(archive, indent=1), encoding="utf-8")
    _pack(folder, list(subnets), str(archive["kind"]))
    return archive


def packed_file(folder: Path) -> Path:
    """Return where `prebuild` packs a folder."""
    return folder.parent / f"{folder.name}.tar.xz"


def _pack(folder: Path, subnets: Sequence[str], kind: str) -> None:
    with tarfile.open(packed_file(folder), "w:xz", preset=9) as archive:
        for path in _files(folder, subnets, kind):
            archive.add(path, path.relative_to(folder))


def _files(folder: Path, subnets: Sequence[str], kind: str) -> Iterator[Path]:
    """Yield what is packed, files with the same weights next to each other.

    The compressor looks back 64 MiB: it finds weights again that another file has, in the same
    order. All have that of ONNX but ours.
    """
    yield folder / ARCHIVE
    yield from (
        path for name in ("limits", "tvm") for path in sorted(folder.glob(f"{name}/**/*.*"))
    )
    for name in subnets:
        files = [path for path in sorted(folder.glob(f"{name}/**/*")) if path.is_file()]
        # Of Vulkan's runtimes, none reads ONNX.
        kept = [path for path in files if path.suffix != ".onnx" or kind == "cuda"]
        yield from sorted(kept, key=lambda path: path.name == "libsubnet.so")


def unpack(packed: Path, folder: Path) -> Path:
    """Return the folder with what was built: the one given, or the archive's contents."""
    if packed.is_dir():
        return packed
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder


def read_facts(place: Path) -> dict[str, Any]:
    """Return what was built in a folder of ours."""
    found: dict[str, Any] = json.loads((place / FACTS).read_text(encoding="utf-8"))
    return found


def networks(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the folders of all networks built, with their facts: exact first, then by size."""
    found = [(path.parent, read_facts(path.parent)) for path in folder.glob(f"*/*/{FACTS}")]
    order = ("fp32", "tf32", "fp16")
    return sorted(
        found,
        key=lambda item: (order.index(item[1]["precision"]), item[1]["batch"], item[1]["macs"]),
    )
