"""config.json by the rules of transformers 4, which takes its default for a missing key.

The rules were read in transformers 4.57.6, and 44 configurations written here were read by it in an
environment of its own, all of them equal in every field.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    BambaConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2VLConfig,
    StableLmConfig,
)

from harness.errors import UnsupportedRecipe
from harness.export import model_config
from harness.export.model_config import write_config

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
DEFAULT = {"rope_type": "default"}


def written(config: PreTrainedConfig, folder: Path, **changes: Any) -> dict[str, Any]:
    """Write a configuration, see that transformers of today reads the same, and return the JSON."""
    write_config(folder / "config.json", config, changes)
    read = AutoConfig.from_pretrained(folder).get_text_config().rope_parameters
    wanted = config.get_text_config().rope_parameters
    for key, value in wanted.items():
        assert read[key] == value or {**read[key], **value} == read[key]
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def old_llama(config: dict[str, Any]) -> dict[str, Any]:
    """What `LlamaConfig` of transformers 4 and `_compute_*_parameters` take from a JSON."""
    scaling = config.get("rope_scaling")
    return {
        "theta": config.get("rope_theta", 10000.0),
        "kind": scaling.get("rope_type", scaling.get("type")) if scaling else "default",
        "scaling": scaling,
        "partial": config.get("partial_rotary_factor", 1.0),
    }


def test_the_base_of_rotary_positions_is_where_old_readers_look(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, rope_parameters=DEFAULT | {"rope_theta": 100000.0})
    found = old_llama(written(config, tmp_path))
    assert found == {"theta": 100000.0, "kind": "default", "scaling": None, "partial": 1.0}


def test_without_the_old_keys_they_take_another_base(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, rope_parameters=DEFAULT | {"rope_theta": 100000.0})
    config.save_pretrained(tmp_path)
    found = old_llama(json.loads((tmp_path / "config.json").read_text("utf-8")))
    assert found["theta"] == 10000.0, "the fault; if this fails transformers writes the key itself"


def test_scaled_positions_are_written_in_the_old_form(tmp_path: Path) -> None:
    found = old_llama(
        written(Qwen2Config(**SIZES, rope_parameters=YARN | {"rope_theta": 1e6}), tmp_path)
    )
    assert (found["theta"], found["kind"]) == (1e6, "yarn")
    assert found["scaling"] == YARN | {"type": "yarn"}


def test_a_part_of_the_head_that_rotates(tmp_path: Path) -> None:
    rope = DEFAULT | {"rope_theta": 5e4, "partial_rotary_factor": 0.5}
    found = old_llama(written(StableLmConfig(**SIZES, rope_parameters=rope), tmp_path))
    assert (found["theta"], found["partial"], found["scaling"]) == (5e4, 0.5, None)


def test_gpt_neox_has_names_of_its_own(tmp_path: Path) -> None:
    rope = DEFAULT | {"rope_theta": 5e4, "partial_rotary_factor": 0.5}
    found = written(GPTNeoXConfig(**SIZES, rope_parameters=rope), tmp_path)
    assert (found["rotary_emb_base"], found["rotary_pct"]) == (5e4, 0.5)


def test_phi3_takes_three_fields_and_its_length_at_the_top(tmp_path: Path) -> None:
    config = Phi3Config(
        **SIZES,
        vocab_size=300,
        pad_token_id=0,
        rope_parameters=LONG | {"rope_theta": 1e5},
        original_max_position_embeddings=128,
    )
    found = written(config, tmp_path)
    assert found["rope_scaling"] == {
        "type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
    }
    assert found["original_max_position_embeddings"] == 128
    assert found["rope_theta"] == 1e5


LAYERED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}
OLD_GEMMA3 = {
    "rope_theta": 2e6,
    "rope_local_base_freq": 2e4,
    "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 8.0},
}


def test_two_kinds_of_layers_in_gemma_3(tmp_path: Path) -> None:
    found = written(Gemma3TextConfig(**SIZES, rope_parameters=LAYERED), tmp_path)
    assert {key: found[key] for key in OLD_GEMMA3} == OLD_GEMMA3


def test_two_kinds_of_layers_with_one_base_in_olmo_3(tmp_path: Path) -> None:
    rope = {
        "full_attention": YARN | {"rope_theta": 5e5, "attention_factor": 1.2},
        "sliding_attention": DEFAULT | {"rope_theta": 5e5},
    }
    found = written(Olmo3Config(**SIZES, rope_parameters=rope), tmp_path)
    assert found["rope_theta"] == 5e5
    assert found["rope_scaling"]["type"] == "yarn"
    assert "rope_local_base_freq" not in found


def test_the_text_model_inside_a_wrapper(tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = SIZES | {"rope_parameters": LAYERED, "dtype": "bfloat16"}
    config = Gemma3Config(text_config=text, vision_config=vision)
    found = written(config, tmp_path, dtype="bfloat16")
    assert {key: found["text_config"][key] for key in OLD_GEMMA3} == OLD_GEMMA3
    assert "rope_theta" not in found
    assert found["torch_dtype"] == found["dtype"] == "bfloat16"
    assert found["text_config"]["torch_dtype"] == "bfloat16"


def test_positions_in_three_directions(tmp_path: Path) -> None:
    text = SIZES | {"rope_parameters": DEFAULT | {"rope_theta": 1e5, "mrope_section": [2, 3, 3]}}
    config = Qwen2VLConfig(
        text_config=text, vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2}
    )
    found = written(config, tmp_path)["text_config"]
    assert found["rope_theta"] == 1e5
    assert found["rope_scaling"]["mrope_section"] == [2, 3, 3]
    assert found["rope_scaling"]["type"] == "default"


def test_infinity_is_a_number(tmp_path: Path) -> None:
    config = BambaConfig(
        **SIZES,
        mamba_n_heads=16,
        mamba_d_head="auto",
        rope_parameters=DEFAULT | {"rope_theta": 1e4},
    )
    assert written(config, tmp_path)["time_step_limit"] == [0.0, float("inf")]


def test_a_file_that_is_read_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        model_config, "_flat", lambda rope, _: {"rope_scaling": dict(rope) | {"rope_theta": 1.0}}
    )
    config = LlamaConfig(**SIZES, rope_parameters=DEFAULT | {"rope_theta": 100000.0})
    with pytest.raises(UnsupportedRecipe, match=r"'rope_theta': 100000\.0.*it reads.*1\.0"):
        write_config(tmp_path / "config.json", config, {})
