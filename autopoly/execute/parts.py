"""Keep what a run has finished: durable part files, the plan they belong to, notes of work in hand, one driver per folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autopoly.errors import RunError
from autopoly.execute.shards import Shard
from autopoly.storage import ObjectPath

PLAN = "plan.json"
LOCK = ".autopoly.lock"
OURS = re.compile(r"result|failures\.parquet|\d{5,}-[0-9a-f]{12}\.(parquet|inhand)|\..+\.tmp")
"""What a parts folder holds beside its plan."""


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Hash everything a result depends on (JSON values) to 32 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Hash the bytes of a file: the first 32 hexadecimal digits of its SHA-256, which anybody's tools can check."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


def part_path(folder: Path, number: int, mark: str) -> Path:
    """Name the part of a shard.

    The name carries the start of the fingerprint: a worker that outlived a killed driver cannot put its part into another run.
    """
    return folder / f"{number:05d}-{mark[:12]}.parquet"


def missing(shards: Sequence[Shard], folder: Path, mark: str) -> list[Shard]:
    """Give the shards that have no finished part yet, in order."""
    here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [shard for shard in shards if part_path(folder, shard.number, mark).name not in here]


def commit(path: Path, payload: bytes, durable: bool = True, scratch: Path | None = None) -> None:
    """Write a file so that it is there whole or not at all, where ``durable`` also after a power cut; replaces what was there.

    ``scratch`` is the folder on the same file system in which it is put together; None: beside it. Raise RunError where it cannot be.
    An object is put in one piece, by its store.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(payload)
        return
    # Drawn, since several threads and machines may put files of one name together in one folder.
    aside = (scratch or path.parent) / f".{path.name}.{os.urandom(6).hex()}.tmp"
    with writing(path):
        try:
            with aside.open("wb") as stream:
                stream.write(payload)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            os.replace(aside, path)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the machine refuses while ``path``, or something in it, is written into one RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({' '.join(str(error.strerror or error).split())}); make room there or choose another folder; "
            "what is finished is kept, and the same command goes on from there"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse to sync a folder; the rename itself is then all there is.
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def in_hand_path(folder: Path, number: int, mark: str) -> Path:
    """Name the note of the records a worker has in hand."""
    return part_path(folder, number, mark).with_suffix(".inhand")


def note_in_hand(path: Path, records: Sequence[int]) -> None:
    """Note which records a worker is about to touch. Not synced: it has to outlive the process, not the machine."""
    commit(path, json.dumps(list(records)).encode(), durable=False)


def read_in_hand(path: Path) -> list[int]:
    """Give the records noted, or none where there is no note."""
    try:
        return [int(record) for record in json.loads(path.read_text())]
    except (OSError, ValueError):
        return []


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Give the plan of an unfinished run, or None where there is none; raise RunError where it cannot be read."""
    path = folder / PLAN
    try:
        plan = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not a readable plan ({error}); run again with --overwrite to start anew") from error
    if not isinstance(plan, dict) or not isinstance(plan.get("inputs"), dict):
        raise RunError(f"{path}: not a plan of autopoly; run again with --overwrite to start anew")
    return plan


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Start a run: make its parts folder and commit its plan."""
    folder.mkdir(parents=True, exist_ok=True)
    commit(folder / PLAN, json.dumps(plan, indent=1, sort_keys=True).encode() + b"\n")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words which inputs of two runs differ; empty where they are the same."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} was {_short(before.get(key))}, now {_short(now.get(key))}" for key in keys if before.get(key) != now.get(key)]


def abandoned(folder: Path) -> bool:
    """Say whether a folder is one that a run was making or removing when it was cut off: nothing but a run's files, no plan."""
    return folder.is_dir() and all(OURS.fullmatch(path.name) for path in folder.iterdir())


def remove(folder: Path) -> None:
    """Remove a parts folder, its plan first, so that a removal cut short does not look like an unfinished run."""
    (folder / PLAN).unlink(missing_ok=True)
    if isinstance(folder, ObjectPath):
        folder.remove_below()
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this driver; raise RunError when another driver that is still alive holds it.

    The lock is the kernel's: it dies with its driver, however that ends, so a stale lock file never stands in the way. An object store
    knows no such lock: there nothing is held, and the caller says so.
    """
    if isinstance(folder, ObjectPath):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made a run folder ({error.strerror}); choose another folder") from error
    path = folder / LOCK
    handle = _hold(path)
    try:
        # Who holds it is a courtesy to others: a full disk is said by the first thing that has to be written.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _hold(path: Path) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(f"{path.parent}: cannot be written ({error.strerror}); choose another folder") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
            os.close(handle)
            raise RunError(f"{path.parent}: {holder} is running in this folder; wait for it or choose another folder") from None
        # A driver that just finished may have unlinked the file between our open and our lock: then we hold a file nobody sees.
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
