r"""Divergence from the baseline: the quantized model beside the float one, on the same windows.

    hidden_q = body(window)                   the model as it is
    hidden_p = body(window) of the baseline   quantized weights out, inputs not rounded; or a second model (`baselines`)
    for each chunk of positions: both heads' float32 logits -> KL, NLL of both, delta-p, same top; the logits are dropped

Windows are those of `perplexity`, and the first token of each is not scored. What the statistics are is in
`divergence_statistics`; with `questions`, MMLU answers are compared too (`divergence_questions`).

A sweep runs the baseline once: its hidden states, a few megabytes a window where logits are hundreds, are kept with the
loaded model until they fill `KEPT_BYTES` of main memory; windows beyond that are run again, with the same numbers. The
baseline's logits are made anew for each recipe: on SmolLM2-135M a recipe then takes 1.4 times as long as its perplexity.

Peak memory beside the model and one forward pass: the kept states (1 GiB at most), the logits of two chunks (2 x 32 MiB
on a CPU, 2 x 512 MiB on a GPU) and what a head takes to make them, a float32 copy of the head's weight if it is stored in
another type, of both heads if the recipe quantizes it, and 40 bytes a token. Measured on SmolLM2-135M and a CPU: 0.25 GiB in
float32, 0.5 GiB in bfloat16.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from harness.data.overlap import Scored
from harness.data.source import DataSource, Text
from harness.display.progress import bar
from harness.engines.local.split_model import SplitModel, split
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.results.record import SampleScore, TaskInfo
from harness.tasks import baselines
from harness.tasks.base import TaskResult
from harness.tasks.baselines import Become
from harness.tasks.degenerate import text_warnings
from harness.tasks.divergence.questions import compare_answers
from harness.tasks.divergence.statistics import TokenPairs, compare_logits, divergence_metrics
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.windows import (
    Bos,
    Windows,
    disjoint_windows,
    document_words,
    num_documents,
    window_words,
)

KEPT_BYTES = 2**30
"""Hidden states of the baseline that a loaded model keeps, over all tasks of a sweep [byte]."""


class Side(NamedTuple):
    """One of two models that are compared."""

    hidden: Iterator[Tensor]
    """Hidden states `[L, H]` of one window after the other."""
    logits: Callable[[Tensor], Tensor]
    """Float32 logits `[N, V]` of hidden states `[N, H]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Distance of a model to its float model; see the module docstring."""

    name: ClassVar[str] = "divergence"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False

    data: DataSource
    """Where the text comes from."""
    window: int = 2048
    """Tokens a window."""
    limit_windows: int | None = None
    """Compare on the first so many windows; None is all."""
    questions: MMLU | None = None
    """Questions to compare answers on; None is none."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None is the tokenizer's choice. See `windows`."""

    def __post_init__(self) -> None:
        """Refuse sizes that score nothing, and answers without probabilities."""
        check_sizes(self.window, self.limit_windows)
        if self.questions is not None and not isinstance(self.questions.answer, Direct):
            raise ValueError(
                "questions.answer must be the direct rule, whose answers are letters with probabilities, "
                f"got {type(self.questions.answer).__name__}"
            )

    @property
    def seeds(self) -> dict[str, int]:
        """The seed of the draw of questions, if there are any."""
        return {"task.questions.seed": self.questions.seed} if self.questions else {}

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text, and the questions if there are any."""
        facts = self.data.text().facts()
        return facts | ({"questions": self.questions.data_facts()} if self.questions else {})

    def scored(self) -> Scored:
        """Return the text, and the questions if there are any."""
        return Scored((self.data.text(),), self.questions.questions() if self.questions else ())

    def run(self, loaded: LoadedModel) -> TaskResult:
        """Compare on every window, then on every question.

        Raises:
            UnsupportedRecipe: The model came quantized, and `model.baseline` does not say what it was made of.
        """
        base = baselines.find(loaded, self.name)
        text = self.data.text()
        base.check_text(loaded, text, self.window)
        windows = disjoint_windows(text, loaded, self.window, self.limit_windows, bos=self.bos)
        with split(loaded) as halves, base.split(halves) as base_halves:
            candidate = side(halves, run_windows(halves, windows.ids))
            beside = baseline(base_halves, windows, base.within)
            pairs = side_by_side(halves, windows, candidate, beside, self.name)
        samples = [
            SampleScore(
                id=f"{text.name}/window/{index}",
                cluster=document_words(documents),
                scores={"num_tokens": len(nll)} | scores,
                token_nll=tuple(nll.tolist()),
                token_document=tuple(documents.tolist()),
            )
            for index, (nll, scores, documents) in enumerate(
                zip(pairs.nll, window_scores(pairs), windows.scored_documents, strict=True)
            )
        ]
        answers = compare_answers(self.questions, loaded, base) if self.questions else None
        return TaskResult(
            info=self._info(text, windows, loaded, answers),
            metrics=(
                *divergence_metrics(pairs, windows.scored_documents),
                *(answers.metrics if answers else ()),
            ),
            samples=(*samples, *(answers.samples if answers else ())),
            baseline=base.info,
            warnings=(
                *text.warnings,
                *base.warnings,
                *pair_warnings(pairs, windows.ids),
                *(answers.warnings if answers else ()),
            ),
        )

    def _info(
        self, text: Text, windows: Windows, loaded: LoadedModel, answers: TaskResult | None
    ) -> TaskInfo:
        protocol = window_protocol(text, self.window, self.limit_windows, loaded, self.bos)
        asked = f"|questions=({answers.info.protocol})" if answers else ""
        return TaskInfo(
            name=self.name,
            version=self.version,
            protocol=f"{protocol}|baseline=float|kl=base-to-candidate{asked}",
            data=window_facts(text, windows) | (self._question_facts(answers) if answers else {}),
        )

    def _question_facts(self, answers: TaskResult) -> dict[str, Any]:
        facts = self.data_facts()["questions"]
        prompts = {key: value for key, value in answers.info.data.items() if key not in facts}
        return {"questions": facts, "prompts": prompts}


def side_by_side(
    halves: SplitModel, windows: Windows, candidate: Side, base: Side, name: str
) -> TokenPairs:
    """Return the statistics of every scored token, `[windows, L - 1]`; logits exist a chunk at a time.

    Raises:
        InvalidResult: A log-probability of either side is not finite.
    """
    found: list[TokenPairs] = []
    with bar(name, len(windows.ids)) as progress:
        states = zip(windows.ids, candidate.hidden, base.hidden, strict=True)
        for index, (ids_L, hidden_LH, base_LH) in enumerate(states):
            targets_N = ids_L[1:].to(halves.loaded.device)
            rows = (halves.chunks(x) for x in (hidden_LH[:-1], base_LH[:-1], targets_N))
            chunks = [
                compare_logits(candidate.logits(h_q), base.logits(h_p), targets)
                for h_q, h_p, targets in zip(*rows, strict=True)
            ]
            pairs = TokenPairs(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))
            _check_finite(pairs, name, index)
            found.append(pairs)
            score = f"KL {np.mean([p.kl for p in found]):.3g} nat/token"
            progress.advance(tokens=len(ids_L), score=score)
    return TokenPairs(*(np.stack(parts) for parts in zip(*found, strict=True)))


def baseline(halves: SplitModel, windows: Windows, within: Become) -> Side:
    """Return the float model, which `halves` are inside `within`; its hidden states are kept for the next recipe as far as there is room."""
    loaded = halves.loaded

    def hidden() -> Iterator[Tensor]:
        kept: dict[Hashable, Tensor] = loaded.cached("baseline hidden states", dict)
        for index, ids_L in enumerate(windows.ids):
            key = (windows.ids_sha256, len(ids_L), index, loaded.attention)
            if key in kept:
                yield kept[key].to(loaded.device)
                continue
            [states_LH] = run_windows(halves, ids_L[None], within)
            if sum(states.nbytes for states in kept.values()) + states_LH.nbytes <= KEPT_BYTES:
                kept[key] = states_LH.cpu()
            yield states_LH

    return side(halves, hidden(), within)


def side(halves: SplitModel, hidden: Iterator[Tensor], become: Become = nullcontext) -> Side:
    """Return a side of given hidden states, with the head of the model inside `become`."""

    def logits(hidden_NH: Tensor) -> Tensor:
        with become():
            return halves.logits(hidden_NH)

    return Side(hidden, logits)


def run_windows(
    halves: SplitModel, ids_NL: Tensor, become: Become = nullcontext
) -> Iterator[Tensor]:
    """Yield the hidden states `[L, H]` of each window, run alone by the model inside `become`."""
    for ids_L in ids_NL:
        with become():
            states_LH = halves.hidden(ids_L[None])[0]
        yield states_LH


def window_scores(pairs: TokenPairs) -> list[dict[str, float]]:
    """Return the sums over the tokens of each window, by name of the score."""
    columns = {
        "nll": pairs.nll,
        "nll_baseline": pairs.nll_baseline,
        "kl": pairs.kl,
        "same_top": pairs.same_top,
        "delta_p": pairs.delta_p,
        "delta_p_squared": pairs.delta_p**2,
    }
    sums = {name: values.sum(axis=1).tolist() for name, values in columns.items()}
    return [dict(zip(sums, row, strict=True)) for row in zip(*sums.values(), strict=True)]


def pair_warnings(pairs: TokenPairs, ids_NL: Tensor) -> tuple[str, ...]:
    """Return what makes the NLLs of either model meaningless, given the windows."""
    targets = ids_NL[:, 1:].numpy()
    sides = (pairs.nll, "the model"), (pairs.nll_baseline, "the float model")
    found = (text_warnings(nll, targets, whose) for nll, whose in sides)
    return tuple(dict.fromkeys(warning for warnings in found for warning in warnings))


def check_sizes(window: int, limit_windows: int | None) -> None:
    """Raise ValueError for sizes that score nothing."""
    if window < 2:
        raise ValueError(f"window must be >= 2 tokens, got {window}")
    if limit_windows is not None and limit_windows < 1:
        raise ValueError(f"limit_windows must be >= 1 or null, got {limit_windows}")


def window_facts(text: Text, windows: Windows) -> dict[str, Any]:
    """Return the facts of a text, and of its tokens in windows."""
    return text.facts() | {
        "num_rows": text.num_rows,
        "num_tokens": windows.num_tokens,
        "token_ids_sha256": windows.ids_sha256,
        "num_windows": len(windows.ids),
        "num_documents": num_documents(windows.scored_documents),
    }


def window_protocol(
    text: Text, window: int, limit: int | None, loaded: LoadedModel, bos: Bos | None
) -> str:
    """Return what defines the tokens that are compared, in one line."""
    return f"{text.name}|{window_words(window, limit, loaded, bos)}|log-probs=fp64|means=fp64"


def _check_finite(pairs: TokenPairs, name: str, index: int) -> None:
    for values, whose in ((pairs.nll_baseline, "the float model"), (pairs.nll, "the candidate")):
        if not np.isfinite(values).all():
            raise InvalidResult(
                f"every log-probability must be finite, got {values[~np.isfinite(values)][0]} from {whose} "
                f"in window {index} of {name}; the weights are damaged, or the recipe destroys this model"
            )
    if not np.isfinite(pairs.kl).all():
        raise InvalidResult(
            f"every divergence must be finite, got {pairs.kl[~np.isfinite(pairs.kl)][0]} in window {index} "
            f"of {name}; some logit of the float model or the candidate is not finite"
        )
