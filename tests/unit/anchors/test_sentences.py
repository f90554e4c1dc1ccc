"""What a comparison with a published figure reads like."""

import builders
import pytest
from published import anchor, run

from harness.anchors import check
from harness.anchors.schema import Anchor
from harness.results.record import RunRecord

ACCURACY = anchor(
    0.7301,
    task="mmlu",
    data="mmlu/test",
    metric="accuracy",
    options={"shots": 0},
    tolerance=0.002,
    why="28 questions",
)


def of_questions(asked: int, value: float, interval: tuple[float, float]) -> RunRecord:
    data = {"name": "mmlu/test", "num_questions": asked, "num_available": 14042, "num_shots": 0}
    metric = builders.metric("accuracy", value, unit="fraction", ci95=interval)
    return run(task="mmlu", options={"window": None, "limit": 9}, data=data, metrics=(metric,))


@pytest.mark.parametrize(
    ("record", "known", "said"),
    [
        (
            run(6.2391),
            anchor(),
            "Reproduces the published perplexity 6.24 (a paper): the difference is -0.0009, the "
            "tolerance 0.02.",
        ),
        (
            run(6.31),
            anchor(),
            "Does not reproduce the published perplexity 6.24 (a paper): the difference is "
            "+0.0700, the tolerance 0.02 (two decimals are printed).",
        ),
        (
            run(options={"window": 512, "limit_windows": 8}),
            anchor(),
            "Cannot be compared with the published perplexity 6.24 (a paper), which has another "
            "protocol; repeat with task.limit_windows=null task.window=2048.",
        ),
        (
            run(options={"limit_windows": 8}),
            anchor(),
            "Cannot be compared with the published perplexity 6.24 (a paper), which is over all of "
            "the data; repeat with task.limit_windows=null.",
        ),
        (
            run(),
            anchor(task=None, options={}, protocol="overlapping windows"),
            "Cannot be compared with the published perplexity 6.24 (a paper): no task here has its "
            "protocol (overlapping windows).",
        ),
        (
            run(model={"origin": "dequantized GGUF"}),
            anchor(),
            "Cannot be compared with the published perplexity 6.24 (a paper): the weights of this "
            "run are not those of org/model but a conversion, dequantized GGUF; model=hub "
            "model.repo=org/model has the published ones.",
        ),
        (
            of_questions(14042, 0.7401, (0.73, 0.75)),
            ACCURACY,
            "Does not reproduce the published accuracy 73.01 % (a paper): the difference is +1.00 "
            "pp, the tolerance 0.2 pp (28 questions).",
        ),
        (
            of_questions(1000, 0.74, (0.7116, 0.7663)),
            ACCURACY,
            "Reproduces the published accuracy 73.01 % (a paper) as far as 1,000 of 14,042 "
            "questions can tell: the 95 % interval 71.16 % .. 76.63 % holds it; task.limit=null "
            "asks all.",
        ),
        (
            of_questions(1000, 0.64, (0.61, 0.67)),
            ACCURACY,
            "Does not reproduce the published accuracy 73.01 % (a paper): on 1,000 of 14,042 "
            "questions, the 95 % interval 61.00 % .. 67.00 % does not hold it.",
        ),
    ],
)
def test_sentences(record: RunRecord, known: Anchor, said: str) -> None:
    assert check(record, (known,)) == [said]
