"""What only looks like a secret is not masked: names of tokens, hashes, paths, publications."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from secret_shapes import HEX

from harness.redaction import is_secret_name, redacted, redacted_tree

PUBLISHED = sorted((ROOT / "results" / "published").rglob("*.json"))


@pytest.mark.parametrize(
    "name",
    [
        "num_tokens",
        "batch_tokens",
        "token_nll",
        "tokens",
        "tokenizer",
        "eos_token",
        "bos_token_id",
        "pad_token",
        "first_token",
        "per_token",
        "key",
        "keys",
        "group",
        "max_new_tokens",
        "secretary",
        "passwords_file",
        "token/s",
        "same_top",
        "kv_cache",
        "monkey",
        "PATH",
        "HF_TOKEN_PATH",
        "model.path",
        "quant.name",
        "x",
        "1",
    ],
)
def test_names_that_hold_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "every prompt must be at most 8192 tokens, got token: 17",
        "time to first token: 0.123456789 s",
        "eos_token='<|endoftext|>'",
        "quant.rules.linear.weight=int4_group",
        "git@github.com:quant-harness/quant-harness.git",
        "https://huggingface.co/HuggingFaceTB/SmolLM2-135M@main",
        "ssh://git@host/x",
        "pass results_dir=FOLDER",
        "model.token=null",
        "model.token=${oc.env:HF_TOKEN}",
        "sk-instruct-large-v1-gguf",
        "risk-0123456789abcdefghijklmnop",
        "Bearer of good news",
        '{"token": "per row"}',
        "token_nll.list.element",
        "the key: value pairs of keys=3",
        "",
    ],
)
def test_words_that_look_like_secrets_stay(text: str) -> None:
    assert redacted(text) == text


def test_published_records_hold_no_secret_and_stay_as_they_are() -> None:
    assert len(PUBLISHED) > 50
    for path in PUBLISHED:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert redacted_tree(record) == record


def test_reports_and_configurations_stay_as_they_are() -> None:
    texts = [*(ROOT / "reports" / "published").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    assert len(texts) > 100
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert redacted(text) == text
        if path.suffix == ".yaml":
            assert redacted_tree(yaml.safe_load(text)) == yaml.safe_load(text)


@given(
    st.one_of(
        st.text(HEX, min_size=1, max_size=128),  # hashes, fingerprints, commits
        st.from_regex(r"[A-Za-z][A-Za-z0-9_.]{0,20}/[A-Za-z][A-Za-z0-9_.]{0,30}", fullmatch=True),
        st.from_regex(r"(/[a-z0-9_.]{1,12}){1,6}", fullmatch=True),
        st.from_regex(r"[a-z0-9_]{1,20}--[0-9a-f]{12}-[0-9]{8}T[0-9]{12}\.json", fullmatch=True),
        st.from_regex(r"(model|task|data)\.[a-z_]{1,4}=[0-9a-z]{1,12}", fullmatch=True),
        st.integers().map(str),
        st.floats().map(repr),
    ).filter(lambda text: "://" not in text)
)
def test_hashes_names_and_paths_are_no_secrets(text: str) -> None:
    if not is_secret_name(text.partition("=")[0]):
        assert redacted(text) == text
        assert redacted(f"run {text}: done") == f"run {text}: done"


@given(st.text(max_size=300))
def test_masking_never_fails_and_is_done_once(text: str) -> None:
    masked = redacted(text)
    assert redacted(masked) == masked
