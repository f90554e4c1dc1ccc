"""Checkpoints whose codes compressed-tensors wrote, against its decompression and plain loops."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from harness.engines.local.split_model import split
from harness.errors import ModelError
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.recipe import QuantRecipe, quantize

library = pytest.importorskip("compressed_tensors.quantization")
formats = pytest.importorskip("compressed_tensors.compressors.format")
compressors = pytest.importorskip("compressed_tensors.compressors")
helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")

CPU = torch.device("cpu")
IDS = torch.arange(3, 43).view(2, 20)
SIZES: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ROUNDING = 2e-5
"""Logits of size 10 in float32, of sums of 64 terms in another order."""

Tensors = dict[str, torch.Tensor]
Scheme = Any


def mixture() -> PreTrainedModel:
    """Return a random mixture of 4 experts, 2 a token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Qwen3MoeConfig(
            **SIZES,
            num_hidden_layers=1,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=64,
            decoder_sparse_step=1,
        )
        module = Qwen3MoeForCausalLM(config).eval()
        for parameter in module.parameters():
            if parameter.dim() == 3:
                parameter.data.normal_(0, 0.15)
    return module


def dense() -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(**SIZES, num_hidden_layers=2, intermediate_size=96)
        ).eval()


def scheme(weights: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any) -> Scheme:
    made = library.QuantizationScheme(
        targets=["Linear"],
        weights=library.QuantizationArgs(**weights),
        input_activations=library.QuantizationArgs(**inputs) if inputs else None,
        **more,
    )
    made.format = formats.infer_module_format(nn.Linear, made).value
    return made


FP8_ROWS = {"num_bits": 8, "type": "float", "strategy": "channel"}
FP8_TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
NVFP4 = {
    "num_bits": 4,
    "type": "float",
    "strategy": "tensor_group",
    "group_size": 16,
    "scale_dtype": torch.float8_e4m3fn,
}
MXFP4 = {
    "num_bits": 4,
    "type": "float",
    "strategy": "group",
    "group_size": 32,
    "scale_dtype": torch.uint8,
}
INT4_ZEROS = {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}
INT8_ZEROS = {"num_bits": 8, "strategy": "channel", "symmetric": False}
INT3_GROUPS = {"num_bits": 3, "strategy": "group", "group_size": 32}
FP8_BLOCKS = {
    "num_bits": 8,
    "type": "float",
    "strategy": "block",
    "block_structure": [48, 32],
}


def compress(weight: torch.Tensor, plan: Scheme) -> Tensors:
    """Let the library quantize a weight and name its parts."""
    args, outer = plan.weights, None
    if args.strategy == "tensor_group":
        outer = helpers.generate_gparam(weight.min().reshape(1), weight.max().reshape(1))
    if args.strategy == "block":
        height, width = args.block_structure
        padded = F.pad(weight, (0, -weight.shape[1] % width, 0, -weight.shape[0] % height))
        blocks = padded.unflatten(1, (-1, width)).unflatten(0, (-1, height)).transpose(1, 2)
        blocks = blocks.flatten(2)
    else:
        blocks = weight.unflatten(1, (-1, args.group_size or weight.shape[1]))
    scale, zero = helpers.calculate_qparams(
        blocks.amin(-1), blocks.amax(-1), args, global_scale=outer
    )
    parts = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    if outer is not None:
        parts["weight_global_scale"] = outer
    return {key: part.contiguous() for key, part in compressor(plan).compress(parts, plan).items()}


def compressor(plan: Scheme) -> Any:
    return compressors.BaseCompressor.get_value_from_registry(plan.format)


def decompressed(parts: Tensors, plan: Scheme) -> torch.Tensor:
    weight: torch.Tensor = compressor(plan).decompress(dict(parts), plan)["weight"]
    return weight


def is_layer(name: str) -> bool:
    return name.endswith("_proj.weight")


def written(
    folder: Path,
    module: PreTrainedModel,
    choose: Callable[[str], Scheme],
    settings: dict[str, Any] | None = None,
) -> tuple[Path, Tensors]:
    """Write a checkpoint, one layer an expert; return folder and weights by the library."""
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tensors: Tensors = {}
    stands_for: Tensors = {}
    plans: dict[str, Scheme] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not is_layer(name):
            tensors[name] = weight
            continue
        plan = choose(name)
        parts = compress(weight, plan)
        plans[str(plan.targets)] = plan
        path = name.removesuffix(".weight")
        tensors |= {f"{path}.{part}": tensor for part, tensor in parts.items()}
        stands_for[name] = decompressed(parts, plan)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    groups = {f"group_{i}": json.loads(p.model_dump_json()) for i, p in enumerate(plans.values())}
    change_settings(
        folder,
        quant_method="compressed-tensors",
        quantization_status="compressed",
        ignore=["lm_head", "re:.*mlp.gate$"],
        config_groups=groups,
        **(settings or {}),
    )
    return folder, stands_for


def change_settings(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"] = config.get("quantization_config", {}) | changes
    file.write_text(json.dumps(config), encoding="utf-8")


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path, dtype: Any = "float32") -> LoadedModel:
    return LocalModel(path=str(folder), dtype=dtype).load(CPU)


@torch.no_grad()
def logits(module: Any) -> torch.Tensor:
    found: torch.Tensor = module(IDS, use_cache=False).logits
    return found


def with_weights(module: PreTrainedModel, weights: Tensors) -> PreTrainedModel:
    """Put weights into a model, those of experts into their stacks."""
    for path, owner in module.named_modules():
        if isinstance(owner, nn.Linear) and f"{path}.weight" in weights:
            owner.weight.data = weights[f"{path}.weight"].float()
        if hasattr(owner, "gate_up_proj") and hasattr(owner, "num_experts"):
            for e in range(owner.num_experts):
                gate, up, down = (
                    weights[f"{path}.{e}.{part}_proj.weight"].float()
                    for part in ("gate", "up", "down")
                )
                owner.gate_up_proj.data[e] = torch.cat([gate, up])
                owner.down_proj.data[e] = down
    return module


@pytest.fixture(scope="module")
def int8_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """The dense model in INT8 with zero points, written once, and its weights by the library."""
    return written(tmp_path_factory.mktemp("int8"), dense(), lambda _: scheme(INT8_ZEROS))


@pytest.fixture
def int8(int8_folder: tuple[Path, Tensors], tmp_path: Path) -> Path:
    """A copy of the INT8 folder, to be changed."""
    return Path(shutil.copytree(int8_folder[0], tmp_path / "int8"))


@pytest.mark.parametrize(
    ("plan", "stored_as"),
    [
        (scheme(NVFP4), "bfloat16"),
        (scheme(MXFP4), "bfloat16"),
        (scheme(FP8_ROWS, FP8_TOKENS), "float32"),
        (scheme(FP8_BLOCKS), "float32"),
        (scheme(INT4_ZEROS), "float32"),
        (scheme(INT8_ZEROS), "float32"),
        (scheme(INT3_GROUPS), "float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.format),
)
def test_every_stack_of_experts_is_what_the_library_decompresses(
    tmp_path: Path, plan: Scheme, stored_as: str
) -> None:
    """The library gives small floats in bfloat16: rounded so, ours are equal; others in float32."""
    folder, stands_for = written(tmp_path, mixture(), lambda _: plan)
    found = load(folder)
    assert {parameter.dtype for parameter in found.module.parameters()} == {torch.float32}
    expected = dict(with_weights(mixture(), stands_for).named_parameters())
    assert len(stands_for) == 4 + 4 * 3
    for name, parameter in found.module.named_parameters():
        ours = parameter
        if name.endswith("_proj") or is_layer(name):
            ours = parameter.to(getattr(torch, stored_as)).float()
            assert (
                stored_as == "float32"
                or not torch.equal(parameter, ours)
                or plan.weights.group_size == 32
            )
        torch.testing.assert_close(ours, expected[name], rtol=0, atol=0, msg=name)


def test_lost_global_scale_of_an_expert_is_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, mixture(), lambda _: scheme(NVFP4))
    lost = "model.layers.0.mlp.experts.2.up_proj"
    change_tensors(folder, lambda t: t.pop(f"{lost}.weight_global_scale"))
    with pytest.raises(ModelError, match=rf"layer {lost} .* got no weight_global_scale"):
        load(folder)


def test_tensor_of_an_expert_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, mixture(), lambda _: scheme(MXFP4))
    key = "model.layers.0.mlp.experts.2.up_proj.weight_offset"
    change_tensors(folder, lambda t: t.update({key: torch.ones(1)}))
    with pytest.raises(ModelError, match=r"must be of use, .*up_proj.weight_offset"):
        load(folder)


def fp8_by_token(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def round_linears(
    module: PreTrainedModel, rounding: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and is_layer(f"{name}.weight"):
            layer.register_forward_pre_hook(lambda _, args: (rounding(args[0]),))


def test_inputs_of_experts_are_rounded_by_token(tmp_path: Path) -> None:
    folder, stands_for = written(tmp_path, mixture(), lambda _: scheme(FP8_ROWS, FP8_TOKENS))
    found = load(folder)
    module = with_weights(mixture(), stands_for)
    round_linears(module, fp8_by_token)
    attention_alone = logits(module)
    experts: Any = module.get_submodule("model.layers.0.mlp.experts")

    def forward(hidden: torch.Tensor, index: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        rows = []
        for x, chosen, share in zip(hidden, index, shares, strict=True):
            outs = []
            for e in chosen.tolist():
                gate, up = (experts.gate_up_proj[e] @ fp8_by_token(x)).chunk(2)
                outs.append(experts.down_proj[e] @ fp8_by_token(F.silu(gate) * up))
            rows.append((torch.stack(outs) * share[:, None]).sum(0))
        return torch.stack(rows)

    experts.forward = forward
    expected = logits(module)
    # A step of FP8 that another order of sums decides otherwise moves single logits.
    assert (logits(found.module) - expected).abs().mean() < ROUNDING
    assert (attention_alone - expected).abs().mean() > 0.01
    with split(found) as halves:
        assert (halves.logits(halves.hidden(IDS)) - expected).abs().mean() < ROUNDING
    report = quantize(found, QuantRecipe()).report
    assert report.input_formats == {"checkpoint": "fp8 by token"}


def test_order_of_activations_is_read(tmp_path: Path) -> None:
    """The inputs of a group are anywhere in a row; the weights come back under their inputs."""
    plan = scheme({"num_bits": 4, "strategy": "group", "group_size": 32})
    folder, stands_for = written(tmp_path, dense(), lambda _: plan)
    path = "model.layers.1.mlp.down_proj"
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    pack = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")

    def shuffle(tensors: Tensors) -> None:
        codes = pack.unpack_from_int32(tensors[f"{path}.weight_packed"], 4, torch.Size([64, 96]))
        back = torch.empty_like(codes)
        back[:, order] = codes
        tensors[f"{path}.weight_packed"] = pack.pack_to_int32(back, 4)
        group = torch.empty(96, dtype=torch.int32)
        group[order] = torch.arange(96, dtype=torch.int32) // 32
        tensors[f"{path}.weight_g_idx"] = group

    change_tensors(folder, shuffle)
    groups = json.loads((folder / "config.json").read_text())["quantization_config"][
        "config_groups"
    ]
    groups["group_0"]["weights"]["actorder"] = "group"
    change_settings(folder, config_groups=groups)
    expected = torch.empty(64, 96)
    expected[:, order] = stands_for[f"{path}.weight"]
    assert torch.equal(load(folder).module.get_submodule(path).weight, expected)


def test_several_groups_by_expression_and_name(tmp_path: Path) -> None:
    """An exact name comes before an expression, an expression before a class."""
    name = "model.layers.1.mlp.up_proj"
    plans = {"name": scheme(MXFP4), "mlp": scheme(FP8_ROWS), "rest": scheme(INT4_ZEROS)}
    plans["name"].targets = [name]
    plans["mlp"].targets = [r"re:.*mlp\..*_proj$"]

    def choose(key: str) -> Scheme:
        kind = "name" if key == f"{name}.weight" else "mlp" if ".mlp." in key else "rest"
        return plans[kind]

    folder, stands_for = written(tmp_path, dense(), choose)
    module = load(folder).module
    for key, weight in stands_for.items():
        found = module.get_parameter(key)
        same = found.bfloat16().float() if key == f"{name}.weight" else found
        assert torch.equal(same, weight.float()), key


def cache_scheme(**changes: Any) -> dict[str, Any]:
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    return {"kv_cache_scheme": scheme | {"symmetric": True} | changes}


def cache_scales(name: str) -> Tensors:
    paths = (f"model.layers.{i}.self_attn" for i in range(2))
    return {f"{p}.{name.format(side)}": torch.tensor([0.02]) for p in paths for side in "kv"}


@torch.no_grad()
def attention_with_rounded_cache(module: PreTrainedModel, scale: float) -> torch.Tensor:
    """Return logits of a model whose attention is computed here, with keys and values in FP8."""
    from transformers.models.llama import modeling_llama as llama

    def fp8(x: torch.Tensor) -> torch.Tensor:
        return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale

    for layer in module.model.layers:
        attention = layer.self_attn

        def forward(
            hidden_states: Any, position_embeddings: Any, _a: Any = attention, **_: Any
        ) -> Any:
            q, k, v = (
                linear(hidden_states).unflatten(-1, (-1, 16)).transpose(1, 2)
                for linear in (_a.q_proj, _a.k_proj, _a.v_proj)
            )
            q, k = llama.apply_rotary_pos_emb(q, k, *position_embeddings)
            k, v = fp8(k).repeat_interleave(2, 1), fp8(v).repeat_interleave(2, 1)
            scores = (q @ k.mT / 4).masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf)
            return _a.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None

        attention.forward = forward
    return logits(module)


@pytest.mark.parametrize("name", ["{}_scale", "{}_proj.output_scale"])
@pytest.mark.parametrize("alone", [False, True])
def test_keys_and_values_are_rounded_and_named(
    int8: Path, int8_folder: tuple[Path, Tensors], name: str, alone: bool
) -> None:
    folder = int8
    change_settings(folder, **cache_scheme())
    module = with_weights(dense(), int8_folder[1])
    if alone:
        dense().save_pretrained(folder)
        module = dense()
        change_settings(
            folder, quant_method="compressed-tensors", config_groups={}, **cache_scheme()
        )
    change_tensors(folder, lambda t: t.update(cache_scales(name)))
    found = load(folder)
    in_float = logits(module)
    expected = attention_with_rounded_cache(module, 0.02)
    assert (logits(found.module) - expected).abs().mean() < ROUNDING
    assert (in_float - expected).abs().mean() > 0.01
    # With a cache, token by token.
    with torch.no_grad():
        first = found.module(IDS[:, :12])
        rest = found.module(IDS[:, 12:], past_key_values=first.past_key_values)
    assert (torch.cat([first.logits, rest.logits], 1) - expected).abs().mean() < ROUNDING
    quantized = quantize(found, QuantRecipe())
    report = quantized.report
    assert any("keys and values are rounded" in warning for warning in quantized.warnings)
    assert report.cache_format == "fp8 by tensor, static"
    assert "fp8 KV cache by tensor, static" in found.origin
    if alone:
        assert (report.num_quantized, report.bits_per_weight) == (0, 32)


@pytest.mark.parametrize(
    ("settings", "change", "reason"),
    [
        (cache_scheme(), {}, "got both for 0 of 2"),
        (cache_scheme(), {"model.layers.0.self_attn.k_scale": torch.ones(1)}, "for 0 of 2"),
        (cache_scheme(), dict(list(cache_scales("{}_scale").items())[:2]), "for 1 of 2"),
        (cache_scheme(dynamic=True), cache_scales("{}_scale"), "must have static scales"),
        ({}, cache_scales("{}_scale"), "must be of use, .*k_scale"),
    ],
)
def test_cache_that_is_not_described_is_refused(
    int8: Path, settings: dict[str, Any], change: Tensors, reason: str
) -> None:
    change_settings(int8, **settings)
    change_tensors(int8, lambda t: t.update(change))
    with pytest.raises(ModelError, match=reason):
        load(int8)


def test_rounded_outputs_are_rounded_and_named(tmp_path: Path) -> None:
    outputs = library.QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    plan = scheme(INT8_ZEROS, output_activations=outputs)
    folder, stands_for = written(tmp_path, dense(), lambda _: plan)
    found = load(folder)
    module = with_weights(dense(), stands_for)
    in_float = logits(module)

    def rounded(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        scale = output.abs().amax(-1, keepdim=True) / 127
        return (output / scale).round() * scale

    for name, layer in module.named_modules():
        if is_layer(f"{name}.weight"):
            layer.register_forward_hook(rounded)
    expected = logits(module)
    assert (
        (logits(found.module) - expected).abs().mean() < 1e-3 < (in_float - expected).abs().mean()
    )
    report = quantize(found, QuantRecipe()).report
    assert report.output_formats == {"checkpoint": "int8 by token"}
    assert "int8 outputs by token" in found.origin


def test_rotations_of_activations_are_refused_and_those_of_weights_are_in_the_weights(
    int8: Path,
) -> None:
    def rotated(location: str) -> Path:
        apply = {"targets": ["Linear"], "location": location, "inverse": False, "ignore": []}
        transforms = {"config_groups": {"v": {"type": "hadamard", "apply": [apply]}}}
        change_settings(int8, transform_config=transforms)
        return int8

    load(rotated("weight_input"))
    with pytest.raises(ModelError, match=r"rotates activations .*QuIP or SpinQuant.* at input"):
        load(rotated("input"))


def test_layer_in_float_that_should_be_quantized_is_refused(int8: Path) -> None:
    folder = int8
    path = "model.layers.1.mlp.up_proj"

    def to_float(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(path)]:
            del tensors[key]
        tensors[f"{path}.weight"] = torch.ones(96, 64)

    change_tensors(folder, to_float)
    with pytest.raises(
        ModelError, match=rf"got 1 with float weights .* such as {path}; name them in ignore"
    ):
        load(folder)
    change_settings(folder, ignore=["lm_head", path])
    assert load(folder).module.get_submodule(path).weight.eq(1).all()


def test_codes_without_scales_are_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, dense(), lambda _: scheme(FP8_ROWS))
    path = "model.layers.1.mlp.up_proj"
    change_tensors(folder, lambda t: t.pop(f"{path}.weight_scale"))
    change_settings(folder, ignore=["lm_head", path])
    with pytest.raises(ModelError, match=rf"must say how {path} is quantized, got no config group"):
        load(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, dense(), lambda _: scheme(MXFP4))
    path = "model.layers.1.mlp.up_proj"
    change_tensors(folder, lambda t: t[f"{path}.weight_scale"].fill_(255))
    with pytest.raises(ModelError, match=rf"NaN or infinity in {path}.weight"):
        load(folder)


def test_experts_under_other_names_in_the_files(tmp_path: Path) -> None:
    """Mixtral's files have `block_sparse_moe.experts.0.w1` for `mlp.experts.gate_up_proj`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MixtralConfig(
            **SIZES, num_hidden_layers=2, intermediate_size=64, num_local_experts=4
        )
        module = MixtralForCausalLM(config).eval()
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    plan = scheme(FP8_ROWS, FP8_TOKENS)
    tensors = load_file(tmp_path / "model.safetensors")
    layers = [key for key in tensors if re.search(r"experts\.\d\.w\d|_proj", key)]
    assert len(layers) == 2 * (4 + 4 * 3)
    for key in layers:
        parts = compress(tensors.pop(key), plan)
        tensors |= {f"{key.removesuffix('weight')}{part}": value for part, value in parts.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change_settings(
        tmp_path,
        quant_method="compressed-tensors",
        quantization_status="compressed",
        ignore=["lm_head", "re:.*gate$"],
        config_groups={"group_0": json.loads(plan.model_dump_json())},
    )
    found = load(tmp_path).module
    experts: Any = found.get_submodule("model.layers.1.mlp.experts")
    prefix = "model.layers.1.block_sparse_moe.experts.2"
    for name, part in (("w1", experts.gate_up_proj[2][:64]), ("w3", experts.gate_up_proj[2][64:])):
        codes = tensors[f"{prefix}.{name}.weight"].float()
        assert torch.equal(part, codes * tensors[f"{prefix}.{name}.weight_scale"])
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    one = torch.ones(3, 1)
    with torch.no_grad():
        out = experts(x, torch.full((3, 1), 2), one)
        gate, up = F.linear(fp8_by_token(x), experts.gate_up_proj[2]).chunk(2, -1)
        expected = F.linear(fp8_by_token(F.silu(gate) * up), experts.down_proj[2])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True], ids=["[N, K]", "[K, N]"])
def test_gpt_2(tmp_path: Path, turned: bool) -> None:
    """Its layers are Conv1D: some writers store codes of `[N, K]`, others of the parameter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"vocab_size": 261, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 128}
        config = GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
        module = GPT2LMHeadModel(config).eval()
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    plan = scheme(INT8_ZEROS)
    for key in [key for key in tensors if re.search(r"(c_attn|c_proj|c_fc)\.weight", key)]:
        weight = tensors.pop(key)
        parts = compress(weight if turned else weight.T.contiguous(), plan)
        stands_for = decompressed(parts, plan)
        module.get_parameter(key).data = stands_for if turned else stands_for.T
        tensors |= {f"{key.removesuffix('weight')}{part}": value for part, value in parts.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change_settings(
        tmp_path,
        quant_method="compressed-tensors",
        quantization_status="compressed",
        ignore=["lm_head"],
        config_groups={"group_0": json.loads(plan.model_dump_json())},
    )
    for name, parameter in load(tmp_path).module.named_parameters():
        assert torch.equal(parameter, module.get_parameter(name)), name


def test_one_scale_for_all_tokens_is_warned_of(tmp_path: Path) -> None:
    inputs = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": True}
    folder, _ = written(tmp_path, dense(), lambda _: scheme(FP8_ROWS, inputs))
    (warning,) = quantize(load(folder), QuantRecipe()).warnings
    assert "fp8 by tensor share a scale between tokens" in warning


def test_quantized_embedding(int8: Path) -> None:
    """Its target is its name: `Linear` is not meant for it."""
    plans = {"embedding": scheme(INT4_ZEROS), "rest": scheme(INT8_ZEROS)}
    plans["embedding"].targets = ["model.embed_tokens"]
    folder = int8
    parts = compress(dense().get_parameter("model.embed_tokens.weight").data, plans["embedding"])

    def add(tensors: Tensors) -> None:
        del tensors["model.embed_tokens.weight"]
        tensors |= {f"model.embed_tokens.{key}": part for key, part in parts.items()}

    change_tensors(folder, add)
    groups = {name: json.loads(plan.model_dump_json()) for name, plan in plans.items()}
    change_settings(folder, config_groups=groups)
    found = load(folder).module.get_parameter("model.embed_tokens.weight")
    assert torch.equal(found, decompressed(parts, plans["embedding"]))


def test_what_a_class_leaves_out_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head for speculative decoding is left out; a layer that an expression matches is not."""
    plan = scheme(FP8_ROWS, FP8_TOKENS)
    folder, stands_for = written(tmp_path, dense(), lambda _: plan)
    before = load(folder).prequantized
    head = compress(torch.randn(64, 64), plan)
    more = {"mtp.fc": head, "model.layers.2.mlp.up_proj": head}
    change_tensors(
        folder,
        lambda t: t.update(
            {f"{path}.{key}": p.clone() for path, h in more.items() for key, p in h.items()}
        ),
    )
    with pytest.raises(ModelError, match="must be"):
        load(folder)
    ignored = [r"mtp.*", r"layers\.1\.", r"layers\.2\."]
    monkeypatch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_load_unexpected", ignored)
    loaded = load(folder)
    for name, weight in stands_for.items():
        assert torch.equal(loaded.module.get_parameter(name), weight), name
    after = loaded.prequantized
    assert before is not None
    assert after is not None
    assert (after.num_quantized, after.packed_bits) == (before.num_quantized, before.packed_bits)
    assert any("4 stored tensors are not used: model.layers.2" in w for w in loaded.warnings)
