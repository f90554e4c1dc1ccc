"""`--help task=mmlu`: the keys of what a command line chooses."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness import config
from harness.cli.keys import help_page
from harness.config import CONF
from harness.errors import ConfigError
from harness.export import command


@pytest.fixture(autouse=True)
def _registered() -> None:
    config.register()
    command.register()


def page(*arguments: str, name: str = "config") -> str:
    found = help_page(["--help", *arguments], name)
    assert found is not None
    return found


def test_each_key_has_its_value_its_type_and_its_meaning() -> None:
    lines = page("task=mmlu").splitlines()
    assert lines[0] == "task=mmlu  (MMLU)"
    at = lines.index("  task.limit=null  (an integer or null)")
    assert lines[at + 1] == "      Questions to draw; null is all."
    assert "  task.data=${data}  (component DataSource)" in lines
    assert "  task.answer: Direct  (component AnswerRule)" in lines
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("task", ["throughput", "divergence", "parity", "matmul", "noise_floor"])
def test_the_page_sends_nobody_to_a_docstring(task: str) -> None:
    title, summary = page(f"task={task}").splitlines()[:2]
    assert title.startswith(f"task={task}  (")
    assert summary.endswith(".")
    assert "docstring" not in summary


def test_choices_of_a_literal_are_listed() -> None:
    assert "  model.dtype=bfloat16  (bfloat16 or float32 or float16)" in page("model=local")


def test_a_key_that_must_be_given_has_no_value() -> None:
    assert "  model.path  (a text)" in page("model=local").splitlines()


def test_parts_of_a_recipe_are_listed_below_it() -> None:
    lines = page("+quant=int8_group").splitlines()
    assert lines[0] == "quant=int8_group  (QuantRecipe)"
    for expected in (
        "  quant.group_size=128  (an integer or null)",
        "  quant.rules  (a mapping from names to component LayerRule)",
        "  quant.rules.linear: LayerRule",
        "  quant.rules.linear.weight: BlockScaled  (component TensorFormat)",
        "  quant.rules.linear.weight.element.bits=8  (an integer)",
    ):
        assert expected in lines


def test_what_the_words_change_is_shown_as_changed() -> None:
    words = ("task=mmlu", "task.limit=8", "+quant=int8_row", "backend@quant.backend=scaled_mm")
    lines = page(*words).splitlines()
    assert "  task.limit=8  (an integer or null)" in lines
    assert "  quant.backend: ScaledMMBackend  (component Backend)" in lines
    assert lines.index("task=mmlu  (MMLU)") < lines.index("quant=int8_row  (QuantRecipe)")


def test_layouts_of_the_export_have_keys_too() -> None:
    assert page("layout=gptq", name="export").startswith("layout=gptq  (Gptq)\n")


def test_a_folder_of_the_users_own_counts(tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"
    (folder / "task").mkdir(parents=True)
    text = (CONF / "task" / "mmlu.yaml").read_text().replace("seed: 42", "seed: 7")
    (folder / "task" / "own.yaml").write_text(text)
    found = page("--config-dir", str(folder), "task=own")
    assert "  task.seed=7  (an integer)" in found


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["task=mmlu"], ["--help", "device=cpu"], ["--hydra-help"], ["--help", "-m"]],
)
def test_without_help_or_a_component_there_is_no_page(arguments: list[str]) -> None:
    assert help_page(arguments, "config") is None


def test_a_foreign_class_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match="name its package in allow_targets"):
        page("task=mmlu", "task.answer._target_=os.path.join")


def test_every_key_of_every_option_is_listed_in_one_page_an_option() -> None:
    listed: dict[str, Any] = {}
    for group in ("task", "model", "data"):
        for file in sorted((CONF / group).glob("*.yaml")):
            found = page(f"{group}={file.stem}")
            keys = [key for key in OmegaConf.load(file) if key not in ("_target_", "defaults")]
            listed[file.stem] = [key for key in keys if f"\n  {group}.{key}" not in found]
    assert {name: keys for name, keys in listed.items() if keys} == {}
    assert len(listed) > 20
