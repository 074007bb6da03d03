"""Shell completion of `python -m mlp.COMMAND`: Hydra knows the answers, but not such a line."""

import os

from mlp.errors import SettingError

_INSTALL = r"""_mlp_complete() {
    COMPREPLY=()
    local words=($COMP_LINE) word=${COMP_WORDS[COMP_CWORD]}
    if [[ ${words[1]} == -m && ${words[2]} == mlp.* && $COMP_CWORD -gt 2 ]]; then
        local choices=$(COMP_LINE=$COMP_LINE ${words[0]} -m ${words[2]} -sc query=bash 2> /dev/null)
        COMPREPLY=($(compgen -W "$choices" -- "$word"))
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _mlp_complete python python3"""

_UNINSTALL = """complete -r python python3
unset -f _mlp_complete
COMP_WORDBREAKS=$COMP_WORDBREAKS="""


def script(what: str) -> str | None:
    """What bash is to evaluate for `--shell-completion install=bash`, or `uninstall=bash`.

    Hydra's own script completes `python FILE.py` only.

    Args:
        what: the value of the flag.

    Returns:
        The script; None for a query, which Hydra answers itself.

    Raises:
        SettingError: for anything else.
    """
    scripts = {"install=bash": _INSTALL, "uninstall=bash": _UNINSTALL, "query=bash": None}
    if what not in scripts:
        raise SettingError(
            f"--shell-completion must be install=bash or uninstall=bash, but is {what!r}; "
            'type eval "$(python -m mlp.train --shell-completion install=bash)"'
        )
    return scripts[what]


def without_python(line: str) -> str:
    """The line that is typed, as Hydra's query reads it: it would take `-m` for `--multirun`.

    Example:
        >>> without_python("python3 -m mlp.train --multirun model=re")
        'mlp.train --multirun model=re'
    """
    words = line.split(maxsplit=2)
    return words[2] if words[1:2] == ["-m"] and len(words) > 2 else line


def prepare_query() -> None:
    """Puts the typed line, which bash hands over in COMP_LINE, into words that Hydra reads."""
    os.environ["COMP_LINE"] = without_python(os.environ.get("COMP_LINE", ""))
