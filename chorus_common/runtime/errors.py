"""Errors that a user can act on, and the one place where a command line turns them into a line and an exit code.

Every error that bad input can cause derives from `ChorusError` and carries one line which names the file, scene or
setting and says what to do. Exit codes (docs/architecture.md): 0 done, 1 some scenes failed, 2 bad input or usage.
"""

from __future__ import annotations

import difflib
import errno
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

EXIT_DONE, EXIT_SOME_FAILED, EXIT_BAD_INPUT = 0, 1, 2


class ChorusError(Exception):
    """Base of all errors caused by input, settings or the machine's state. The message is one line."""


class SceneError(ChorusError):
    """A scene or camera file is missing, damaged, hostile or holds values that no scene can have."""


class ManifestError(ChorusError):
    """A manifest or data set description is wrong, or names what does not exist."""


class CacheError(ChorusError):
    """A cached array is missing, damaged, incomplete or of another schema; readers never return fill values."""


class ConfigError(ChorusError):
    """A setting is unknown or out of range."""


class WeightsError(ChorusError):
    """Model weights are missing or do not fit the architecture."""


def did_you_mean(name: str, known: Iterable[str], *, likeness: float = 0.0) -> str:
    """The end of a line about an unknown name: "; did you mean 'X'?" with the nearest of `known`, or "" where none is.

    likeness: the least similarity in [0, 1] (difflib's ratio) of a name that is suggested.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return f"; did you mean '{near[0]}'?" if near else ""


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM as Ctrl-C: what a scheduler ends closes its files and takes its own processes along."""
    raise KeyboardInterrupt


def one_line(error: BaseException) -> str:
    """The message of `error` as a single line, with its type where the message alone would not say what happened."""
    text = " ".join(str(error).split())
    if isinstance(error, ChorusError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_full_disk(error: OSError) -> bool:
    """Whether there was no room left, on the disk or within a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def run_cli(command: Callable[..., Any]) -> None:
    """Run a click command as a program: one clear line and exit code 2 for bad input, 130 for Ctrl-C and SIGTERM.

    `command` may return an int, which becomes the exit code (1 = some scenes failed). Any other error is ours and
    keeps its traceback.
    """
    import click

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = command.main(standalone_mode=False) if isinstance(command, click.Command) else command()
        sys.exit(code if isinstance(code, int) else EXIT_DONE)
    except click.exceptions.Abort as error:
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None  # click takes it for Ctrl-D; here a file ended early where none may
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except click.ClickException as error:
        said, context = " ".join(error.format_message().split()), getattr(error, "ctx", None)
        more = f"; see {context.command_path} --help" if context is not None else ""
        print(f"error: {said.rstrip('.')}{more}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except ChorusError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        where = error.filename or "output"
        if is_full_disk(error):
            print(f"error: disk full while writing {where}; free some space and run it again", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        if error.filename is not None:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        raise
