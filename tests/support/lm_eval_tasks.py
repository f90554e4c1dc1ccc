"""Task files of lm-eval for tests, each of another kind, over local rows."""

import json
from pathlib import Path

EXAMPLES = [
    {
        "q": f"What follows {number}?",
        "choices": [f"{number + 1} apples", "two", "a longer answer"],
        "gold": number % 3,
        "page": f"The number {number} = = {number} . "
        + "It is odd , or even . " * (1 + number % 4),
    }
    for number in range(30)
]

ROWS = EXAMPLES[:12]
"""Documents that are asked; the examples begin with them."""
METRICS = "[{metric: acc}, {metric: acc_norm}]"
TASKS = {
    "choices": f"""
        output_type: multiple_choice
        doc_to_text: "Question: {{{{q}}}}\\nAnswer:"
        doc_to_target: gold
        doc_to_choice: choices
        fewshot_split: dev
        fewshot_config: {{sampler: first_n}}
        metric_list: {METRICS}""",
    "drawn": """
        output_type: multiple_choice
        num_fewshot: 2
        doc_to_text: "{{q}}"
        doc_to_target: gold
        doc_to_choice: choices
        fewshot_split: dev
        metric_list: [{metric: acc}]""",
    "fixed": """
        output_type: multiple_choice
        num_fewshot: 0
        doc_to_text: "{{q}}"
        doc_to_target: gold
        doc_to_choice: choices
        metric_list: [{metric: acc}]""",
    "pages": """
        output_type: loglikelihood_rolling
        fewshot_split: dev
        doc_to_text: ""
        doc_to_target: "{{page}}"
        metric_list:
          [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]""",
    "cloze": """
        output_type: loglikelihood
        fewshot_split: dev
        doc_to_text: "{{q}}"
        doc_to_target: " {{choices[0]}}"
        metric_list: [{metric: perplexity}, {metric: acc}]""",
    "writing": """
        output_type: generate_until
        fewshot_split: dev
        doc_to_text: "{{q}}"
        doc_to_target: "{{choices[0]}}"
        generation_kwargs: {until: ["!"], max_gen_toks: 6, do_sample: false}
        filter_list:
          - {name: none, filter: [{function: take_first}]}
          - name: digit
            filter: [{function: regex, regex_pattern: "([0-9])"}, {function: take_first}]
        metric_list: [{metric: exact_match}]""",
}
GROUP = """
group: both
task: [choices, fixed]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
metadata: {version: 2}
"""


def write_tasks(root: Path) -> None:
    """Write the files of all tasks and of a group, and the rows that they read."""
    files = {"test": root / "rows.jsonl", "dev": root / "examples.jsonl"}
    for rows, file in zip((ROWS, EXAMPLES), files.values(), strict=True):
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name, text in TASKS.items():
        own = [line.removeprefix(" " * 8) for line in text.strip("\n").splitlines()]
        common = [
            f"task: {name}",
            "dataset_path: json",
            "dataset_kwargs:",
            f"  data_files: {{test: {files['test']}, dev: {files['dev']}}}",
            f"  cache_dir: {root / 'cache'}",
            "test_split: test",
            "metadata: {version: 3}",
        ]
        (root / f"{name}.yaml").write_text("\n".join(common + own), encoding="utf-8")
    (root / "both.yaml").write_text(GROUP, encoding="utf-8")
