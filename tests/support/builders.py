"""Objects that many test files need."""

import hashlib
from dataclasses import dataclass

from harness.data.embedded import EmbeddedData
from harness.data.source import QuestionSet, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedText:
    """A data source of one text; see `fixed_text`."""

    content: str
    documents: tuple[str, ...] = ()

    def text(self) -> Text:
        """Return the text."""
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        return Text(
            name="fixed",
            text=self.content,
            sha256=digest,
            num_rows=1,
            documents=self.documents,
        )

    def questions(self) -> QuestionSet:
        """Return nothing."""
        raise NotImplementedError


def fixed_text(content: str, *documents: str) -> FixedText:
    """A data source of one text, made of some documents."""
    return FixedText(content=content, documents=documents)


def prose(length: int) -> str:
    """Real text of so many bytes, in which the tiny model's tokenizer makes one token a byte."""
    ascii_only = EmbeddedData().text().text.encode("ascii", "ignore").decode()
    # Its tokens of two bytes are a space with one of these letters.
    return ascii_only.translate(dict.fromkeys(map(ord, "ABCD"), "x"))[:length]
