"""Secrets are masked in texts, command lines and trees: by their shape, place, name and value."""

import sys
import time
from pathlib import Path

import pytest
from secret_shapes import SHAPES

from harness.redaction import (
    MASK,
    is_secret_name,
    known_values,
    redacted,
    redacted_arguments,
    redacted_tree,
)

PLACES = (
    "{}",
    "model.path={}",
    "+hydra.job.env_set.X={}",
    'the hub said: 401 for "{}", log in',
    "https://host/api?key={}&x=1",
    "curl -H 'X-Key: {}' https://host",
    "({})",
    "first line\n{}\nlast line",
)


@pytest.mark.parametrize("provider", SHAPES)
def test_token_of_a_provider_is_masked_wherever_it_stands(provider: str) -> None:
    secret = SHAPES[provider]
    for place in PLACES:
        masked = redacted(place.format(secret))
        assert secret not in masked
        assert MASK in masked
        assert not any(part in masked for part in secret.split(":") if len(part) > 15)
        assert redacted(masked) == masked, "masking twice changes nothing"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://user:pa55word@host/repo.git", "pa55word"),
        (str(Path("https://user:pa55word@host/repo.git")), "pa55word"),
        ("git+https://x-access-token:abc@github.com/a/b", "abc@"),
        ("https://0123456789abcdef0123@host/a", "0123456789abcdef0123"),
        ("postgresql://me:s3cr3t@db:5432/x?ssl=1", "s3cr3t"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        ("sent bearer 0123456789abcdefgh", "0123456789abcdefgh"),
        ("https://blob/x?sv=2020&sig=Zm9v%3D&se=1", "Zm9v"),
        ("https://s3/x?X-Amz-Signature=0123abcd", "0123abcd"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\nabc\n-----END RSA PRIVATE KEY-----", "MIIB"),
        ("model.token=x", "=x"),
        ("model.token='two words'", "two words"),
        ("+model.api_key=k", "=k"),
        ("++task.args.password=1234", "1234"),
        ("WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567", "0123456789abcdef"),
        ("aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalr"),
        ('{"client_secret": "abc-def-ghi"}', "abc-def-ghi"),
        ("apiKey: 'k3y-0f-mine'", "k3y-0f-mine"),
        ("db.pass=hunter2", "hunter2"),
        ("upload --token abcdef --out x", "abcdef"),
        ("--db-password hunter2", "hunter2"),
        ('hydra.job.env_set="{HF_TOKEN: abc-def-ghi1}"', "abc-def-ghi1"),
        ("url=https://host/a?token=abcdef", "abcdef"),
        ("?access_token=abc&user=me", "abc&"),
    ],
)
def test_secret_is_masked_by_its_place(text: str, secret: str) -> None:
    assert secret in text
    masked = redacted(text)
    assert secret not in masked
    assert MASK in masked
    assert redacted(masked) == masked


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "token",
        "hub.token",
        "access_token",
        "ACCESS_TOKEN",
        "apiKey",
        "api_key",
        "API-KEY",
        "api.key",
        "secret",
        "client_secret",
        "password",
        "DB_PASSWORD",
        "passphrase",
        "credentials",
        "AWS_SECRET_ACCESS_KEY",
        "private_key",
        "hfToken",
        "wandb_api_key",
        "--auth-key",
        "pwd",
    ],
)
def test_names_that_hold_secrets(name: str) -> None:
    assert is_secret_name(name)


def test_value_of_a_variable_or_argument_with_such_a_name_is_masked_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse battery")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-m", "harness", "-m", "+model.password=swordfish1,swordfish2"]
    )
    values = known_values()
    assert {"correct horse battery", "swordfish1", "swordfish2"} <= values
    assert "abc" not in values
    text = "the hub refused correct horse battery, swordfish2 and abc"
    assert redacted(text, values) == f"the hub refused {MASK}, {MASK} and abc"


def test_secret_in_an_assignment_in_an_assignment_is_masked() -> None:
    depth = 2_000
    assert redacted(f"{'x=' * depth}token=s3cretvalue") == f"{'x=' * depth}token={MASK}"
    assert redacted("first:token=s3cretvalue") == f"first:token={MASK}"


def test_words_of_a_command_line_are_masked_whole() -> None:
    secret = SHAPES["Hugging Face"]
    words = [
        "-m",
        "harness",
        f"+hydra.job.env_set.HF_TOKEN={secret}",
        "model.token=a, b",
        "--token",
        "x",
    ]
    assert redacted_arguments(words) == [
        *("-m", "harness", f"+hydra.job.env_set.HF_TOKEN={MASK}", f"model.token={MASK}"),
        *("--token", MASK),
    ]


def test_trees_are_masked_by_key_and_by_text() -> None:
    tree = {
        "model": {
            "token": "x",
            "repo": f"https://u:{'p' * 9}@h/r",
            "eos_token": "</s>",
            "token_ids": [1],
        },
        "env": {"DB_PASSWORD": 1234, "credentials": {"user": "me", "n": 3, "none": None}},
        "list": ["a=1", "hub.token=y z"],
        "limit": None,
    }
    assert redacted_tree(tree) == {
        "model": {
            "token": MASK,
            "repo": f"https://{MASK}@h/r",
            "eos_token": "</s>",
            "token_ids": [1],
        },
        "env": {"DB_PASSWORD": MASK, "credentials": {"user": MASK, "n": MASK, "none": None}},
        "list": ["a=1", f"hub.token={MASK}"],
        "limit": None,
    }


PILES = {
    "names with dots": "a." * 100_000,
    "assignments in assignments": "a=" * 100_000,
    "quotes": "a='" * 70_000,
    "addresses": "http://a:b" * 20_000,
    "spaces": f"token{' ' * 200_000}",
    "dashes": "--a-b " * 30_000,
    "tokens": "sk-a " * 40_000,
}


@pytest.mark.parametrize("text", PILES.values(), ids=PILES.keys())
def test_long_text_takes_no_long_time(text: str) -> None:
    """A tenth of a second in all; where the time grows with the square of the length, minutes."""
    began = time.process_time()
    redacted(text)
    assert time.process_time() - began < 5
