"""`perplexity_documents` against lm-eval's own task `wikitext`, on other pages."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors

from harness.data.embedded import EmbeddedData
from harness.data.hub import HubData
from harness.data.source import Text
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.perplexity import Perplexity

pytestmark = pytest.mark.filterwarnings("ignore")

MARKS = (
    ' = Title = \n \n A 1 @,@ 000 @-@ year old ( rock ) band \'s song , " Hey " . = = Part = = \n '
)
FIGURES = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def pages() -> tuple[str, ...]:
    """Return pages shorter and longer than a window, with marks that the detokenizer is about."""
    explanations = EmbeddedData().text().documents
    long = " ".join(explanations[:12])
    return (MARKS, *explanations[:3], f"{MARKS}{long} \n ", "x")


def lm_eval_figures(
    loaded: LoadedModel, documents: tuple[str, ...], folder: Path, max_length: int, batch_size: int
) -> dict[str, float]:
    """Run lm-eval's `wikitext`, of which only the source of the pages is changed."""
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    datasets.Dataset.from_dict({"page": list(documents)}).to_parquet(folder / "pages.parquet")
    theirs = Path(lm_eval.__file__).parent / "tasks" / "wikitext"
    lines = (theirs / "wikitext.yaml").read_text().splitlines()
    dropped = ("task:", "dataset_path:", "dataset_name:", "training_split:", "validation_split:")
    kept = [line for line in lines if not line.startswith(dropped)]
    assert len(kept) == len(lines) - len(dropped)
    source = [
        "task: wikitext_here",
        "dataset_path: parquet",
        "dataset_kwargs:",
        f"  data_files: {{test: {folder / 'pages.parquet'}}}",
        f"  cache_dir: {folder / 'cache'}",
    ]
    (folder / "wikitext.yaml").write_text("\n".join([*source, *kept]))
    rules = (theirs / "preprocess_wikitext.py").read_text()
    (folder / "preprocess_wikitext.py").write_text(rules)
    model = HFLM(
        pretrained=loaded.module,
        tokenizer=loaded.tokenizer,
        max_length=max_length,
        batch_size=batch_size,
        add_bos_token=False,
        softmax_dtype="float32",
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=["wikitext_here"], task_manager=manager)
    return {name: found["results"]["wikitext_here"][f"{name},none"] for name in FIGURES}


def our_figures(
    loaded: LoadedModel, documents: tuple[str, ...], window: int, batch_tokens: int | None = None
) -> dict[str, float]:
    text = Text(name="pages", text="", sha256=str(len(documents)), num_rows=1, documents=documents)
    data = SimpleNamespace(text=lambda: text)
    task = Perplexity(data=data, segmentation=Documents(), window=window)
    return {
        m.name: m.value
        for m in task.run(LocalEngine(loaded, batch_tokens)).metrics
        if m.name in FIGURES
    }


def with_bos() -> LoadedModel:
    """Return a tiny model whose tokenizer begins a text with a BOS, as those of Llama do."""
    loaded = TinyModel(seed=1).load(torch.device("cpu"))
    loaded.tokenizer.add_special_tokens({"bos_token": "<bos>"})
    start = loaded.tokenizer.bos_token_id
    loaded.module.resize_token_embeddings(len(loaded.tokenizer))
    loaded.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", start)]
    )
    assert loaded.tokenizer("a")["input_ids"][0] == start
    return loaded


@pytest.mark.parametrize("max_length", [64, 1000])
@pytest.mark.parametrize("bos", [False, True])
def test_figures_equal_those_of_lm_eval(tmp_path: Path, max_length: int, bos: bool) -> None:
    loaded = with_bos() if bos else TinyModel().load(torch.device("cpu"))
    documents = pages()
    ours = our_figures(loaded, documents, max_length)
    theirs = lm_eval_figures(loaded, documents, tmp_path, max_length, batch_size=3)
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_real_pages_give_the_figures_of_lm_eval(hub_root: Path, tmp_path: Path) -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    documents = HubData(path=str(hub_root)).text().documents[:4]
    ours = our_figures(loaded, documents, 512, batch_tokens=4096)
    theirs = lm_eval_figures(loaded, documents, tmp_path, 512, batch_size=8)
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_comparison_would_see_another_window(tmp_path: Path) -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    theirs = lm_eval_figures(loaded, pages(), tmp_path, 64, batch_size=4)
    assert our_figures(loaded, pages(), 65) != pytest.approx(theirs, rel=1e-4)
