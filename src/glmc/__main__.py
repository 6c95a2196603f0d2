"""The command `glmc`, also `python -m glmc`: runs it, and turns what goes wrong into a sentence and an exit code."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from glmc import errors, trust

INTERRUPTED = 128 + signal.SIGINT
# as PyTorch says it, of the processor's memory, of a GPU's, and of threads that cannot be started
NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory|can't start new thread", re.IGNORECASE)
NO_HOME = "Could not determine home directory."  # as pathlib says it


def main() -> None:
    """Run the command line; see `glmc.errors` for the exit codes."""
    leave_the_folder()
    anywhere, words = words_for_anywhere(sys.argv[1:])
    try:
        from glmc.cli import app

        allow_code(anywhere.code, anywhere.trust)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun has started several processes
            together(app, words)
        else:
            app(words, prog_name="glmc")
    except KeyboardInterrupt:  # while the command was being imported; once it runs, typer ends it alike
        sys.exit(INTERRUPTED)
    except Exception as error:
        if anywhere.debug:
            raise
        sentence, code = explain(error)
        print(f"glmc: {errors.printable(sentence)}", file=sys.stderr)
        sys.exit(code)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C while Python cleans up ends it without a word


def together(app: Callable[..., Any], words: Sequence[str]) -> None:
    """Carry out the command on rank 0; the other ranks follow it."""
    from glmc import ranks
    from glmc.train import distributed

    try:
        if ranks.begin(words).rank:
            distributed.follow()
            return  # rank 0 says how it went: torchrun would end it if another process failed first
        try:
            app(words, prog_name="glmc")
        finally:
            ranks.leave()
    except RuntimeError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends whoever is left: not before it has said why
        said = distributed.lost(error)
        if said is None:
            raise
        raise said from error
    finally:
        ranks.end()


def leave_the_folder() -> None:
    """Take no code from the working directory: it may hold images, and whatever somebody has put beside them.

    Python looks there first under `python -m`, and so do the processes that are started from here.
    """
    here = {""}
    with contextlib.suppress(FileNotFoundError):  # the working directory has been removed
        here |= {os.getcwd(), os.path.dirname(os.path.abspath(sys.argv[0]))}
    if not sys.flags.safe_path and sys.path[:1] and sys.path[0] in here:
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"


def words_for_anywhere(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that may stand before and after a command's name, and the other words; `glmc.cli` explains them."""
    parser = argparse.ArgumentParser(prog="glmc", add_help=False, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--code", action="append", default=[], metavar="DIR")
    return parser.parse_known_args(words)


def allow_code(folders: Sequence[str], everything: bool) -> None:
    """Let a user's own classes be imported: those of some folders, or all that a recipe names."""
    for folder in folders:
        trust.allow_folder(folder)
    if everything:
        trust.allow_everything()


def explain(error: Exception) -> tuple[str, int]:
    """What to tell the user about an exception, and the exit code."""
    if isinstance(error, errors.NonFiniteLoss):
        return str(error), errors.NON_FINITE
    if isinstance(error, errors.Interrupted):
        return str(error), error.exit_code
    if isinstance(error, errors.UserError):
        return str(error), errors.BAD_INPUT
    line = trust.own_line(error)
    if line is not None:
        return f"{line}: {type(error).__name__}: {error}; --debug shows the way there", errors.BAD_INPUT
    told = of_the_machine(error)
    if told is not None:
        return told, errors.BAD_INPUT
    return f"{type(error).__name__}: {error} (a defect of glmc; --debug shows where)", errors.DEFECT


def of_the_machine(error: Exception) -> str | None:
    """What to tell about memory that is not there, names that cannot be written, and other errors of the system."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        return "there is too little memory for this; take a smaller data.batch_size, data.size or model, or free some"
    if isinstance(error, RuntimeError) and "Too many open files" in str(error):  # as PyTorch says it
        return "too many files are open; raise that limit (ulimit -n), or lower data.workers"
    if isinstance(error, RuntimeError) and str(error) == NO_HOME:
        return "a path begins with ~, and that home folder is unknown; write the path in full"
    if isinstance(error, UnicodeError):
        return f"a name or a text is not in UTF-8 ({error}); rename the file or folder, or save the text in UTF-8"
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"{error.filename or 'the system'} cannot be used ({error.strerror}); mend that, and go on with glmc train "
            "--resume if a run had begun"
        )
    return None


if __name__ == "__main__":
    main()
