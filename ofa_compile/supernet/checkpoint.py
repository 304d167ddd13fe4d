"""Loading and saving of supernet weights: our safetensors, and the authors' checkpoints."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ofa_compile.errors import ArchitectureError, CheckpointError, closest_match
from ofa_compile.space import SearchSpace, search_space, search_spaces
from ofa_compile.supernet.families import build_supernet
from ofa_compile.supernet.functional import one_thread, skip_initialization
from ofa_compile.supernet.supernet import Supernet, plain_name

logger = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"
_MAX_LISTED = 8


def embedded_supernets() -> list[str]:
    """Return the names of the supernets whose weights ship inside the package."""
    folder = resources.files("ofa_compile.weights")
    suffix = ".safetensors"
    spaces = set(search_spaces())
    names = [entry.name.removesuffix(suffix) for entry in folder.iterdir()]
    return sorted(name for name in names if name in spaces and _embedded_path(name).is_file())


def _embedded_path(name: str) -> Path:
    return Path(str(resources.files("ofa_compile.weights").joinpath(f"{name}.safetensors")))


def load_supernet(
    source: str | Path | Mapping[str, Any] | None,
    *,
    space: SearchSpace | str | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Supernet:
    """Load a supernet, in evaluation mode.

    Parameters
    ----------
    source
        Name of an embedded supernet, path of a ``.safetensors`` file of ours, path of one of the
        authors' checkpoints or a state dict (both with `space`), or None for fresh weights.
        Checkpoints are read as plain tensors: code inside a pickle is never executed.
    space
        Search space or its name; may be left out where the file says it.
    num_classes
        Length of the logits; None takes it from the weights.
    seed
        Seed of fresh weights.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is no plain set of tensors, or does not fit the space; the
        message lists the keys and shapes that do not fit.
    ArchitectureError
        If no search space has the given name.
    """
    known = search_space(space) if isinstance(space, str) else space
    if source is None:
        if known is None:
            message = "a supernet with fresh weights needs a search space"
            raise CheckpointError(message, hint='Pass space="ofa_mbv3_cifar", for instance.')
        return build_supernet(known, num_classes=num_classes, seed=seed).eval()
    if isinstance(source, Mapping):
        what = "state dict"
        state: dict[str, Any] = dict(source)
        header: dict[str, str] = {}
    else:
        what = str(source)
        state, header = _read(_resolve(source))
    state = _unwrap(state, what)
    known = _agree_on_space(what, known, header)
    with one_thread():
        return _fill(known, state, num_classes, _decode_metadata(header, what), what)


def save_supernet(supernet: Supernet, path: str | Path, *, half: bool = False) -> None:
    """Write a supernet as safetensors, atomically: readers see the old file or the new one.

    Parameters
    ----------
    supernet
        Supernet to write, metadata included.
    path
        Destination; its folder must exist.
    half
        Store convolution and matrix weights as float16. Vectors (biases, batch norm) stay
        float32: running variances can leave float16's range.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in supernet.state_dict().items():
        if name.endswith(_COUNTER):
            continue
        tensor = value.detach().cpu().contiguous()
        tensors[name] = tensor.half() if half and tensor.ndim > 1 else tensor
    header = {key: json.dumps(value) for key, value in sorted(supernet.metadata.items())}
    header |= {"space": supernet.space.name, "num_classes": str(supernet.num_classes)}
    _write_atomically(Path(path), _with_sorted_header(save(tensors, header)))


def _with_sorted_header(data: bytes) -> bytes:
    """Sort the entries of a safetensors file's text header, which come in random order.

    The file is the header's length (8 bytes), the header (JSON, padded), then the tensors.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _write_atomically(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _resolve(source: str | Path) -> Path:
    """Return the file of an embedded name or a path."""
    if isinstance(source, str) and source in search_spaces() and not Path(source).is_file():
        path = _embedded_path(source)
        if path.is_file():
            return path
        names = ", ".join(embedded_supernets()) or "none"
        message = f"no weights of {source!r} ship with this package (embedded: {names})"
        hint = f'Pass the checkpoint\'s path and space="{source}", or None for fresh weights.'
        raise CheckpointError(message, hint=hint)
    path = Path(source)
    if not path.is_file():
        near = closest_match(str(source), embedded_supernets())
        message = f"there is no supernet {str(source)!r}: neither a file nor an embedded name"
        hint = f"Did you mean {near!r}?" if near else "Check the path."
        raise CheckpointError(message, hint=hint)
    return path


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors and the text header of a file."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as err:
        message = f"{path} is no readable safetensors file: {err}"
        raise CheckpointError(message, hint="Is it complete? Fetch or write it again.") from err


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile pickle can raise anything; the restricted unpickler runs none of it.
    # What torch says is left out: it advises to switch the restriction off.
    except Exception as err:
        message = f"{path} cannot be read as a checkpoint of plain tensors"
        hint = "It is truncated, or holds other objects than tensors (never loaded: no code runs)."
        raise CheckpointError(message, hint=hint) from err
    if not isinstance(data, Mapping):
        message = f"{path} holds a {type(data).__name__}, not a state dict"
        raise CheckpointError(message, hint="Save `model.state_dict()`.")
    return dict(data)


def _unwrap(state: dict[str, Any], what: str) -> dict[str, Any]:
    """Take the state dict out of a training checkpoint and drop a `module.` prefix."""
    inner = state.get("state_dict")
    if isinstance(inner, Mapping):
        state = dict(inner)
    if state and all(str(key).startswith("module.") for key in state):
        state = {str(key).removeprefix("module."): value for key, value in state.items()}
    odd = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if odd or not state:
        listed = f"entries that are no tensors: {_shorten(odd)}" if odd else "no entries"
        message = f"{what} is no state dict: it has {listed}"
        raise CheckpointError(message, hint="Pass the network's state dict.")
    return state


def _agree_on_space(what: str, space: SearchSpace | None, header: Mapping[str, str]) -> SearchSpace:
    named = header.get("space")
    if space is not None:
        if named is not None and named != space.name:
            message = f"{what} holds weights of {named!r}, not of {space.name!r}"
            raise CheckpointError(message, hint="Leave `space` out, or pass the right file.")
        return space
    if named is None:
        message = f"{what} does not say which search space it belongs to"
        hint = f"Pass space=...; known spaces: {', '.join(search_spaces())}."
        raise CheckpointError(message, hint=hint)
    try:
        return search_space(named)
    except ArchitectureError as err:
        message = f"{what} is for the unknown search space {named!r}"
        raise CheckpointError(message, hint="Pass that space as `space`.") from err


def _decode_metadata(header: Mapping[str, str], what: str) -> dict[str, Any]:
    reserved = {"space", "num_classes", "format"}
    try:
        return {key: json.loads(text) for key, text in header.items() if key not in reserved}
    except json.JSONDecodeError as err:
        message = f"{what} has a header entry that is not JSON: {err}"
        raise CheckpointError(message, hint="Write it with `save_supernet`.") from err


def _fill(
    space: SearchSpace,
    state: dict[str, Tensor],
    num_classes: int | None,
    metadata: dict[str, Any],
    what: str,
) -> Supernet:
    """Build the supernet on the given weights, or say what does not fit."""
    renamed = {_modern_name(name): value for name, value in state.items()}
    if num_classes is None:
        bias = renamed.get("classifier.linear.bias", renamed.get("classifier.linear.linear.bias"))
        num_classes = len(bias) if bias is not None and bias.ndim == 1 else None
    with skip_initialization():
        supernet = build_supernet(space, num_classes=num_classes, seed=None, metadata=metadata)
    wanted = supernet.state_dict()
    given = _match_names(renamed, wanted)
    _check_fit(given, wanted, f"{what} does not fit {space.name}")
    filled = {}
    for name, target in wanted.items():
        value = given.get(name)
        if name.endswith(_COUNTER):
            filled[name] = torch.as_tensor(0 if value is None else value).to(torch.int64, copy=True)
        else:
            assert value is not None  # checked above
            filled[name] = value.detach().to(target.dtype, copy=True)
    supernet.load_state_dict(filled, assign=True)
    return supernet.eval()


def _modern_name(name: str) -> str:
    return str(name).replace(".mobile_inverted_conv.", ".conv.")


def _match_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict's keys to the supernet's, whether their wrappers are doubled or not."""
    by_plain_name = {plain_name(name): name for name in wanted}
    matched = {}
    for name, value in state.items():
        if name in wanted:
            matched[name] = value
        else:
            plain = name if name in by_plain_name else plain_name(name)
            matched[by_plain_name.get(plain, name)] = value
    return matched


def _check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], failure: str) -> None:
    """Raise CheckpointError with all misfits: missing, unexpected, other shape, not finite."""
    missing = [name for name in wanted if name not in given and not name.endswith(_COUNTER)]
    unexpected = [name for name in given if name not in wanted]
    common = [name for name in wanted if name in given]
    misshapen = [
        f"{name} is {tuple(given[name].shape)}, needs {tuple(wanted[name].shape)}"
        for name in common
        if given[name].shape != wanted[name].shape
    ]
    broken = [
        name
        for name in common
        if not name.endswith(_COUNTER)
        and not (given[name].is_floating_point() and bool(given[name].isfinite().all()))
    ]
    problems = [
        f"{len(names)} {label}: {_shorten(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
            ("not finite floating-point", broken),
        )
        if names
    ]
    if problems:
        hint = "Is the checkpoint of another search space, or was `num_classes` given wrongly?"
        message = f"{failure}: {'; '.join(problems)}"
        raise CheckpointError(message, hint=hint)


def _shorten(names: list[str]) -> str:
    listed = ", ".join(names[:_MAX_LISTED])
    more = len(names) - _MAX_LISTED
    return f"{listed} and {more} more" if more > 0 else listed
