"""Which layers of an exported folder are quantized, by their paths in the files."""

from harness.export.backend import ExportBackend
from harness.export.layouts.layout import Contents
from harness.export.pieces import in_file
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import output_layer
from harness.recipe import Quantized, QuantRecipe


def contents_of(
    loaded: LoadedModel, recipe: QuantRecipe, quantized: Quantized, backend: ExportBackend
) -> Contents:
    """Return which layers of the files are quantized, and which are not."""
    module = loaded.module
    paths = {id(owner): path for path, owner in module.named_modules()}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    memory: dict[str, str] = {}

    def in_files(path: str) -> tuple[str, ...]:
        """Return the paths in the files of a layer or stack; note a path that differs."""
        name = path if path in parameters else f"{path}.weight"
        found = in_file(module, name, parameters[name].to("meta"))
        pieces = tuple(key.removesuffix(".weight") for key in found)
        if pieces != (owner := name.removesuffix(".weight"),) and len(pieces) == 1:
            memory[pieces[0]] = owner
        return pieces

    rules = {
        piece: recipe.rules[layer.rule]
        for layer in quantized.report.layers
        for piece in backend.pieces[layer.name]
    }
    for layer in quantized.report.layers:
        in_files(layer.name)
    (embedding,) = in_files(paths[id(module.get_input_embeddings())])
    (head,) = in_files(paths[id(output_layer(module))])
    skipped = (piece for layer in quantized.report.skipped for piece in in_files(layer.name))
    return Contents(
        quantized=rules,
        embedding=embedding,
        head=head,
        kept=tuple(dict.fromkeys(path for path in skipped if path != embedding)),
        memory=memory,
    )
