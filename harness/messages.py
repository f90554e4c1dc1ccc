"""Parts of the messages that a user reads."""

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches

SCRIPT = "quant-harness"
"""Name of the console script; `harness.script` puts it and its command into `sys.argv[0]`."""

UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of the text after them."""

BATCH_DEPENDENT = "results depend on how sequences are batched"
"""End of a warning about layers whose result for a token depends on the tokens beside it."""


def did_you_mean(got: str, legal: Iterable[str], spelled: str = "{}") -> str:
    """Return `; did you mean X?` with the closest legal name, or nothing if no name is close.

    Args:
        got: What was typed.
        legal: The names that exist.
        spelled: How a name is typed, with braces in its place.
    """
    names = list(legal)
    close = get_close_matches(got.lower(), names, n=1)
    # A name whose beginning is close, such as limit_windows for limt.
    begun = {name[: len(got) + 1]: name for name in reversed(names) if len(got) > 2}
    close = close or [
        begun[part] for part in get_close_matches(got.lower(), begun, n=1, cutoff=0.75)
    ]
    return f"; did you mean {spelled.format(close[0])}?" if close else ""


def program(module: str) -> str:
    """Return how a command was typed: `quant-harness report`, or `python -m harness.report`."""
    return sys.argv[0] if sys.argv[0].startswith(f"{SCRIPT} ") else f"python -m {module}"


def plural(noun: str, num: int) -> str:
    """Return a noun in the number of `num`: `question` for 1, else `questions`."""
    return noun if num == 1 else f"{noun}s"


def in_one_line(text: object) -> str:
    """Return a text without line breaks and repeated spaces, cut after 500 characters."""
    return " ".join(str(text).split())[:500]


def visible(text: str) -> str:
    """Return a text of others on one line, with its control characters as escapes.

    A name in a record could otherwise move the cursor, color the terminal, or begin a line.
    """
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], " ".join(text.split()))
