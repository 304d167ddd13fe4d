from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headless_browser import CHROMIUM, Page, with_page
from PIL import Image
from report_samples import SPACE, block_times, front, verification

from ofa_compile.cli.app import run_app
from ofa_compile.errors import ArtifactError, MissingDependencyError, UserInputError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.report.document import build_document
from ofa_compile.report.figures import write_figures, write_tables
from ofa_compile.report.page import render_page, write_page
from ofa_compile.space import Architecture
from ofa_compile.space.cost import macs
from ofa_compile.tuning.choose import tuned_configs
from ofa_compile.workflows.measuring import code_version, latency_dataset_path

TARGET = load_target("x86-64")
CURVE = {"name": "<b>Curve</b></script>", "x_label": "n", "y_label": "%", "x": [1, 2], "y": [3, 2]}
ENERGY = {
    "hash": "0123abcd", "resolution": 24, "batch": 4, "measured_ms": 2.0, "energy_mj": 12.5,
}  # fmt: skip
TUNED = {
    "workload": "pointwise", "default_us": 2.0, "best_us": 1.0, "gain": 2.0, "roofline_share": 0.8,
}  # fmt: skip


def full_document(count: int = 30) -> dict[str, Any]:
    searched = front(count)
    verified = verification(searched, 3)
    if count:
        architecture = Architecture.from_dict(searched["front"][-1]["architecture"])
        verified["verified"][-1]["measured"]["blocks"] = block_times(architecture)
    return build_document(
        searched,
        SPACE,
        TARGET,
        verification=verified,
        energies=[ENERGY],
        learning_curves=[CURVE],
        tuning=[TUNED],
        provenance={"note": "<i>& more"},
    )


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_page_embeds_exactly_the_document(count: int) -> None:
    document = build_document(front(count), SPACE, TARGET)
    page = render_page(document)
    assert embedded(page) == json.loads(json.dumps(document))
    assert len(document["points"]) == count
    assert "@DATA@" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_many_points_share_their_blocks() -> None:
    document = build_document(front(400), SPACE, TARGET)
    # 20 slots of 9 kinds, some with two input widths, stem and head, at three resolutions.
    assert len(document["blocks"]) <= 3 * (20 * 9 + 2)
    per_point = (len(render_page(document)) - len(render_page(full_document(0)))) / 400
    assert per_point * 10_000 < 10e6


def test_text_cannot_break_out_of_the_page() -> None:
    page = render_page(full_document())
    assert embedded(page)["learning_curves"][0]["name"] == CURVE["name"]
    assert page.count("</script>") == 2
    assert "<b>Curve" not in page


def test_points_say_what_the_search_said() -> None:
    searched = front(20)
    document = build_document(searched, SPACE, TARGET)
    estimator = LatencyEstimator(TARGET)
    for point, item in zip(document["points"], searched["front"], strict=True):
        architecture = Architecture.from_dict(item["architecture"])
        assert point["hash"] == architecture.short_hash
        assert (point["accuracy"], point["cost"]) == (item["accuracy"], item["latency_ms"])
        blocks = [document["blocks"][place] for place in point["blocks"]]
        assert len(blocks) == sum(architecture.depths) + 2
        total = sum(block["ms"] for block in blocks)
        assert total == pytest.approx(estimator.estimate([architecture])[0])
        assert 0 < point["roofline_share"] < 1
    assert [point["mark"] for point in document["points"]].count("knee") == 1
    assert document["points"][-1]["mark"] == "best"
    assert document["cost_label"] == "latency, ms (estimate)"
    assert "1.1: " in document["blocks"][document["points"][0]["blocks"][1]]["label"]


def test_blocks_measured_in_one_subnet_serve_all_that_share_them() -> None:
    document = full_document()
    best = document["points"][-1]
    measured = [document["blocks"][place] for place in best["blocks"]]
    assert {block["kind"] for block in measured} == {"measurement"}
    assert [block["ms"] for block in measured] == [0.25 * (n + 1) for n in range(len(measured))]
    total = sum(block["ms"] for block in measured)
    peak_ms = best["roofline_share"] * total
    assert peak_ms == pytest.approx(sum(b["roofline_share"] * b["ms"] for b in measured))
    kinds = {block["label"]: block["kind"] for block in document["blocks"]}
    assert set(kinds.values()) == {"measurement", "estimate"}
    # The head never changes, so that of every point is measured.
    for point in document["points"]:
        head = document["blocks"][point["blocks"][-1]]
        if head["label"] == measured[-1]["label"]:
            assert head["ms"] == measured[-1]["ms"]


def test_other_costs_have_their_names() -> None:
    searched = {**front(3), "cost": "num_parameters"}
    document = build_document(searched, SPACE, TARGET)
    assert document["cost_label"] == "parameters"
    assert document["points"][0]["cost"] == searched["front"][0]["num_parameters"]
    assert not document["cost_is_latency"]


@pytest.mark.parametrize("wrong", [{}, {"front": [{}], "cost": "macs"}, {"front": 3, "cost": "x"}])
def test_a_file_that_is_no_search_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="not the result of a search"):
        build_document(wrong, SPACE, TARGET)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserInputError, match="cannot write the report"):
        write_page(full_document(2), tmp_path / "file" / "report.html")


def test_tables_hold_the_documents_figures(tmp_path: Path) -> None:
    document = full_document()
    paths = write_tables(document, tmp_path)
    assert sorted(path.name for path in paths) == [
        "blocks.csv", "energy.csv", "front.csv", "latency.csv", "learning-curve-1.csv",
        "tuning.csv", "verified.csv",
    ]  # fmt: skip
    text = (tmp_path / "front.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [float(row["cost"]) for row in rows] == [p["cost"] for p in document["points"]]


def test_figures_are_drawn_or_matplotlib_is_asked_for(tmp_path: Path) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="matplotlib") as caught:
            write_figures(full_document(), tmp_path)
        assert "ofa-compile[plots]" in (caught.value.hint or "")
        return
    paths = write_figures(full_document(), tmp_path)
    names = ("front", "blocks", "latency", "tuning", "learning-curve-1")
    assert {path.name for path in paths} == {f"{n}.{end}" for n in names for end in ("png", "svg")}
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 500
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    again = tmp_path / "again"
    write_figures(full_document(), again)
    assert (again / "front.svg").read_bytes() == (tmp_path / "front.svg").read_bytes()
    assert write_figures(build_document(front(0), SPACE, TARGET), tmp_path / "none") == []


def write_workspace(folder: Path, count: int, batch: int = 1) -> None:
    rng = np.random.default_rng(0)
    dataset = LatencyDataset(latency_dataset_path(folder))
    for row in SPACE.sample_indices(rng, count):
        architecture = SPACE.from_indices(row)
        dataset.append(
            LatencyRecord(
                architecture=architecture,
                target=TARGET.name,
                target_fingerprint=TARGET.fingerprint,
                kind="measurement",
                median_ms=1e-7 * macs(architecture) * float(rng.normal(1, 0.01)),
                batch=batch,
                energy_joules=1e-9 * macs(architecture) if batch > 1 else None,
                versions={"code": code_version(tuned_configs(TARGET, folder))},
            )
        )


def test_the_command_collects_what_the_workspace_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = front(12)
    folder = tmp_path / "front"
    folder.mkdir()
    (folder / "front.json").write_text(json.dumps(searched), encoding="utf-8")
    (folder / "verification.json").write_text(
        json.dumps(verification(searched, 2)), encoding="utf-8"
    )
    write_workspace(tmp_path / "workspace", 40)
    output = tmp_path / "report.html"
    words = ["--target", "x86-64", "--workspace", str(tmp_path / "workspace"), "--quiet"]
    command = ["report", "--search", str(folder), "--output", str(output), *words]
    assert run_app([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["points"], summary["verified"], summary["measured_subnets"]) == (12, 2, 40)
    document = embedded(output.read_text(encoding="utf-8"))
    unseen = [pair for pair in document["latency_pairs"] if not pair["is_winner"]]
    assert len(unseen) >= 35
    errors = [abs(pair["predicted_ms"] / pair["measured_ms"] - 1) for pair in unseen]
    assert 0.001 < float(np.median(errors)) < 0.1
    (curve,) = document["learning_curves"]
    assert curve["x"] == [10, 20]
    assert document["provenance"]["measured subnets"] == 40
    assert summary["median_energy_mj"] is None
    # Records of a larger batch came later: they have their energy, and the others do not mix in.
    write_workspace(tmp_path / "workspace", 12, batch=8)
    assert run_app([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    energies = embedded(output.read_text(encoding="utf-8"))["energies"]
    assert [row["batch"] for row in energies] == [8] * 12
    shown = [row["energy_mj"] for row in energies]
    assert shown == sorted(shown)
    assert summary["median_energy_mj"] == pytest.approx(float(np.median(shown)))
    assert summary["measured_subnets"] == 12


def test_a_folder_without_a_search_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["report", "--search", str(tmp_path), "--quiet"]) == 2
    assert "front.json" in capsys.readouterr().err
    (tmp_path / "front.json").write_text("[]", encoding="utf-8")
    assert run_app(["report", "--search", str(tmp_path), "--quiet"]) == 2
    assert "not the result of a search" in capsys.readouterr().err


browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@browser
@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 30, 10_000])
def test_the_page_works_in_a_browser(tmp_path: Path, count: int) -> None:
    document = full_document(count) if count else build_document(front(0), SPACE, TARGET)
    path = tmp_path / "report.html"
    write_page(document, path)

    async def visit(page: Page) -> None:
        await page.open(path)
        drawn = "document.querySelectorAll('#front .point').length"
        assert await page.evaluate(drawn) == count
        text = await page.evaluate("document.body.innerText")
        if count == 0:
            for words in ("No points", "Nothing has been measured", "no tuning", "No energy was"):
                assert words in text
        else:
            await _check_interaction(page, document)
            await _check_numbers(page, document)
            await _check_layouts(page)
        assert page.errors == []

    with_page(tmp_path, visit)


async def _check_interaction(page: Page, document: dict[str, Any]) -> None:
    """Keys move along the front, and the details show the point's own figures."""
    await page.evaluate("document.getElementById('front-chart').focus()")
    await page.press("End")
    last = document["points"][-1]
    assert last["hash"] in await page.evaluate("document.getElementById('tip').innerText")
    facts = await page.evaluate("document.getElementById('facts').innerText")
    assert f"{100 * last['accuracy']:.2f} %" in facts
    assert f"{last['macs']:,}" in facts
    items = await page.evaluate("document.querySelectorAll('#blocks tbody tr').length")
    assert items == len(last["blocks"])
    await page.press("Home")
    first = document["points"][0]
    assert first["hash"] in await page.evaluate("document.getElementById('tip').innerText")
    await page.evaluate(
        "document.getElementById('front-chart').dispatchEvent(new MouseEvent('click', "
        "{clientX: innerWidth, clientY: 0}))"
    )
    assert await page.evaluate("document.querySelectorAll('#verified tbody tr').length") == min(
        3, len(document["points"])
    )
    assert await page.evaluate("document.querySelectorAll('#tuning tbody tr').length") == 1
    assert await page.evaluate("document.querySelector('#curves h3').textContent") == CURVE["name"]
    energy = await page.evaluate("document.querySelector('#energy').innerText")
    assert "12.5" in energy
    assert "idle power included" in energy
    unnamed = (
        "[...document.querySelectorAll('svg')].filter(s => !s.ariaLabel && !s.ariaHidden).length"
    )
    assert await page.evaluate(unnamed) == 0


async def _check_numbers(page: Page, document: dict[str, Any]) -> None:
    """Every table shows the figures of the document, all points included."""
    await page.evaluate("document.querySelector('#table button')?.click()")
    shown = await _cells(page, "#table tbody tr")
    assert len(shown) == len(document["points"])
    for cells, point in zip(shown, document["points"], strict=True):
        assert cells[:3] == [point["hash"], point["mark"], f"{100 * point['accuracy']:.2f} %"]
        assert float(cells[3]) == pytest.approx(point["cost"], rel=5e-4)
        sizes = [int(text.replace(",", "")) for text in cells[5:]]
        assert sizes == [point[key] for key in ("macs", "num_parameters", "size_bytes")]
    for cells, item in zip(
        await _cells(page, "#verified tbody tr"), document["verified"], strict=True
    ):
        assert cells[0] == item["hash"]
        assert float(cells[4]) == pytest.approx(item["measured_ms"], rel=5e-4)
    await page.evaluate("document.getElementById('front-chart').focus()")
    await page.press("End")
    blocks = [document["blocks"][place] for place in document["points"][-1]["blocks"]]
    for cells, block in zip(await _cells(page, "#blocks tbody tr"), blocks, strict=True):
        assert cells[0] == block["name"]
        assert float(cells[6]) == pytest.approx(block["ms"], rel=5e-3)
        assert cells[7:] == [block["kind"], f"{100 * block['roofline_share']:.0f} %"]


async def _cells(page: Page, rows: str) -> list[list[str]]:
    script = (
        f"[...document.querySelectorAll('{rows}')].map(r => [...r.cells].map(c => c.textContent))"
    )
    found: list[list[str]] = await page.evaluate(script)
    return found


async def _check_layouts(page: Page) -> None:
    """Nothing sticks out on a phone, and dark mode is dark: looked at in a screenshot."""
    await page.send(
        "Emulation.setDeviceMetricsOverride",
        width=390, height=844, deviceScaleFactor=1, mobile=True,
    )  # fmt: skip
    assert await page.evaluate("document.documentElement.scrollWidth <= 390")
    brightness = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await page.send("Emulation.setEmulatedMedia", features=[feature])
        shot = await page.send("Page.captureScreenshot", format="png")
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L")
        brightness[scheme] = float(np.median(np.asarray(image)))
        assert np.asarray(image).std() > 5  # something is drawn
    assert brightness["light"] > 200
    assert brightness["dark"] < 60
