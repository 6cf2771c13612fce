"""`p3d completion`: a script that completes p3d's commands in bash, zsh or fish.

The script is static: it holds the names of all commands, options and choices, so that nothing is
started when the user presses TAB.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from p3d.cli import COMMANDS, Command
from p3d.cli.options import Option
from p3d.cli.parse import command_options
from p3d.system.markers import Positional

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True)
class CompletionOptions:
    """Print a script that completes commands, options, choices and files.

    bash: add `source <(p3d completion bash)` to ~/.bashrc.

    zsh: add `source <(p3d completion zsh)` to ~/.zshrc.

    fish: p3d completion fish > ~/.config/fish/completions/p3d.fish
    """

    shell: Positional[Shell]
    """bash, zsh or fish."""


def run(options: CompletionOptions) -> None:
    """Print the script of a shell."""
    print(completion(options.shell), end="")


def completion(shell: Shell) -> str:
    """Return the script that completes p3d's commands in a shell."""
    options = {name: all_options(command) for name, command in COMMANDS.items()}
    if shell == "fish":
        return _fish(options)
    return (_ZSH if shell == "zsh" else "") + _bash(options)


def all_options(command: Command) -> list[Option]:
    """Return the options of a command with any recipe."""
    if not command.takes_recipe:
        return command_options(command)
    from p3d.training.recipes import RECIPES

    found = [command_options(command, {"recipe": recipe}) for recipe in RECIPES.values()]
    return list({option.flag: option for each in found for option in each}.values())


_ZSH = """\
(( $+functions[compdef] )) || { autoload -U +X compinit && compinit -i }
autoload -U +X bashcompinit && bashcompinit
"""

_BASH = """\
# Completion of p3d. In bash, the words of --option=value are `--option`, `=` and `value`.
_p3d() {
    if [ "${COMP_WORDS[1]}" = help ] && [ "$COMP_CWORD" -gt 1 ]; then
        COMP_WORDS=("${COMP_WORDS[0]}" "${COMP_WORDS[@]:2}")
        COMP_CWORD=$((COMP_CWORD - 1))
    fi
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local command=${COMP_WORDS[1]} first=2 prefix=''
    local words='' options='' switches='' choices='' takes_words=''
    case $before in =) before=${COMP_WORDS[COMP_CWORD-2]} ;; esac
    case $word in
        =) word='' ;;
        --*=*) before=${word%%%%=*} prefix=${word%%%%=*}= word=${word#*=} ;;
    esac
    COMPREPLY=()
    case $command in
        %(families)s)
            command="$command ${COMP_WORDS[2]}"
            first=3 ;;
    esac
    case $command in
%(commands)s
    esac
    case "$command $before" in
%(choices)s
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="%(first)s"
    elif [ "$COMP_CWORD" -lt "$first" ]; then
        case ${COMP_WORDS[1]} in
%(second)s
        esac
    elif [ -n "$choices" ]; then
        words=$choices
    else
        case " $switches " in
            *" $before "*) ;;
            *) case " $options " in *" $before "*) return ;; esac ;;
        esac
        case $word in
            -*) words=$options ;;
            *) words=${takes_words:-$options}; [ "$takes_words" = FILES ] && return ;;
        esac
    fi
    # shellcheck disable=SC2207 # words have no spaces
    COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$word"))
}
complete -o default -F _p3d p3d
"""


def _bash(options: dict[str, list[Option]]) -> str:
    families = _families(options)
    return _BASH % {
        "families": "|".join(families),
        "commands": "\n".join(_bash_command(name, each) for name, each in options.items()),
        "choices": "\n".join(
            f"        {pattern}) choices={shlex.quote(choices)} ;;"
            for choices, pattern in _choice_patterns(options).items()
        ),
        "first": " ".join(_first_words(options)),
        "second": "\n".join(
            f'            {family}) words="{" ".join(_second_words(options, family))}" ;;'
            for family in families
        ),
    }


def _families(names: Iterable[str]) -> list[str]:
    """Return the first words of commands of two words."""
    return sorted({name.split()[0] for name in names if " " in name})


def _first_words(options: dict[str, list[Option]]) -> list[str]:
    return [*dict.fromkeys(name.split()[0] for name in options), "help", "--help", "--version"]


def _second_words(options: dict[str, list[Option]], family: str) -> list[str]:
    return [name.split()[1] for name in options if name.split()[0] == family and " " in name]


def _bash_command(name: str, options: list[Option]) -> str:
    """Return the case that sets the options of a command, and what its other words are."""
    flags = " ".join(option.flag for option in options if not option.is_positional)
    switches = " ".join(option.flag for option in options if option.kind.is_switch)
    words = ""
    for option in options:
        if option.is_positional:
            words = "FILES" if option.kind.is_path else " ".join(option.kind.choices)
    return f"""\
        {shlex.quote(name)})
            options="{flags}"
            switches="{switches}"
            takes_words="{words}" ;;"""


def _choice_patterns(options: dict[str, list[Option]]) -> dict[str, str]:
    """Return, for each set of choices, the shell pattern of all options that take one of them."""
    patterns: dict[str, list[str]] = {}
    for name, each in options.items():
        for option in each:
            if option.kind.choices and not option.is_positional:
                words = " ".join(option.kind.choices)
                patterns.setdefault(words, []).append(f'"{name} {option.flag}"')
    return {words: "|".join(found) for words, found in patterns.items()}


_FISH = """\
# Completion of p3d.
function __p3d_words
    set -l words (commandline -opc)[2..]
    test "$words[1]" = help && set -e words[1]
    string join -- ' ' $words
end
function __p3d_in
    string match -q -- "$argv *" (__p3d_words)' '
end
function __p3d_next
    test (__p3d_words | string collect -a) = "$argv"
end
complete -c p3d -f
"""


def _fish(options: dict[str, list[Option]]) -> str:
    lines = []
    for name, command in COMMANDS.items():
        *family, last = name.split()
        text = _fish_text(command.summary)
        lines.append(f"complete -c p3d -n '__p3d_next {' '.join(family)}' -a {last} -d {text}")
        lines += [_fish_option(name, option) for option in options[name]]
    for word in [*_families(options), "help"]:
        lines.append(f"complete -c p3d -n '__p3d_next' -a {word}")
    return _FISH + "\n".join(lines) + "\n"


def _fish_option(command: str, option: Option) -> str:
    words = ["complete", "-c", "p3d", "-n", f"'__p3d_in {command}'"]
    kind = option.kind
    if not option.is_positional:
        words += ["-l", option.flag[2:], "-d", _fish_text(option.text)]
    if not kind.is_switch and not option.is_positional:
        words.append("-r")
    words.append("-F" if kind.is_path else "-f")
    if kind.choices:
        words += ["-a", _fish_text(" ".join(kind.choices))]
    return " ".join(words)


def _fish_text(text: str) -> str:
    """Return the first sentence of a text, quoted."""
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return "'" + sentence.replace("\\", "\\\\").replace("'", "\\'") + "'"
