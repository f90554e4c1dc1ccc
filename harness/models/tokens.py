"""Turn text into token ids, with a `Tokenizer`. No other module does.

1. A tokenizer may add special tokens around a text. The ones in front, mostly a BOS, are kept. The
   ones at the end say that the text is over. They are left off, because every text of a task goes
   on: with the next window, or with the answer to a question.
2. Text is never cut or padded, whatever the tokenizer's file says.
3. A tokenizer may have more tokens than the model has rows in its embedding or LM head (added
   tokens, the tokenizer of another model). This is an error only for a text that contains such a
   token.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from transformers import PreTrainedTokenizerFast

from harness.errors import DataError
from harness.models.chat_template import Messages, render, takes_system, template_of
from harness.models.loaded import LoadedModel

PROBE_TEXT = "aA0"
"""A short text, whose tokens separate the special tokens in front from the ones at the end."""
TEXTS_AT_ONCE = 1024
"""Texts that are encoded in one call, in parallel."""
Made = TypeVar("Made")


class Tokens(NamedTuple):
    """A tokenized text."""

    ids: list[int]
    """Token ids, special tokens in front included."""
    begins: list[int]
    """Offset in the text where each token begins [character]; 0 for special tokens in front."""
    ends: list[int]
    """Offset in the text where each token ends [character]; 0 for special tokens in front."""


class Specials(NamedTuple):
    """Special tokens that a tokenizer puts before and after every text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


@dataclass(kw_only=True, eq=False)
class Tokenizer:
    """The tokenizer of a model."""

    backend: PreTrainedTokenizerFast
    """The tokenizer of transformers."""
    model: str
    """Name of the model, for messages."""
    num_rows: int
    """Number of token ids that have a row in both the embedding and the LM head."""
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return `make()`, computed once for each key: all recipes of a sweep share the result."""
        if key not in self._kept:
            self._kept[key] = make()
        made: Made = self._kept[key]
        return made

    def encode(self, text: str, *, prefix: bool = True) -> Tokens:
        """Return the tokens of a whole text.

        Args:
            text: The text.
            prefix: Begin with the special tokens that the tokenizer puts in front.

        Raises:
            DataError: The model has no embedding row for one of the tokens.
        """
        encoded = self.backend(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        front = self.specials.prefix if prefix else ()
        ids = [*front, *encoded["input_ids"]]
        self.check_rows(ids)
        begins, ends, last = [0] * len(front), [0] * len(front), 0
        for begin, end in encoded["offset_mapping"]:
            # Some tokenizers leave white space out of the offsets of a token. A token of white
            # space alone then has an empty range. It begins where the token before it ended.
            begins.append(begin if end > begin else last)
            ends.append(end)
            last = end
        return Tokens(ids, begins, ends)

    def encode_prompts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of prompts, with special tokens in front as in lm-eval.

        A chat template may write the text of the BOS token (EOS token for a tokenizer without a
        BOS). A prompt that begins with this text gets no special tokens in front.

        Raises:
            DataError: The model has no embedding row for one of the tokens.
        """
        start = self.start_id
        written = None if start is None else self.decode([start])
        front = self.specials.prefix
        return [
            ids if written is not None and text.startswith(written) else front + ids
            for text, ids in zip(texts, self.encode_bare(texts), strict=True)
        ]

    def encode_bare(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of texts, without special tokens around them.

        Raises:
            DataError: The model has no embedding row for one of the tokens.
        """
        found: list[tuple[int, ...]] = []
        # For all texts of one call the library keeps a hundred bytes a token.
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            encoded = self.backend(
                list(texts[start : start + TEXTS_AT_ONCE]),
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            found += [tuple(ids) for ids in encoded["input_ids"]]
        for ids in found:
            if max(ids, default=0) >= self.num_rows:
                self.check_rows(ids)
        return found

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return context and continuation of each pair of texts as token ids, as lm-eval does.

        Both texts are encoded together, and the context alone. What the whole has beyond the
        context's tokens is the continuation. White space at the end of the context belongs to the
        continuation. Pairs of one context share its tuple.

        Args:
            pairs: A context that is not empty, and the text after it.

        Raises:
            DataError: The model has no embedding row for one of the tokens.
        """
        contexts = list(dict.fromkeys(context.rstrip() for context, _ in pairs))
        ids_of = dict(zip(contexts, self.encode_prompts(contexts), strict=True))
        found = []
        # A few at a time: the whole texts repeat each context, and take much memory.
        for start in range(0, len(pairs), TEXTS_AT_ONCE):
            some = pairs[start : start + TEXTS_AT_ONCE]
            wholes = self.encode_prompts([context + text for context, text in some])
            for (context, _), whole in zip(some, wholes, strict=True):
                before = ids_of[context.rstrip()]
                found.append((before, whole[len(before) :]))
        return found

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of token ids; with `skip_special`, without special tokens."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    def chat(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """Return a conversation as text; see `harness.models.chat_template.render`.

        Raises:
            ConfigError: There is no chat template, or it rejects the conversation.
        """
        return render(
            self.backend, messages, self.model, add_generation_prompt=add_generation_prompt
        )

    @property
    def chat_template(self) -> str:
        """The chat template, as Jinja source.

        Raises:
            ConfigError: There is none, or several without a default.
        """
        return template_of(self.backend, self.model)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the chat template writes a system message.

        Raises:
            ConfigError: There is no chat template.
        """
        return takes_system(self.backend, self.model)

    @cached_property
    def specials(self) -> Specials:
        """The special tokens that the tokenizer puts around a text; see `special_tokens`."""
        return special_tokens(self.backend)

    @property
    def bos_id(self) -> int | None:
        """Id of the BOS token; None for a tokenizer without one."""
        found: int | None = self.backend.bos_token_id
        return found

    @property
    def eos_id(self) -> int | None:
        """Id of the end-of-text token; None for a tokenizer without one."""
        found: int | None = self.backend.eos_token_id
        return found

    @property
    def start_id(self) -> int | None:
        """Id of the token to put before a text without context: BOS, or EOS if there is no BOS."""
        return self.eos_id if self.bos_id is None else self.bos_id

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer begins every text with its BOS token."""
        return self.specials.prefix[:1] == (self.bos_id,)

    def check_rows(self, ids: Iterable[int]) -> None:
        """Check that the model has a row for every token id.

        Raises:
            DataError: It has none for a token; the message names the first such token.
        """
        beyond = [token for token in ids if token >= self.num_rows]
        if beyond:
            raise DataError(
                f"every token of the text must have a row in the embedding of {self.model}, got "
                f"{self.backend.convert_ids_to_tokens(int(beyond[0]))!r} with id {beyond[0]} where "
                f"there are {self.num_rows} rows ({len(beyond)} such tokens); use the tokenizer of "
                "these weights, or another text"
            )


def tokenizer_of(loaded: LoadedModel) -> Tokenizer:
    """Return the tokenizer of a loaded model: the same object in every call for a model."""

    def make() -> Tokenizer:
        # A recipe may have replaced the LM head by a module without a size.
        with loaded.unquantized():
            rows = num_rows(loaded)
        return Tokenizer(backend=loaded.tokenizer, model=loaded.name, num_rows=rows)

    return loaded.cached("tokenizer", make)


def end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return the ids of the end-of-text tokens of the generation config and of the tokenizer."""
    configured = getattr(loaded.module.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*listed, loaded.tokenizer.eos_token_id) if i is not None)


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> Specials:
    """Return the special tokens that a tokenizer puts around a text.

    Raises:
        DataError: The tokenizer drops every character of `PROBE_TEXT`, so that special tokens in
            front cannot be told from those at the end.
    """
    encoded = tokenizer(PROBE_TEXT)
    ids: list[int] = encoded["input_ids"]
    # `sequence_ids` is 0 for a token of the text and None for a special token.
    inner = [place for place, text in enumerate(encoded.sequence_ids(0)) if text is not None]
    if ids and not inner:
        raise DataError(
            f"the tokenizer must have a token for one of the characters {PROBE_TEXT!r}, got only "
            f"special tokens, {ids}; use the tokenizer of these weights"
        )
    if not inner:
        return Specials((), ())
    return Specials(tuple(ids[: inner[0]]), tuple(ids[inner[-1] + 1 :]))


def num_rows(loaded: LoadedModel) -> int:
    """Return the number of token ids that have a row in both the embedding and the LM head."""
    module = loaded.module
    head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    counts = (
        getattr(module.get_input_embeddings(), "num_embeddings", None),
        getattr(head, "out_features", None),
    )
    known = [count for count in counts if isinstance(count, int)]
    return min(known, default=loaded.vocab_size)


def without_limits(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Turn off truncation and padding in a tokenizer; return it."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer
