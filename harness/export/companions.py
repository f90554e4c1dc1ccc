"""Write the files beside the weights of a model: tokenizer, generation settings, preprocessors of images and sound, code.

Files of a model that came from a folder are copied as they are, because transformers reads some `generation_config.json` that it refuses
to save. The files of other models are saved by transformers. Keys and classes in `tokenizer_config.json` that only transformers 5 knows
get their names in transformers 4, which 5 reads too.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from harness.errors import ModelError
from harness.models.loaded import LoadedModel

TOKENIZER = (
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
OTHERS = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_preprocessor_config.json",
)


def write(loaded: LoadedModel, folder: Path) -> None:
    """Copy or save everything but weights and `config.json`.

    Raises:
        ModelError: transformers refuses to save the generation settings.
    """
    source = loaded.folder
    names = (*TOKENIZER, *OTHERS) if source else ()
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
            f"the generation settings of {loaded.name} must be ones that transformers saves, got: {first}; correct "
            "generation_config.json of the float model"
        ) from reason


def _make_readable(file: Path) -> None:
    """Give what transformers 5 renamed in `tokenizer_config.json` its old names."""
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
