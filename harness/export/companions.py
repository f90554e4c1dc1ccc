"""Write the files beside the weights: tokenizer, generation settings, preprocessors, code.

If the model came from a folder, its files are copied: transformers reads some
`generation_config.json` that it does not save. Otherwise transformers saves them. Keys and classes
of `tokenizer_config.json` that only transformers 5 knows get their names in transformers 4, which 5
reads too.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from harness.errors import ModelError
from harness.models.loaded import LoadedModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
OTHER_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_preprocessor_config.json",
)


def write_companions(loaded: LoadedModel, folder: Path) -> None:
    """Copy or save all files of a model except its weights and `config.json`.

    Raises:
        ModelError: transformers does not save the generation settings.
    """
    source = loaded.folder
    names = (*TOKENIZER_FILES, *OTHER_FILES) if source else ()
    present = [name for name in names if source and (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, folder / name)  # type: ignore[operator]
    if source and getattr(loaded.module.config, "auto_map", None):
        for file in source.glob("*.py"):
            shutil.copyfile(file, folder / file.name)
    if "tokenizer.json" not in present:
        loaded.tokenizer.save_pretrained(folder)
    _make_readable(folder / "tokenizer_config.json")
    if "generation_config.json" not in present:
        _save_generation(loaded, folder)


def _save_generation(loaded: LoadedModel, folder: Path) -> None:
    module = loaded.module
    if not module.can_generate() or module.generation_config is None:
        return
    try:
        module.generation_config.save_pretrained(folder)
    except ValueError as reason:
        first = str(reason).strip().splitlines()[0]
        raise ModelError(
            f"the generation settings of {loaded.name} must be ones that transformers saves, got: "
            f"{first}; correct generation_config.json of the unquantized model"
        ) from reason


def _make_readable(file: Path) -> None:
    """Rename in `tokenizer_config.json` what transformers 4 knows under another name."""
    if not file.is_file():
        return
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    before = dict(settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    if settings != before:
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
