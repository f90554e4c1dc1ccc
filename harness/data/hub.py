"""WikiText-2 and MMLU from the hub, in parquet.

pyarrow reads the files. The package `datasets` would copy them into a cache of its own, and takes
seconds to import.
"""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.data.source import (
    SEPARATOR,
    Question,
    QuestionSet,
    Text,
    check_question,
    hash_questions,
    joined_starts,
)
from harness.errors import DataError
from harness.hub_files import Found, Repository, locate
from harness.messages import in_one_line, plural

WIKITEXT_SHA256 = "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"
"""Hash of the hub's 4,358 rows joined by a blank line. Copies with CRLF, or without the empty rows,
have another hash."""

MMLU_SHA256 = "b44086d179f16ec000209b3e4d5af65bf07186f4916b2029f2b5115161c5ff16"
"""`hash_questions` of the hub's 14,042 test questions and 285 dev questions, in its order."""

TITLE = re.compile(r"\s*= (?!=).*(?<!=) =\s*")
"""A heading of the first level. Two lines of formulas match too: articles on the hub as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubData:
    """`Salesforce/wikitext` (wikitext-2-raw-v1, test) and `cais/mmlu` (all; dev and test)."""

    path: str | None = None
    """Folder with `Salesforce/wikitext` and `cais/mmlu` in it; null: see `harness.hub_files`."""
    wikitext_revision: str = "main"
    """Branch, tag or commit of `Salesforce/wikitext`."""
    mmlu_revision: str = "main"
    """Branch, tag or commit of `cais/mmlu`."""

    def text(self) -> Text:
        """Return the test split of WikiText-2: all rows, joined by a blank line."""
        return _wikitext(self)

    def questions(self) -> QuestionSet:
        """Return the test questions of MMLU, with the dev questions as examples."""
        return _mmlu(self)

    def locate(self, name: str, patterns: tuple[str, ...], revision: str) -> Found:
        """Return the folder of one data set, with a file for every pattern.

        Raises:
            DataError: None of the four places has the whole data set.
        """

        def missing(folder: Path) -> str | None:
            absent = [pattern for pattern in patterns if not any(folder.glob(pattern))]
            return f"has no {' and no '.join(absent)}" if absent else None

        repository = Repository(
            name=name, kind="dataset", patterns=patterns, missing=missing, revision=revision
        )
        path = None if self.path is None else f"{self.path}/{name}"
        return locate(repository, path, override="data.path", error=DataError)


@lru_cache(maxsize=4)
def _wikitext(source: HubData) -> Text:
    pattern = "wikitext-2-raw-v1/test-*.parquet"
    found = source.locate("Salesforce/wikitext", (pattern,), source.wikitext_revision)
    rows = text_rows(found, pattern)
    joined = SEPARATOR.join(rows)
    sha256 = hashlib.sha256(joined.encode()).hexdigest()
    warnings = []
    if sha256 != WIKITEXT_SHA256:
        warnings.append(
            f"the WikiText-2 test text has SHA-256 {sha256[:16]}, not {WIKITEXT_SHA256[:16]} as on "
            "the hub: perplexity on it is not comparable with published figures"
        )
    # The original file has a line with one space where the hub has an empty row.
    lines = [row or " \n" for row in rows]
    file = "".join(lines)
    file_starts = article_starts(file)
    return Text(
        name="wikitext2-raw-v1/test",
        text=joined,
        sha256=sha256,
        num_rows=len(rows),
        revision=found.revision,
        warnings=tuple(warnings),
        file=file,
        documents=tuple(articles(file)),
        starts=_in_joined(file_starts, lines, rows),
        file_starts=file_starts,
    )


def text_rows(found: Found, pattern: str) -> list[str]:
    """Return the texts of the rows of a WikiText split.

    Raises:
        DataError: A file cannot be read, or a row holds no text.
    """
    rows: list[str] = []
    for index, row in enumerate(_read_columns(found, pattern, ("text",))):
        if not isinstance(row["text"], str):
            raise DataError(
                f"{found.folder}/{pattern}, row {index}: text must be a string, got "
                f"{row['text']!r}; mend or remove the row"
            )
        rows.append(row["text"])
    return rows


def article_starts(file: str) -> tuple[int, ...]:
    """Return where each article of a WikiText file begins [character].

    An article begins with its title. Text before the first title is an article too, unless it is
    blank.
    """
    titles, place = [], 0
    for line in file.split("\n"):
        if TITLE.fullmatch(line):
            titles.append(place)
        place += len(line) + 1
    before = file[: titles[0]].strip() if titles else True
    return (0, *titles) if before else tuple(titles)


def articles(file: str) -> Iterator[str]:
    """Yield the articles of a WikiText file, as in `EleutherAI/wikitext_document_level`."""
    for start, end in pairwise([*article_starts(file), len(file) + 1]):
        # The line end before the next title belongs to no article.
        yield file[start : end - 1]


def _in_joined(
    file_starts: Sequence[int], lines: Sequence[str], rows: Sequence[str]
) -> tuple[int, ...]:
    """Return the places of characters of the file in the text that its rows are joined to."""
    begins, in_joined = [0, *accumulate(map(len, lines[:-1]))], joined_starts(rows)
    places = [bisect_right(begins, start) - 1 for start in file_starts]
    return tuple(
        in_joined[row] + start - begins[row] for row, start in zip(places, file_starts, strict=True)
    )


@lru_cache(maxsize=4)
def _mmlu(source: HubData) -> QuestionSet:
    patterns = ("all/test-*.parquet", "all/dev-*.parquet")
    found = source.locate("cais/mmlu", patterns, source.mmlu_revision)
    examples: dict[str, tuple[Question, ...]] = {}
    for question in _questions(found, "dev"):
        examples[question.subject] = (*examples.get(question.subject, ()), question)
    questions = tuple(_questions(found, "test"))
    if not questions:
        raise DataError(f"data set cais/mmlu must have test questions, got none in {found.folder}")
    if missing := sorted({q.subject for q in questions} - examples.keys()):
        raise DataError(f"every subject must have dev questions, got none for {missing}")
    fewest = min(len(solved) for solved in examples.values())
    sha256 = hash_questions((*questions, *(q for solved in examples.values() for q in solved)))
    num, warnings = sum(map(len, examples.values())), []
    if sha256 != MMLU_SHA256:
        warnings.append(
            f"the {len(questions)} {plural('question', len(questions))} and {num} "
            f"{plural('example', num)} of MMLU have SHA-256 {sha256[:16]}, not {MMLU_SHA256[:16]} "
            "as the 14042 and 285 on the hub: accuracy on them is not comparable with published "
            "figures"
        )
    return QuestionSet(
        name="mmlu/test",
        questions=questions,
        examples=examples,
        default_shots=min(5, fewest),
        max_shots=fewest,
        revision=found.revision,
        warnings=tuple(warnings),
    )


def _questions(found: Found, split: str) -> Iterable[Question]:
    pattern = f"all/{split}-*.parquet"
    counts: Counter[str] = Counter()
    for index, row in enumerate(
        _read_columns(found, pattern, ("question", "subject", "choices", "answer"))
    ):
        check_question(f"{found.folder}/{pattern}, row {index}", row)
        subject = row["subject"]
        yield Question(
            id=f"{split}/{subject}/{counts[subject]}",
            subject=subject,
            question=row["question"],
            choices=tuple(row["choices"]),
            answer=row["answer"],
        )
        counts[subject] += 1


def _read_columns(found: Found, pattern: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for file in sorted(found.folder.glob(pattern)):
        try:
            table = pq.ParquetFile(file)
            held = table.schema_arrow.names
            if absent := [name for name in columns if name not in held]:
                raise ValueError(f"no {', '.join(absent)} among its columns {', '.join(held)}")
            rows += table.read(columns=list(columns)).to_pylist()
        except (OSError, ValueError) as reason:
            raise DataError(
                f"{file} must be a parquet file with the columns {', '.join(columns)}, got "
                f"{in_one_line(reason)}; download it again"
            ) from reason
    return rows
