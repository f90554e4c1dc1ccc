from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation
from safetensors.torch import save_file

from harness.display.labels import write_labels
from harness.tensor import format_files
from harness.tensor.error import Error
from harness.tensor.plot import FAMILIES, draw_errors, draw_grids, family

from .conftest import Run

FORMATS = "mxfp4,hif4,nf4_b64,hif8,int8_row,bf16"


def is_drawn(path: Path) -> bool:
    """A PNG of some size on which some, but not most, of the paper is covered."""
    pixels = imread(path)[..., :3]
    covered = (pixels < 0.99).any(axis=-1).mean()
    return (
        path.read_bytes().startswith(b"\x89PNG") and pixels.shape[1] > 1000 and 0.01 < covered < 0.5
    )


def test_both_drawings_are_written(run: Run, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    done = run("plot", file, "--format", FORMATS, "--tensor", "layers.*", "--out", folder)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [str(folder / "error.png"), str(folder / "grids.png")]
    assert done.err == "not in grids.png, too many values: bf16\n"
    assert sorted(path.name for path in folder.iterdir()) == ["error.png", "grids.png"]
    assert is_drawn(folder / "error.png")
    assert is_drawn(folder / "grids.png")


def test_without_a_file_only_the_grids_are_drawn(run: Run, tmp_path: Path) -> None:
    done = run("plot", "--format", "all", "--out", tmp_path)
    assert done.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["grids.png"]
    assert is_drawn(tmp_path / "grids.png")


def test_what_cannot_be_drawn_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.tensor([1.0, 1e6])}, path)
    done = run("plot", path, "--format", "fp16,fp32,int8_row", "--out", tmp_path / "out")
    assert done.code == 0
    assert "not in error.png: fp16: no score: 1 of 2 overflow" in done.err
    assert "not in grids.png, too many values: fp16, fp32" in done.err
    done = run("plot", path, "--format", "fp32", "--out", tmp_path / "none")
    assert done.code == 1
    assert "no error.png: no format has an error to draw, exact: fp32" in done.err
    assert "--format must name a format that can be drawn" in done.err
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_told(run: Run, file: Path) -> None:
    done = run("plot", "--format", "mxfp4", "--out", file)
    assert done.code == 1
    assert "--out must be a folder that can be written" in done.err


def test_points_are_bits_and_relative_errors() -> None:
    formats = format_files.find("mxfp4,int8_row,hif4")
    errors = {
        "mxfp4": Error(n=100, bits=425, signal=1.0, noise=0.01, max_abs=1.0),
        "int8_row": Error(n=100, bits=800, signal=4.0, noise=0.0004, max_abs=1.0),
        "hif4": Error(n=100, bits=450, signal=1.0, noise=0.0025, max_abs=1.0),
    }
    figure = draw_errors(errors, formats, "two $ signs are $ no formula")
    axes, right = figure.axes
    drawn = [tuple(float(part[0]) for part in line.get_data()) for line in axes.lines]
    np.testing.assert_allclose(drawn, [(4.25, 10), (8, 1), (4.5, 5)])
    labels = [text.get_text() for text in axes.texts]
    assert sorted(labels) == sorted(errors)
    # 10 % is 20 dB, 1 % is 40 dB.
    decibels = {
        text.get_text(): at
        for at, text in zip(right.get_yticks(), right.get_yticklabels(), strict=True)
    }
    assert decibels["20"] == pytest.approx(10)
    assert decibels["40"] == pytest.approx(1)
    assert right.get_ylim() == axes.get_ylim()


def test_ticks_are_the_values_of_the_elements() -> None:
    figure = draw_grids(format_files.find("mxfp4,nvfp4,hif8,uint4_tinygemm"))
    linear, binary = figure.axes[:2]
    labels = [label.get_text() for label in linear.get_yticklabels()]
    assert labels == ["fp4_e2m1 (15)", "uint4 (16)", "hif8 (253)"], "an element has one row"
    e2m1 = np.array([0.5, 1, 1.5, 2, 3, 4, 6])
    values, row = linear.lines[0].get_data()
    np.testing.assert_allclose(values, np.concatenate([-e2m1[::-1], [0], e2m1]) / 6)
    assert set(np.asarray(row)) == {0}
    np.testing.assert_allclose(binary.lines[0].get_xdata(), e2m1 / 6)
    np.testing.assert_allclose(linear.lines[1].get_xdata(), np.arange(16) / 15, rtol=1e-6)
    assert binary.lines[2].get_xdata()[0] == 2.0**-37, "2^-22 over 2^15"
    assert figure.axes[2].get_yticklabels()[0].get_text() == "mxfp4, nvfp4"


KINDS = {
    **dict.fromkeys(("int4_group", "mxint8", "uint4_tinygemm"), "integer"),
    **dict.fromkeys(("mxfp4", "nvfp4", "bf16"), "floating point"),
    **dict.fromkeys(("nf4_b64", "fp4_b64_dq"), "codebook"),
    **dict.fromkeys(("hif8", "hif2_v12", "hifx4"), "HiFloat"),
}


def test_formats_have_the_color_of_their_family() -> None:
    found = {name: family(fmt) for name, fmt in format_files.find(",".join(KINDS)).items()}
    assert found == KINDS
    assert set(found.values()) == set(FAMILIES)


def labelled(
    points: list[tuple[float, float]], texts: list[str]
) -> tuple[Figure, list[Annotation]]:
    figure = Figure(figsize=(8, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    write_labels(axes, points, texts, ["black"] * len(points), size=8)
    return figure, [text for text in axes.texts if isinstance(text, Annotation)]


def test_labels_of_close_points_cover_neither_each_other_nor_points() -> None:
    points = [(0.5 + 0.01 * i, 0.5 + 0.005 * (i % 3)) for i in range(12)]
    figure, notes = labelled(points, [f"some_format_{i}" for i in range(12)])
    # The window extent of an annotation holds its line too: texts are measured alone.
    boxes = [super(Annotation, note).get_window_extent() for note in notes]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for place in figure.axes[0].transData.transform(points):
        assert not any(box.contains(*place) for box in boxes)


def test_labels_stay_inside_and_far_ones_have_a_line() -> None:
    corners = [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)]
    crowd = [(0.5, 0.5)] * 10
    figure, notes = labelled(corners + crowd, ["a_long_name"] * 14)
    frame = figure.axes[0].bbox
    for note in notes:
        box = super(Annotation, note).get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1
        offset = np.hypot(*np.array(note.get_position()))
        assert note.arrow_patch is not None
        if not note.arrow_patch.get_visible():
            assert offset < 50, "a label without a line stands beside its point"
    assert any(note.arrow_patch is not None and note.arrow_patch.get_visible() for note in notes)
