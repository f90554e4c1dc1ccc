"""Where a repository is looked for, in which order, and what the error says."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from harness.errors import DataError, ModelError
from harness.hub_files import Found, Repository, locate


def missing(folder: Path) -> str | None:
    """Say what a folder lacks, as a data set does."""
    return None if any(folder.glob("*.parquet")) else "has no *.parquet"


REPOSITORY = Repository(
    name="owner/name", kind="dataset", patterns=("*.parquet",), missing=missing, revision="abc"
)


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.parquet").touch()
    return folder


class FakeHub:
    """The local cache and the hub, each with a folder or an error."""

    def __init__(self, cache: Path | Exception, remote: Path | Exception) -> None:
        self.places = {True: cache, False: remote}
        self.asked: list[bool] = []

    def __call__(self, repository: Repository, *, offline: bool) -> str:
        self.asked.append(offline)
        place = self.places[offline]
        if isinstance(place, Exception):
            raise place
        return str(place)


NOT_CACHED = LocalEntryNotFoundError("not in the cache\nand more")
NO_NETWORK = OfflineModeIsEnabled("offline")


def find(path: str | None = None) -> Found:
    return locate(REPOSITORY, path, override="data.path", error=DataError)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """All four places, filled."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    folders = {
        "path": fill(tmp_path / "explicit"),
        "data": fill(tmp_path / "data" / "owner" / "name"),
        "cache": fill(tmp_path / "cache" / "c0ffee"),
        "hub": fill(tmp_path / "hub" / "beef"),
    }
    monkeypatch.setattr("harness.hub_files._download", FakeHub(folders["cache"], folders["hub"]))
    return folders


def test_explicit_folder_comes_first(places: dict[str, Path]) -> None:
    assert find(str(places["path"])) == Found(folder=places["path"], revision=None)


def test_environment_variable_comes_second(places: dict[str, Path]) -> None:
    assert find() == Found(folder=places["data"], revision=None)


def test_local_cache_comes_third_and_has_a_commit(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_DATA")
    assert find() == Found(folder=places["cache"], revision="c0ffee")


@pytest.mark.parametrize("damage", ["absent", "empty"])
def test_hub_comes_last(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.delenv("HARNESS_DATA")
    (places["cache"] / "a.parquet").unlink()
    cache = NOT_CACHED if damage == "absent" else places["cache"]
    fake = FakeHub(cache, places["hub"])
    monkeypatch.setattr("harness.hub_files._download", fake)
    assert find() == Found(folder=places["hub"], revision="beef")
    assert fake.asked == [True, False]


def test_folder_of_the_environment_without_the_files_is_passed_over(
    places: dict[str, Path],
) -> None:
    (places["data"] / "a.parquet").unlink()
    assert find().folder == places["cache"]


def test_wrong_explicit_folder_is_never_replaced_by_another_place(
    places: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, lack in (("nowhere", "is not a folder"), ("empty", r"has no \*\.parquet")):
        folder = tmp_path / name
        with pytest.raises(DataError, match=rf"data\.path must .* {folder} {lack}"):
            find(str(folder))


def test_home_is_expanded(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(places["path"].parent))
    assert find("~/explicit").folder == places["path"]


@pytest.mark.parametrize("variable", ["set", "unset"])
def test_error_lists_every_place_and_three_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    if variable == "set":
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("harness.hub_files._download", FakeHub(NOT_CACHED, NO_NETWORK))
    with pytest.raises(DataError) as caught:
        find()
    message = str(caught.value)
    assert "dataset 'owner/name' (revision abc)" in message
    assert message.count("\n  ") == 4, "a line for each of the four places"
    assert "\n  data.path: not set\n" in message
    if variable == "set":
        assert f"$HARNESS_DATA: {tmp_path}/owner/name is not a folder" in message
    else:
        assert "$HARNESS_DATA: not set" in message
    assert "local hub cache: not in the cache\n" in message
    assert "hub: offline" in message
    assert "data.path=FOLDER" in message
    assert "set HARNESS_DATA" in message
    assert "connect to the hub once" in message


def test_error_has_the_class_and_override_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("harness.hub_files._download", FakeHub(OSError(), OSError("refused")))
    with pytest.raises(ModelError, match=r"(?s)local hub cache: OSError.*model\.path=FOLDER"):
        locate(REPOSITORY, None, override="model.path", error=ModelError)


def test_unforeseen_error_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("harness.hub_files._download", FakeHub(ZeroDivisionError(), NO_NETWORK))
    with pytest.raises(ZeroDivisionError):
        find()
