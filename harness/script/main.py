"""Find the command that `quant-harness COMMAND ...` names, and run it in this process."""

import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from harness import __version__, signals
from harness.messages import SCRIPT, did_you_mean
from harness.script import completion


class Command(NamedTuple):
    """A command of the script."""

    module: str
    """The module with its function `main`."""
    about: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "plan": Command("harness.cli.plan", "how many samples show a difference"),
        "run": Command("harness.cli.run", "measure a recipe on a task, or sweep over several"),
        "report": Command("harness.report.__main__", "tables and plots of a folder of records"),
        "compare": Command(
            "harness.compare.__main__", "is a run worse than another? a gate for CI"
        ),
        "export": Command("harness.export.command", "write a quantized model as a checkpoint"),
        "audit": Command(
            "harness.audit.__main__", "what is wrong in the tables of a Markdown file"
        ),
        "tensor": Command("harness.tensor.__main__", "put the tensors of a file into formats"),
        "anchors": Command("harness.anchors.__main__", "list published figures to compare with"),
    }
)
USAGE = """\
usage: quant-harness COMMAND ...

Measure what quantization costs a language model, and what it gains.

{commands}

Examples:
  quant-harness run task=perplexity                      the unquantized model
  quant-harness run quant=int8_row task=perplexity       a recipe
  quant-harness report                                   tables of what is in results/

Help:
  quant-harness COMMAND --help                           options and settings of a command
  quant-harness run --help task=mmlu quant=int8_row      keys of a task and a recipe
  quant-harness --version

Completion of commands, options and keys, for one session or in the shell's start-up file:
{completions}
"""


def main() -> None:
    """Run the command of this process; exit with 1 if there is no such command."""
    signals.leave_at_once()  # the imports of a command take a while
    name, *rest = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv = [f"{SCRIPT} {name}", *rest]
        _run(name)
    elif name in ("--help", "-h"):
        sys.stdout.write(usage())
    elif name == "--version":
        sys.stdout.write(f"{SCRIPT} {__version__}\n")
    elif name == completion.FLAG and rest:
        sys.stdout.write(completion.answer(rest[0], COMMANDS))
    else:
        sys.stderr.write(f"{_unknown(name)}\n")
        sys.exit(1)


def _run(name: str) -> None:
    # Imported here: `--help` is instant.
    from harness.output.redacted_streams import redacted_streams  # noqa: PLC0415

    with redacted_streams():
        importlib.import_module(COMMANDS[name].module).main()


def usage() -> str:
    """Return what `quant-harness --help` prints."""
    width = max(map(len, COMMANDS))
    commands = (f"  {name:<{width}}   {command.about}" for name, command in COMMANDS.items())
    completions = (f"  {line}" for line in completion.INSTALL.values())
    return USAGE.format(commands="\n".join(commands), completions="\n".join(completions))


def _unknown(name: str) -> str:
    """Return what is wrong with a word in the place of a command, and what to type."""
    meant = did_you_mean(name, COMMANDS, f"{SCRIPT} {{}}")
    if name == completion.FLAG:
        return f"{name} must have a shell: {', '.join(completion.INSTALL)}"
    if "=" in name or name.startswith("-"):
        meant = f"; did you mean {SCRIPT} run {name}?"
    return f"the command must be one of {', '.join(COMMANDS)}, got {name}{meant}"
