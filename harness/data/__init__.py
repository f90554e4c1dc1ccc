"""Text and questions, with the hashes that identify them.

`source` has the types and the protocol `DataSource`. There are four sources: `hub` reads WikiText-2
and MMLU, `embedded` reads MMLU's dev questions in this folder, `text_file` and
`question_file` read files of a user, by way of `files`. `overlap` finds passages that two data sets
share, such as a calibration text and the text that is scored.
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
