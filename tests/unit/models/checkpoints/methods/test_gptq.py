"""The layouts of GPTQ, packed here one bit at a time, against an independent dequantization."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from quantized_folders import (
    TENSORS,
    UP,
    Weights,
    change_config,
    change_tensors,
    check_facts,
    expected_logits,
    linears,
    llama,
    load,
    logits,
    written,
)
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from harness.errors import ModelError
from harness.models.sources.tiny import byte_tokenizer


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Write numbers `[R, C]` into int32 words along rows, lowest bits first, one at a time."""
    rows, count = numbers.shape
    words = np.zeros((rows, count * bits // 32), dtype=np.uint64)
    for index in range(count * bits):
        bit = (numbers[:, index // bits].astype(np.uint64) >> np.uint64(index % bits)) & np.uint64(
            1
        )
        words[:, index // 32] |= bit << np.uint64(index % 32)
    return words.astype(np.uint32).view(np.int32)


def gptq_parts(
    weight: np.ndarray, bits: int, size: int, *, zero_less: int, order: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Quantize a weight `[N, K]` in groups with zero points; return tensors and float weight."""
    outputs, inputs = weight.shape
    rank = np.random.default_rng(0).permutation(inputs) if order else np.arange(inputs)
    group = rank // size
    most = 2**bits - 1
    scales = np.zeros((inputs // size, outputs), dtype=np.float16)
    zeros, codes = np.zeros(scales.shape, dtype=np.int64), np.zeros((inputs, outputs), np.int64)
    values = np.zeros((inputs, outputs), dtype=np.float32)
    for g in range(inputs // size):
        mine = weight[:, group == g].T
        low, high = np.minimum(mine.min(0), 0), np.maximum(mine.max(0), 0)
        scales[g] = ((high - low) / most).astype(np.float16)
        step = scales[g].astype(np.float32)
        zeros[g] = np.clip(np.round(-low / step), 1, most)
        codes[group == g] = np.clip(np.round(mine / step) + zeros[g], 0, most)
        values[group == g] = (codes[group == g] - zeros[g]) * step
    parts = {
        "qweight": pack(codes.T, bits).T.copy(),
        "qzeros": pack(zeros - zero_less, bits),
        "scales": scales,
        "g_idx": group.astype(np.int32),
    }
    return parts, values.T.copy()


def gptq_folder(
    folder: Path,
    bits: int = 4,
    *,
    layout: str | None = "gptq",
    order: bool = False,
    keep_g_idx: bool = True,
) -> tuple[Path, Weights]:
    """Write a GPTQ checkpoint by hand; return its folder and the weights it stands for."""
    tensors: Weights = {}
    stands_for: Weights = {}
    for name, layer in linears(llama()).items():
        parts, values = gptq_parts(
            layer.weight.detach().numpy(),
            bits,
            32,
            zero_less=0 if layout == "gptq_v2" else 1,
            order=order,
        )
        kept = {key: part for key, part in parts.items() if keep_g_idx or key != "g_idx"}
        tensors |= {f"{name}.{key}": torch.from_numpy(part) for key, part in kept.items()}
        stands_for[name] = torch.from_numpy(values)
    settings = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": order}
    if layout is not None:
        settings["checkpoint_format"] = layout
    return written(folder, tensors, settings), stands_for


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("order", [False, True], ids=["in order", "desc_act"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_layouts(tmp_path: Path, bits: int, order: bool, layout: str) -> None:
    folder, stands_for = gptq_folder(tmp_path, bits, layout=layout, order=order)
    loaded = load(folder)
    for name, layer in linears(loaded.module).items():
        assert torch.equal(layer.weight, stands_for[name]), name
    expected = expected_logits(lambda name, _: stands_for[name])
    assert torch.equal(logits(loaded.module), expected)
    check_facts(loaded, folder, kind="fake-quant", bits=(bits + 0.5, bits + 1.7))
    assert f"gptq checkpoint (int{bits} weights in groups of 32" in loaded.origin
    assert ("order of activations" in loaded.origin) is order


def test_gptq_of_older_writers_has_no_layout_and_no_g_idx(tmp_path: Path) -> None:
    folder, stands_for = gptq_folder(tmp_path, layout=None, keep_g_idx=False)
    expected = expected_logits(lambda name, _: stands_for[name])
    assert torch.equal(logits(load(folder).module), expected)


@pytest.mark.filterwarnings("ignore")
def test_gpt_2_of_gptq(tmp_path: Path) -> None:
    """Its layers are Conv1D, which store `[K, N]`; GPTQ's codes are of `[N, K]` there too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=261, n_embd=64, n_layer=1, n_head=2, n_positions=128, bos_token_id=None
        )
        config.eos_token_id = None
        module = GPT2LMHeadModel(config).eval()
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    for key in [k for k in tensors if re.search(r"(c_attn|c_proj|c_fc)\.weight", k)]:
        weight = tensors.pop(key)
        parts, values = gptq_parts(weight.T.numpy(), 4, 32, zero_less=1, order=False)
        path = key.removesuffix(".weight")
        tensors |= {f"{path}.{part}": torch.from_numpy(array) for part, array in parts.items()}
        module.get_parameter(key).data = torch.from_numpy(values).T
    save_file(tensors, tmp_path / TENSORS, metadata={"format": "pt"})
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
    change_config(tmp_path, quantization_config=settings)
    loaded = load(tmp_path)
    torch.testing.assert_close(logits(loaded.module), logits(module), rtol=1e-5, atol=1e-5)
    assert loaded.prequantized is not None
    assert loaded.prequantized.num_quantized == 12 * 64 * 64


def test_gptq_keeps_biases_and_drops_those_of_zeros(tmp_path: Path) -> None:
    folder, stands_for = gptq_folder(tmp_path)
    change_tensors(folder, lambda t: t.update({f"{UP}.bias": torch.zeros(128)}))
    expected = expected_logits(lambda name, _: stands_for[name])
    assert torch.equal(logits(load(folder).module), expected)
    change_tensors(folder, lambda t: t.update({f"{UP}.bias": torch.ones(128)}))
    with pytest.raises(ModelError, match=r"must be of use, .* leaves out: .*up_proj.bias"):
        load(folder)


def test_gptq_in_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    folder, stands_for = gptq_folder(tmp_path)
    loaded = load(folder, "bfloat16")
    assert all(
        torch.equal(layer.weight, stands_for[name].bfloat16())
        for name, layer in linears(loaded.module).items()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t[f"{UP}.qzeros"].fill_(-1), "a zero point of 0"),
        (lambda t: t[f"{UP}.g_idx"].fill_(7), "groups up to 7"),
        (lambda t: t.pop(f"{UP}.scales"), "no scales"),
        (lambda t: t.update({f"{UP}.scales": torch.ones(2, 64)}), "shapes that do not fit"),
        (lambda t: t.update({f"{UP}.g_idx": t[f"{UP}.g_idx"][:50]}), "bits a code"),
        (lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"].long()}), "not in int32"),
        (lambda t: [t.pop(key) for key in list(t) if key.startswith(UP)], f"lacks 1: {UP}.weight"),
    ],
)
def test_damaged_gptq_layer_is_named(
    tmp_path: Path, change: Callable[[Weights], object], reason: str
) -> None:
    folder, _ = gptq_folder(tmp_path)
    change_tensors(folder, change)
    with pytest.raises(ModelError, match=reason) as error:
        load(folder)
    assert "up_proj" in str(error.value)
    assert str(folder) in str(error.value)


def test_other_layouts_of_gptq_are_refused(tmp_path: Path) -> None:
    folder, _ = gptq_folder(tmp_path, layout="marlin")
    with pytest.raises(ModelError, match=r"layout gptq or gptq_v2, got 'marlin'"):
        load(folder)
