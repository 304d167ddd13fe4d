from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_compile.cli.app import run_app
from ofa_compile.errors import ArchitectureError, ArtifactError, CheckpointError
from ofa_compile.predictors import metrics
from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.predictors.accuracy_import import SPACE, import_authors_predictor
from ofa_compile.space import Architecture, search_space

W12 = search_space(SPACE)


def authors_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of the authors' file."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (outputs, inputs) in zip(
        (0, 2, 4, 6), ((400, 128), (400, 400), (400, 400), (1, 400)), strict=True
    ):
        bound = inputs**-0.5
        state[f"{layer}.weight"] = bound * torch.randn(outputs, inputs, generator=generator)
        state[f"{layer}.bias"] = bound * torch.randn(outputs, generator=generator)
    state["6.bias"] += 0.5
    return state


def authors_prediction(state: dict[str, torch.Tensor], architecture: Architecture) -> float:
    """Evaluate their network on their encoding, written out."""
    x = torch.zeros(128)
    for stage, (kernels, ratios) in enumerate(
        zip(architecture.kernel_sizes, architecture.expand_ratios, strict=True)
    ):
        for block, (kernel, ratio) in enumerate(zip(kernels, ratios, strict=True)):
            place = 3 * (4 * stage + block)
            x[place + (3, 5, 7).index(kernel)] = 1
            x[60 + place + (3, 4, 6).index(ratio)] = 1
    x[120 + (architecture.resolution - 112) // 16] = 1
    for layer in (0, 2, 4):
        x = torch.relu(state[f"{layer}.weight"] @ x + state[f"{layer}.bias"])
    return float(state["6.weight"] @ x + state["6.bias"])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "acc_predictor.pth"
    torch.save(authors_state(), path)
    return path


def some_architectures(count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [W12.sample(rng, resolution=(160, 176, 192, 208, 224)[n % 5]) for n in range(count)]


def test_the_imported_predictor_predicts_what_theirs_does(saved: Path, tmp_path: Path) -> None:
    output = tmp_path / "accuracy.safetensors"
    command = ["fit-accuracy", "--import-authors", str(saved), "--space", SPACE, "--quiet"]
    assert run_app([*command, "--output", str(output)]) == 0
    predictor = AccuracyPredictor.load(output)
    architectures = some_architectures(20)
    expected = [authors_prediction(authors_state(), a) for a in architectures]
    assert 0.0 < min(expected) < max(expected) < 1.0
    np.testing.assert_allclose(predictor.predict(architectures), expected, atol=1e-6)
    assert np.ptp(expected) > 1e-3
    assert predictor.resolutions == (160, 176, 192, 208, 224)


@pytest.mark.parametrize("resolution", [128, 144, 168])
def test_resolutions_that_it_has_not_learnt_are_refused(saved: Path, resolution: int) -> None:
    predictor = import_authors_predictor(saved, W12)
    architecture = W12.largest(resolution)
    with pytest.raises(ArchitectureError, match=f"resolution {resolution}.*160, 176, 192, 208"):
        predictor.predict([architecture])
    with pytest.raises(ArchitectureError, match=f"resolution {resolution}"):
        predictor.uncertainty([architecture])


def test_another_space_is_refused(saved: Path) -> None:
    with pytest.raises(ArchitectureError, match="not for ofa_mbv3_cifar"):
        import_authors_predictor(saved, search_space("ofa_mbv3_cifar"))


def test_files_that_are_not_theirs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    with pytest.raises(CheckpointError, match="cannot read"):
        import_authors_predictor(path, W12)
    path.write_text("no tensors at all", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot read"):
        import_authors_predictor(path, W12)
    torch.save({**authors_state(), "0.weight": torch.zeros(400, 127)}, path)
    with pytest.raises(CheckpointError, match=r"0\.weight \(400, 127\)"):
        import_authors_predictor(path, W12)
    torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match="its tensors are none"):
        import_authors_predictor(path, W12)


def test_code_inside_the_file_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "payload.pth"
    torch.save(Payload(), path)
    with pytest.raises(CheckpointError, match="cannot read"):
        import_authors_predictor(path, W12)
    assert not (tmp_path / "executed").exists()


def test_a_saved_file_with_foreign_resolutions_is_refused(saved: Path, tmp_path: Path) -> None:
    predictor = import_authors_predictor(saved, W12)
    predictor.resolutions = (160, 161)
    path = tmp_path / "accuracy.safetensors"
    predictor.save(path)
    with pytest.raises(ArtifactError, match="161"):
        AccuracyPredictor.load(path)


def test_fit_accuracy_wants_one_source(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out.safetensors")]
    both = ["--import-authors", str(saved), "--dataset", str(saved)]
    for arguments in ([], both):
        assert run_app(["fit-accuracy", *arguments, *output]) == 2
        assert "--dataset or from --import-authors" in capsys.readouterr().err


def test_ranks_of_the_published_subnets() -> None:
    """Predicted before, published after fine-tuning: only the order can agree."""
    shared = os.environ.get("OFA_COMPILE_SHARED")
    if shared is None:
        pytest.skip("OFA_COMPILE_SHARED is not set: the authors' files are not here")
    folder = Path(shared) / "data" / "ofa"
    predictor = import_authors_predictor(folder / "acc_predictor.pth", W12)
    predicted, published = [], []
    for item in json.loads((folder / "specialized_subnets.json").read_text(encoding="utf-8")):
        if item["stem_channels"] == 24 and item["resolution"] == 224:
            architecture = Architecture(
                space=SPACE,
                resolution=224,
                depths=item["depths"],
                kernel_sizes=item["kernel_sizes"],
                expand_ratios=item["expand_ratios"],
            )
            predicted.append(float(predictor.predict([architecture])[0]))
            published.append(float(item["name"].split("top1-")[1].split("_")[0]))
    assert len(predicted) >= 3
    assert metrics.kendall_tau(published, predicted) == pytest.approx(1.0)
