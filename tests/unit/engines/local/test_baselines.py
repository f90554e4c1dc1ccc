"""Baselines: a second model, the model without its recipe, or unsupported."""

import copy
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from scipy import special
from scipy import stats as scipy_stats
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from harness import config
from harness.config import CONF
from harness.data.embedded import EmbeddedData
from harness.data.text_file import TextFile
from harness.engines.local.engine import LocalEngine
from harness.errors import HarnessError, ModelError, UnsupportedRecipe
from harness.export.job import run as export
from harness.machine import peaks as machine
from harness.models import cache
from harness.models.checkpoints.prequantized import Prequantized
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import TinyModel, byte_tokenizer
from harness.results.record import RunRecord, Status
from harness.results.store import read
from harness.runner.run import RunSpec, run
from harness.tasks.divergence.divergence import Divergence

CPU = torch.device("cpu")
LENGTH, COUNT = 64, 6
GROUP = 16  # divides the widths of the tiny model, 48 and 80
RECIPE = ("+quant=int4_g64", f"quant.group_size={GROUP}")
WINDOWS = (f"task.window={LENGTH}", f"task.limit_windows={COUNT}")
DIVERGENCE = ("task=divergence", *WINDOWS)

Run = Callable[..., RunRecord]


@pytest.fixture(scope="module", autouse=True)
def _own_models() -> Iterator[None]:
    """Models are held from test to test, as in a sweep, and none is left for other files."""
    cache._held.clear()
    yield
    cache._held.clear()


def saved(folder: Path, seed: int = 0) -> Path:
    """Save the tiny model."""
    loaded = TinyModel(seed=seed).load(CPU)
    loaded.module.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def composed(name: str, *overrides: str) -> dict[str, Any]:
    """Return a resolved configuration, to be copied; composing takes longer than a small run."""
    config.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(name, overrides=["device=cpu", *overrides])
        if name == "config":
            return config.resolve(cfg)
        from harness.export.command import resolve

        return resolve(cfg)


def of_folder(folder: Path, key: str = "model") -> tuple[str, ...]:
    choice = f"{key}=local" if key == "model" else f"+model@{key}=local"
    return choice, f"{key}.path={folder}", f"{key}.dtype=float32"


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "float")


@pytest.fixture(scope="module")
def checkpoint(float_folder: Path) -> Path:
    """Export the float folder in INT4."""
    from harness.export import command

    command.register()
    out = float_folder.with_name("int4")
    export(composed("export", "data=embedded", *of_folder(float_folder), *RECIPE, f"out={out}"))
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the embedded text: all of a text is tokenized before windows are cut."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(EmbeddedData().text().text[: 2 * COUNT * LENGTH], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of an unquantized model and of its bitsandbytes form, which keeps codes in memory."""
    pytest.importorskip("bitsandbytes")
    root = tmp_path_factory.mktemp("bitsandbytes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=261,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=256,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
    module.save_pretrained(root / "float")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantized = AutoModelForCausalLM.from_pretrained(
        root / "float", dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"}
    )
    quantized.save_pretrained(root / "nf4")
    for name in ("float", "nf4"):
        byte_tokenizer().save_pretrained(root / name)
    return root / "float", root / "nf4"


def filed(results: Path, text: Path, *overrides: str) -> RunRecord:
    """Run a command line; return its record, however the run ended."""
    data = () if "data=embedded" in overrides else ("data=text", f"data.path={text}")
    resolved = copy.deepcopy(composed("config", *data, *overrides))
    resolved["results_dir"] = str(results)
    spec = RunSpec.build(resolved)
    before = set(results.glob("*/*/*.json"))
    try:
        path = run(spec).path
    except HarnessError:
        (path,) = set(results.glob("*/*/*.json")) - before
    return read(path)


@pytest.fixture
def file(tmp_path: Path, text: Path) -> Run:
    """A function that runs a command line with a results folder of this test."""
    return functools.partial(filed, tmp_path / "results", text)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Run:
    """The same for runs that several tests read: each command runs once."""
    return functools.cache(functools.partial(filed, tmp_path_factory.mktemp("results"), text))


def value(record: RunRecord, name: str) -> float:
    metric = record.metric(name)
    assert metric is not None
    assert metric.value is not None
    return metric.value


def log_probs(module: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = module(torch.tensor([ids])).logits[0, :-1]
    return special.log_softmax(logits.double().numpy(), axis=-1)


def dequantized(folder: Path, float_folder: Path) -> Any:
    """Return the model with weights unpacked from the checkpoint: eight codes a word, offset 8."""
    module = AutoModelForCausalLM.from_pretrained(float_folder, dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    for name, parameter in module.named_parameters():
        packed = tensors.get(f"{name}_packed")
        if packed is None:
            continue
        words = packed.numpy().view(np.uint32)
        codes = np.stack([(words >> (4 * place)) & 15 for place in range(8)], axis=-1)
        rows, columns = parameter.shape
        numbers = codes.reshape(rows, -1)[:, :columns].astype(np.float32) - 8
        scale = tensors[f"{name}_scale"].float().numpy().repeat(GROUP, axis=1)
        parameter.data = torch.from_numpy(numbers * scale)
    return module


def test_checkpoint_beside_its_float_model_is_two_plain_models(
    once: Run, checkpoint: Path, float_folder: Path
) -> None:
    record = once(*of_folder(checkpoint), *of_folder(float_folder, "model.baseline"), *DIVERGENCE)
    ids = byte_tokenizer()(EmbeddedData().text().text)["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(float_folder, dtype=torch.float32)
    other = dequantized(checkpoint, float_folder)
    kl, nll = [], []
    for start in range(0, COUNT * LENGTH, LENGTH):
        window = ids[start : start + LENGTH]
        p, q = log_probs(base, window), log_probs(other, window)
        kl += scipy_stats.entropy(np.exp(p), np.exp(q), axis=-1).tolist()
        nll += (-p[np.arange(LENGTH - 1), window[1:]]).tolist()
    assert np.mean(kl) > 0.1
    # Sums of float32 in another order, through two layers.
    assert value(record, "kl_mean") == pytest.approx(np.mean(kl), rel=1e-4)
    assert value(record, "ppl_baseline") == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)


def test_export_has_the_divergence_of_the_recipe_in_memory(
    once: Run, checkpoint: Path, float_folder: Path
) -> None:
    beside = once(*of_folder(checkpoint), *of_folder(float_folder, "model.baseline"), *DIVERGENCE)
    in_memory = once(*of_folder(float_folder), *RECIPE, *DIVERGENCE)
    # Codes and scales are the same, and both multiply in float32.
    assert value(beside, "kl_mean") == pytest.approx(value(in_memory, "kl_mean"), rel=1e-5)
    assert value(beside, "same_top") == value(in_memory, "same_top")


def test_record_names_the_baseline(file: Run, checkpoint: Path, float_folder: Path) -> None:
    ends = DIVERGENCE[0], f"task.window={LENGTH}", "task.limit_windows=1"
    record = file(*of_folder(checkpoint), *of_folder(float_folder, "model.baseline"), *ends)
    fingerprint = LocalModel(path=str(float_folder)).fingerprint()
    assert record.model is not None
    assert record.baseline is not None
    assert record.model.baseline == record.baseline.fingerprint == fingerprint
    assert record.model.fingerprint != fingerprint
    assert (record.baseline.relation, record.baseline.dtype) == ("second model", "float32")
    assert record.baseline.origin.startswith("float checkpoint")
    own = file(*of_folder(float_folder), *RECIPE, *ends)
    assert own.baseline is not None
    assert own.baseline.relation == "own float weights"
    alone = file(*of_folder(float_folder), *ends)
    assert alone.baseline is not None
    assert alone.baseline.relation == "itself"
    assert any("compared with itself" in warning for warning in alone.warnings)


@pytest.mark.parametrize("task", ["divergence", "noise_floor"])
def test_checkpoint_without_its_float_model_is_unsupported_and_the_flag_is_named(
    file: Run, checkpoint: Path, task: str
) -> None:
    record = file(*of_folder(checkpoint), f"task={task}", *WINDOWS)
    assert record.status is Status.UNSUPPORTED
    assert not record.metrics
    assert "+model@model.baseline=" in str(record.error)


@pytest.mark.parametrize("recipe", [(), ("+quant=int8_row_real",)], ids=["none", "recipe"])
def test_parity_of_a_checkpoint_has_no_meaning(
    file: Run, checkpoint: Path, recipe: tuple[str, ...]
) -> None:
    record = file(*of_folder(checkpoint), "task=parity", *recipe)
    assert record.status is Status.UNSUPPORTED
    assert "which has no recipe" in str(record.error)
    assert "task=divergence +model@model.baseline=" in str(record.error)


def test_noise_floor_of_a_checkpoint_is_that_of_its_float_model_and_says_so(
    file: Run, checkpoint: Path, float_folder: Path
) -> None:
    ends = ("task=noise_floor", f"task.window={LENGTH}", "task.limit_windows=3")
    beside = file(*of_folder(checkpoint), *of_folder(float_folder, "model.baseline"), *ends)
    alone = file(*of_folder(float_folder), *ends)
    # The same operations on the same weights.
    assert [m.value for m in beside.metrics] == [m.value for m in alone.metrics]
    assert beside.baseline is not None
    assert beside.baseline.relation == "second model"
    assert any("the checkpoint was not run" in warning for warning in beside.warnings)
    assert alone.baseline is not None
    assert alone.baseline.relation == "itself"


def test_speed_of_codes_is_beside_that_of_the_float_model(
    file: Run, four_bits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measuring the machine takes longer than all else.
    monkeypatch.setattr(machine, "peaks", lambda _, asked, **__: dict.fromkeys(asked, 1e18))
    float_model, codes = four_bits
    short = ("task.prompt_tokens=4", "task.new_tokens=2", "task.rounds=10")
    alone = file(*of_folder(codes), "task=throughput", *short)
    assert alone.status is Status.UNSUPPORTED
    assert "+model@model.baseline=" in str(alone.error)
    both = file(
        *of_folder(codes), *of_folder(float_model, "model.baseline"), "task=throughput", *short
    )
    assert both.status is Status.OK, both.error
    assert both.baseline is not None
    assert both.baseline.relation == "second model"
    for name in ("decode_ratio", "prefill_ratio", "baseline_decode", "decode"):
        assert value(both, name) > 0
    # Layers take half a byte a weight; embedding and head, 45 % of the model, take four. So the
    # memory tells which model is which.
    floats = 4 * sum(p.numel() for p in load(float_model).module.parameters())
    assert value(both, "weight_bytes") < 0.6 * floats


def test_answers_to_questions_are_compared_with_the_float_model_s(
    file: Run, checkpoint: Path, float_folder: Path
) -> None:
    ends = (
        *("task=divergence", f"task.window={LENGTH}", "task.limit_windows=1"),
        *("+task@task.questions=mmlu", "task.questions.shots=0", "task.questions.limit=12"),
        "data=embedded",
    )
    beside = file(*of_folder(checkpoint), *of_folder(float_folder, "model.baseline"), *ends)
    in_memory = file(*of_folder(float_folder), *RECIPE, *ends)
    for name in ("flips", "answer_disagreement", "accuracy", "accuracy_baseline"):
        assert value(beside, name) == value(in_memory, name)
    assert value(beside, "answer_disagreement") > 0


def load(folder: Path, **options: Any) -> LoadedModel:
    return LocalModel(path=str(folder), dtype="float32", **options).load(CPU)


@pytest.fixture(scope="module")
def loaded_checkpoint(checkpoint: Path) -> LoadedModel:
    """The checkpoint in memory, without a baseline."""
    return load(checkpoint)


def compare(loaded: LoadedModel, base: LocalModel, text: Path) -> Any:
    """Return the divergence of a model from a baseline."""
    task = Divergence(data=TextFile(path=str(text)), window=LENGTH, limit_windows=1)
    return task.run(LocalEngine(replace(loaded, baseline=base)))


def test_another_tokenizer_is_refused(
    loaded_checkpoint: LoadedModel, text: Path, tmp_path: Path
) -> None:
    other = saved(tmp_path / "other")
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["e"], vocab["t"] = vocab["t"], vocab["e"]
    Tokenizer.from_str(json.dumps(tokenizer)).save(str(path))
    base = LocalModel(path=str(other), dtype="float32")
    with pytest.raises(ModelError, match="must have the tokenizer of the model"):
        compare(loaded_checkpoint, base, text)


def test_another_vocabulary_is_refused(
    loaded_checkpoint: LoadedModel, text: Path, tmp_path: Path
) -> None:
    loaded = TinyModel().load(CPU)
    loaded.module.resize_token_embeddings(300)
    loaded.module.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    base = LocalModel(path=str(tmp_path), dtype="float32")
    with pytest.raises(ModelError, match=r"vocabulary of the model \(261 tokens\).* with 300"):
        compare(loaded_checkpoint, base, text)


def test_model_of_another_depth_is_refused(
    loaded_checkpoint: LoadedModel, text: Path, tmp_path: Path
) -> None:
    """It has the tokenizer and the vocabulary, and still the checkpoint was not made of it."""
    loaded = TinyModel().load(CPU)
    layers = loaded.module.model.layers
    loaded.module.model.layers = layers[:1]
    loaded.module.config.num_hidden_layers = 1
    loaded.module.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    base = LocalModel(path=str(tmp_path), dtype="float32")
    with pytest.raises(
        ModelError, match=r"sizes of the model .*\(2 layers .* with 1 layers of width"
    ):
        compare(loaded_checkpoint, base, text)


def test_quantized_baseline_is_refused(
    loaded_checkpoint: LoadedModel, checkpoint: Path, float_folder: Path, text: Path
) -> None:
    base = LocalModel(path=str(checkpoint), dtype="float32")
    # The checkpoint itself is refused as its own baseline before that.
    with pytest.raises(ModelError, match=r"model\.baseline must be another model"):
        compare(loaded_checkpoint, base, text)
    with pytest.raises(ModelError, match=r"model\.baseline must be an unquantized model"):
        compare(load(float_folder), base, text)


def test_model_is_no_baseline_of_itself(float_folder: Path, text: Path) -> None:
    base = LocalModel(path=str(float_folder), dtype="float32", name="another name")
    with pytest.raises(ModelError, match="must be another model than the one that is measured"):
        compare(load(float_folder), base, text)


def test_other_type_of_the_baseline_is_said(
    loaded_checkpoint: LoadedModel, float_folder: Path, text: Path
) -> None:
    result = compare(loaded_checkpoint, LocalModel(path=str(float_folder)), text)
    assert result.baseline.dtype == "bfloat16"
    assert any("set model.baseline.dtype=float32" in warning for warning in result.warnings)


def test_unquantized_form_is_not_the_baseline_that_is_named(
    tiny: LoadedModel, float_folder: Path
) -> None:
    base = LocalModel(path=str(float_folder), dtype="float32")
    engine = LocalEngine(replace(tiny, baseline=base, fingerprint="another model"))
    assert engine.baseline("divergence").info.relation == "second model"
    assert engine.unquantized("noise_floor").info.relation == "itself"


BLOCKS = Prequantized(
    method="gguf",
    scheme="Q4_0",
    kind="fake-quant",
    num_parameters=100,
    num_quantized=64,
    packed_bits=288,
    file_bytes=108,
    stored_bytes=400,
)
"""What is known of a GGUF file of blocks."""


def test_codes_that_were_dequantized_are_no_float_model(tiny: LoadedModel) -> None:
    """What a GGUF file of blocks gives: float weights that were quantized before."""
    tiny.dequantized = BLOCKS
    try:
        with pytest.raises(UnsupportedRecipe, match=r"\+model@model\.baseline="):
            LocalEngine(tiny).baseline("divergence")
        tiny.swap_parameter(tiny.module.lm_head, "weight", torch.zeros(261, 48))
        assert LocalEngine(tiny).baseline("divergence").info.relation == "own float weights"
    finally:
        tiny.dequantized = None


def test_old_record_of_a_checkpoint_beside_itself_is_measured_again(
    file: Run, checkpoint: Path, float_folder: Path, tmp_path: Path
) -> None:
    ends = ("task=divergence", f"task.window={LENGTH}", "task.limit_windows=1")
    command = (*of_folder(checkpoint), *of_folder(float_folder, "model.baseline"), *ends)
    first = file(*command)
    assert file(*command).run_id == first.run_id
    (path,) = tmp_path.glob("results/*/*/*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"baseline": None}), encoding="utf-8")
    again = file(*command)
    assert again.run_id != first.run_id
    assert again.baseline is not None


def test_dequantized_file_has_no_speed_of_its_own(file: Run) -> None:
    tiny = cache.load(TinyModel(), CPU)
    tiny.dequantized = BLOCKS
    try:
        record = file("model=tiny", "task=throughput")
    finally:
        tiny.dequantized = None
    assert record.status is Status.UNSUPPORTED
    assert "must be multiplied as it is stored to have a speed" in str(record.error)


def test_changed_float_folder_is_measured_again(
    file: Run, checkpoint: Path, tmp_path: Path
) -> None:

    base = saved(tmp_path / "base")
    ends = ("task=divergence", f"task.window={LENGTH}", "task.limit_windows=1")
    command = (*of_folder(checkpoint), *of_folder(base, "model.baseline"), *ends)
    first = file(*command)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    cache._held.clear()
    second = file(*command)
    assert second.run_id != first.run_id
    assert value(second, "kl_mean") != value(first, "kl_mean")
