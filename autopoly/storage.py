"""Places of files: on a file system, or in an object store (``s3://``, ``gs://``) through ``pyarrow.fs``.

An :class:`ObjectPath` is a :class:`pathlib.Path` by type and by the words the package uses, so that most code need not ask which one it
has. What an object store cannot do (rename, lock, a file that is written in pieces) raises StorageError in one line instead.

Credentials come from the environment of each process alone (AWS_PROFILE, AWS_ACCESS_KEY_ID and so on, a role of the machine; for gs
GOOGLE_APPLICATION_CREDENTIALS): an address that holds any, or a signature, is refused, so that none can reach a file, a log or a report.
``AWS_ENDPOINT_URL`` names another S3 server.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import IO, Any

from autopoly.errors import StorageError

ATTEMPTS = 5
"""Tries of one request to S3, with growing pauses between them, before it counts as failed."""
CONNECT_S, REQUEST_S, GCS_RETRY_S = 5.0, 30.0, 30.0
BUFFER = 4 << 20
"""Bytes asked for at once where an object is read as a stream."""
_ADDRESS = re.compile(r"(s3|gs):(?:/+(.*))?", re.DOTALL)
_DENIED = "access was denied; check the credentials in the environment of this process (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...)"
_SAID = {
    "NO_SUCH_BUCKET": "there is no such bucket; check its name",
    "NOT_FOUND": "there is no such bucket or object; check the name",
    "ACCESS_DENIED": _DENIED,
    "INVALID_ACCESS_KEY_ID": _DENIED,
    "INVALID_CLIENT_TOKEN_ID": _DENIED,
    "SIGNATURE_DOES_NOT_MATCH": _DENIED,
    "PERMISSION_DENIED": _DENIED,
    "UNAUTHENTICATED": _DENIED,
    "403": _DENIED,
    "401": _DENIED,
    "NETWORK_CONNECTION": "the store cannot be reached, also after several attempts; check the network and AWS_ENDPOINT_URL",
    "UNAVAILABLE": "the store cannot be reached, also after several attempts; check the network",
    "503": "the store is overloaded, also after several attempts; try again later, or ask for fewer --workers",
    "SLOW_DOWN": "the store is overloaded, also after several attempts; try again later, or ask for fewer --workers",
    "301": "the bucket is in another region; set AWS_REGION",
}


class ObjectPath(PosixPath):
    """The address of an object, or of all objects whose keys start with it and a slash; travels by pickle, without any connection."""

    def __str__(self) -> str:
        """Give the address, s3://bucket/key; what is relative to one is a key."""
        return f"{self.parts[0]}//{self._key}" if self.parts[:1] in (("s3:",), ("gs:",)) else "/".join(self.parts)

    def __repr__(self) -> str:
        """Show the address."""
        return f"ObjectPath({str(self)!r})"

    def __fspath__(self) -> str:
        """Refuse to be taken for a file of this machine: raise StorageError."""
        raise StorageError(f"{self}: this step needs a file of this machine, not an object; copy it to a folder first")

    def __rtruediv__(self, key: object) -> ObjectPath:
        """Stay as it is below any folder, like every absolute path."""
        return self

    def is_absolute(self) -> bool:
        """Say yes: an address does not depend on a current folder."""
        return True

    def resolve(self, strict: bool = False) -> ObjectPath:
        """Give itself."""
        return self

    def absolute(self) -> ObjectPath:
        """Give itself."""
        return self

    def exists(self) -> bool:
        """Say whether there is an object of this key or below it."""
        return bool(self.info().type)

    def is_file(self) -> bool:
        """Say whether there is an object of this key."""
        return bool(self.info().is_file)

    def is_dir(self) -> bool:
        """Say whether there are objects below this key."""
        found = self.info()
        return bool(found.type) and not found.is_file

    def info(self) -> Any:
        """Ask the store for type, size (bytes) and time of change (``mtime_ns``); a type that is false where there is nothing."""
        with _explained(self):
            return _filesystem(*self._bucket).get_file_info(self._key)

    def files(self) -> list[ObjectPath]:
        """List the objects directly below this key, in order; none where there is nothing."""
        from pyarrow.fs import FileSelector

        with _explained(self):
            found = _filesystem(*self._bucket).get_file_info(FileSelector(self._key, allow_not_found=True))
        return sorted(self / one.base_name for one in found if one.is_file)

    def iterdir(self) -> Iterator[ObjectPath]:  # type: ignore[override]
        """Give the objects directly below this key."""
        yield from self.files()

    def glob(self, pattern: str) -> Iterator[ObjectPath]:  # type: ignore[override]
        """Give the objects directly below this key whose names match."""
        yield from (one for one in self.files() if fnmatchcase(one.name, pattern))

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]
        """Open an object to read bytes from its start to its end; raise FileNotFoundError where there is none."""
        if mode != "rb":
            self.__fspath__()
        with _explained(self):
            opened: IO[Any] = _filesystem(*self._bucket).open_input_stream(self._key, compression=None, buffer_size=BUFFER)
        return opened

    def input(self) -> Any:
        """Open an object to read any range of its bytes, for pyarrow; raise FileNotFoundError where there is none."""
        with _explained(self):
            return _filesystem(*self._bucket).open_input_file(self._key)

    def read_head(self, limit: int = -1) -> bytes:
        """Read the first ``limit`` bytes, all of them for -1; raise FileNotFoundError where there is no such object."""
        with _explained(self), _filesystem(*self._bucket).open_input_file(self._key) as stream:
            # Room for all that is asked for is made before anything is read.
            return bytes(stream.read(stream.size() if limit < 0 else min(limit, stream.size())))

    def read_bytes(self) -> bytes:
        """Read the whole object; raise FileNotFoundError where there is none."""
        return self.read_head()

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Read the whole object as text, UTF-8 if not told otherwise."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        """Put an object: readers see the one before or all of this one, never a piece."""
        with _explained(self), _filesystem(*self._bucket).open_output_stream(self._key) as stream:
            return int(stream.write(data))

    def upload(self, file: Path) -> None:
        """Put a file of this machine as a stream, in bounded memory; the object appears once it is whole."""
        from pyarrow import fs

        with _explained(self):
            fs.copy_files(str(file), self._key, source_filesystem=fs.LocalFileSystem(), destination_filesystem=_filesystem(*self._bucket))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; raise FileNotFoundError where there is none, unless ``missing_ok``."""
        try:
            with _explained(self):
                _filesystem(*self._bucket).delete_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_below(self) -> None:
        """Delete all objects below this key; nothing happens where there are none."""
        with _explained(self):
            _filesystem(*self._bucket).delete_dir_contents(self._key, missing_dir_ok=True)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: keys need no folders."""

    def rmdir(self) -> None:
        """Do nothing: where nothing has a key, there is no folder."""

    @property
    def _bucket(self) -> tuple[str, str]:
        return self.parts[0].rstrip(":"), self.parts[1]

    @property
    def _key(self) -> str:
        return "/".join(self.parts[1:])


def is_remote(text: str | Path) -> bool:
    """Say whether an address is one of an object store."""
    return isinstance(text, ObjectPath) or (not isinstance(text, Path) and text.startswith(("s3:/", "gs:/")))


def place(text: str | Path) -> Path:
    """Give the path of a file or folder, or of an object for an address with ``s3://`` or ``gs://`` (a Path may have lost a slash).

    Raise StorageError for an address without a bucket, or with credentials or a signature in it.
    """
    if isinstance(text, ObjectPath):
        return text
    found = _ADDRESS.fullmatch(str(text))
    if found is None:
        return Path(text)
    scheme, rest = found[1], (found[2] or "").strip("/")
    bucket = rest.partition("/")[0]
    if "@" in bucket or "?" in rest or "#" in rest:
        # Never repeated here: what stands there may be a secret.
        raise StorageError(
            f"{scheme}://...: an address must not hold credentials, a signature or options; give {scheme}://bucket/key and put the "
            "credentials into the environment"
        )
    if not bucket:
        raise StorageError(f"{scheme}://: the address names no bucket; give {scheme}://bucket/key")
    return ObjectPath(f"{scheme}:", rest)


def source_of(path: Path) -> Any:
    """Give what pyarrow reads a file from: the path itself, or an open object."""
    return path.input() if isinstance(path, ObjectPath) else path


def parquet_bytes(path: Path) -> Any:
    """Give a small Parquet file for pyarrow to read whole: the path itself, or the bytes of an object in one request."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, ObjectPath) else path


class _explained:  # noqa: N801
    """Turn what a store says into one line: StorageError, or FileNotFoundError as for any path."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise StorageError(f"{self._path}: {_line(error)}") from error


def explain(path: Path, error: BaseException) -> None:
    """Raise StorageError for what went wrong while an object was read; do nothing for a file of this machine."""
    if isinstance(path, ObjectPath) and isinstance(error, OSError):
        raise StorageError(f"{path}: {_line(error)}") from error


def _line(error: OSError) -> str:
    """Say what a store said, without request ids and addresses, which may be signed."""
    text = str(error)
    for code in re.findall(r"AWS Error (\w+)|Status\((\w+)|HTTP status (?:code )?(\d{3})", text):
        known = next((_SAID[word] for word in code if word in _SAID), None)
        if known is not None:
            return known
    word = re.search(r"AWS Error \w+(?: \(HTTP status \d+\))?|Status\(\w+", text)
    if word is not None:
        return f"the store refused or failed ({word[0]}); try again, or look into the store's own log"
    return f"the store refused or failed ({' '.join(re.sub(r'[a-z]+://[^ ]*', '...', text).split())[:120]}); try again"


@lru_cache(maxsize=32)
def _filesystem(scheme: str, bucket: str) -> Any:
    """Connect to a store, once in each process."""
    from pyarrow import fs

    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=GCS_RETRY_S))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint and not os.environ.get("AWS_PROFILE"):
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
