"""Shell completion: the shell runs `quant-harness --shell-completion query` for the next word.

For `run` and `export`, Hydra composes the line so far, and names its groups, options and keys.
"""

import argparse
import contextlib
import importlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from harness.conf_folder import DATA_FOLDERS

FLAG = "--shell-completion"
INSTALL: Mapping[str, str] = MappingProxyType(
    {
        "bash": f'eval "$(quant-harness {FLAG} bash)"',
        "zsh": f'eval "$(quant-harness {FLAG} zsh)"',
        "fish": f"quant-harness {FLAG} fish | source",
    }
)
"""Shell -> the line that installs the completion."""
QUERY = f'COMP_LINE="$line" quant-harness {FLAG} query 2>/dev/null'

BASH = f"""\
_quant_harness() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" IFS=$'\\n' i
    local word="${{line##* }}" breaks="${{COMP_WORDBREAKS//[^=:@]/}}" kept=""
    COMPREPLY=($({QUERY}))
    # Bash replaces what stands behind the last = : or @ only.
    [[ -n $breaks ]] && kept="${{word%"${{word##*[$breaks]}}"}}"
    for i in "${{!COMPREPLY[@]}}"; do
        COMPREPLY[i]="${{COMPREPLY[i]#"$kept"}}"
        [[ ${{COMPREPLY[i]}} == *[=./] ]] || COMPREPLY[i]+=" "
    done
}}
complete -o nospace -F _quant_harness quant-harness
"""
ZSH = f"""\
_quant_harness() {{
    local line="${{(j: :)words[1,CURRENT]}}"
    local -a found
    found=("${{(@f)$({QUERY})}}")
    compadd -S '' -- ${{(M)found:#*[=./]}}
    compadd -- ${{found:#*[=./]}}
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
compdef _quant_harness quant-harness
"""
FISH = f"""\
function __quant_harness
    set -lx COMP_LINE (commandline -cp)
    quant-harness {FLAG} query 2>/dev/null
end
complete -c quant-harness -f -a '(__quant_harness)'
"""
SCRIPTS: Mapping[str, str] = MappingProxyType({"bash": BASH, "zsh": ZSH, "fish": FISH})


def answer(asked: str, commands: Collection[str]) -> str:
    """Return the script for a shell; for `query`, the completions of the line in `COMP_LINE`.

    Args:
        asked: `bash`, `zsh`, `fish` or `query`.
        commands: The commands of `quant-harness`.
    """
    if asked in SCRIPTS:
        return SCRIPTS[asked]
    if asked != "query":
        return ""
    return "".join(f"{word}\n" for word in completions(os.environ.get("COMP_LINE", ""), commands))


def completions(line: str, commands: Collection[str]) -> list[str]:
    """Return the words that could stand in the place of the last word of a line, sorted.

    Args:
        line: `quant-harness ...` up to the cursor. Behind a space the last word is empty.
        commands: The commands of `quant-harness`.
    """
    _, *words = line.split()
    words += [""] if line[-1:].isspace() or not words else []
    *before, last = words
    if not before:
        candidates: Iterable[str] = (*commands, "--help", "--version", FLAG)
    elif before[0] in _ANSWERS:
        candidates = _ANSWERS[before[0]](before[1:], last)
    elif before == [FLAG]:
        candidates = SCRIPTS
    else:
        candidates = ()
    return sorted({word for word in candidates if word.startswith(last)})


def _of_run(before: list[str], last: str) -> Iterator[str]:
    from harness import config  # noqa: PLC0415 - completing a command imports nothing

    config.register()
    yield from _of_hydra("config", before, last)


def _of_plan(before: list[str], last: str) -> Iterator[str]:
    from harness.cli import plan  # noqa: PLC0415

    plan.register()
    yield from _of_hydra("plan", before, last)


def _of_export(before: list[str], last: str) -> Iterator[str]:
    from harness.export import command  # noqa: PLC0415

    command.register()
    yield from _of_hydra("export", before, last)


def _of_hydra(name: str, before: list[str], last: str) -> Iterator[str]:
    """Yield flags, or what Hydra's own completion says of a line."""
    from hydra import initialize_config_dir  # noqa: PLC0415
    from hydra.core.global_hydra import GlobalHydra  # noqa: PLC0415
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin  # noqa: PLC0415

    from harness.cli.arguments import added, flag_names  # noqa: PLC0415
    from harness.config import CONF  # noqa: PLC0415

    if last.startswith("-"):
        yield from flag_names()
        return
    line = " ".join([*(added(word) for word in before), last])
    # A line that cannot be composed, such as one with a misspelt option, has no completion.
    with (
        contextlib.suppress(Exception, SystemExit),
        contextlib.redirect_stderr(None),
        initialize_config_dir(version_base="1.3", config_dir=str(CONF)),
    ):
        asked = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
        found = asked._query(config_name=name, line=line)  # noqa: SLF001 - Hydra has no other
        data = tuple(f"{name}=" for name in DATA_FOLDERS)
        yield from (word for word in found if "_target_" not in word and not word.startswith(data))


def _of_parser_in(module: str) -> Callable[[list[str], str], Iterator[str]]:
    """Return a function that completes the line of a module with a function `parser`."""

    def complete(_before: list[str], last: str) -> Iterator[str]:
        yield from _of_parser(importlib.import_module(module).parser(), last)

    return complete


def _of_tensor(before: list[str], last: str) -> Iterator[str]:
    from harness.cli.syntax import option_groups  # noqa: PLC0415
    from harness.tensor.__main__ import parser  # noqa: PLC0415

    [found] = [
        action.choices
        for action in parser()._actions  # noqa: SLF001 - argparse has no public list
        if isinstance(action.choices, Mapping)
    ]
    if not before:
        yield from found
    elif before[-1] == "--format":
        yield from option_groups()["format"]
    elif before[0] in found:
        yield from _of_parser(found[before[0]], last)


def _of_parser(parser: argparse.ArgumentParser, last: str) -> Iterator[str]:
    """Yield the options of a parser, or files for a word that is none."""
    if last.startswith("-"):
        for action in parser._actions:  # noqa: SLF001 - argparse has no public list
            yield from (option for option in action.option_strings if option.startswith("--"))
        return
    folder = last.rpartition("/")[0]
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder or "."):
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - `./a` keeps its dot
            yield f"{path}/" if entry.is_dir() else path


_ANSWERS: Mapping[str, Callable[[list[str], str], Iterator[str]]] = MappingProxyType(
    {
        "run": _of_run,
        "plan": _of_plan,
        "report": _of_parser_in("harness.report.__main__"),
        "compare": _of_parser_in("harness.compare.__main__"),
        "export": _of_export,
        "audit": _of_parser_in("harness.audit.__main__"),
        "tensor": _of_tensor,
        "anchors": _of_parser_in("harness.anchors.__main__"),
    }
)
