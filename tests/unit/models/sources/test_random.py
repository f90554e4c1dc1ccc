"""Random weights in the shape of a real model: sizes, distribution, types."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from repository import CONF
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import build, register, resolve
from harness.errors import ConfigError, ModelError
from harness.models.sources import pretrained as hub
from harness.models.sources.pretrained import HubModel
from harness.models.sources.random import DRAWN, Shape

CPU = torch.device("cpu")
SHAPED = sorted(
    file.stem for file in (CONF / "model").glob("*.yaml") if "\nshape:" in file.read_text("utf-8")
)
PUBLISHED = {
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
}
"""Parameters by the files on the hub, a tied head counted once."""
SMALL = (
    "model.weights=random",
    "model.shape.num_hidden_layers=2",
    "model.shape.hidden_size=64",
    "model.shape.intermediate_size=96",
    "model.shape.num_attention_heads=4",
    "model.shape.num_key_value_heads=2",
    "model.shape.vocab_size=300",
)

Source = Callable[..., HubModel]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Compose a model as the command line does; looking for its files fails the test."""

    def locate(*_: object, **__: object) -> None:
        raise AssertionError("random weights need no files")

    monkeypatch.setattr(hub, "locate", locate)

    def call(name: str, *overrides: str) -> HubModel:
        register()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = resolve(compose("config", [f"model={name}", "data=embedded", *overrides]))
        made: HubModel = build(composed["model"], "model")
        return made

    return call


def test_attention_that_does_not_exist_is_refused(source: Source) -> None:
    model = source("qwen3_0_6b", *SMALL, "model.attention=fast")
    with pytest.raises(ModelError, match=r"model\.attention must be .*got fast: .*leave model"):
        model.load(CPU)


def matrices(model: HubModel) -> dict[str, torch.Tensor]:
    named = model.load(CPU).module.named_parameters()
    return {name: parameter for name, parameter in named if parameter.dim() > 1}


def test_every_shape_has_a_published_count() -> None:
    assert set(PUBLISHED) == set(SHAPED)


@pytest.mark.parametrize("name", SHAPED)
def test_shape_has_the_published_number_of_parameters(source: Source, name: str) -> None:
    shape = source(name).shape
    assert shape is not None
    module = shape.build(torch.bfloat16, torch.device("meta"))
    assert sum(parameter.numel() for parameter in module.parameters()) == PUBLISHED[name]
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert module.config.max_position_embeddings == shape.max_position_embeddings
    assert module.config.rope_parameters["rope_theta"] == shape.rope_parameters["rope_theta"]


def test_weights_stay_pretrained_unless_asked(source: Source) -> None:
    for name in SHAPED:
        assert source(name).weights == "pretrained", name
        assert source(name, "model.weights=random").weights == "random", name


@pytest.mark.parametrize("name", SHAPED)
def test_logits_are_finite_and_differ_between_tokens(source: Source, name: str) -> None:
    model = source(name, *SMALL)
    ids = torch.arange(24).reshape(2, 12)
    for dtype in ("bfloat16", "float16", "float32"):
        loaded = dataclasses.replace(model, dtype=dtype).load(CPU)
        with torch.inference_mode():
            logits = loaded.module(ids).logits.float()
        assert logits.isfinite().all(), dtype
        assert logits.std(dim=-1).min() > 0, dtype
        assert not torch.equal(logits[0, 3], logits[0, 4]), dtype


def test_model_says_what_it_is(source: Source) -> None:
    model = source("qwen3_0_6b", *SMALL)
    loaded = model.load(CPU)
    assert (loaded.weights, loaded.revision) == ("random", None)
    assert loaded.origin == "random weights in the shape of Qwen/Qwen3-0.6B: 2 layers of 64"
    assert loaded.fingerprint == model.fingerprint()
    assert loaded.dtype is torch.bfloat16
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.module.generation_config.eos_token_id is None
    assert len(loaded.tokenizer) <= loaded.module.config.vocab_size


def test_fingerprint_is_of_shape_and_seed(source: Source) -> None:
    model = source("qwen3_0_6b", *SMALL)
    assert model.fingerprint() == source("qwen3_0_6b", *SMALL).fingerprint()
    assert "seed7" in source("qwen3_0_6b", *SMALL, "model.seed=7").fingerprint()
    others = [
        source("qwen3_0_6b", *SMALL, change).fingerprint()
        for change in (
            "model.seed=1",
            "model.shape.num_hidden_layers=3",
            "model.shape.rope_parameters.rope_theta=10000.0",
            "model.shape.tie_word_embeddings=false",
        )
    ]
    assert len({model.fingerprint(), *others}) == 5


def test_equal_sources_are_one_key_and_others_are_not(source: Source) -> None:
    model = source("llama3_2_1b", *SMALL)
    again = source("llama3_2_1b", *SMALL)
    other = source("llama3_2_1b", *SMALL, "model.shape.rope_parameters.factor=4.0")
    assert {model: 1}[again] == 1
    assert other not in {model: 1}


def test_same_seed_gives_the_same_weights_and_another_seed_others(source: Source) -> None:
    first, again = (matrices(source("qwen3_0_6b", *SMALL)) for _ in range(2))
    other = matrices(source("qwen3_0_6b", *SMALL, "model.seed=1"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_global_random_state_is_left_as_it_was(source: Source) -> None:
    before = torch.random.get_rng_state()
    source("qwen3_0_6b", *SMALL).load(CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_parameters_read_the_drawn_numbers_one_after_another(source: Source) -> None:
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(5)) * 0.02
    found = matrices(source("qwen3_0_6b", *SMALL, "model.seed=5", "model.dtype=float32"))
    joined = torch.cat([matrix.flatten() for matrix in found.values()])
    assert torch.equal(joined, drawn[: len(joined)])


def test_drawn_numbers_begin_again_without_equal_rows(source: Source) -> None:
    # 5000 rows of 512 go round more than twice.
    model = source(
        "llama3_2_1b", *SMALL, "model.shape.vocab_size=5000", "model.shape.hidden_size=512"
    )
    weight = model.load(CPU).module.model.embed_tokens.weight
    assert weight.numel() > 2 * DRAWN
    flat = weight.flatten()
    assert torch.equal(flat[DRAWN : 2 * DRAWN], flat[:DRAWN])
    assert len(weight.unique(dim=0)) == 5000
    assert float(weight.float().std()) == pytest.approx(0.02, rel=0.01)
    assert float(weight.float().mean()) == pytest.approx(0, abs=1e-4)


def test_gains_are_one_and_biases_zero(source: Source) -> None:
    module = source("qwen2_5_1_5b", *SMALL).load(CPU).module
    vectors = {name: p for name, p in module.named_parameters() if p.dim() == 1}
    assert {name.rpartition(".")[2] for name in vectors} == {"weight", "bias"}
    for name, vector in vectors.items():
        assert vector.eq(0.0 if name.endswith("bias") else 1.0).all(), name


@pytest.mark.parametrize("tied", ["true", "false"])
def test_head_is_tied_as_the_shape_says(source: Source, tied: str) -> None:
    override = f"model.shape.tie_word_embeddings={tied}"
    module = source("llama3_1_8b", *SMALL, override).load(CPU).module
    shared = module.lm_head.weight is module.model.embed_tokens.weight
    assert shared is (tied == "true")
    assert shared is torch.equal(module.lm_head.weight, module.model.embed_tokens.weight)


class Allocations(TorchDispatchMode):
    """Notes the largest float32 tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float32:
                self.largest = max(self.largest, leaf.numel())
        return result


def test_no_weight_is_ever_made_in_float32(source: Source) -> None:
    model = source(
        "qwen3_0_6b", *SMALL, "model.shape.vocab_size=5000", "model.shape.hidden_size=512"
    )
    with Allocations() as seen:
        loaded = model.load(CPU)
    assert loaded.module.model.embed_tokens.weight.numel() > 2 * DRAWN
    assert seen.largest == DRAWN


def test_rotary_frequencies_are_those_of_the_configuration(source: Source) -> None:
    module = source("qwen3_0_6b", *SMALL).load(CPU).module
    # theta^(-2i/d) with theta = 1e6 and d = 128.
    expected = 1e6 ** (-torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    assert torch.allclose(module.model.rotary_emb.inv_freq.double(), expected, rtol=1e-6)


def test_random_weights_without_a_shape_are_a_configuration_error() -> None:
    node = {
        "_target_": "harness.models.sources.HubModel",
        "repo": "someone/else",
        "weights": "random",
    }
    with pytest.raises(ConfigError, match=r"model\.shape must be given .* copy the shape block"):
        build(node, "model")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model_type=lama", "model_type must be one that transformers knows"),
        ("model_type=gpt2", "model_type must have .* in its configuration, got gpt2"),
        ("num_hidden_layers=0", "num_hidden_layers must be >= 1, got 0"),
        ("num_key_value_heads=3", "must be a multiple of num_key_value_heads, got 16 and 3"),
        ("vocab_size=100", "vocab_size must be >= 261"),
        ("hidden_size=big", "must be an integer"),
    ],
)
def test_shape_that_cannot_be_is_a_configuration_error(
    source: Source, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        source("qwen3_0_6b", f"model.shape.{override}")


def test_shape_is_frozen(source: Source) -> None:
    shape = source("qwen3_0_6b").shape
    assert isinstance(shape, Shape)
    with pytest.raises(dataclasses.FrozenInstanceError):
        shape.hidden_size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "size", ["vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size"]
)
def test_a_shape_that_no_memory_holds_is_refused_before_it_is_made(
    source: Source, size: str
) -> None:
    with pytest.raises(ModelError, match=r"model\.shape must fit into the memory of cpu"):
        source("qwen3_0_6b", *SMALL, f"model.shape.{size}={64 * 10**13}").load(CPU)
