"""Faults by number: at the n-th thing a run does to its folder the disk is full, or the process dies, before or in the middle of a write.

Run as a program it is a stable of child processes: it loads the product once and forks a child for each line of JSON on its input, so that
hundreds of runs that end badly cost hundredths of a second each. Nothing here touches the process of the tests.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

REAL_OPEN = io.open
HOWS = ("count", "full", "kill", "torn")
"""Count the points; no space at point n and ever after; death just before it; death in the middle of it where it is a write."""


class Points:
    """What a process does to a folder that may fail: opens for writing, writes, renames, new folders."""

    folder, at, how = "", 0, "count"
    seen: list[str]

    def __init__(self, folder, at, how):
        self.folder, self.at, self.how, self.seen = str(folder), at, how, []

    def holds(self, path):
        return isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(self.folder)

    def reach(self, what, path, torn=lambda: None):
        self.seen.append(f"{what} {os.path.relpath(os.fsdecode(path), self.folder)}")
        if self.how == "full" and len(self.seen) >= self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
        if self.how in ("kill", "torn") and len(self.seen) == self.at:
            if self.how == "torn":
                torn()
            os.kill(os.getpid(), signal.SIGKILL)


def install(points):
    """Let every way in which the product writes reach a point: for good, in this process."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def audit(event, given):
        if event == "open" and points.holds(given[0]) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            points.reach("open", given[0])
        elif event in ("os.mkdir", "os.rename") and points.holds(given[0]):
            points.reach(event[3:], given[-3] if event == "os.rename" else given[0])

    class Raw(io.FileIO):
        def write(self, data):
            data = memoryview(data).cast("B")
            points.reach("write", self.name, lambda: super(Raw, self).write(data[: len(data) // 2]))
            return super().write(data)

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **rest):
        if not points.holds(file) or not set(mode) & set("wax+"):
            return REAL_OPEN(file, mode, buffering, encoding, errors, newline, **rest)
        raw = Raw(os.fspath(file), mode.replace("b", "").replace("t", ""))
        whole = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return whole if "b" in mode else io.TextIOWrapper(whole, encoding, errors, newline)

    class ParquetWriter(pq.ParquetWriter):
        def __init__(self, where, *given, **options):
            self.sink = opened(where, "wb")
            super().__init__(self.sink, *given, **options)

        def close(self):
            super().close()
            self.sink.close()

    def osfile(path, mode="r"):
        return pa.PythonFile(opened(path, mode), mode[0])

    def pwrite(handle, data, offset, real=os.pwrite):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if points.holds(path):
            points.reach("write", path)
        return real(handle, data, offset)

    sys.addaudithook(audit)
    io.open = builtins.open = opened
    os.pwrite = pwrite
    pq.ParquetWriter, pa.OSFile = ParquetWriter, osfile


def from_environment():
    """Fail as AUTOPOLY_TEST_FAULT (folder:n:how) says, in processes whose command has the word AUTOPOLY_TEST_FAULT_IN."""
    command = Path("/proc/self/cmdline").read_bytes().decode(errors="replace")
    if os.environ.get("AUTOPOLY_TEST_FAULT_IN", "") in command and "AUTOPOLY_TEST_FAULT" in os.environ:
        folder, at, how = os.environ["AUTOPOLY_TEST_FAULT"].rsplit(":", 2)
        install(Points(folder, int(at), how))


def run(order):
    """Do one conversion in this process, with commands before and after it; say how it ended and which points it passed."""
    import inscribed

    from autopoly.errors import AutopolyError
    from autopoly.execute import shards
    from autopoly.jobs.convert import ConvertOptions, convert

    shards.BOXES_LEAST = order["boxes"]
    for command in order["before"]:
        subprocess.run(command, check=True)
    points = Points(order["out"], order["at"], order["how"])
    install(points)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in order["options"].items()}
    asked = ConvertOptions(source=Path(order["source"]), out=Path(order["out"]), workers=0, device="cpu", **options)
    said = {"error": None, "line": ""}
    try:
        convert(asked, network=inscribed.network(**order["network"]))
    except AutopolyError as error:
        said = {"error": type(error).__name__, "line": str(error)}
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test has to hear of it
        said = {"error": f"not ours: {type(error).__name__}", "line": traceback.format_exc()}
    points.how = "count"
    for command in order["after"]:
        subprocess.run(command, check=True)
    return said | {"seen": points.seen}


def serve():
    """Fork a child for every order; answer with what it says, or the signal it died of."""
    import cv2
    import inscribed
    import pyarrow.parquet

    import autopoly.jobs.convert

    assert cv2 and pyarrow.parquet and autopoly.jobs.convert and inscribed  # loaded once, before any child
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with os.fdopen(writing, "w") as answer:
                json.dump(run(json.loads(line)), answer)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(json.dumps({"status": status} | (json.loads(text) if text else {})) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
