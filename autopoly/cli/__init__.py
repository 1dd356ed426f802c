"""The command line: parse, call a job, print, give an exit code.

Exit codes: 0 good, 1 finished with failures, 2 wrong usage, data or recipe (one line on stderr), 130 interrupted (143 by
SIGTERM, 129 by SIGHUP, 141 where the reader of its output has gone). A job and what it needs are imported inside the command functions, so
that help comes at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from autopoly import __version__
from autopoly.cli.convert import convert
from autopoly.cli.demo import demo
from autopoly.cli.run import run
from autopoly.cli.score import score
from autopoly.cli.train import train
from autopoly.errors import AutopolyError, plain_line

# What the machine refuses, not what the program does wrong: no space, no permission, a read-only place.
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE}
REFUSALS |= {errno.ENAMETOOLONG, errno.ELOOP}
INTERRUPTED = 130
GOES_ON = {
    "score": "run it again",
    "train": "add --resume to go on from its last state (saved every four minutes)",
}
"""What to do after an interruption, for commands that do not simply go on."""

app = typer.Typer(
    name="autopoly",
    help="Turn detection boxes into instance polygons, measure them, and train the network that makes them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (convert, score, train, run, demo):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autopoly {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version and stop.")] = False,
) -> None:
    """Hold the options that stand before a command."""


def main() -> None:
    """Run a command and exit with its code; errors a user can cause become one line on stderr."""
    with _asked_to_stop() as stop:
        code = _run()
    sys.exit(128 + stop[0] if code == INTERRUPTED and stop else code)


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Let SIGTERM (a scheduler, a container that ends) and SIGHUP (a closed terminal) end a command as Ctrl-C does; note which came.

    One that is ignored, as under ``nohup``, stays so.
    """
    came: list[int] = []
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a forked child, of which the sender knows nothing
            os._exit(128 + number)
        came.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _run() -> int:
    try:
        # Commands end with typer.Exit, whose code comes back here; 130 stands for Ctrl-C.
        code = int(app(standalone_mode=False) or 0)
    except AutopolyError as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        return _refuse_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone. Python would complain once more when it flushes.
        sys.stdout = None
        return 128 + signal.SIGPIPE
    except MemoryError:
        return _refuse("this machine is out of memory; end other programs, use fewer --workers, or cut the source into several files")
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return _refuse(f"{error.filename or 'this machine'}: {error.strerror}; make room or choose another place")
    if code == INTERRUPTED:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        hint = GOES_ON.get(command, "what was finished is kept, the same command goes on from there")
        typer.echo(f"autopoly: interrupted; {hint}", err=True)
    return code


def _refuse(message: str) -> int:
    typer.echo(f"autopoly: {plain_line(message)}", err=True)
    return 2


def _refuse_usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "autopoly"
    message = error.format_message()
    if not message:  # no command at all: the help has been printed
        return 2
    typer.echo(f"autopoly: {plain_line(message)} (see {path} --help)", err=True)
    return 2
