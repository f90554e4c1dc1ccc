"""The tiny model: seeded, awkward, and no trace in the global random state."""

import pytest
import torch

from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel, byte_tokenizer
from harness.models.targets.targets import find_targets

CPU = torch.device("cpu")


def weights(source: TinyModel) -> list[torch.Tensor]:
    return list(source.load(CPU).module.parameters())


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    pairs = list(zip(weights(TinyModel()), weights(TinyModel()), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    other = weights(TinyModel(seed=1))
    matrices = [(a, b) for (a, _), b in zip(pairs, other, strict=True) if a.dim() == 2]
    assert matrices
    assert not any(torch.equal(a, b) for a, b in matrices)
    assert TinyModel().fingerprint() != TinyModel(seed=1).fingerprint()


def test_global_random_state_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    TinyModel(seed=5).load(CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_global_random_state_does_not_change_the_weights() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        moved = weights(TinyModel())
    assert all(torch.equal(a, b) for a, b in zip(moved, weights(TinyModel()), strict=True))


def test_model_is_ready_for_inference(tiny: LoadedModel) -> None:
    assert not tiny.module.training
    assert not any(parameter.requires_grad for parameter in tiny.module.parameters())
    assert tiny.module.lm_head.weight is tiny.module.model.embed_tokens.weight


def test_no_matrix_has_a_contraction_axis_that_a_group_divides(tiny: LoadedModel) -> None:
    lengths = {target.weight.shape[-1] for target in find_targets(tiny.module)}
    assert len(lengths) > 1
    assert all(length % group for length in lengths for group in (64, 128))


def test_heads_are_grouped(tiny: LoadedModel) -> None:
    config = tiny.module.config
    assert 1 < config.num_key_value_heads < config.num_attention_heads


def test_dtype_is_that_of_every_weight() -> None:
    loaded = TinyModel(dtype="bfloat16").load(CPU)
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.bfloat16}
    assert loaded.dtype is torch.bfloat16


@pytest.mark.parametrize("letter", "ABCD")
def test_answer_letter_after_a_space_is_one_token(letter: str) -> None:
    tokenizer = byte_tokenizer()
    before = tokenizer("Answer:")["input_ids"]
    after = tokenizer(f"Answer: {letter}")["input_ids"]
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert tokenizer.decode(after[-1:]) == f" {letter}"


@pytest.mark.parametrize("text", ["plain", "Zoë ± 漢字 🙂", " A Apple AB\n\n B", ""])
def test_tokenizer_gives_every_byte_back(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    merged = sum(text.count(f" {letter}") for letter in "ABCD")
    assert len(ids) == len(text.encode()) - merged
