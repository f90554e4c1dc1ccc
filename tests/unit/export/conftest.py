"""A model of any class, and exports that are read back in this process rather than in a child."""

from collections.abc import Callable

import pytest
import torch
from architectures import in_memory
from transformers import PreTrainedConfig, PreTrainedModel

from harness.export import verify
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel

CPU = torch.device("cpu")
Made = Callable[[type[PreTrainedModel], PreTrainedConfig], LoadedModel]


@pytest.fixture(autouse=True)
def _read_back_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "in_child", verify.check_folder)


@pytest.fixture
def made() -> Made:
    return _made


def _made(kind: type[PreTrainedModel], config: PreTrainedConfig) -> LoadedModel:
    """A model of a class in float32, with weights so large that its logits differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind(config).float()
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.data = torch.randn(parameter.shape) * 0.15
    module.tie_weights()
    return in_memory(prepare(module, CPU), "made", fingerprint="seed0")
