"""A published figure and a run of its model, as tests of `harness.anchors` change them."""

from collections.abc import Mapping
from typing import Any

import builders

from harness.anchors.schema import Anchor, PublishedTable, PublishedValue
from harness.results.record import RunRecord

TEXT = "wikitext2-raw-v1/test"


def anchor(
    value: float = 6.24,
    *,
    model: str = "org/model",
    revision: str | None = None,
    quantization: str | None = None,
    recipe: str | None = None,
    **table: Any,
) -> Anchor:
    """A perplexity of 6.24 +- 0.02 in windows of 2,048 tokens; keywords replace fields."""
    published = PublishedValue(
        model=model, revision=revision, quantization=quantization, recipe=recipe, value=value
    )
    fields: dict[str, Any] = {
        "source": "a paper",
        "url": "https://example.org/paper",
        "protocol": "windows of 2,048 tokens",
        "task": "perplexity",
        "options": {"window": 2048},
        "data": TEXT,
        "metric": "perplexity",
        "tolerance": 0.02,
        "why": "two decimals are printed",
        "values": (published,),
    }
    return Anchor(PublishedTable(**fields | table), published)


def run(
    value: float = 6.25,
    *,
    options: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    task: str = "perplexity",
    quant: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunRecord:
    """The unquantized model of the hub under the protocol of `anchor`."""
    own = {"window": 2048, "limit_windows": None, "limit_documents": None, "bos": None}
    published = {"name": "org/model", "revision": "c0ffee", "origin": "float checkpoint"}
    fields: dict[str, Any] = {
        "config": {"task": {"_target_": "harness.tasks.perplexity.Perplexity", **own}},
        "recipe": "none",
        "model": published | dict(model or {}),
        "quant": {"name": "none", "kind": "none", "formats": {}} | dict(quant or {}),
        "task": {"name": task, "data": {"name": TEXT} | dict(data or {})},
        "metrics": (builders.metric(value=value, ci95=(value - 0.5, value + 0.5)),),
    }
    fields["config"]["task"] |= dict(options or {})
    return builders.record(**fields | changes)
