"""Names and words that come from outside, made harmless for a terminal, a log line, JSON lines and a spreadsheet.

A call's id, a channel's name and what was said are data: an escape sequence in them must not reach a terminal, a
line break must not forge a line of a log, and a spreadsheet must not calculate them.
"""

import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: what terminals take for commands
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line separators; marks that turn the order of what is read
    "\ud800-\udfff\ufeff]"  # halves of characters, which no output can encode
)
_UNSAFE_IN_A_CELL = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b\x0c\x0e-\x1f"))
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_CALCULATED = tuple("=+-@\t\r\n'＝＋－＠")


def printable(text: object) -> str:
    r"""One line without anything that a terminal or a reader of logs obeys: escaped as in `\x1b` and `\n`."""
    return _UNSAFE.sub(_escaped, str(text))


def json_for_terminal(line: str) -> str:
    r"""The same JSON value with what a terminal obeys as \uXXXX; such characters stand only in its strings."""
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet calculates: text that begins like a formula, or with ', gets a ' in front.

    A reader undoes it by taking one leading ' off every text. Line breaks stay (CSV quotes them), other control
    characters are written as in `printable`. Source: OWASP, "CSV Injection".
    """
    if not isinstance(value, str):
        return value
    text = _UNSAFE_IN_A_CELL.sub(_escaped, value)
    return f"'{text}" if text.startswith(_CALCULATED) else text


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")
