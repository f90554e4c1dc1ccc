"""Words by which tables of English and Chinese reports are understood."""

import re


def _words(*words: str) -> re.Pattern[str]:
    """Return a pattern of whole words; letters of other scripts may stand beside them."""
    return re.compile(rf"(?<![A-Za-z])(?:{'|'.join(words)})(?![A-Za-z])", re.IGNORECASE)


ACCURACY = _words(
    "acc", "accuracy", "mmlu", "gsm8k", "arc", "hellaswag", "winogrande", "piqa", "boolq", "gpqa",
    "humaneval", "mbpp", "ceval", "cmmlu", "truthfulqa", "exact match", "准确率", "正确率",
)  # fmt: skip
PERPLEXITY = _words("ppl", "perplexity", "wikitext-?2?", "wiki2", "c4", "ptb", "困惑度")
LOSS = _words("loss", "log-loss", "nll", "cross[- ]entropy", "损失")
SPEED = _words("tok(?:en)?s?/s", "samples?/s", "throughput", "latency", "ttft", "tpot", "吞吐")
FALLS = _words("ppl", "perplexity", "loss", "nll", "error", "latency", "困惑度", "损失", "误差")
"""Metrics of which less is better."""

AVERAGE = _words("mean", "average", "avg", "平均", "均值")
AVERAGE_ROW = re.compile(
    r"^\W*(?:(?:overall|macro|unweighted)\s+)?(?:mean|average|avg)\.?(?:\s+(?:accuracy|acc|score))?\W*$"
    r"|^\W*(?:平均|均值)(?:值|分|精度|准确率)?\W*$",
    re.IGNORECASE,
)
"""Names of rows that are means of other rows; `KL mean` is none."""
STATISTIC = _words("std", "sd", "median", "min", "max", "p\\d+", "标准差", "中位数")
"""Rows that are statistics of others, as a mean is."""
BASELINE = re.compile(
    r"^\W*(?:base(?:line)?|bf16|fp16|fp32|bfloat16|float16|float32|full precision|original"
    r"|unquantized|not? quanti[sz]ed|no quanti[sz]ation|none|w16a16|基线|原始)(?![A-Za-z0-9_/])",
    re.IGNORECASE,
)
RANK = re.compile(r"^\W*(?:rank|ranking|place|#|排名|名次)\W*$", re.IGNORECASE)
MEDALS = {"🥇": 1, "🥈": 2, "🥉": 3}
MODEL = re.compile(r"^\W*(?:model|模型)\W*$", re.IGNORECASE)
COUNT = re.compile(r"^\W*(?:n|samples|questions|items|样本数|题数)\W*$", re.IGNORECASE)
COMPARED = re.compile(r"\bvs\.?\s*(?P<reference>\S.*)", re.IGNORECASE)
"""A column of differences that says from what."""
DERIVED = _words(
    "vs", "versus", "delta", "diff", "difference", "change", "drop", "gain", "degradation",
    "improvement", "advantage", "relative", "above", "ratio", "speed-?up", "recovery",
    "相比", "优势", "差异", "差值", "变化", "下降", "提升", "比值", "倍数",
)  # fmt: skip
RATIO = _words("ratio", "speed-?up", "比值", "倍数")
POINTS = _words("pp", "points?", "百分点")
ERROR = re.compile(
    r"interval|±|(?<![a-z])(?:ci|std|stderr|se|iqr|p|p-value|p value|verdict)(?![a-z])"
    r"|differs|置信|标准差|标准误|显著",
    re.IGNORECASE,
)
"""Headers of columns that say how certain a figure is."""
WINS = _words(
    "better", "wins?", "beats?", "outperforms?", "higher", "exceeds?", "优于", "超过", "高于",
    "更好", "更高",
)  # fmt: skip
