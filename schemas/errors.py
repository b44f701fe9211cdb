"""The errors that a user can meet, and the exit code that each ends with.

    DpoError            1   the work failed: no pairs, training stopped, output could not be written
    ├── StoppedError   75   the work was asked to end early; --resume auto goes on with it
    ├── UsageError      2   wrong options or configuration
    └── InputError      3   an input (file, model) can't be read

Exit code 0 is success; 4 is an error that is none of these, so a fault of ours; 75 is a training that was asked to stop
and can be gone on with. `cli.main` is the one place that turns an error into a line on stderr.
"""

from schemas.secrets import without_secrets

EXIT_INTERNAL = 4
EXIT_STOPPED = 75  # sysexits.h's EX_TEMPFAIL: to be tried again


class DpoError(Exception):
    """The work failed. The message says what, where, what was got and expected, and what to do."""

    exit_code = 1
    is_told_elsewhere = False  # another process of the run prints it

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))  # of a URL, of another library's error


class StoppedError(DpoError):
    """The work ended early because it was asked to, and what there is of it is saved."""

    exit_code = EXIT_STOPPED


class UsageError(DpoError):
    """The command line or the configuration asks for something impossible."""

    exit_code = 2


class InputError(DpoError):
    """An input file or model can't be read."""

    exit_code = 3
