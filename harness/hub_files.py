"""Find the files of a hub repository: data set or model.

Four places are tried, in this order, and nothing is ever put in a missing one's stead:

1. an explicit folder,
2. `$HARNESS_DATA/<owner>/<name>`, the layout of the hub,
3. the local hub cache,
4. the hub itself.

A revision is resolved to a commit once; the commit is what the record keeps.

The library resumes a broken connection up to five times. If it gives up, whole files stay in the cache, and the next command fetches the
broken one anew. A file of another size than the hub states is an error. A snapshot is taken from the cache only if every file of the hub's
list is there.
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

# The base class of all errors of the HTTP client, from which those of the hub derive.
TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
UNREACHABLE = (TRANSPORT, OSError, HFValidationError)
"""Errors of the library for files that it cannot get. Errors of its cache and of wrong sizes are `OSError`."""
UNAUTHORIZED = (401, 403)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """Some files of a repository on the hub."""

    name: str
    """`owner/name`."""
    kind: Literal["dataset", "model"]
    patterns: tuple[str, ...]
    """Globs of the files that are wanted."""
    unwanted: tuple[str, ...] = ()
    """Globs of files among these that are not downloaded."""
    missing: Callable[[Path], str | None]
    """What a folder lacks to be whole, or None: an interrupted download must not be taken for the repository."""
    revision: str = "main"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A folder that holds a repository's files."""

    folder: Path
    revision: str | None
    """Commit of the hub; None for a folder the user gave."""


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
        override: The command-line override that names a folder, for the message.
        error: Makes the error to raise.

    Raises:
        HarnessError: No place has it. The message lists what was tried and three ways to fix it.
    """
    if path is not None:
        folder = paths.expanded(path)
        if lack := _lack(folder, repository):
            raise error(
                f"{override} must lead to a whole {repository.kind} {repository.name}, but {folder} {lack}; "
                "correct the path, or leave it out to search the other places"
            )
        return Found(folder=folder, revision=None)
    tried = []
    if root := os.environ.get("HARNESS_DATA"):
        folder = paths.expanded(root) / repository.name
        lack = _lack(folder, repository)
        if lack is None:
            return Found(folder=folder.resolve(), revision=None)
        tried.append(f"$HARNESS_DATA: {folder} {lack}")
    else:
        tried.append("$HARNESS_DATA: not set")
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
        f"{repository.kind} {repository.name!r} (revision {repository.revision}) must be found in one of "
        "four places, got none:\n  " + "\n  ".join(tried) + "\nDo one of three things: pass "
        f"{override}=FOLDER; set HARNESS_DATA to a folder that has {repository.name}/; "
        "or connect to the hub once, so that its cache is filled."
    )


def _check_name(
    repository: Repository, override: str, error: Callable[[str], HarnessError]
) -> None:
    """Raise the error for a name that the hub can have no repository of."""
    try:
        validate_repo_id(repository.name)
    except HFValidationError as reason:
        raise error(
            f"the name of a {repository.kind} must be OWNER/NAME in letters, digits, -, _ and ., got {repository.name!r}; correct it, or "
            f"pass {override}=FOLDER"
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
    """Return why no files came from a place, in one line."""
    response = getattr(reason, "response", None)
    if isinstance(reason, GatedRepoError) or (
        not isinstance(reason, RepositoryNotFoundError)
        and getattr(response, "status_code", None) in UNAUTHORIZED
    ):
        return "access was refused; accept the conditions of the repository on its page, and set HF_TOKEN to a token that may read it"
    if isinstance(reason, RepositoryNotFoundError):
        return f"there is no {repository.kind} of this name, or it is private; correct the name, or set HF_TOKEN to a token that may read it"
    if isinstance(reason, RevisionNotFoundError):
        return f"the repository has no branch, tag or commit {repository.revision!r}; correct the revision"
    text = str(reason).strip() or type(reason).__name__
    # What follows the first sentence is advice on the library's own options.
    sentence = text.splitlines()[0].partition(". ")[0]
    offline = isinstance(reason.__cause__, OfflineModeIsEnabled)
    return f"HF_HUB_OFFLINE is set, and {sentence}" if offline else sentence
