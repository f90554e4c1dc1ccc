"""Masks secrets in what is printed or filed: `***` takes their place.

A secret is recognized in three ways:

- by its shape: the prefixes of providers;
- by the name of its key: `model.token=...`, `"password": ...`;
- by its value, if a variable of the environment or an argument of this command has this value under
  such a name.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

MASK = "***"
SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    + "|".join(
        (
            r"(?:hf|api_org)_(?=[A-Za-z0-9]*[A-Z0-9])[A-Za-z0-9]{16,}",  # Hugging Face
            r"sk-(?=[\w-]*\d)(?=[\w-]*[A-Za-z0-9]{16})[\w-]{20,}",  # OpenAI, Anthropic, OpenRouter
            r"gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",  # GitHub
            r"gl(?:pat|dt|rt|cbt|ptt|oas|soat|agent|ft|imt)-[\w-]{16,}",  # GitLab
            # AWS, with the secret behind the key
            r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"
            r"(?:[\s:/,;\"']+[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))?",
            r"xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}",  # Slack
            r"AIza[\w-]{35}|ya29\.[\w-]{20,}",  # Google
            r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",  # JSON web token
            r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
            # NVIDIA, Groq, Replicate
            r"nvapi-[\w-]{20,}|gsk_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{30,}",
            r"npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|dckr_pat_[\w-]{20,}",  # npm, PyPI, Docker
            r"SG\.[\w-]{16,}\.[\w-]{16,}",  # SendGrid
        )
    )
    + ")"
)
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
USER_OF_URL = re.compile(  # pathlib leaves one of the slashes
    r"(\b[a-z][a-z0-9+.-]{0,30}://?)(?:[^\s/'\"@:]*:[^\s/'\"]*|[^\s/'\"@:]{12,})@", re.I
)
SIGNATURE_OF_URL = re.compile(r"([?&](?:sig|signature|x-amz-signature)=)[^\s&\"']+", re.I)
AUTHORIZATION = re.compile(
    r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?|\bbearer\s+(?=[\w.~+/-]{16}))[^\s'\",;}]+",
    re.I,
)
ASSIGNED = re.compile(
    r"(?<![\w.@/+-])(?P<quoted>['\"]?)(?P<key>[\w.@/+-]++)(?P=quoted)(?P<sign>\s*[=:]\s*)"
)
VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s&;\"'(){}\[\]]+")
OPTION = re.compile(r"(?<![\w-])(?P<key>--?[A-Za-z][\w-]*)\s+(?P<value>[^\s-]\S*)")
OVERRIDE = re.compile(r"(?P<key>[+~-]{0,2}[\w./@-]+)=(?P<value>.+)", re.DOTALL)

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SECRET_WORDS = frozenset(
    [
        "secret",
        "secrets",
        "password",
        "passwords",
        "passwd",
        "passphrase",
        "pwd",
        "pass",
        "credential",
        "credentials",
        "apikey",
    ]
)
KINDS_OF_KEY = frozenset(
    ["api", "access", "secret", "private", "auth", "signing", "encryption", "account"]
)
PLAIN_TOKENS = frozenset(
    [
        "bos",
        "eos",
        "pad",
        "unk",
        "sep",
        "cls",
        "mask",
        "special",
        "added",
        "image",
        "audio",
        "video",
        "per",
        "next",
        "first",
        "last",
        "top",
        "stop",
        "start",
        "end",
        "is",
        "each",
        "a",
        "the",
    ]
)
"""Words in front of `token` that make it a token of a text, not an access token."""
NO_SECRETS = frozenset(("", "$", "none", "null", "true", "false", MASK))
SHORTEST = 8
"""Shorter values are masked only under their key: elsewhere the same letters may mean anything."""


def redacted(text: str, values: Iterable[str] = ()) -> str:
    """Return a text with its secrets masked.

    Args:
        text: Text to print or file.
        values: Known secrets, masked wherever they occur; see `known_values`.
    """
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MASK)
    whole = OVERRIDE.fullmatch(text)
    if whole and is_secret_name(whole["key"]) and _may_be_secret(whole["key"], whole["value"]):
        return f"{whole['key']}={MASK}"
    text = PRIVATE_KEY.sub(MASK, text)
    text = USER_OF_URL.sub(rf"\1{MASK}@", text)
    text = SIGNATURE_OF_URL.sub(rf"\1{MASK}", text)
    text = AUTHORIZATION.sub(rf"\1{MASK}", text)
    text = SHAPES.sub(MASK, text)
    return OPTION.sub(_after_option, _without_assigned(text))


def redacted_tree(node: Any, values: Iterable[str] = (), *, under_secret: bool = False) -> Any:
    """Return plain data with secrets masked: texts by `redacted`, other values by their key."""
    if isinstance(node, Mapping):
        return {
            key: redacted_tree(
                child,
                values,
                under_secret=under_secret
                or (is_secret_name(str(key)) and _may_be_secret(str(key), str(child))),
            )
            for key, child in node.items()
        }
    if isinstance(node, list | tuple):
        return [redacted_tree(child, values, under_secret=under_secret) for child in node]
    if under_secret and node is not None and not isinstance(node, bool):
        return MASK if str(node).lower() not in NO_SECRETS else node
    return redacted(node, values) if isinstance(node, str) else node


def redacted_arguments(arguments: Iterable[str]) -> list[str]:
    """Return the words of a command line with secrets masked; `--token VALUE` is two words."""
    words, before = [], ""
    for word in arguments:
        is_value = before.startswith("-") and "=" not in before and is_secret_name(before)
        words.append(MASK if is_value and not word.startswith("-") else redacted(word))
        before = word
    return words


def known_values() -> set[str]:
    """Return the secrets among the variables and arguments of this process, by their names."""
    words = list(sys.orig_argv[1:])
    named = [*os.environ.items(), *pairwise(words)]
    named += [(key, value) for key, _, value in (word.partition("=") for word in words)]
    found = set()
    for name, value in named:
        is_name = not any(sign in name for sign in "= \n") and is_secret_name(name)
        if is_name and _may_be_secret(name, value):
            whole = value.strip("'\"")
            found |= {whole, *whole.split(",")}
    return {value for value in found if len(value) >= SHORTEST and not value.startswith("${")}


def is_secret_name(name: str) -> bool:
    """Say by its name whether a key, variable or option holds a secret.

    Example:
        True for `HF_TOKEN`, `model.token`, `apiKey` and `--db-password`; False for `num_tokens`,
        `eos_token` and `token_nll`.
    """
    words = [word.lower() for word in WORD.findall(name)]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "token":
        return before not in PLAIN_TOKENS
    return last in SECRET_WORDS or (last == "key" and before in KINDS_OF_KEY)


def _may_be_secret(name: str, value: str) -> bool:
    """Say whether a value under such a name can be a secret.

    Constants and references cannot, numbers cannot be access tokens, and `pwd` may be a folder.
    """
    plain = value.strip().strip("'\"")
    if plain.lower() in NO_SECRETS or plain.startswith("${"):
        return False
    is_number = WORD.findall(name)[-1].lower() == "token" and re.fullmatch(r"[-+.\de]+", plain)
    return not is_number and not (WORD.findall(name)[-1].lower() == "pwd" and plain[:1] in "/~.")


def _without_assigned(text: str) -> str:
    """Return a text in which values assigned to secret names are masked."""
    parts, end = [], 0
    # Read values under secret names only: under another name a value may be an assignment itself.
    for found in ASSIGNED.finditer(text):
        value = VALUE.match(text, found.end()) if is_secret_name(found["key"]) else None
        if found.start() < end or value is None or not _is_assigned_secret(found, value[0]):
            continue
        quote = value[0][0] if value[0][0] in "'\"" else ""
        parts += [text[end : value.start()], f"{quote}{MASK}{quote}"]
        end = value.end()
    return "".join([*parts, text[end:]])


def _is_assigned_secret(found: re.Match[str], value: str) -> bool:
    """Say whether a secret name was given this value.

    In prose and code the word after a colon, or after a sign with spaces, need not be a value.
    """
    if not _may_be_secret(found["key"], value):
        return False
    plain = value.strip("'\"")
    looks_random = len(plain) >= SHORTEST and any(char.isdigit() for char in plain)
    both_quoted = found["quoted"] and value[0] in "'\""
    return found["sign"] == "=" or looks_random or bool(both_quoted and len(plain) > SHORTEST)


def _after_option(found: re.Match[str]) -> str:
    hides = is_secret_name(found["key"]) and _may_be_secret(found["key"], found["value"])
    return f"{found['key']} {MASK}" if hides else found[0]
