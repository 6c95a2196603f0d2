"""The Hugging Face hub: the only room that speaks to it. A run there is `hf:user/name` or `hf:user/name@revision`.

`HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean to huggingface_hub.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glmc import __version__
from glmc.errors import UserError

PREFIX = "hf:"
NAME = re.compile(r"(?P<name>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>\S+))?")
WANTED = ["checkpoints/**", "*.json", "*.yaml", "*.csv", "README.md"]  # of a repository; others are not fetched
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def is_local(reference: str) -> bool:
    """Whether a run is named by its folder."""
    return not reference.startswith(PREFIX)


def resolve(reference: str) -> Path:
    """The folder of a run: of `hf:user/name` its copy in the hub's own cache, of anything else the path itself.

    Raises:
        UserError: a wrong name, no such repository or revision, no access, or no network and no copy.
    """
    if is_local(reference):
        return Path(reference)
    name, revision = split(reference)
    from huggingface_hub import snapshot_download

    with sentences(reference):
        found = snapshot_download(
            name, revision=revision, allow_patterns=WANTED, library_name="glmc", library_version=__version__
        )
    return Path(found)


def split(reference: str) -> tuple[str, str | None]:
    """`hf:user/name@revision` -> user/name, revision.

    Raises:
        UserError: it is written otherwise.
    """
    found = NAME.fullmatch(reference.removeprefix(PREFIX))
    if found is None:
        raise UserError(f"{reference}: a run on the hub is written hf:user/name or hf:user/name@revision")
    return found["name"], found["revision"]


def upload(folder: Path, name: str, *, private: bool, token: str | None, message: str) -> str:
    """Make a model repository out of a folder and return its address.

    Args:
        folder: everything in it goes up.
        name: user/name, of a repository that is new or empty.
        private: whether only its owner may see it.
        token: with the right to write; none takes the one of `hf auth login` or HF_TOKEN.
        message: of the commit.

    Raises:
        UserError: a wrong name, no token, no right, no network, or files that lie there already.
    """
    reference = PREFIX + name
    if split(reference)[1] is not None:
        raise UserError(f"{name}: what is uploaded becomes the newest revision; leave @... out")
    from huggingface_hub import HfApi, get_token

    if token is None and get_token() is None:
        raise UserError(f"{reference}: uploading needs a token with the right to write; {LOGIN}")
    with sentences(reference):
        api = HfApi(token=token, library_name="glmc", library_version=__version__)
        address = api.create_repo(name, private=private, exist_ok=True)
        there = [file for file in api.list_repo_files(name) if file != ".gitattributes"]
        if there:
            raise UserError(
                f"{reference} holds {len(there)} files already, and nothing is overwritten; choose another name"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    return str(address)


@contextmanager
def sentences(reference: str) -> Iterator[None]:
    """What the hub or the way to it refuses, in sentences; troubles of this machine's disk pass."""
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except Exception as error:
        if not isinstance(error, (*errors.HfHubHTTPError.__bases__, OSError)):  # of whatever it speaks HTTP with
            raise
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
            raise
        raise UserError(f"{reference}: {sentence(cause)}") from error


def sentence(error: BaseException | None) -> str:
    """What is wrong, and the remedy."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"the repository is gated; ask for access on its page, and {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private; check the name, or {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; leave @... out for the newest"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return f"the token gives no right to do this (HTTP {status}); {LOGIN}"
        return f"the hub refuses (HTTP {status}); try again later"
    return "the hub cannot be reached, and no copy lies here; check the network"
