"""The errors that a user can meet, and the exit code that each ends with.

    DpoError            1   the work failed: no pairs, training stopped, output could not be written
    ├── UsageError      2   wrong options or configuration
    └── InputError      3   an input (file, model) can't be read

Exit code 0 is success; 4 is an error that is none of these, so a fault of ours. `cli.main` is the one place
that turns an error into a line on stderr.
"""

EXIT_INTERNAL = 4


class DpoError(Exception):
    """The work failed. The message says what, where, what was got and expected, and what to do."""

    exit_code = 1


class UsageError(DpoError):
    """The command line or the configuration asks for something impossible."""

    exit_code = 2


class InputError(DpoError):
    """An input file or model can't be read."""

    exit_code = 3
