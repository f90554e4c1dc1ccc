"""Hydra's messages on a command line, and the messages that replace them."""

from collections.abc import Sequence

MESSAGES: Sequence[tuple[str, str]] = (
    (
        r"Multiple values for (.+?)\. .*",
        "{0} must be chosen once, got two options; a sweep over them is -m {0}=A,B",
    ),
    (
        r"Ambiguous value for argument '([^.=]+)=(.*)' 1\. .*",
        "{0} must have one value, got {1}; a sweep over them needs -m",
    ),
    (
        r"Ambiguous value for argument '(.+?)=(.*)' 1\. .*",
        "{0} must have one value, got {1}; a sweep over them needs -m, a list is "
        "'{0}=[{1}]', and a text with a comma is in quotes",
    ),
    (
        r"Sweep parameters '(.+?)=(.*)' requires --multirun",
        "{0} must have one value, got {1}; a sweep needs -m",
    ),
    (
        r"Sweeping over Hydra's configuration is not supported : '(.*)'",
        "a key of hydra must have one value in a sweep, got {0}",
    ),
    (
        r"Could not append to config\. An item is already at '(.+?)'\. Either remove \+ "
        r"prefix: '(.*?)' Or .*",
        "a key with a + must be a new one, got {0}, which is there; type {1}",
    ),
    (
        r"Could not delete (?:from config\. )?'(.+?)'(?: does not exist)?\..*",
        "a key after ~ must be one that is there, got ~{0}; leave it out",
    ),
    (
        r"Could not delete from config\. The value of '(.+?)' is (.*) and not (.*)\.",
        "~{0}={2} must name the value that is there, got {2} where it is {1}; type ~{0}",
    ),
    (
        r"Override (.+?) looks like a config group override, but config group '(.+?)' "
        r"does not exist\.",
        "a word with @ or / must choose an option of a group, got {0}; groups: {groups}",
    ),
    (
        r"force-add of config groups is not supported: '\++(.*)'",
        "a group must be chosen without ++, got ++{0}; type {0}",
    ),
    (
        r"Config group override must be a string or a list\. Got (.*)",
        "a group must be GROUP=OPTION, got a value of type {0}",
    ),
    (
        r"Additional config directory '(.*)' not found",
        "--config-dir must be a folder, got {0}; correct the path",
    ),
    (
        r"Primary config directory not found.*config directory '(.*)' exists.*",
        "--config-path must be a folder, got {0}; folders of your own are added with --config-dir",
    ),
    (
        r"package '(.*)' not found in config",
        "--package must be a key of the configuration, got {0}; leave it out to see them all",
    ),
    (
        r"Cannot find primary config '(.*?)'\..*",
        "--config-name must be the name of a file in conf, got {0}; leave it out",
    ),
    (
        r"Invalid plugin '(.*)': not the hydra_plugins package",
        "a launcher or sweeper must be one that `python -m harness --info plugins` lists, got {0}",
    ),
    (
        r"In '(.+?)': \w+ raised while composing config: Cannot merge DictConfig with ListConfig.*",
        "{0}.yaml must hold keys and values, got a list",
    ),
    (
        r"In '(.+?)': \w+ raised while composing config: (.*?)(?: full_key: .*)?",
        "{0}.yaml must fit into the configuration, got: {1}",
    ),
    (
        r"(Error (?:locating|in call to) target .*)",
        "a key of hydra must be as `--cfg hydra` shows, got: {0}",
    ),
)
"""Pairs: a regular expression for a line of Hydra, and the message that takes its groups."""
