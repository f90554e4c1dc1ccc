"""A client of engines: lm-eval's `LM`, whose requests any engine answers.

    lm-eval asks             the engine is asked                   lm-eval gets
    loglikelihood            a `Score` for each pair of texts      sum of ln p; is greedy the same?
    loglikelihood_rolling    a `Score` for each window of a text   sum of ln p
    generate_until           a `Generate` for each prompt          the text up to a stop

All requests of a call go to the engine at once, so it finds what they share: the examples before
the documents of a task, a context with several continuations.

Tokens are those of lm-eval 0.4.13's own `HFLM` (`lm_eval/models/huggingface.py`), with these
corrections:

- *Precision.* `HFLM` computes log-softmax and sums in the model's dtype: a bfloat16 window of 1024
  tokens is off by up to 0.016 nat a token, more than INT8 costs. Here log-probabilities are
  float64, computed from float32 logits.
- *Special tokens.* A prompt begins as the tokenizer begins a text. An EOS that the tokenizer
  appends is left off, because it would stand between the prompt and its answer. A rolling text has
  a BOS as its context, and none in its own tokens; `HFLM` would score a second BOS.
- *Shared logits.* `HFLM` scores the shorter of two continuations at the wrong positions if both end
  the same tokens. Here every request has its own positions.
- *Generation config.* `HFLM` decodes with what the model's `generation_config.json` says, such as
  a repetition penalty or beams. Here only a task's own options count.
- *Stops.* `HFLM` decodes a row until all rows of its batch have stopped. Here a text ends as in a
  batch of one. An empty stop text, which ends every text of `HFLM` after one token, is ignored.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.display.progress import bar
from harness.engines.base import Engine, Kind
from harness.engines.requests import Answer, Generate, Generated, Request, Score, Scored
from harness.errors import ConfigError, UnsupportedEngine

NEW_TOKENS = 256
"""Most new tokens for a task that sets no `max_gen_toks`, as in `HFLM`."""
GREEDY_IGNORES = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")
"""Options of generation that a `Generate` already holds, or that greedy decoding ignores."""

Pair = tuple[str, str]
"""Context and continuation, as text."""


class EngineLM(LM):  # type: ignore[misc] # lm-eval has no types
    """An engine as an `LM` of lm-eval.

    Args:
        engine: The engine.
        max_length: Longest sequence [token]. Longer contexts lose their first tokens.
    """

    def __init__(self, engine: Engine, max_length: int) -> None:
        super().__init__()
        self.engine = engine
        self.max_length = max_length
        self.num_cut = 0
        """Contexts that lost their first tokens."""

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Return ln p of each continuation [nat], and whether greedy decoding would give it.

        Args:
            requests: lm-eval's instances; `args` is a `Pair`.

        Raises:
            ConfigError: A continuation is empty, or longer than `max_length`.
        """
        encoded = self._encode_pairs([request.args for request in requests])
        asked = [
            self._score(*pair, request) for pair, request in zip(encoded, requests, strict=True)
        ]
        answers = self._answers("score", asked)
        return [
            (float(answer.log_probs.sum()), bool(answer.is_top.all()))
            for answer in answers
            if isinstance(answer, Scored)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Return ln p of each whole text [nat], scored in windows of `max_length` tokens.

        Args:
            requests: lm-eval's instances; `args` is a text.

        Raises:
            ConfigError: The tokenizer has neither a BOS nor an EOS token to begin a text with.
        """
        start = self._start_id()
        self.engine.tokenizer.check_rows([start])
        texts = self.engine.tokenizer.encode_bare([request.args[0] for request in requests])
        asked, owners = [], []
        for owner, ids in enumerate(texts):
            windows = get_rolling_token_windows([*ids], start, self.max_length, context_len=1)
            for context, continuation in map(make_disjoint_window, windows):
                asked.append(Score(tuple(context), tuple(continuation)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, answer in zip(owners, self._answers("score", asked), strict=True):
            assert isinstance(answer, Scored)  # noqa: S101 - the answer to a `Score`
            totals[owner] += float(answer.log_probs.sum())
        return totals

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Return the greedy continuation of each prompt, up to a stop.

        Args:
            requests: lm-eval's instances; `args` is a prompt and its options of generation.

        Raises:
            UnsupportedEngine: A task asks for sampling, beams or another change of decoding.
            ConfigError: A task wants more new tokens than `max_length` has room for.
        """
        prompts = self.engine.tokenizer.encode_prompts([request.args[0] for request in requests])
        asked = [
            self._generate(ids, request) for ids, request in zip(prompts, requests, strict=True)
        ]
        answers = self._answers("generate", asked)
        return [
            self._text(answer.tokens, request.stop)
            for answer, request in zip(answers, asked, strict=True)
            if isinstance(answer, Generated)
        ]

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text."""
        return self.engine.tokenizer.chat(chat_history, add_generation_prompt=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer; lm-eval asks for it where a chat template is applied."""
        return self.engine.name

    def _encode_pairs(self, pairs: Sequence[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return context and continuation of each pair as token ids.

        Texts without a context begin with BOS or EOS.
        """
        tokenizer = self.engine.tokenizer
        begun = iter(tokenizer.encode_pairs([pair for pair in pairs if pair[0]]))
        alone = iter(tokenizer.encode_bare([text for context, text in pairs if not context]))
        return [next(begun) if context else self._begun(next(alone)) for context, _ in pairs]

    def _begun(self, ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of a text without context as context and continuation.

        The context is the BOS token, or the EOS token if there is no BOS.
        """
        start = self._start_id()
        return (ids[:1], ids[1:]) if ids[:1] == (start,) else ((start,), ids)

    def _score(
        self, context: tuple[int, ...], continuation: tuple[int, ...], request: Any
    ) -> Score:
        """Return a request; a context that does not fit into `max_length` loses its first tokens.

        The last token of a continuation is looked up and never run, so it needs no room.

        Raises:
            ConfigError: Context or continuation is empty, or the continuation is too long.
        """
        room = self.max_length + 1 - len(continuation)
        if not context or not continuation or room < 1:
            _refuse(
                request,
                f"one token of context or more, and 1..{self.max_length} of continuation",
                f"{len(context)} and {len(continuation)}",
            )
        if len(context) > room:
            self.num_cut += 1
            context = context[-room:]
        return Score(context, continuation)

    def _generate(self, ids: tuple[int, ...], request: Any) -> Generate:
        """Return a request for greedy decoding; a long prompt loses its first tokens.

        Raises:
            UnsupportedEngine: The options do not ask for greedy decoding.
            ConfigError: The prompt is empty, or leaves no room for new tokens.
        """
        options: dict[str, Any] = normalize_gen_kwargs(request.args[1], NEW_TOKENS)
        self._check_greedy(options, request)
        eos = self.engine.tokenizer.eos_id
        # The text of the tokenizer's end token is a stop too: an engine may end at other tokens.
        written = None if eos is None else self.engine.tokenizer.decode([eos])
        stops = handle_stop_sequences(options["until"], written)
        num_new = options["max_gen_toks"]
        room = self.max_length - num_new
        if not ids or num_new < 1 or room < 1:
            _refuse(
                request,
                f"a prompt of one token or more, and 1..{self.max_length - 1} new tokens",
                f"{len(ids)} and {num_new}",
            )
        if other := [stop for stop in stops if not isinstance(stop, str | None)]:
            _refuse(request, "texts as stops", f"{other}")
        self.num_cut += len(ids) > room
        return Generate(ids[-room:], num_new, tuple(filter(None, stops)))

    def _check_greedy(self, options: Mapping[str, Any], request: Any) -> None:
        """Check that options ask for greedy decoding and nothing else.

        Raises:
            UnsupportedEngine: They ask for sampling, beams or another change of decoding.
        """
        other = {k: v for k, v in options.items() if k not in GREEDY_IGNORES}
        if other.get("num_beams") == 1:
            del other["num_beams"]
        if options["do_sample"]:
            other |= {k: options[k] for k in ("do_sample", "temperature") if k in options}
        if other:
            raise UnsupportedEngine(
                f"lm-eval's task {request.task_name} must decode greedily, got "
                f"{', '.join(f'{k}={v}' for k, v in other.items())}; leave it out of task.tasks, "
                "or give it other generation_kwargs in a task file of your own"
            )

    def _text(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        """Return the text of new tokens up to the first stop.

        A stop may be the text of a special token, which the answer leaves out. So the tokens are
        cut first, behind the first one with which a stop is complete; then the text is cut.
        """
        tokenizer = self.engine.tokenizer

        def has_stopped(count: int) -> bool:
            text = tokenizer.decode(tokens[:count])
            return any(stop in text for stop in stops)

        end = bisect_left(range(len(tokens) + 1), True, key=has_stopped)
        text = tokenizer.decode(tokens[:end], skip_special=True)
        return str(postprocess_generated_text(text, list(stops), think_end_token=None))

    def _answers(self, kind: Kind, asked: Sequence[Request]) -> list[Answer]:
        """Return the engine's answers in the order of the requests.

        Raises:
            UnsupportedEngine: The engine refuses this kind of request.
        """
        if reason := self.engine.refuses(kind):
            raise UnsupportedEngine(
                f"lm-eval's tasks must be ones that the engine can {kind}, got "
                f"engine={self.engine.label}: {reason}; leave engine out, or choose task.tasks"
            )
        found: dict[int, Answer] = {}
        with bar(f"lm-eval, {kind}", len(asked)) as progress:
            for index, answer in self.engine.answer(asked):
                found[index] = answer
                progress.advance()
        return [found[index] for index in range(len(asked))]

    def _start_id(self) -> int:
        """Return the id of the token that stands before a text without context.

        Raises:
            ConfigError: The tokenizer has neither a BOS nor an EOS token.
        """
        start = self.engine.tokenizer.start_id
        if start is None:
            raise ConfigError(
                f"the tokenizer of {self.engine.name} must have a BOS or EOS token, which lm-eval "
                "puts before a text, got neither; choose other task.tasks"
            )
        return start


def _refuse(request: Any, required: str, got: str) -> NoReturn:
    """Raise ConfigError for a document that cannot be asked."""
    raise ConfigError(
        f"document {request.doc_id} of lm-eval's task {request.task_name} must have {required}, "
        f"got {got}; change task.shots, task.max_length or task.tasks"
    )
