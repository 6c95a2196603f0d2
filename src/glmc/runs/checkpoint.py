"""Checkpoints that are whole or absent.

A checkpoint is a folder, `step-00001700/`, that holds

    <name>.safetensors   one per group of tensors, e.g. weights, optimizer; a frozen backbone is `frozen`, one file on
                         the disk under a name in each checkpoint
    state.json           everything else; floats come back exactly
    manifest.json        bytes and sha256 of each of them, and of itself

It is written under another name, brought to the disk with fsync, and renamed; older ones go only after that. Whoever is
killed at any moment therefore leaves the checkpoint before it in order. Nothing is used before its sha256 has been
checked, and no file is unpickled. POSIX file systems only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmc.errors import UserError
from glmc.runs.files import Held, link, remove_temporary, sync, temporary_name, write_through

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3  # 1 held recipes without loss and mixture, 2 neither the run's own mark nor its records
MANIFEST, STATE = "manifest.json", "state.json"
FROZEN = "frozen"  # the group of the weights that never change
_MANIFEST_LIMIT = 2**20  # bytes; ours have less than 1000, and this one is read before any checksum
_STEP = re.compile(r"step-(\d{8,})(\.old)?")

Content = bytes | memoryview | Held
Marks = set[tuple[str, int, int, int]]
_WRITTEN: dict[Path, Marks] = {}  # the checkpoints that this process has written, as it left them


class _Damage(Exception):
    """What is wrong with which file of a checkpoint; becomes a remark or a `UserError`."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were whole when it was opened.

    Attributes:
        path: its folder.
        step: training steps done, >= 0.
        state: what was given to `save` (tuples come back as lists).
        remarks: sentences for the user, on newer checkpoints that had to be passed over.
    """

    path: Path
    step: int
    state: dict[str, Any]
    remarks: tuple[str, ...] = ()
    _files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def home(self) -> Path:
        """The run folder that it lies in; its own folder where it lies alone."""
        above = self.path.parent
        return above.parent if above.name in ("checkpoints", "selected") else self.path

    @property
    def names(self) -> tuple[str, ...]:
        """The groups of tensors it holds."""
        return tuple(file.removesuffix(".safetensors") for file in self._files if file.endswith(".safetensors"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One group of tensors, on the CPU, contiguous.

        Raises:
            UserError: there is no such group, or its file was damaged since.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = f"{name}.safetensors"
        if file not in self._files:
            raise UserError(f"{self.path} holds no {file}: it was saved by a run of another kind, use one of this kind")
        try:
            return load(_content(self.path / file, self._files[file]))
        except (_Damage, SafetensorError, KeyError, TypeError) as error:  # the last two: dtypes, sizes unknown to torch
            raise UserError(f"{self.path / file} cannot be used: {error}; use another checkpoint of the run") from error

    def held(self, name: str) -> Held:
        """The file of a group of tensors."""
        file = f"{name}.safetensors"
        return Held(self.path / file, dict(self._files[file]))

    def weights(self, name: str = "weights") -> dict[str, Tensor]:
        """A group of tensors, complete with those that never change, which lie apart; errors of `tensors`."""
        return self.tensors(name) | (self.tensors(FROZEN) if FROZEN in self.names else {})


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """`write` for tensors: group name (a file name without its ending) -> tensor name -> tensor, of any strides."""
    from glmc.runs.packed import Packed

    return write(folder, step, {name: Packed.of(group).content for name, group in tensors.items()}, state, keep)


def write(folder: Path, step: int, groups: Mapping[str, Content], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-<step>`, then remove all but the newest `keep` whole checkpoints.

    Not for two threads or two runs on the same folder at once.

    Args:
        folder: made when absent.
        step: training steps done, >= 0; a checkpoint of the same step is replaced.
        groups: name of a group of tensors (a file name without its ending) -> what its .safetensors file holds, or
            the file of an earlier checkpoint that holds it; the two then share their bytes on the disk.
        state: what JSON can hold: dicts with str keys, lists, str, int, float (also NaN and infinity), bool, None.
        keep: >= 1; the new one counts.

    Returns:
        The new checkpoint's folder.

    Raises:
        UserError: disk full, folder not writable and the like. The checkpoints that were there are untouched.
    """
    target = folder / f"step-{step:08d}"
    temporary = folder / temporary_name(target.name)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync(folder.parent)
        remove_temporary(folder)
        temporary.mkdir()
        _write_files(temporary, step, groups, state)
        marks = _marks(temporary)
        _put_in_place(temporary, target)
    except OSError as error:
        raise UserError(
            f"{folder}: the checkpoint of step {step} could not be saved ({error.strerror}); checkpoints saved earlier "
            "are intact, so make the folder writable or make room on its disk and resume the run"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _WRITTEN[target.resolve()] = marks
    _prune(folder, target, keep)
    return target


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, or None where there is no checkpoint at all.

    Newer ones that are damaged are passed over and named in `remarks`.

    Raises:
        UserError: there are checkpoints, and every one of them is damaged; or the folder cannot be listed.
    """
    damages: list[_Damage] = []
    try:
        paths = _candidates(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); make it readable") from error
    for path in paths:
        try:
            found, named = _inspect(path), _STEP.fullmatch(path.name)
            if named and found.step != int(named[1]):
                raise _Damage(f"{path} holds step {found.step}")
        except _Damage as damage:
            damages.append(damage)
            continue
        remarks = tuple(f"{damage}; going on from {path.name} instead." for damage in damages)
        return Checkpoint(found.path, found.step, found.state, remarks, found._files)
    if damages:
        listed = "; ".join(map(str, damages))
        raise UserError(f"{folder}: no checkpoint is whole ({listed}); restore one from a copy or start a new run")
    return None


def read(path: Path) -> Checkpoint:
    """Open one checkpoint folder, whatever its name.

    Raises:
        UserError: it is not a checkpoint, or a file of it is damaged; names the file.
    """
    try:
        return _inspect(path)
    except _Damage as damage:
        raise UserError(f"{damage}; use another checkpoint of the run") from damage


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Fingerprint of a set of tensors: hex sha256 over name, dtype, shape and bytes of each, in name order.

    The order of the mapping, the device and the strides (channels_last) do not matter; one bit of one value does.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(header).encode() + b"\n")
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_files(folder: Path, step: int, groups: Mapping[str, Content], state: Mapping[str, Any]) -> None:
    files = {}
    for name, content in groups.items():
        file = folder / f"{name}.safetensors"
        files[file.name] = link(content, file) if isinstance(content, Held) else write_through(file, content)
    files[STATE] = write_through(folder / STATE, json.dumps(state, indent=1).encode())
    write_through(folder / MANIFEST, _seal({"format": FORMAT, "step": step, "files": files}))
    sync(folder)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename; a checkpoint of the same step steps aside as `<target>.old` until the new one is there."""
    old = target.with_name(target.name + ".old")
    if target.exists() and _is_whole(target):
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
    elif target.exists():
        shutil.rmtree(target)
    os.rename(temporary, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _prune(folder: Path, newest: Path, keep: int) -> None:
    kept = 1
    for path in _candidates(folder):
        if path == newest:
            continue
        if kept < keep and _is_whole(path):
            kept += 1
        else:
            shutil.rmtree(path, ignore_errors=True)  # what cannot be removed costs room, no more
            _WRITTEN.pop(path.resolve(), None)


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, whole or not, newest first; of one step, the replaced one last."""
    if not folder.is_dir():
        return []
    named = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()]
    return [p for _, _, p in sorted(((int(m[1]), m[2] is None, p) for m, p in named if m), reverse=True)]


def _is_whole(path: Path) -> bool:
    """Whether all files are there in whole; those of this process are not read again while nobody has touched them."""
    try:
        if _WRITTEN.get(path.resolve()) != _marks(path):
            _inspect(path)
    except (_Damage, OSError):
        return False
    return True


def _marks(folder: Path) -> Marks:
    """Name, inode, bytes and time of the last change of each file: another one of these if a file is another."""
    facts = [(path.name, path.stat()) for path in folder.iterdir()]
    return {(name, fact.st_ino, fact.st_size, fact.st_mtime_ns) for name, fact in facts}


def _inspect(folder: Path) -> Checkpoint:
    """Check every file of a checkpoint against its manifest, and the manifest against itself."""
    path = folder / MANIFEST
    raw = _bytes(path, limit=_MANIFEST_LIMIT)
    try:
        manifest = json.loads(raw)
        del manifest["sha256"]
        if manifest.get("format") != FORMAT:
            raise _Damage(f"{path} is of format {manifest.get('format')}, and this version of glmc reads {FORMAT}")
        if _seal(manifest) != raw:
            raise _Damage(f"{path} is damaged (sha256)")
        step, files = int(manifest["step"]), dict(manifest["files"])
        for name, entry in files.items():
            _content(folder / Path(name).name, entry)  # .name: never a file outside the folder
        return Checkpoint(folder, step, json.loads(_content(folder / STATE, files[STATE])), (), files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _Damage(f"{path} is damaged") from error


def _content(path: Path, entry: Mapping[str, Any]) -> bytes:
    """A file's bytes, if they are those of its entry in the manifest."""
    content = _bytes(path, limit=entry["bytes"])
    if len(content) != entry["bytes"]:
        raise _Damage(f"{path} is damaged ({len(content)} bytes instead of {entry['bytes']})")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise _Damage(f"{path} is damaged (sha256)")
    return content


def _bytes(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():  # also keeps us from waiting at a pipe
            raise _Damage(f"{path} is missing" if not path.exists() else f"{path} is not a file")
        if path.stat().st_size > limit:
            raise _Damage(f"{path} is damaged (more than {limit} bytes)")
        return path.read_bytes()
    except OSError as error:
        raise _Damage(f"{path} cannot be read ({error.strerror})") from error


def _seal(manifest: Mapping[str, Any]) -> bytes:
    """The manifest's file: itself and the sha256 of what it says."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1).encode()
