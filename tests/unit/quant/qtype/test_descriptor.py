import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from bit_exact import codes_of, values_of
from golden import Entry, entries_of, id_of, stored_tensors, whole
from hypothesis import given
from hypothesis import strategies as st
from looped import looped
from omegaconf import OmegaConf
from repository import ROOT

from harness.config import build
from harness.errors import ConfigError
from harness.formats.minifloat import Minifloat
from harness.quant.primitives import bits_per_element, fake_quantize, quantize
from harness.quant.qtype.descriptor import QType, QTypeFormat, parse
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

PARSES = json.loads((ROOT / "tests/golden/qtype.json").read_text(encoding="utf-8"))
each_parse = looped("text", PARSES)


@each_parse
def test_fields_are_those_of_the_table(text: str) -> None:
    stored = PARSES[text]
    found = {
        name: getattr(parse(text), name)
        for name in stored.keys() - {"canonical", "element", "bits"}
    }
    assert found == {name: stored[name] for name in found}


@each_parse
def test_text_is_canonical_and_reads_back(text: str) -> None:
    assert str(parse(text)) == PARSES[text]["canonical"]
    assert parse(str(parse(text))) == parse(text)


@each_parse
def test_format_has_the_element_and_the_size_of_the_table(text: str) -> None:
    fmt = parse(text).format()
    assert isinstance(fmt, TensorFormat)
    assert fmt.element.name == PARSES[text]["element"]
    assert bits_per_element(fmt, (4, 1024)) == PARSES[text]["bits"]


@each_parse
def test_largest_element_is_the_one_of_the_descriptor(text: str) -> None:
    descriptor = parse(text)
    fmt = descriptor.format()
    if descriptor.exp_bits > 0:
        assert isinstance(fmt.element, Minifloat)
        assert fmt.element.max == descriptor.fp_val_max
        assert fmt.element.exponent_max == descriptor.exp_max
        assert fmt.element.exponent_min == descriptor.exp_min
    elif descriptor.exp_bits == 0 and not descriptor.name:
        assert fmt.element.max == 2**descriptor.man_bits - 1


@looped(
    "text",
    [
        *("", " ", "junk", "e2m1", "e2m1k8", "e2m1k8b32cc", "e2m1k8b32x", " e2m1k8b32"),
        *("e2m1k8b32\n", "E2M1K8B32", "E2m1k8b32", "e2M1k8b32", "e2m1K8b32", "e2m1k8B32"),
        *("e2m1k8b32off3", "e-2m1k8b32", "e1m3k8b32", "e2m0k8b32", "e0m0k8b32", "e2m1k0b32"),
        *("e2m1k8b0", "e2m1k9b32", "e7m9k8b32", "e0m8k8b32", "e8m1k8b32", "e2m1k8b٣٢"),
        *(f"e2m1k8b{'9' * 5000}", "e2m1K0k4B4b16", "e2m1K4k0B4b16", "e2m1K4k4B0b16"),
        *("e2m1K4k4B4b0", "e2m1K9k4B4b16", "e2m1k4K4B4b16", "e2m1K4k4B4b16off"),
        *("e2m1K4k4B4b16off-3", "e2m1K4k4B4b16offc", "e2m1K1k4B1b64off999", "mxfp4c", "mxfp5"),
        *("mxfp6", "mxfp8", "mxfp8e3m4", "hifx", "hifx1", "hifx6", "hifx4_v14", "hifx4v12"),
        *("hif4", "tmx", "tmx2", "tmx10", "nf4", "nf4b8b16", "nf4B0b16", "nf4B8b0", "nf4B8"),
        *("nvfp4", "int8", "fp8"),
    ],
)  # fmt: skip
def test_what_is_no_descriptor_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"must be a QType descriptor, e<E>m<M>k<k>b<b>\[c\]"
    ) as caught:
        parse(text)
    assert f"got {text!r}" in str(caught.value)


def test_what_a_form_must_not_hold_is_named() -> None:
    with pytest.raises(ValueError, match="E must not be 1; write e0m4"):
        parse("e1m3k8b32")
    with pytest.raises(
        ValueError, match=r"off must leave exponents of float32, got -1000 \.\. -970"
    ):
        parse("e2m1K1k4B1b64off999")


small = partial(st.integers, 1)
elements = st.sampled_from([(e, m) for e in (0, 2, 3, 4, 5, 6) for m in range(1, 8 - e)])
forms_a = st.builds(
    lambda em, k, b, c: f"e{em[0]}m{em[1]}k{k}b{b}{c}",
    elements, small(8), small(999), st.sampled_from(["", "c", "C"]),
)  # fmt: skip
forms_b = st.builds(
    lambda em, more, k, outer, b, c, off: f"e{em[0]}m{em[1]}K{more}k{k}B{outer}b{b}{c}{off}",
    elements, small(8), small(8), small(99), small(999), st.sampled_from(["", "c", "C"]),
    st.one_of(st.just(""), st.integers(0, 100).map("off{}".format)),
)  # fmt: skip


@given(st.one_of(forms_a, forms_b))
def test_every_form_is_printed_as_it_was_but_for_the_case_of_c(text: str) -> None:
    descriptor = parse(text)
    assert str(descriptor) == text.replace("c", "C")
    assert parse(str(descriptor)) == descriptor
    assert isinstance(descriptor.format(), BlockScaled)


@given(st.text(max_size=12))
def test_any_text_is_a_descriptor_or_a_value_error(text: str) -> None:
    try:
        assert parse(str(parse(text))) == parse(text)
    except ValueError as reason:
        assert repr(text) in str(reason)  # noqa: PT017


def rounded(text: str, *values: float) -> list[float]:
    found: list[float] = fake_quantize(torch.tensor(values), parse(text).format()).tolist()
    return found


def test_c_rounds_the_exponent_of_floats_at_the_square_root_of_two() -> None:
    assert rounded("e2m1k8b32c", 7.0, 1.0) == [8.0, 1.0]
    assert rounded("e2m1k8b32", 7.0, 1.0) == [6.0, 1.0]
    assert rounded("e2m1k8b32c", 6.0, 2.5, 0.3) == [6.0, 3.0, 0.0]
    assert rounded("e2m1k8b32", 6.0, 2.5, 0.3) == [6.0, 3.0, 0.5]


def test_c_takes_the_next_exponent_of_integers_where_one_rounds_beyond() -> None:
    assert rounded("e0m3k8b32c", 7.5, 1.0) == [8.0, 2.0]
    assert rounded("e0m3k8b32c", 7.4375, 1.0) == [7.0, 1.0]
    assert rounded("e0m3k8b32", 7.5, 1.0) == [7.0, 1.0]


def test_few_exponent_bits_limit_the_exponent_of_the_largest_number() -> None:
    # 3 bits: exponents -3 .. 3 of absmax, so steps from 2^-5 and numbers up to 15.
    assert rounded("e2m1k3b4", 100.0, 1.0) == [12.0, 1.0]
    assert rounded("e2m1k3b4", 2.0**-6, 2.0**-9) == [2.0**-6, 0.0]
    assert rounded("e2m1k8b4", 2.0**-9, 2.0**-11) == [2.0**-9, 2.0**-11]


def test_an_exponent_of_eight_bits_is_that_of_ocp() -> None:
    assert parse("mxfp4").format().scale == PowerOfTwoScale(rule="carry")
    assert parse("e4m3k8b32").format().scale == PowerOfTwoScale()


def test_exponents_are_exact_just_below_powers_of_two_and_scale_through() -> None:
    x = torch.nextafter(torch.exp2(torch.arange(-60.0, 60.0)), torch.zeros(())).unsqueeze(1)
    fmt = parse("e0m3k8b1").format()
    # The step is that of the binade below, so that 7 steps is all there is.
    torch.testing.assert_close(fake_quantize(x, fmt), x * 0.875, rtol=2**-22, atol=0)
    assert torch.equal(fake_quantize(x * 2**-20, fmt), fake_quantize(x, fmt) * 2**-20)


def test_qtype_copies_and_changes_its_axis_as_the_original_does() -> None:
    q = QType("MXFP4")
    assert (q.desc, q.q_dim, q.blk_size, q.do_carry, str(q)) == (
        "MXFP4",
        -1,
        32,
        True,
        "e2m1k8b32C",
    )
    moved, same = q.dim(0), q.copy()
    assert (moved.q_dim, q.q_dim) == (0, -1)
    assert same == q
    assert same is not q
    assert q.dim_(1) is q
    assert q.q_dim == 1
    assert same.q_dim == copy.deepcopy(same).q_dim == -1
    assert repr(QType("e4m3k8b32c").dim(2)) == "QType: e4m3k8b32c Dim: 2 ExpOffset: 8"
    with pytest.raises(AttributeError):
        _ = q.blk_sise
    with pytest.raises(ValueError, match="must be a QType descriptor"):
        QType("mxfp5")


def test_qtype_quantizes_along_its_axis() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    q = QType("e2m1k8b32c").dim(0)
    expected = fake_quantize(x.T.contiguous(), q.format()).T
    assert torch.equal(fake_quantize(x, q.format(), axis=q.q_dim), expected)


def test_qtype_format_is_the_format_under_the_canonical_name() -> None:
    x = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    fmt = QTypeFormat(text="e2m1K6k2B4b16c")
    direct = parse("e2m1K6k2B4b16c").format()
    assert fmt.name == "e2m1K6k2B4b16C"
    assert isinstance(fmt, TensorFormat)
    assert torch.equal(fake_quantize(x, fmt), fake_quantize(x, direct))
    assert quantize(x, fmt).total_bits == quantize(x, direct).total_bits


def test_yaml_takes_a_text_and_names_the_key_of_a_wrong_one() -> None:
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/format/qtype.yaml"))
    assert isinstance(node, dict)
    assert build(node, "format").name == "e4m3k8b32C"
    with pytest.raises(
        ConfigError, match=r"^format\.text must be a QType descriptor, .* got 'mxfp5'"
    ):
        build(node | {"text": "mxfp5"}, "format")


def same_without_c(entry: Entry, found: dict[str, Any], differing: dict[str, Any]) -> None:
    other = replace(parse(entry.parts[1]), do_carry=False).format()
    assert not entry.differing({"dq": values_of(entry.x.float(), other)}, found["dq"])


def same_with_ties_to_even(entry: Entry, found: dict[str, Any], differing: dict[str, Any]) -> None:
    fmt = parse(entry.parts[1]).format()
    assert isinstance(fmt, BlockScaled)
    other = replace(fmt, element=replace(fmt.element, rounding="nearest_even"))
    assert not entry.differing({"dq": values_of(entry.x.float(), other)}, found["dq"])
    step = codes_of(entry.x.float(), fmt).scales.planes[0]
    units = entry.x.float() / step.granularity.expand(step.values, entry.x.shape)
    assert (units[differing["dq"]].abs() % 1 == 0.5).all()


LETTER = "this library reads only the other letter as the carry flag, its own aliases included"
KNOWN_DIFFERENT: dict[str, tuple[str, Callable[..., None]]] = {
    "hif4repo/mxfp*": (LETTER, same_without_c),
    "hif4repo/e*b*c/*": (LETTER, same_without_c),
    "fqo_cy/e*b*C/*": (LETTER, same_without_c),
    "hif4repo/e0m3k8b32/ties": (
        "this library rounds integers half to even",
        same_with_ties_to_even,
    ),
}


@looped("entry", partial(entries_of, "test_descriptor"), ids=id_of)
def test_descriptors_equal_fake_quant_ops_and_hifloat4(entry: Entry) -> None:
    values = values_of(entry.x.float(), parse(entry.parts[1]).format())
    entry.check({"dq": values}, values, KNOWN_DIFFERENT)


def test_stored_results_of_the_offset_form_are_all_beyond_its_range() -> None:
    whole()
    # Its exponents end at -7, so normal numbers overflow: equal, and nothing to be seen but NaN.
    stored = stored_tensors("qtype_quant_py")
    assert all(values.isnan().all() for key, values in stored.items() if "off38" in key)
    assert parse("e0m3K1k4B1b64Coff38").k_range == (-39, -9)
