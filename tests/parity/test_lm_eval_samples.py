"""Every sample of lm-eval's tasks on an engine is the sample on lm-eval's own HFLM, in float32.

Tasks of all kinds: several continuations a context, rolling texts longer than a window, and
generation with stop strings, after 0, 5 and 25 solved examples.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval_model import hflm
from lm_eval_tasks import write_tasks

from harness.engines.lm_eval import EngineLM
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.tasks.chat import PLAIN
from harness.tasks.lm_eval.evaluator import evaluate
from harness.tasks.lm_eval.loading import load_tasks

LENGTH = 512
"""Longest sequence: some prompts with 25 examples lose their beginning, some texts need two."""
NAMES = ("choices", "cloze", "drawn", "pages", "writing")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return TinyModel(seed=2).load(torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    write_tasks(root)
    return root


def samples(model: Any, folder: Path, shots: int) -> dict[str, list[dict[str, Any]]]:
    """Return lm-eval's samples by task."""
    found = load_tasks(NAMES, str(folder), shots, seed=5)
    return evaluate(model, found, NAMES, 6, PLAIN)["samples"]


@pytest.mark.parametrize("shots", [0, 5, 25])
def test_samples_are_those_of_lm_eval(
    loaded: LoadedModel, folder: Path, shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # a copy of the process holds the model again
    plain = hflm(loaded, LENGTH)
    ours = samples(EngineLM(LocalEngine(loaded), LENGTH), folder, shots)
    theirs = samples(plain, folder, shots)
    assert ours.keys() == theirs.keys()
    for name, listed in theirs.items():
        for mine, other in zip(ours[name], listed, strict=True):
            assert mine["arguments"] == other["arguments"]
            if name == "writing":
                assert mine["resps"] == other["resps"]
            else:
                assert numbers(mine) == pytest.approx(numbers(other), abs=1e-4)
    assert any(len(text) > 1 for sample in ours["writing"] for [text] in sample["resps"])


def numbers(sample: dict[str, Any]) -> list[float]:
    """Return ln p of each continuation or text, and whether each continuation is most likely."""
    replies = [reply for [reply] in sample["resps"]]
    return [float(x) for reply in replies for x in (reply if isinstance(reply, tuple) else [reply])]
