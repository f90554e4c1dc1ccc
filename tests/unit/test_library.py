"""The front door for Python: one call, one record, and a process that is as it was."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from repository import ROOT

import harness
from harness.claims.at_once import NO_BASELINE
from harness.errors import ConfigError, HarnessError, UnsupportedRecipe
from harness.models import cache
from harness.results.record import RunRecord, Status
from harness.results.store import ResultStore

Run = Callable[..., RunRecord]
SMALL = ("model=tiny", "data=embedded", "device=cpu", "task.window=64", "task.limit_windows=2")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`harness.run` in an empty folder, on the tiny model."""
    monkeypatch.chdir(tmp_path)
    cache._held.clear()
    return lambda *words, **keys: harness.run(*SMALL, *words, **keys)


def test_importing_the_package_is_instant_and_shows_its_functions() -> None:
    heavy = ("torch", "pandas", "numpy", "hydra", "omegaconf", "transformers", "pydantic")
    code = (
        "import sys, harness; "
        f"print([name for name in {heavy} if name in sys.modules]); "
        "print({'run', 'load_results'} <= set(dir(harness)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'harness' has no attribute 'rum'"):
        harness.rum  # noqa: B018


def test_a_run_is_filed_returned_and_found_again(run: Run) -> None:
    first = run("quant=int8_row", task="perplexity")
    assert first.status is Status.OK
    assert first.recipe == "int8_row"
    assert first.metrics[0].name == "perplexity"
    again = run("+quant=int8_row")
    assert again == first, "an identical run is on file"
    [stored] = ResultStore(root=Path("results")).load()[0]
    assert stored.record == first
    assert set(harness.load_results("results")["recipe"]) == {"int8_row"}


def test_keywords_are_python_values(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "it's [mine], ${here}"
    record = run(
        quant="int8_group",
        results_dir=folder,
        force=True,
        **{"quant.group_size": 32, "task.batch_tokens": None, "quant.skip": ["lm_head"]},
    )
    assert ResultStore(root=folder).load()[0][0].record == record
    assert record.recipe == "int8_g32 (skip=[lm_head])"
    assert record.config["quant"]["skip"] == ["lm_head"]
    assert record.config["engine"]["batch_tokens"] is None


def test_the_record_names_the_command_line_that_repeats_the_run(run: Run) -> None:
    record = run(task="perplexity", **{"quant.name": "none"})
    words = " ".join(SMALL)
    assert record.command == f"python -m harness {words} task=perplexity quant.name=none"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=mmluu"], r"task must be one of its options, got mmluu; did you mean task=mmlu\?"),
        (["quant=none,int8_row"], r"a call must be one run, got \+quant=none,int8_row, which is a"),
        (["experiment=formats"], "a call must be one run, got an experiment, which is a sweep"),
        (["-m"], "a word must be KEY=VALUE in Python, got the flag -m"),
        (["--version"], "got the flag --version"),
        (["task.limt=3"], r"did you mean task\.limit_windows\?"),
        (["+typo=3"], "every key of the configuration must be one of model, task"),
        (["task.window=abc"], "window must be an integer, got 'abc'"),
        (["mmlu"], r"did you mean task=mmlu\?"),
        (["task.window=(]"], "must be a plain text, a number"),
    ],
)
def test_a_mistake_is_raised_and_said_as_on_the_command_line(
    words: list[str], said: str, run: Run
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(*words)
    assert not Path("results").exists()


@pytest.mark.parametrize("word", [("model=tiny", "data=embedded"), {"task": "mmlu"}, None])
def test_a_word_that_is_no_text_is_a_mistake(word: Any) -> None:
    got = type(word).__name__
    with pytest.raises(ConfigError, match=f"a word must be a text such as 'task=mmlu', got {got}"):
        harness.run(word)


def test_a_run_that_is_not_supported_is_raised_and_filed(run: Run) -> None:
    words = ["task=throughput", "quant=int8_row", "~task.window", "~task.limit_windows"]
    with pytest.raises(HarnessError):
        run(*words)
    with pytest.raises(UnsupportedRecipe, match="has no speed of its own"):
        harness.run(*SMALL[:3], "task=throughput", "quant=int8_row")
    [stored] = ResultStore(root=Path("results")).load()[0]
    assert stored.record.status is Status.UNSUPPORTED


def state_of_the_process() -> dict[str, Any]:
    ours = logging.getLogger("harness")
    return {
        "hydra": GlobalHydra.instance().hydra,
        "instances": dict(Singleton._instances),
        "store": {name: id(node) for name, node in ConfigStore.instance().repo.items()},
        "resolvers": dict(BaseContainer._resolvers),
        "argv": list(sys.argv),
        "orig_argv": list(sys.orig_argv),
        "factory": logging.getLogRecordFactory(),
        "handlers": (list(ours.handlers), list(logging.root.handlers)),
        "levels": (ours.level, logging.getLogger("torchao").level, logging.root.level),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "streams": (sys.stdout, sys.stderr),
    }


def test_the_process_is_as_it_was(run: Run) -> None:
    before = state_of_the_process()
    run()
    with pytest.raises(ConfigError):
        run("task=mmluu")
    after = state_of_the_process()
    assert {key: after[key] for key in before if after[key] != before[key]} == {}


def test_a_hydra_program_around_the_call_keeps_its_configuration(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "main.yaml").write_text("base_run: 1\nmodel: ${mine:2}\n")
    resolvers = {n: each for n, each in BaseContainer._resolvers.items() if n != "results_folder"}
    monkeypatch.setattr(BaseContainer, "_resolvers", resolvers)
    OmegaConf.register_new_resolver("mine", lambda number: number * 2, replace=True)
    ConfigStore.instance().store(name="base_run", node={"their": "own"})
    try:
        with initialize_config_dir(version_base="1.2", config_dir=str(theirs)):
            cfg = compose("main", return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            assert run().status is Status.OK
            assert HydraConfig.get().job.config_name == "main"
            again = compose("main")
        assert again == {"base_run": 1, "model": 4}
        assert ConfigStore.instance().load("base_run.yaml").node == {"their": "own"}
        assert not OmegaConf.has_resolver("results_folder")
    finally:
        del ConfigStore.instance().repo["base_run.yaml"]
        Singleton._instances.pop(HydraConfig, None)


def test_progress_is_shown_as_on_the_command_line_if_the_program_logs_nothing(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    run("quant=int8_row")
    printed = capsys.readouterr()
    assert printed.out == ""
    first, headline, compared = printed.err.splitlines()
    assert first.endswith("INFO int8_row: measuring perplexity")
    assert "INFO int8_row perplexity: perplexity " in headline
    assert "n = 126 tokens" in headline
    assert compared.endswith(f"INFO {NO_BASELINE}")


def test_published_figures_are_named_as_on_the_command_line(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr("harness.library.check", lambda record: [f"published {record.recipe}"])
    run("quant=int8_row")
    assert capsys.readouterr().err.splitlines()[-1].endswith("INFO published int8_row")


def test_a_program_that_logs_gets_the_lines_at_its_level(
    run: Run,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])
    with caplog.at_level(logging.INFO, "harness"):
        run()
    assert any(line.endswith("measuring perplexity") for line in caplog.messages)
    assert capsys.readouterr().err == ""


def test_secrets_are_masked_in_log_lines_and_in_the_command(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ThisIsASecretOfMine")
    with caplog.at_level(logging.INFO, "harness"):
        record = run(**{"quant.name": "none", "results_dir": "hf_ThisIsASecretOfMine"})
    assert "ThisIsASecret" not in record.command
    assert "ThisIsASecret" not in caplog.text
