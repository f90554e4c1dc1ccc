"""Secrets are masked wherever they are printed or filed, and nothing else is."""

import io
import json
import logging
import string
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness import config, provenance
from harness.config import CONF
from harness.errors import DataError
from harness.export import job
from harness.export.command import register, resolve
from harness.hydra_files import RedactedFiles
from harness.redacted_output import redact_logs, redacted_streams
from harness.redaction import (
    MASK,
    is_secret_name,
    known_values,
    redacted,
    redacted_arguments,
    redacted_tree,
)
from harness.run import RunSpec, run
from harness.summary import Ending, JobResult, print_summary

ROOT = Path(__file__).parents[2]
LETTERS = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
RANDOM = np.random.default_rng(0)


def drawn(alphabet: str, length: int) -> str:
    """Return random letters: no real secret stands in this file, and no scanner finds one."""
    return "".join(RANDOM.choice(list(alphabet), length))


B64 = LETTERS + "-_"
SHAPES = {
    "Hugging Face": "hf_" + drawn(LETTERS, 34),
    "Hugging Face organization": "api_org_" + drawn(LETTERS, 34),
    "OpenAI": "sk-" + drawn(LETTERS, 48),
    "OpenAI project": "sk-proj-" + drawn(B64, 120),
    "OpenAI service": "sk-svcacct-" + drawn(B64, 120),
    "Anthropic": "sk-ant-api03-" + drawn(B64, 93) + "AA",
    "OpenRouter": "sk-or-v1-" + drawn(HEX, 64),
    "GitHub": "ghp_" + drawn(LETTERS, 36),
    "GitHub app": "ghs_" + drawn(LETTERS, 36),
    "GitHub fine-grained": "github_pat_" + drawn(LETTERS, 22) + "_" + drawn(LETTERS, 59),
    "GitLab": "glpat-" + drawn(B64, 20),
    "AWS": "AKIA" + drawn(UPPER, 16),
    "AWS session": "ASIA" + drawn(UPPER, 16),
    "AWS with its secret": "AKIA" + drawn(UPPER, 16) + ":" + drawn(LETTERS + "/+", 40),
    "Slack bot": f"xoxb-{drawn('0123456789', 12)}-{drawn('0123456789', 12)}-{drawn(LETTERS, 24)}",
    "Slack user": f"xoxp-{drawn('0123456789', 12)}-{drawn(LETTERS, 32)}",
    "Google": "AIza" + drawn(B64, 35),
    "Google OAuth": "ya29." + drawn(B64, 60),
    "JSON web token": f"eyJ{drawn(B64, 33)}.eyJ{drawn(B64, 60)}.{drawn(B64, 43)}",
    "Stripe": "sk_live_" + drawn(LETTERS, 24),
    "NVIDIA": "nvapi-" + drawn(B64, 64),
    "Groq": "gsk_" + drawn(LETTERS, 52),
    "Replicate": "r8_" + drawn(LETTERS, 37),
    "npm": "npm_" + drawn(LETTERS, 36),
    "PyPI": "pypi-" + drawn(B64, 100),
    "Docker": "dckr_pat_" + drawn(B64, 27),
    "SendGrid": f"SG.{drawn(B64, 22)}.{drawn(B64, 43)}",
}
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
        ("hub_token: 0123456789", "0123456789abc"[:10])
        if False
        else ("db.pass=hunter2", "hunter2"),
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


# Nothing else is masked


PUBLISHED = sorted((ROOT / "results").rglob("*.json"))


def test_published_records_hold_no_secret_and_stay_as_they_are() -> None:
    assert len(PUBLISHED) > 50
    for path in PUBLISHED:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert redacted_tree(record) == record


def test_reports_and_configurations_stay_as_they_are() -> None:
    texts = [*(ROOT / "reports").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
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


@given(st.text(max_size=300))
def test_masking_never_fails_and_is_done_once(text: str) -> None:
    masked = redacted(text)
    assert redacted(masked) == masked


# By value


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


def test_secret_in_an_assignment_in_an_assignment_is_masked() -> None:
    depth = 2_000
    assert redacted(f"{'x=' * depth}token=s3cretvalue") == f"{'x=' * depth}token={MASK}"
    assert redacted("first:token=s3cretvalue") == f"first:token={MASK}"


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


# Where they come out


def test_streams_mask_what_anybody_prints() -> None:
    secret, out, err = SHAPES["GitHub"], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), redacted_streams():
        sys.stdout.write(f"a {secret}\n")
        sys.stderr.writelines([f"b {secret}\n"])
        assert not sys.stderr.isatty()
    assert (out.getvalue(), err.getvalue()) == (f"a {MASK}\n", f"b {MASK}\n")


@pytest.fixture
def _logs_as_before() -> Any:
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.usefixtures("_logs_as_before")
def test_log_files_hold_no_secret_whatever_writes_them(tmp_path: Path) -> None:
    redact_logs()
    secret = SHAPES["Anthropic"]
    file = tmp_path / "harness.log"
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    log = logging.getLogger("a.library")
    log.addHandler(handler)
    try:
        log.warning("refused: %s, %d times", secret, 3)
        try:
            raise OSError(f"401 for {secret}")
        except OSError:
            log.exception("failed")
        log.warning("plain %s", "words")
    finally:
        log.removeHandler(handler)
        handler.close()
    text = file.read_text()
    assert secret not in text
    assert f"a.library refused: {MASK}, 3 times\n" in text
    assert f"OSError: 401 for {MASK}" in text
    assert "a.library plain words\n" in text


def test_summary_masks_before_it_folds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    secret = SHAPES["OpenAI project"]
    rows = [
        JobResult(
            overrides=(f"model.x={i}", f"data.y={secret}{i}"), ending=Ending.OK, text=f"at {secret}"
        )
        for i in "ab"
    ]
    print_summary(rows)
    shown = "".join(capsys.readouterr().err.split())
    assert not any(secret[i : i + 12] in shown for i in range(0, len(secret) - 12, 4))
    assert MASK in shown


def test_command_of_a_record_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [
        "python",
        "-m",
        "harness",
        f"+hydra.job.env_set.HF_TOKEN={SHAPES['Hugging Face']}",
        "task.limit=8",
    ]
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert (
        provenance.command_line()
        == f"python -m harness '+hydra.job.env_set.HF_TOKEN={MASK}' task.limit=8"
    )


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., RunSpec]:
    def make(*overrides: str) -> RunSpec:
        config.register()
        common = [
            "model=tiny",
            "data=embedded",
            "device=cpu",
            f"results_dir={tmp_path / 'results'}",
        ]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = compose(
                "config", overrides=[*common, "task.window=64", "task.limit_windows=12", *overrides]
            )
        return RunSpec.build(config.resolve(composed))

    return make


def test_error_of_a_record_is_masked_by_the_value_in_the_environment(
    make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "no-shape-at-all")
    spec = make_spec()

    def refuse(_self: object) -> dict[str, Any]:
        raise DataError("the hub refused no-shape-at-all; log in")

    monkeypatch.setattr(type(spec.task), "data_facts", refuse)
    with pytest.raises(DataError):
        run(spec)
    (path,) = spec.store.root.rglob("*.json")
    assert "no-shape-at-all" not in path.read_text()
    assert json.loads(path.read_text())["error"] == f"DataError: the hub refused {MASK}; log in"


def test_two_runs_with_different_tokens_are_the_same_run() -> None:
    def hashed(**model: Any) -> str:
        resolved = {"model": model, "allow_targets": [], "task": {"a": 1}}
        return config.config_hash(resolved, "cpu")

    plain = hashed(path="x")
    assert hashed(path="x", token="a1") == hashed(path="x", token="b2") != plain  # noqa: S106
    one, other = (f"https://me:{word}@host/r" for word in ("first1", "second2"))
    assert hashed(path=one) == hashed(path=other)
    assert hashed(path=one) != hashed(path="https://host/r")
    assert hashed(path=SHAPES["GitHub"]) == hashed(path=SHAPES["GitHub app"])


def test_model_card_and_manifest_of_an_export_are_masked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = SHAPES["Hugging Face"]
    typed = ["python", "-m", "harness.export", f"+hydra.job.env_set.HF_TOKEN={secret}"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(job, "export", lambda *_args, facts, **_kwargs: facts)
    register()
    overrides = [
        "model=tiny",
        "data=embedded",
        "device=cpu",
        "+quant=int8_row",
        "allow_targets=[x]",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = compose("export", overrides=[*overrides, f"out={tmp_path}/{secret}"])
    facts: Any = job.run(resolve(composed))
    assert secret not in json.dumps(facts)
    assert facts["command"].endswith(f"HF_TOKEN={MASK}'")
    assert facts["config"]["out"] == f"{tmp_path}/{MASK}"


@pytest.mark.usefixtures("_logs_as_before")
@pytest.mark.parametrize("subdir", [None, ".hydra"])
def test_files_of_hydra_are_masked(subdir: str | None, tmp_path: Path) -> None:
    secret = SHAPES["Hugging Face"]
    holding = {
        "hydra": {
            "job": {"env_set": {"HF_TOKEN": secret, "X": "1"}},
            "list": [f"model.token={secret} b"],
        }
    }
    folder = tmp_path / ".hydra"
    folder.mkdir()
    files = [folder / f"{name}.yaml" for name in ("overrides", "config", "hydra")]
    own = folder / "of_the_user.yaml"
    for file in (*files, own):
        OmegaConf.save(OmegaConf.create(holding), file)
    before = own.read_bytes()
    cfg = {
        "hydra": {
            "runtime": {"output_dir": str(tmp_path)},
            "output_subdir": subdir,
        }
    }
    RedactedFiles().on_job_start(config=OmegaConf.create(cfg))
    assert own.read_bytes() == before
    masked = {
        "hydra": {
            "job": {"env_set": {"HF_TOKEN": MASK, "X": "1"}},
            "list": [f"model.token={MASK}"],
        }
    }
    for file in files:
        assert yaml.safe_load(file.read_text()) == (masked if subdir else holding)


def test_sweep_leaves_no_secret_on_disk_or_terminal(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    """A token in the environment of the jobs, and a key that fails; Hydra is asked for all the files that it can write."""
    secrets = [SHAPES["Hugging Face"], "pa55-w0rd-of-url"]
    finished = cli(
        *("-m", "model=tiny", "data=embedded", "task=perplexity", "task.window=64", "device=cpu"),
        *("task.limit_windows=12", "+quant=none,int8_row", "hydra.output_subdir=.h"),
        *("hydra/job_logging=default", f"+hydra.job.env_set.HF_TOKEN={secrets[0]}"),
        f"+hydra.job.env_set.PROXY=https://me:{secrets[1]}@host",
    )
    text = finished.stdout + finished.stderr
    assert finished.returncode == 0, text
    refused = cli("model=tiny", f"+model.token={secrets[1]}", "--cfg", "job")
    text += refused.stdout + refused.stderr
    assert MASK in text
    assert not [secret for secret in secrets if secret in text]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    names = {path.name for path in written}
    assert {"overrides.yaml", "hydra.yaml", "config.yaml", "harness.log"} <= names
    commands = [json.loads(path.read_text())["command"] for path in tmp_path.rglob("*.json")]
    assert len(commands) == 2
    assert all(
        f"HF_TOKEN={MASK}" in command and f"//{MASK}@host" in command for command in commands
    )


@pytest.mark.parametrize(
    "module", ["harness", "harness.export", "harness.report", "harness.tensor"]
)
def test_every_command_masks_what_it_prints(module: str) -> None:
    secret = SHAPES["Hugging Face"]
    finished = subprocess.run(
        [sys.executable, "-m", module, "formats", f"--x={secret}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode != 0
    assert MASK in finished.stderr
    assert secret not in finished.stdout + finished.stderr
