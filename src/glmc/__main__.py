"""The command `glmc`, also `python -m glmc`: runs it, and turns what goes wrong into a sentence and an exit code."""

import errno
import sys

from glmc import errors


def main() -> None:
    """Run the command line; see `glmc.errors` for the exit codes."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    from glmc.cli import app

    try:
        app(prog_name="glmc")
    except Exception as error:
        if debug:
            raise
        sentence, code = explain(error)
        print(f"glmc: {sentence}", file=sys.stderr)
        sys.exit(code)


def explain(error: Exception) -> tuple[str, int]:
    """What to tell the user about an exception, and the exit code."""
    if isinstance(error, errors.NonFiniteLoss):
        return str(error), errors.NON_FINITE
    if isinstance(error, errors.Interrupted):
        return str(error), error.exit_code
    if isinstance(error, errors.UserError):
        return str(error), errors.BAD_INPUT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({error.filename or 'no file named'}); make room and go on with --resume",
            errors.BAD_INPUT,
        )
    return f"{type(error).__name__}: {error} (a defect of glmc; --debug shows where)", errors.DEFECT


if __name__ == "__main__":
    main()
