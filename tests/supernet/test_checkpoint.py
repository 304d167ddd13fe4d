"""Checkpoints: the authors' naming variants, our files, and everything that must be refused."""

import json
import os
import pickle
import stat

import pytest
import torch

from ofa_compile.errors import ArchitectureError, CheckpointError
from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet, embedded_supernets, load_supernet, save_supernet

CIFAR = "ofa_mbv3_cifar"
VARIANTS = {
    "current": lambda name: name,
    "older": lambda name: name.replace(".conv.", ".mobile_inverted_conv.", 1)
    if name.startswith("blocks.") and not name.split(".")[2].startswith(("conv1", "conv2", "conv3"))
    and "downsample" not in name
    else name,
    "undoubled": lambda name: name.replace(".conv.conv.weight", ".conv.weight")
    .replace(".bn.bn.", ".bn.")
    .replace(".linear.linear.", ".linear."),
    "parallel": lambda name: f"module.{name}",
}  # fmt: skip


def random_state(shapes, generator):
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator)
    return state


@pytest.mark.parametrize("variant", VARIANTS)
def test_naming_variants_load(supernet, variant):
    state = {VARIANTS[variant](name): value for name, value in supernet.state_dict().items()}
    assert len(state) == len(supernet.state_dict())
    loaded = load_supernet(state, space=supernet.space.name)
    assert loaded.weights_hash == supernet.weights_hash
    assert loaded.num_classes == 20
    assert not loaded.training


@pytest.mark.parametrize("variant", ["current", "older", "undoubled"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_authors_state_dicts_load_from_files(shared_data, tmp_path, variant, wrapped):
    everything = json.loads((shared_data / "ofa" / "state_dict_shapes.json").read_text())
    name = {"current": "ofa_resnet50", "older": "ofa_proxyless_d234_e346_k357_w1.3"}.get(
        variant, "ofa_mbv3_d234_e346_k357_w1.0"
    )
    state = random_state(everything[name], torch.Generator().manual_seed(0))
    renamed = {VARIANTS[variant](key): value for key, value in state.items()}
    path = tmp_path / "ofa_net"
    torch.save({"state_dict": renamed} if wrapped else renamed, path)
    loaded = load_supernet(path, space=name).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_legacy_pickle_format_loads(cifar, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(cifar.state_dict(), path, _use_new_zipfile_serialization=False)
    assert load_supernet(str(path), space=CIFAR).weights_hash == cifar.weights_hash


def test_batch_counters_may_be_missing(cifar):
    state = {name: value for name, value in cifar.state_dict().items() if "num_batches" not in name}
    assert load_supernet(state, space=CIFAR).weights_hash == cifar.weights_hash


def test_loading_copies_a_state_dict(cifar):
    before = cifar.weights_hash
    loaded = load_supernet(cifar.state_dict(), space=CIFAR)
    with torch.no_grad():
        for value in loaded.parameters():
            value.zero_()
    assert cifar.weights_hash == before


def test_half_precision_weights_become_float32(cifar):
    state = {name: value.half() for name, value in cifar.state_dict().items()}
    loaded = load_supernet(state, space=CIFAR)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


def test_fresh_weights():
    loaded = load_supernet(None, space=CIFAR, num_classes=5, seed=3)
    fresh = build_supernet(search_space(CIFAR), num_classes=5, seed=3)
    assert loaded.weights_hash == fresh.weights_hash


def test_save_and_load(cifar, tmp_path):
    path = tmp_path / "mine.safetensors"
    cifar.metadata.update(mean=[0.5, 0.4, 0.3], labels=["a", "ö"])
    try:
        save_supernet(cifar, path)
    finally:
        metadata = dict(cifar.metadata)
        cifar.metadata.clear()
    loaded = load_supernet(path)
    assert loaded.weights_hash == cifar.weights_hash
    assert loaded.metadata == metadata
    assert loaded.space is search_space(CIFAR)
    assert loaded.num_classes == 20
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.safetensors"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_half_file_is_small_and_close(cifar, tmp_path):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_supernet(cifar, full)
    save_supernet(cifar, half, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    rounded = load_supernet(half).state_dict()
    for name, value in load_supernet(full).state_dict().items():
        if value.ndim > 1:
            assert torch.allclose(rounded[name], value, rtol=1e-3, atol=1e-6)
        elif not name.endswith("num_batches_tracked"):
            assert torch.equal(rounded[name], value)


def test_saving_is_deterministic(cifar, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_supernet(cifar, first, half=True)
    save_supernet(cifar, second, half=True)
    assert first.read_bytes() == second.read_bytes()


def test_failed_save_leaves_the_old_file(cifar, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")

    def fail(descriptor):
        del descriptor
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_supernet(cifar, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_file(cifar, tmp_path, kind, share):
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    if kind == "safetensors":
        save_supernet(cifar, path)
    else:
        torch.save(cifar.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="net") as caught:
        load_supernet(path, space=CIFAR)
    assert caught.value.exit_code == 2


class Hostile:
    """Would create a file if its pickle were trusted."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch-legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", "", ".safetensors"])
def test_code_in_a_pickle_is_never_executed(cifar, tmp_path, writer, suffix):
    trace = tmp_path / "executed"
    path = tmp_path / f"evil{suffix}"
    payload = {"state_dict": cifar.state_dict(), "extra": Hostile(trace)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(CheckpointError, match="evil"):
        load_supernet(path, space=CIFAR)
    assert not trace.exists()


def test_garbage_file(tmp_path):
    path = tmp_path / "net.pth"
    path.write_text("this is no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as caught:
        load_supernet(path, space=CIFAR)
    assert "truncated" in caught.value.hint


def test_misfit_lists_keys_and_shapes(cifar):
    state = dict(cifar.state_dict())
    del state["first_conv.conv.weight"]
    state["surprise.weight"] = torch.zeros(3)
    state["blocks.1.conv.point_linear.bn.bn.bias"] = torch.zeros(17)
    with pytest.raises(CheckpointError) as caught:
        load_supernet(state, space=CIFAR)
    message = str(caught.value)
    assert "state dict does not fit ofa_mbv3_cifar" in message
    assert "1 missing: first_conv.conv.weight" in message
    assert "1 unexpected: surprise.weight" in message
    expected = "1 of another shape: blocks.1.conv.point_linear.bn.bn.bias is (17,), needs (16,)"
    assert expected in message


def test_checkpoint_of_another_space(cifar):
    with pytest.raises(CheckpointError, match=r"does not fit .*of another shape.*and \d+ more"):
        load_supernet(cifar.state_dict(), space="ofa_mbv3_d234_e346_k357_w1.0")
    with pytest.raises(CheckpointError, match=r"\d+ missing: .*\d+ unexpected: "):
        load_supernet(cifar.state_dict(), space="ofa_resnet50")


def test_wrong_number_of_classes(cifar):
    with pytest.raises(CheckpointError, match=r"classifier.linear.weight is \(20, 640\), needs"):
        load_supernet(cifar.state_dict(), space=CIFAR, num_classes=1000)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(cifar, value):
    state = {name: tensor.clone() for name, tensor in cifar.state_dict().items()}
    state["classifier.linear.bias"][3] = value
    with pytest.raises(CheckpointError, match=r"not finite.*: classifier\.linear\.bias"):
        load_supernet(state, space=CIFAR)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "it has no entries"),
        ({"a": 3, "b": torch.zeros(1)}, "entries that are no tensors: a"),
        ("ofa_resnet50", "no weights of 'ofa_resnet50' ship"),
        ("nowhere.pth", "neither a file nor an embedded name"),
    ],
)
def test_unusable_sources(source, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_supernet(source, space=CIFAR)
    assert caught.value.hint


def test_space_must_be_known(cifar, tmp_path):
    with pytest.raises(CheckpointError, match="does not say which search space"):
        load_supernet(cifar.state_dict())
    with pytest.raises(CheckpointError, match="fresh weights needs a search space"):
        load_supernet(None)
    with pytest.raises(ArchitectureError, match="did you mean 'ofa_mbv3_cifar'"):
        load_supernet(None, space="ofa_mbv3_cifr")
    path = tmp_path / "net.safetensors"
    save_supernet(cifar, path)
    with pytest.raises(CheckpointError, match="weights of 'ofa_mbv3_cifar', not of"):
        load_supernet(path, space="ofa_resnet50")


def test_embedded_supernets_load():
    for name in embedded_supernets():
        supernet = load_supernet(name)
        assert supernet.space.name == name
        assert len(supernet.metadata["mean"]) == len(supernet.metadata["std"]) == 3
        assert len(supernet.metadata["labels"]) == supernet.num_classes
