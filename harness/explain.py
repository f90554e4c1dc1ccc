"""What Hydra raises, in words that say what to type instead."""

from difflib import get_close_matches

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.errors import own_error


def explain(reason: BaseException) -> str:
    """Return Hydra's message, with what it keeps to itself: the cause, and for an unknown key the legal ones."""
    if own := own_error(reason):
        return str(own)
    lines = str(reason).strip().splitlines()
    cause: BaseException | None = reason
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
        if isinstance(parent, DictConfig) and key is not None and key not in parent:
            # Hydra advises to append an unknown key with a plus, which is refused here all the same.
            kept = [line for line in lines if not line.startswith("To append")]
            return "\n".join([*kept, _legal_keys(parent, str(key))])
        if cause is not reason and isinstance(cause, OmegaConfBaseException):
            lines += [line for line in str(cause).splitlines() if line not in lines]
        cause = cause.__cause__
    return "\n".join(lines)


def _legal_keys(parent: DictConfig, key: str) -> str:
    path = str(parent._get_full_key(None))  # noqa: SLF001 - no public way to a node's path
    target = str(parent.get("_target_", "")).rpartition(".")[2]
    place = f"{path} ({target})" if path and target else path or "the configuration"
    legal = [str(name) for name in parent if name != "_target_"]
    close = get_close_matches(key, legal, n=1)
    hint = f" (did you mean {path + '.' if path else ''}{close[0]}?)" if close else ""
    return f"Legal keys of {place}: {', '.join(legal) or 'none'}{hint}"
