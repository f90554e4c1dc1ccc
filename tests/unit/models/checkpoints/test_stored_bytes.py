"""Memory of weights against sizes counted by hand."""

import pytest
import torch
from torch import nn

from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import LoadedModel


def test_float_layers_take_what_their_numbers_take() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32, dtype=torch.bfloat16))
    assert stored_bytes(model) == 4 * (64 * 32 + 32) + 2 * (32 + 32)


def test_shared_memory_counts_once(tiny: LoadedModel) -> None:
    module = tiny.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    parameters = sum(p.nbytes for p in module.parameters())
    buffers = sum(b.nbytes for b in module.buffers())
    assert parameters <= stored_bytes(module) <= parameters + buffers
    view = nn.Module()
    view.register_buffer("whole", torch.ones(8, 8))
    view.register_buffer("again", view.whole.view(64))
    assert stored_bytes(view) == 256


def test_a_module_that_is_left_out_still_counts_where_it_is_shared(tiny: LoadedModel) -> None:
    whole = stored_bytes(tiny.module)
    embedding = tiny.module.get_input_embeddings()
    assert stored_bytes(tiny.module, without=(embedding,)) == whole  # the head holds it
    untied = nn.ModuleDict({"embedding": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    assert stored_bytes(untied, without=(untied["embedding"],)) == 160


def test_a_replaced_layer_takes_what_stands_in_its_place(tiny: LoadedModel) -> None:
    before = stored_bytes(tiny.module)
    path = "model.layers.0.mlp.up_proj"
    old = tiny.module.get_submodule(path).weight.nbytes

    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.zeros(80, 48, dtype=torch.int8))
            self.loose = torch.zeros(80)

    tiny.swap_module(path, Codes())
    assert stored_bytes(tiny.module) == before - old + 80 * 48 + 80 * 4
    with tiny.unquantized():
        assert stored_bytes(tiny.module) == before


def test_torchao_tensors_take_their_codes_and_scales() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    layer = nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    weight = layer.weight
    assert weight.numel() * weight.element_size() == 4096  # what the tensor claims
    parts = (weight.qdata, weight.scale, weight.zero_point)
    assert stored_bytes(layer) == sum(part.nbytes for part in parts if part is not None) < 2400


def test_scales_that_hang_on_a_parameter_or_beside_it_count() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    four = bnb.nn.Linear4bit(64, 64, bias=False, compress_statistics=False).to("cpu")
    assert stored_bytes(four) == 64 * 64 // 2 + 64 * 4 + 16 * 4  # codes, a scale for 64, the table
    eight = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False).to("cpu")
    assert stored_bytes(eight) == 64 * 64 + 64 * 4
    eight(torch.randn(4, 64))  # moves the scales from the weight to the layer
    assert stored_bytes(eight) == 64 * 64 + 64 * 4
