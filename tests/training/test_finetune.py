from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_compile.errors import CheckpointError, DataError
from ofa_compile.space import search_space
from ofa_compile.supernet import Supernet, build_supernet
from ofa_compile.training.data import ImageData, load_images
from ofa_compile.training.finetune import FinetuneConfig, finetune_subnet, layer_groups
from ofa_compile.training.trainer import DivergedError

SPACE = search_space("ofa_mbv3_cifar")
SMALL = SPACE.smallest(24)


@pytest.fixture(scope="module")
def data(image_folder: Path) -> ImageData:
    return load_images(image_folder, size=24)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return build_supernet(SPACE, num_classes=10, seed=0).eval()


def config(output: Path, **more: object) -> FinetuneConfig:
    settings: dict[str, object] = {"epochs": 2.0, "batch_size": 10, "learning_rate": 0.1}
    return FinetuneConfig(output=output, **{**settings, **more})  # type: ignore[arg-type]


def test_a_new_head_learns_the_users_classes(
    supernet: Supernet, data: ImageData, tmp_path: Path
) -> None:
    losses: list[float] = []
    result = finetune_subnet(
        supernet,
        SMALL,
        data,
        config(tmp_path, epochs=5.0),
        progress=lambda step, total, loss: losses.append(loss),
    )
    assert result.steps == len(losses) == 30
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert result.part == "test"
    assert result.num_images == 18
    assert not result.subnet.training
    x = torch.zeros(2, 3, 24, 24)
    assert result.subnet(x).shape == (2, 3)
    # The result is a plain network: nothing of the fast kernels is left in it.
    assert not any("forward" in vars(module) for module in result.subnet.modules())


def test_layers_near_the_input_move_less(
    supernet: Supernet, data: ImageData, tmp_path: Path
) -> None:
    result = finetune_subnet(supernet, SMALL, data, config(tmp_path, layer_decay=0.0))
    before = supernet.extract(SMALL).state_dict()
    after = result.subnet.state_dict()
    for name, value in before.items():
        if name.startswith("classifier") or "running" in name or "num_batches" in name:
            continue
        assert torch.equal(after[name], value), name
    # Batch norms run in training mode: their statistics follow the new images.
    assert not torch.equal(
        after["first_conv.bn.running_mean"], before["first_conv.bn.running_mean"]
    )


def test_layer_groups_run_from_input_to_classifier(supernet: Supernet) -> None:
    groups = layer_groups(supernet.extract(SMALL))
    assert groups[0][0][0].startswith("first_conv")
    assert groups[-1][0][0].startswith("classifier")
    assert len(groups) == 1 + 11 + 3
    names = [name for group in groups for name, _ in group]
    assert len(names) == len(set(names)) == len(list(supernet.extract(SMALL).parameters()))


def test_interrupted_run_gives_the_same_network(
    supernet: Supernet, data: ImageData, tmp_path: Path
) -> None:
    whole = finetune_subnet(supernet, SMALL, data, config(tmp_path / "a"))

    def stop(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    settings = config(tmp_path / "b", checkpoint_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        finetune_subnet(supernet, SMALL, data, settings, progress=stop)
    parts = finetune_subnet(supernet, SMALL, data, settings)
    for first, second in zip(
        whole.subnet.state_dict().values(), parts.subnet.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second)
    with pytest.raises(CheckpointError, match="is of another run"):
        finetune_subnet(supernet, SPACE.largest(24), data, settings)


def test_head_stays_where_classes_are_the_same(
    supernet: Supernet, data: ImageData, tmp_path: Path
) -> None:
    own = build_supernet(SPACE, num_classes=3, seed=0, metadata={"labels": list(data.labels)})
    result = finetune_subnet(own.eval(), SMALL, data, config(tmp_path, learning_rate=1e-9))
    before = own.extract(SMALL).state_dict()["classifier.linear.weight"]
    torch.testing.assert_close(result.subnet.state_dict()["classifier.linear.weight"], before)


def test_mistakes_are_explained(supernet: Supernet, data: ImageData, tmp_path: Path) -> None:
    one = dataclasses.replace(data, labels=("red",))
    with pytest.raises(DataError, match="of 1 class; two or more"):
        finetune_subnet(supernet, SMALL, one, config(tmp_path / "a"))
    few = dataclasses.replace(data, train_images=data.train_images[:1])
    with pytest.raises(DataError, match="1 training images are too few"):
        finetune_subnet(supernet, SMALL, few, config(tmp_path / "b"))
    wild = config(tmp_path / "c", learning_rate=1e38, max_gradient_norm=1e38)
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) at step"):
        finetune_subnet(supernet, SMALL, data, wild)
