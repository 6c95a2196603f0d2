"""The one exception that reaches a user as a sentence, and the exit codes of the command.

| code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of ours: please report it with `--debug` |
| 2 | bad input: the sentence names file, line or value, and the remedy |
| 3 | training stopped because a loss term became non-finite; the last checkpoint is intact |
| 130 / 143 | interrupted (SIGINT / SIGTERM): the state was saved, `glmc train --resume RUN` goes on from it |
"""

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
