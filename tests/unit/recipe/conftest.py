"""A model of any architecture, which goes through a folder."""

from pathlib import Path

import pytest
import torch
import transformers
from recipe_models import Load
from transformers import AutoModelForCausalLM

from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer


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
        return LoadedModel(
            module=found,
            tokenizer=byte_tokenizer(),
            name=kind,
            dtype=torch.float32,
            device=torch.device("cpu"),
            fingerprint="0",
        )

    return saved_and_loaded
