import importlib
from functools import lru_cache

import ml_dtypes
import numpy as np
import pytest
import torch
from repository import ROOT

from harness.errors import ConfigError
from harness.formats.hif8 import HiF8
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.hif4 import HiF
from harness.quant.tensor import TensorFormat
from harness.tensor import commands, format_files
from harness.tensor.format_facts import facts, magnitudes, precision, source, specials

from .conftest import Run, normal

FOLDER = ROOT / "conf" / "format"
STEMS = sorted(file.stem for file in FOLDER.glob("*.yaml"))
OUTSIDE = {  # the same types in another library
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp32": np.float32,
    "fp8_row": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2_row": ml_dtypes.float8_e5m2,
    "mxfp6_e2m3": ml_dtypes.float6_e2m3fn,
    "mxfp6_e3m2": ml_dtypes.float6_e3m2fn,
    "mxfp4": ml_dtypes.float4_e2m1fn,
    "int8_asym_row": np.int8,
    "int4_asym_group": ml_dtypes.int4,
    "uint4_tinygemm": ml_dtypes.uint4,
}

facts_once = lru_cache(facts)


def test_every_file_is_in_the_list() -> None:
    assert len(STEMS) > 50
    assert format_files.names() == STEMS
    assert list(format_files.find("all")) == STEMS


def test_names_come_in_the_order_asked_for_each_once() -> None:
    assert list(format_files.find("nvfp4, hif8,mxfp4,hif8")) == ["nvfp4", "hif8", "mxfp4"]
    assert next(iter(format_files.find("nvfp4,all"))) == "nvfp4"
    assert len(format_files.find("nvfp4,all")) == len(STEMS)


def test_a_name_gives_the_format_of_its_file() -> None:
    element = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
    row = BlockScaled(element=element, granularity=Granularity(block=(1, -1)))
    assert format_files.find("fp8_row,hif4") == {"fp8_row": row, "hif4": HiF(bits=4)}


def test_a_name_without_a_file_is_a_descriptor() -> None:
    x = normal(8, 64)
    found = format_files.find("e2m1k8b32,hifx4")
    assert list(found) == ["e2m1k8b32", "hifx4"]
    assert torch.equal(
        quantize(x, found["hifx4"]).dequantize(), quantize(x, HiF(bits=4)).dequantize()
    )
    assert quantize(x, found["e2m1k8b32"]).bits_per_element == 4.25


@pytest.mark.parametrize(
    ("name", "close"), [("mxfp5", "mxfp4"), ("NF4_B64", "nf4_b64"), ("int8row", "int8_row")]
)
def test_an_unknown_name_is_answered_with_close_ones_and_all(name: str, close: str) -> None:
    with pytest.raises(ConfigError) as caught:
        format_files.find(f"hif8,{name}")
    first, *_, last = str(caught.value).splitlines()
    assert f"got '{name}'; did you mean " in first
    assert close in first
    assert set(STEMS) <= set(last.removeprefix("names: ").split(", "))


def test_capital_letters_do_not_turn_a_format_into_a_descriptor_of_other_rules() -> None:
    with pytest.raises(ConfigError, match="did you mean mxfp4"):
        format_files.find("MXFP4")


@pytest.mark.parametrize("text", ["", ",", "mxfp4,", "no_such_format_at_all"])
def test_nonsense_is_refused_without_a_guess(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--format must name") as caught:
        format_files.find(text)
    assert "did you mean" not in str(caught.value)


def test_description_is_the_comment_of_the_file() -> None:
    for name in STEMS:
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        comment = text[: text.index("_target_")].replace("#", "")
        assert format_files.description(name).split() == comment.split(), name


def test_facts_of_every_format() -> None:
    for name, fmt in format_files.find("all").items():
        found, bits = facts_once(fmt), fmt.element.bits
        assert 0 < found.smallest <= found.largest < float("inf"), name
        assert bits <= found.bits_per_element < bits + 0.6, name
        words = (found.name, found.element, found.granularity, found.precision, found.specials)
        assert all(words), name


@pytest.mark.parametrize(("name", "dtype"), OUTSIDE.items(), ids=list(OUTSIDE))
def test_range_precision_and_specials_are_those_of_other_libraries(name: str, dtype: type) -> None:
    found = facts(format_files.load(name))
    if "int" in name:
        info = ml_dtypes.iinfo(dtype)
        assert found.largest == max(-int(info.min), int(info.max))
        assert (found.smallest, found.precision, found.specials) == (1, "step 1", "none")
        return
    limits = ml_dtypes.finfo(dtype)
    assert (found.smallest, found.largest) == (limits.smallest_subnormal, limits.max)
    assert found.precision.startswith(f"{limits.nmant} mantissa bit")
    byte_codes = np.arange(2 ** min(limits.bits, 8), dtype=np.uint8)
    codes = byte_codes if limits.bits <= 8 else np.array([0x7F80, 0x7FC0, 0x7C00, 0x7E00], "<u2")
    if limits.bits == 32:
        codes = np.array([0x7F800000, 0x7FC00000], "<u4")
    values = codes.view(dtype).astype(np.float32)
    assert ("NaN" in found.specials) == np.isnan(values).any()
    assert ("Inf" in found.specials) == np.isinf(values).any()


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp32", 32),
        ("hif8", 8),
        ("int8_row", 8 + 32 / 4096),
        ("int8_tensor", 8 + 32 / 4096**2),
        ("fp8_block", 8 + 32 / 128**2),
        ("int4_asym_group", 4 + (32 + 4) / 128),
        ("mxfp4", 4 + 8 / 32),
        ("nvfp4", 4 + 8 / 16 + 32 / 4096**2),
        ("nf4_b64_dq", 4 + 8 / 64 + 32 / (64 * 256) + 32 / 4096**2),
        ("hif4", 4 + 32 / 64),
    ],
)
def test_bits_count_scales_of_a_large_matrix(name: str, bits: float) -> None:
    assert facts(format_files.load(name)).bits_per_element == pytest.approx(bits, rel=1e-12)


def test_hif8_tapers_from_three_mantissa_bits_to_none() -> None:
    values = HiF8().values()
    counts = {int(((values >= 2.0**e) & (values < 2.0 ** (e + 1))).sum()) for e in range(-22, 16)}
    assert counts == {1, 2, 4, 8}, "2^3 to 2^0 values between powers of two"
    assert precision(HiF8()) == "3 to 0 mantissa bits"
    assert magnitudes(HiF8()) == (2**-22, 2**15)
    assert specials(HiF8()) == "NaN, Inf"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mxfp4", "OCP MX 1.0"),
        ("mxfp8", "OCP OFP8 1.0; OCP MX 1.0"),
        ("mxfp4_rceil", "OCP MX 1.0; NVIDIA"),
        ("nvfp4", "OCP MX 1.0; NVIDIA NVFP4 (2025)"),
        ("nf4_b64", "QLoRA (arXiv 2305.14314)"),
        ("hif8", "arXiv 2409.16626"),
        ("hif4", "arXiv 2602.11287"),
        ("int8_row", "harness.quant.schemes.block_scaled"),
    ],
)
def test_source_of_element_and_scale(name: str, expected: str) -> None:
    assert source(format_files.load(name)) == expected


def test_formats_without_a_document_name_a_module_that_says_what_it_does() -> None:
    sources = {source(fmt) for fmt in format_files.find("all").values()}
    modules = [text for text in sources if text.startswith("harness.")]
    assert modules
    assert [text for text in modules if not importlib.import_module(text).__doc__] == []


def test_listing_has_a_row_for_every_file_with_its_facts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "facts", facts_once)
    done = run("formats")
    assert (done.code, done.err) == (0, "")
    assert f"{len(STEMS)} formats" in done.out
    assert "4096 x 4096" in done.out
    rows = {row["name"]: row for row in done.rows()}
    assert list(rows) == STEMS
    assert rows["mxfp4"] == {
        "name": "mxfp4",
        "bits/element": "4.2500",
        "smallest": "0.5",
        "largest": "6",
        "precision": "1 mantissa bit",
        "specials": "none",
        "element": "fp4_e2m1",
        "granularity": "g32",
        "computed name": "mxfp4_e2m1_g32",
        "source": "OCP MX 1.0",
        "description": "MXFP4: blocks of 32 under a power of two (OCP MX 1.0).",
    }
    assert rows["bf16"]["granularity"] == "none"
    formats: dict[str, TensorFormat] = format_files.find("all")
    assert {name: row["computed name"] for name, row in rows.items()} == {
        name: fmt.name for name, fmt in formats.items()
    }
