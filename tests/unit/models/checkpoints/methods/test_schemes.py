"""Words for what the settings of other libraries say."""

from typing import Any

import pytest
import torch

from harness.models.checkpoints.methods.schemes import (
    batch_warnings,
    rounded_inputs,
    scheme,
    unused_bits,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words", "inputs", "unused"),
    [
        (lambda q: q.Int8WeightOnlyConfig(), "int8 weights by row", None, 0),
        (
            lambda q: q.Int8DynamicActivationInt8WeightConfig(),
            "int8 weights by row, int8 inputs by token",
            "int8 by token",
            0,
        ),
        (
            lambda q: q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=q.PerGroup(32)),
            "int4 weights in groups of 32",
            None,
            4,
        ),
        (
            lambda q: q.Int8DynamicActivationIntxWeightConfig(
                weight_dtype=torch.int3, weight_granularity=q.PerGroup(64)
            ),
            "int3 weights in groups of 64, int8 inputs by token, asymmetric",
            "int8 by token, asymmetric",
            5,
        ),
        (lambda q: q.Float8WeightOnlyConfig(), "fp8 weights by row", None, 0),
        (
            lambda q: q.Float8DynamicActivationFloat8WeightConfig(granularity=q.PerTensor()),
            "fp8 weights by tensor, fp8 inputs by tensor",
            "fp8 by tensor",
            0,
        ),
        (
            lambda q: q.FqnToConfig(
                {
                    "a": q.Int8WeightOnlyConfig(),
                    "b": q.Int8DynamicActivationInt8WeightConfig(),
                }
            ),
            "int8 weights by row; int8 weights by row, int8 inputs by token",
            "int8 by token",
            0,
        ),
    ],
)
def test_torchao_in_words(make: Any, words: str, inputs: str | None, unused: int) -> None:
    library = pytest.importorskip("torchao.quantization")
    written = pytest.importorskip("torchao.core.config").config_to_dict(make(library))
    settings = {"quant_method": "torchao", "quant_type": {"default": written}}
    assert scheme(settings) == words
    assert rounded_inputs(settings) == inputs
    assert unused_bits(settings) == unused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "int4_weight_only"),
        (
            {"quant_method": "fp8", "activation_scheme": "static"},
            "fp8 weights by tensor, fp8 inputs by tensor, static",
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 64]},
            "fp8 weights in blocks of 128x64, fp8 inputs in groups of 64",
        ),
        ({"quant_method": "bitnet", "linear_class": "bitlinear"}, "linear_class=bitlinear"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {
                        "weights": {"num_bits": 8, "strategy": "block", "block_structure": [4, 8]},
                        "output_activations": {"num_bits": 8, "strategy": "tensor"},
                    }
                },
                "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
            },
            "int8 weights in blocks of 4x8, int8 outputs by tensor, static; fp8 KV cache by "
            "tensor, static",
        ),
    ],
)
def test_settings_in_words(settings: dict[str, Any], words: str) -> None:
    assert scheme(settings) == words


def test_outliers_of_a_batch_are_warned_of() -> None:
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (warning,) = batch_warnings(settings)
    assert "if one reaches 6 in it: results depend on how" in warning
    assert batch_warnings({**settings, "llm_int8_threshold": 0.0}) == ()
    assert batch_warnings({"quant_method": "bitsandbytes", "load_in_4bit": True}) == ()
