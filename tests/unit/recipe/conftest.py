"""A model of any architecture, which goes through a folder."""

from pathlib import Path

import pytest
import torch
import transformers
from architectures import in_memory
from recipe_models import Load
from transformers import AutoModelForCausalLM

from harness.models.loaded import LoadedModel


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def saved_and_loaded(kind: str, **options: object) -> LoadedModel:
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**options)
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        random = torch.Generator().manual_seed(1)
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.data.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
        module.tie_weights()
        module.save_pretrained(tmp_path)
        found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
        return in_memory(found, kind, fingerprint="0")

    return saved_and_loaded
