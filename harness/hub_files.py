"""The files of a repository on the hub: data set or model.

Four places are tried in this order; there is no fallback data set or model:

1. the folder that the user named;
2. `$HARNESS_DATA/<owner>/<name>`, the layout of the hub;
3. the local cache of the hub;
4. the hub itself.

A revision is resolved to a commit once, and the record keeps the commit.

Downloads: huggingface_hub resumes a broken connection up to five times. If it gives up, whole files
stay in the cache, and the next command fetches the broken file anew. A file whose size is not the
size that the hub states is an error. The cache is used only if it has every file of the hub's list.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils.tqdm import disable_progress_bars

from harness import paths
from harness.errors import HarnessError

TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
"""Base class of the errors of the HTTP client, whichever client the library uses."""
UNREACHABLE = (TRANSPORT, OSError, HFValidationError)
"""Errors of the library for files that it cannot get. Errors of its cache, and of files of a wrong
size, are `OSError`."""
UNAUTHORIZED = (401, 403)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """Some files of a repository on the hub."""

    name: str
    """`owner/name`."""
    kind: Literal["dataset", "model"]
    patterns: tuple[str, ...]
    """Globs of the files to get."""
    unwanted: tuple[str, ...] = ()
    """Globs of files among them that are not downloaded."""
    missing: Callable[[Path], str | None]
    """Returns what a folder lacks, or None if it is whole. An interrupted download is not whole."""
    revision: str = "main"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A folder that holds a repository's files."""

    folder: Path
    revision: str | None
    """Commit on the hub; None for a folder of the user."""


def locate(
    repository: Repository,
    path: str | None,
    *,
    override: str,
    error: Callable[[str], HarnessError],
) -> Found:
    """Return the folder of a repository, from the first of the four places that has it.

    Args:
        repository: What to look for.
        path: An explicit folder, or None.
        override: The override that names a folder, for messages.
        error: Makes the error to raise.

    Raises:
        HarnessError: No place has it. The message lists what was tried and three remedies.
    """
    if path is not None:
        return _in_folder(repository, paths.expanded(path), override, error)
    found, lack_of_data = _in_data_folder(repository)
    if found is not None:
        return found
    tried = [f"{override}: not set", *lack_of_data]
    _check_name(repository, override, error)
    for offline, place in ((True, "local hub cache"), (False, "hub")):
        try:
            folder = Path(_download(repository, offline=offline))
        except UNREACHABLE as reason:
            tried.append(f"{place}: {_explained(reason, repository)}")
            continue
        lack = _lack(folder, repository)
        if lack is None:
            return Found(folder=folder, revision=folder.name)
        tried.append(f"{place}: {folder} {lack}")
    raise error(
        f"{repository.kind} {repository.name!r} (revision {repository.revision}) must be found in "
        "one of four places, got none:\n  " + "\n  ".join(tried) + "\nDo one of three things: pass "
        f"{override}=FOLDER; set HARNESS_DATA to a folder that has {repository.name}/; "
        "or connect to the hub once, so that its cache is filled."
    )


def _in_folder(
    repository: Repository, folder: Path, override: str, error: Callable[[str], HarnessError]
) -> Found:
    """Return the folder that the user named; raise the error if it is not whole."""
    if lack := _lack(folder, repository):
        raise error(
            f"{override} must lead to a whole {repository.kind} {repository.name}, but "
            f"{folder} {lack}; correct the path, or leave it out to search the other places"
        )
    return Found(folder=folder, revision=None)


def _in_data_folder(repository: Repository) -> tuple[Found | None, list[str]]:
    """Return the folder below `$HARNESS_DATA`; else None, and a line that says why."""
    root = os.environ.get("HARNESS_DATA")
    if not root:
        return None, ["$HARNESS_DATA: not set"]
    folder = paths.expanded(root) / repository.name
    lack = _lack(folder, repository)
    if lack is not None:
        return None, [f"$HARNESS_DATA: {folder} {lack}"]
    return Found(folder=folder.resolve(), revision=None), []


def _check_name(
    repository: Repository, override: str, error: Callable[[str], HarnessError]
) -> None:
    """Raise the error for a name that the hub does not allow."""
    try:
        validate_repo_id(repository.name)
    except HFValidationError as reason:
        raise error(
            f"the name of a {repository.kind} must be OWNER/NAME in letters, digits, -, _ and ., "
            f"got {repository.name!r}; correct it, or pass {override}=FOLDER"
        ) from reason


def _download(repository: Repository, *, offline: bool) -> str:
    if not sys.stderr.isatty():
        disable_progress_bars()
    return str(
        snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=list(repository.patterns),
            ignore_patterns=list(repository.unwanted),
            local_files_only=offline,
        )
    )


def _lack(folder: Path, repository: Repository) -> str | None:
    return repository.missing(folder) if paths.is_folder(folder) else "is not a folder"


def _explained(reason: BaseException, repository: Repository) -> str:
    """Return in one line why a place has no files."""
    response = getattr(reason, "response", None)
    if isinstance(reason, GatedRepoError) or (
        not isinstance(reason, RepositoryNotFoundError)
        and getattr(response, "status_code", None) in UNAUTHORIZED
    ):
        return (
            "access was refused; accept the conditions of the repository on its page, and set "
            "HF_TOKEN to a token that may read it"
        )
    if isinstance(reason, RepositoryNotFoundError):
        return (
            f"there is no {repository.kind} of this name, or it is private; correct the name, or "
            "set HF_TOKEN to a token that may read it"
        )
    if isinstance(reason, RevisionNotFoundError):
        return (
            f"the repository has no branch, tag or commit {repository.revision!r}; correct the "
            "revision"
        )
    text = str(reason).strip() or type(reason).__name__
    # Keep the first sentence: the others advise on options of the library.
    sentence = text.splitlines()[0].partition(". ")[0]
    offline = isinstance(reason.__cause__, OfflineModeIsEnabled)
    return f"HF_HUB_OFFLINE is set, and {sentence}" if offline else sentence
