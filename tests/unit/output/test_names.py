"""What a user may type for a place to write."""

import os
from pathlib import Path

import pytest

from harness.errors import OutputError
from harness.output.names import file_stem, local_path


@pytest.mark.parametrize(
    "text", ["a", "./-", "a/../b", "/x y", "ünï日本 (1)=x", "c:/x", "1:/x", "x:y"]
)
def test_paths_are_taken_as_they_are(text: str) -> None:
    assert local_path(text, "--out") == Path(text)


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/x", "out") == Path("/home/me/x")
    assert local_path("./~/x", "out") == Path("~/x")
    with pytest.raises(OutputError, match=r"^out must be a path, got ~nosuchuser/x, whose user is"):
        local_path("~nosuchuser/x", "out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "results_dir must name a place to write, got ''"),
        ("a\0b", "results_dir must name a place to write, got 'a\\x00b'"),
        ("-", "results_dir must be a path, got -;"),
        ("s3://bucket/x", "a path on this machine, got the address s3://bucket/x;"),
        (
            "s3:/bucket/x",
            "a path on this machine, got the address s3:/bucket/x;",
        ),  # as Path spells it
        ("file:///tmp/x", "a path on this machine, got the address file:///tmp/x;"),
        ("hf://datasets/a/b", "a path on this machine, got the address hf://"),
        ("GS://x", "a path on this machine, got the address GS://x;"),
    ],
)
def test_what_is_no_path_of_this_machine_is_refused(text: str, said: str) -> None:
    with pytest.raises(OutputError) as refused:
        local_path(text, "results_dir")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["a", "ünï日本 (1)=x", ".hidden", "a..b", "-rf", "n" * 235])
def test_names_are_taken_as_they_are(text: str) -> None:
    assert file_stem(text, "--name", spare=20) == text


@pytest.mark.parametrize("text", ["", ".", "..", "../../x", "a/b", "/etc/x", "a/", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(OutputError, match=r"^--name must be a name without a folder, got '"):
        file_stem(text, "--name", spare=20)


@pytest.mark.parametrize("text", ["n" * 236, "é" * 118, "日" * 79])
def test_a_name_is_measured_in_bytes_with_what_is_appended(text: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^--name must be a name of at most 235 bytes, got 23"):
        file_stem(text, "--name", spare=20)
    with pytest.raises(OSError, match="too long"):
        (tmp_path / (text + "x" * 20)).touch()
    (tmp_path / (os.fsencode(text)[:235].decode(errors="ignore") + "x" * 20)).touch()
