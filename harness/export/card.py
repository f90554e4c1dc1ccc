"""What an exported folder says of itself: a manifest for programs, a model card for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.models.loaded import LoadedModel
from harness.output.export_folder import MANIFEST, README, write_json
from harness.recipe import Quantized

CARD = """\
---
library_name: transformers
tags: [quantized, {layout}]
---
# {model}, {recipe}

{origin} quantized by [quant-harness](https://github.com/quant-harness/quant-harness) {version}:

    {command}

| | |
|---|---|
| recipe | `{recipe}` (configuration {config_hash}) |
| weights | {formats} |
| activations | {inputs} |
| layout | `{layout}`{scheme} |
| quantized | {share:.1%} of the parameters, {bits:.3f} bits a weight with scales |
| size | {size:.1f} MB |
| stored scales | {scales} |

Not quantized: {skipped}.

`{manifest}` has every layer, the whole configuration and the SHA-256 of each weights file.
"""


def model_facts(loaded: LoadedModel) -> dict[str, Any]:
    """Return the identity of the unquantized model."""
    return {
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "revision": loaded.revision,
        "origin": loaded.origin,
        "weights": loaded.weights,
        "dtype": loaded.dtype_name,
    }


def quantization_facts(quantized: Quantized, scale_errors: Mapping[str, float]) -> dict[str, Any]:
    """Return what the recipe did, layer by layer."""
    report = quantized.report
    return {
        "recipe": report.name,
        "formats": dict(report.formats),
        "input_formats": dict(report.input_formats),
        "calibration": report.calibration and report.calibration.model_dump(mode="json"),
        "coverage": report.coverage,
        "bits_per_weight": report.bits_per_weight,
        "warnings": list(quantized.warnings),
        "skipped": [skipped.model_dump(mode="json") for skipped in report.skipped],
        "layers": [
            {
                "name": layer.name,
                "rule": layer.rule,
                "format": layer.format,
                "shape": list(layer.shape),
                "rel_error": layer.rel_error,
                "stored_bytes": layer.stored_bytes,
                "scale_error": scale_errors[layer.name],
            }
            for layer in report.layers
        ],
    }


def write_card(folder: Path, manifest: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write manifest and model card. Call it last: the manifest lists all files of the folder."""
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    write_json(folder / MANIFEST, {**manifest, "files": sorted({*files, MANIFEST, README})})
    origin = manifest["model"]["origin"]
    if manifest["model"]["weights"] == "random":
        origin = "Random weights of this shape, good for measuring speed alone,"
    error = manifest["scale_error"]
    text = CARD.format(
        model=manifest["model"]["name"],
        recipe=manifest["recipe"],
        origin=origin[:1].upper() + origin[1:],
        version=manifest["packages"]["quant-harness"],
        command=manifest["command"],
        config_hash=manifest["config_hash"][:12],
        formats=_listed_formats(manifest["formats"]),
        inputs=_activation_formats(manifest),
        layout=manifest["layout"],
        scheme=f", {config['format']}" if "format" in config else "",
        share=manifest["coverage"],
        bits=manifest["bits_per_weight"],
        size=manifest["total_bytes"] / 1e6,
        scales="exactly the recipe's"
        if error == 0
        else f"differ from the recipe's by up to {error:.1e} of their size",
        skipped=", ".join(skipped["name"] for skipped in manifest["skipped"]) or "norms and biases",
        manifest=MANIFEST,
    )
    (folder / README).write_text(text, encoding="utf-8")


def _activation_formats(manifest: Mapping[str, Any]) -> str:
    """Return the formats of activations, and the text that static scales were fitted to."""
    listed = _listed_formats(manifest["input_formats"]) or "not quantized"
    if (text := manifest["calibration"]) is None:
        return listed
    sizes = f"{text['num_sequences']} x {text['length']} tokens, seed {text['seed']}"
    return f"{listed}, fitted to {text['text']} (SHA-256 {text['sha256'][:12]}, {sizes})"


def _listed_formats(formats: Mapping[str, str]) -> str:
    return ", ".join(dict.fromkeys(formats.values()))
