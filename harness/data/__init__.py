"""Text and questions, and what makes them the same data.

`source` has the types and the protocol. `hub` reads WikiText-2 and MMLU, `embedded` what lm-eval's package holds, `text_file` and
`question_file` files of a user (`files` reads them). `overlap` finds passages that two data sets share.
"""

from harness.data.embedded import EmbeddedData
from harness.data.hub import HubData
from harness.data.question_file import QuestionFile
from harness.data.source import DataSource, Question, QuestionSet, Text
from harness.data.text_file import TextFile

__all__ = [
    "DataSource",
    "EmbeddedData",
    "HubData",
    "Question",
    "QuestionFile",
    "QuestionSet",
    "Text",
    "TextFile",
]
