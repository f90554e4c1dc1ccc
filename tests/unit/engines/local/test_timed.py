"""A loaded model that is timed for real: what is in place, its stamps, and what stays behind."""

import pytest
import torch

from harness.engines.local import timed as module
from harness.engines.local.cpu_matmul import LEAST_ROWS
from harness.engines.local.engine import LocalEngine
from harness.engines.timed import TimedModel, Workload
from harness.errors import ModelError
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel

LONG = tuple(range(LEAST_ROWS))
WORKLOAD = Workload(prompts=(LONG, LONG[::-1]), new_tokens=4)


@pytest.fixture
def half() -> LoadedModel:
    return TinyModel(dtype="bfloat16").load(torch.device("cpu"))


def test_a_batch_that_runs_as_one_has_the_stamps_of_one_sequence(tiny: LoadedModel) -> None:
    with LocalEngine(tiny).time(WORKLOAD) as model:
        found = [model.request() for _ in range(2)]
    for timed in found:
        assert timed.sequences is not None
        [stamps] = timed.sequences
        assert stamps.inter_token_s is not None
        assert len(stamps.inter_token_s) == 3
        assert 0 == stamps.started < stamps.first_token == stamps.ttft_s < stamps.last_token
        assert sum(stamps.inter_token_s) <= stamps.last_token - stamps.first_token
        assert timed.whole_s == stamps.last_token
    # Keys and values of two layers, two sequences, two heads of twelve numbers.
    assert model.cache_bytes == 2 * 2 * 2 * 2 * 12 * 4 * (LEAST_ROWS + 4)
    assert model.compile_s == 0
    assert model.how.startswith("cache=static|compile=no|attention=")


def test_float32_matmuls_are_a_way_of_the_same_model(half: LoadedModel, tiny: LoadedModel) -> None:
    def types(model: TimedModel) -> dict[str, set[str]]:
        return {phase: set(seen.work) for phase, seen in model.matmuls.items()}

    with LocalEngine(half).time(WORKLOAD) as native:
        widened = native.with_float32_matmuls()
        assert widened is not None
        assert types(native) == {"prefill": {"bfloat16"}, "decode": {"bfloat16"}}
        # The LM head and the decode steps have two rows, too few to be widened.
        assert types(widened) == {"prefill": {"float32", "bfloat16"}, "decode": {"bfloat16"}}
        assert widened.weight_bytes == native.weight_bytes
        assert native.attention_types == ("bfloat16", "float32")
    with LocalEngine(tiny).time(WORKLOAD) as model:
        assert model.with_float32_matmuls() is None


def test_the_state_of_the_engine_is_what_runs_and_is_measured(tiny: LoadedModel) -> None:
    layer = tiny.module.model.layers[0].mlp
    whole, calls = layer.up_proj.weight, []

    class Empty(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(x.shape)
            return x.new_zeros(*x.shape[:-1], whole.shape[0])

    tiny.swap_module("model.layers.0.mlp.up_proj", Empty())
    base = LocalEngine(tiny).baseline("throughput").engine
    with base.time(WORKLOAD) as unquantized, LocalEngine(tiny).time(WORKLOAD) as recipe:
        assert unquantized.weight_bytes == recipe.weight_bytes + whole.nbytes
        assert unquantized.streamed_bytes == recipe.streamed_bytes + whole.nbytes
        calls.clear()
        unquantized.request()
        assert not calls
        assert isinstance(layer.up_proj, Empty)
        recipe.request()
        assert len(calls) == 4


def test_a_model_that_cannot_decode_is_refused_before_anything_is_made(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TimedLocalModel", None)

    def refuse(*_: object) -> None:
        raise ModelError("it has no cache")

    monkeypatch.setattr(module, "check_decoding", refuse)
    with pytest.raises(ModelError, match="no cache"), LocalEngine(tiny).time(WORKLOAD):
        pass


def test_compiled_code_is_dropped_even_after_an_error(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[bool] = []
    monkeypatch.setattr(module, "forget_compiled", lambda: dropped.append(True))
    workload = Workload(prompts=WORKLOAD.prompts, new_tokens=4, compile=True)
    with pytest.raises(KeyError), LocalEngine(tiny).time(workload):
        raise KeyError
    assert dropped == [True]
