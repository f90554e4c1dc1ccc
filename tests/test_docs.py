"""The documentation: its paths exist, its translations are equal, its words are those of docs/terms.md."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")),
    ROOT / "results" / "published" / "README.md",
    ROOT / "reports" / "published" / "README.md",
]
SOURCES = [
    path
    for room in ("harness", "scripts", "tests", "examples", "hydra_plugins")
    for path in sorted((ROOT / room).rglob("*.py"))
]
TRANSLATIONS = {"README.md": "README.zh.md", "docs/start.md": "docs/zh/start.md"}
BANNED = {
    r"float[ -]self": "baseline",
    r"float models?": "unquantized model, or baseline",
    r"(?:in|into|both|two|its) halves|halves of (?:a|the) (?:loaded )?model": "decoder body and LM head",
    r"inter-token gaps?|gaps? between tokens": "inter-token latency",
    r"matrix products?": "matmul",
    r"obstacles?": "unsupported: reason",
    r"refusals?": "unsupported: reason, or error",
}
"""Words that docs/terms.md replaces, as regular expressions -> what to say."""
PATH = re.compile(r"`((?:harness|scripts|tests|conf|docs|examples|hydra_plugins)/[\w./-]+)`")
CODE = re.compile(r"^```.*?^```$|(?:^ {4}[^\n]*\n)+", re.MULTILINE | re.DOTALL)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# Paths


def test_every_path_in_the_documentation_exists() -> None:
    lost = [
        f"{page.relative_to(ROOT)}: {found}"
        for page in PAGES
        for found in PATH.findall(text_of(page))
        if not (ROOT / found).exists()
    ]
    assert lost == []


# Translations


def headings(text: str) -> list[int]:
    return [len(mark) for mark in re.findall(r"^(#+) ", CODE.sub("", text), re.MULTILINE)]


def blocks(text: str) -> list[str]:
    return [re.sub(r"\s+", " ", block).strip() for block in CODE.findall(text)]


def figures(text: str) -> list[str]:
    """Return the numbers outside of code blocks and links, sorted."""
    prose = re.sub(r"\]\([^)]*\)", "]", CODE.sub("", text))
    return sorted(re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?", prose))


@pytest.mark.parametrize(("english", "chinese"), TRANSLATIONS.items())
def test_a_translation_has_the_same_headings_commands_and_figures(
    english: str, chinese: str
) -> None:
    ours, theirs = text_of(ROOT / english), text_of(ROOT / chinese)
    assert headings(theirs) == headings(ours)
    assert blocks(theirs) == blocks(ours)
    assert figures(theirs) == figures(ours)


# Words


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and texts of docstrings and comments, or of a whole Markdown or YAML file."""
    text = text_of(path)
    if path.suffix != ".py":
        for number, line in enumerate(text.splitlines(), start=1):
            yield number, line if path.suffix == ".md" else line.partition("#")[2]
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def test_one_word_stands_for_one_thing() -> None:
    banned = re.compile(rf"\b(?:{'|'.join(BANNED)})\b", re.IGNORECASE)
    files = [p for p in PAGES if p.name not in ("terms.md", "README.zh.md")]
    files += [p for p in SOURCES if p != Path(__file__)] + sorted((ROOT / "conf").rglob("*.yaml"))
    found = [
        f"{path.relative_to(ROOT)}:{number}: {hit[0]}"
        for path in files
        for number, text in prose_of(path)
        for hit in [banned.search(text)]
        if hit
    ]
    assert found == [], "docs/terms.md has the word to use"


def test_the_terms_name_what_is_banned() -> None:
    replaced = text_of(ROOT / "docs" / "terms.md")
    for word in ("float self", "inter-token gap", "matrix product", "obstacle", "refusal"):
        assert word in replaced


# Metrics


def test_every_metric_on_file_is_described() -> None:
    described = set(re.findall(r"`([\w./]+)`", text_of(ROOT / "docs" / "metrics.md")))
    stems = {name.removesuffix("/...").removesuffix("/SUBJECT") for name in described}
    percentile = re.compile(r"_(median|p[\d.]+|min|max)$")
    unknown = set()
    for path in (ROOT / "results" / "published").glob("*/*/*/*.json"):
        for metric in json.loads(text_of(path))["metrics"]:
            name = metric["name"].removeprefix("baseline_").removeprefix("float32_")
            name = re.sub(r"^(batch|attention|dtype)/(?:.*/)?", "", name)
            name = name.removesuffix("_iqr")
            known = {metric["name"], name, name.partition("/")[0], percentile.sub("_mean", name)}
            if not known & stems:
                unknown.add(metric["name"])
    assert unknown == set()


# The tour of CONTRIBUTING.md


def test_every_stop_of_the_tour_exists() -> None:
    tour = text_of(ROOT / "CONTRIBUTING.md").split("## A tour", 1)[1].split("\n## ", 1)[0]
    stops = re.findall(r"`(harness/[\w/]+\.py)`,\s+`([\w.]+)`", tour)
    assert len(stops) >= 4
    for file, name in stops:
        tree: ast.Module | ast.ClassDef = ast.parse(text_of(ROOT / file))
        for part in name.split("."):
            named = {
                node.name: node
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            assert part in named, f"{file} must define {name}"
            tree = named[part]  # type: ignore[assignment]


def test_the_share_of_false_claims_in_the_readme_is_the_simulated_one() -> None:
    file = ROOT / "results" / "published" / "simulation" / "claims.json"
    rows = json.loads(file.read_text())["rows"]
    largest = max(row["false"] for row in rows)
    for name in ("README.md", "README.zh.md"):
        assert f"{largest:.1f} %" in text_of(ROOT / name)
    assert largest <= 5
    assert all(93 <= row["covered"] <= 97 and 75 <= row["found"] <= 85 for row in rows)
    assert all(row["lossless"] <= 5 for row in rows)
