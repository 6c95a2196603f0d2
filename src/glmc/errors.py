"""The one exception that reaches a user as a sentence, and the exit codes of the command.

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of ours: please report it with `--debug` |
| 2 | bad input: the sentence names file, line or value, and the remedy |
| 3 | training stopped because a loss term became non-finite; the last checkpoint is intact |
| 130 / 143 | interrupted (SIGINT / SIGTERM): the state was saved, `glmc train --resume RUN` goes on from it |
"""

import unicodedata

DEFECT, BAD_INPUT, NON_FINITE = 1, 2, 3


class UserError(Exception):
    """Something the user can mend, in one sentence: what (file, line, value), why, and the remedy."""


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite; names the term and the epoch."""


class Interrupted(Exception):
    """A signal arrived and the state has been saved.

    Args:
        text: what to tell the user.
        number: of the signal; the exit code is 128 more, as in a shell.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.exit_code = 128 + number


def printable(text: str) -> str:
    r"""Text without control characters and bytes that are no UTF-8: each as Python would write it; lines stay lines.

    >>> printable("a\x1b[31m\udcff.jpg\n")
    'a\\x1b[31m\\udcff.jpg\n'
    """
    if text.isprintable():
        return text
    odd = {"Cc", "Cs"}
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in odd and c not in "\n\t" else c for c in text)
