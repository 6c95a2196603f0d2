"""The command `glmc`, also `python -m glmc`: runs it, and turns what goes wrong into a sentence and an exit code."""

import errno
import sys

from glmc import errors

# full, over a quota or a limit, or not writable
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main() -> None:
    """Run the command line; see `glmc.errors` for the exit codes."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    sys.path.append("")  # the working directory may hold a user's own method; last, so that it cannot hide a library
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
    if isinstance(error, OSError) and error.errno in DISK:
        return (
            f"{error.filename or 'a file'} cannot be used ({error.strerror}); make room on its disk or allow access, "
            f"and go on with glmc train --resume if a run had begun",
            errors.BAD_INPUT,
        )
    return f"{type(error).__name__}: {error} (a defect of glmc; --debug shows where)", errors.DEFECT


if __name__ == "__main__":
    main()
