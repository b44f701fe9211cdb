"""What an install lacks, and the command that adds it: packages come with the extras of pyproject.toml."""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import UsageError


def install_command(extra: str) -> str:
    """Give the command that adds an extra; without the constraints it could bring another torch."""
    return f"pip install -e '.[{extra}]' --constraint constraints.txt in the clone"


def missing_package(command: str, package: str, extra: str) -> UsageError:
    """Say what a command needs, and where it comes from."""
    name = package.partition(".")[0]
    return UsageError(
        f"{command} needs {name}, which comes with the extra {extra}: {install_command(extra)}, or "
        f"uv run --extra {extra} {' '.join(command.split()[:2])}"
    )


@contextmanager
def needing_extra(command: str, extra: str) -> Iterator[None]:
    """Let imports in the block say what is missing.

    Raises:
        UsageError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(command, error.name or "a package", extra) from error
