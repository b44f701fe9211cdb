"""Reading rollouts with a number of processes: what `collect-pairs` and `inspect` begin with."""

import contextlib
import hashlib
import importlib
import shutil
import signal
import tempfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.chunks import CHUNK_BYTES, chunks_of
from pipeline.gather import Gathered
from pipeline.scan import Scanner, ScanTask, read_beside, scan, sha256_of
from pipeline.settings import Settings
from pipeline.sources import Inputs, Source
from pipeline.workers import Workers, default_num_processes
from schemas.errors import DpoError
from schemas.terminal import path_text, progress


class Missing(NamedTuple):
    """What the materialized inputs beside a rollout file say that it should hold."""

    path: Path
    expected: int
    missing: int


@dataclass
class Intake:
    """What was read, and the processes that read it, which are at hand until the block ends."""

    gathered: Gathered
    missing: list[Missing]
    digests: dict[Path, str]  # sha256 of what was read, as it is stored
    workers: Workers
    scratch: Path


@dataclass(frozen=True)
class Machinery:
    """How the work is done; none of it changes the result."""

    num_workers: int | None = None  # None: one for each core, as far as there is work
    chunk_bytes: int = CHUNK_BYTES
    scratch_parent: Path | None = None  # None: where temporary files go


@contextmanager
def intake(
    inputs: Inputs,
    settings: Settings,
    machinery: Machinery,
    *,
    keep_texts: bool,
    keep_rejects: bool = False,
    hash_inputs: bool = False,
) -> Iterator[Intake]:
    """Read all inputs.

    Raises:
        InputError: one can't be read.
        DpoError: no place for temporary files, or a process died.
    """
    size = sum(source.path.stat().st_size if source.is_plain else CHUNK_BYTES for source in inputs.sources)
    known_size = size if all(source.is_plain for source in inputs.sources) else None
    num_workers = machinery.num_workers or default_num_processes(known_size, bytes_each=machinery.chunk_bytes)
    with scratch_folder(machinery.scratch_parent) as scratch:
        workers = Workers(num_workers, Scanner, settings, scratch, keep_texts, keep_rejects)
        loading = threading.Thread(target=_load_pairing)
        try:
            if num_workers > 1:  # Polars takes a moment to start; the first chunks hide it
                with contextlib.suppress(RuntimeError):  # no thread to be had: it is loaded when it is needed
                    loading.start()
            tables, expected = _read_beside(inputs.sources, workers, across_files=settings.across_files)
            gathered = Gathered.of(settings)
            seen: dict[int, array[int]] = {number: array("q") for number in expected}
            files = [source.path for source in inputs.sources if source.is_plain]
            files += [source.materialized for source in inputs.sources if source.materialized]
            hashed = {path: workers.start(sha256_of, path) for path in files if hash_inputs}
            watched = {source.number: hashlib.sha256() for source in inputs.sources if not source.is_plain}
            with progress(
                "reading", total=known_size, unit="bytes"
            ) as advance:  # starts a thread, so not before the processes
                for scanned in workers.run(scan, _tasks(inputs.sources, settings, machinery, tables, watched)):
                    gathered.add(scanned, inputs.sources[scanned.source])
                    if scanned.source in seen:
                        seen[scanned.source].extend(scanned.keys)
                    advance(scanned.num_bytes, scanned.num_rows)
            digests = {path: digest() for path, digest in hashed.items()}
            digests |= {inputs.sources[number].path: digest.hexdigest() for number, digest in watched.items()}
            missing = [
                Missing(inputs.sources[number].path, len(keys), len(keys - set(seen[number])))
                for number, keys in expected.items()
                if seen[number] or not gathered.num_lines[number]  # rows without indices don't tell which they are
            ]
            yield Intake(gathered, missing, digests, workers, scratch)
        finally:
            workers.stop()
            if loading.ident is not None:  # Python must not end in the middle of an import
                loading.join()


def _load_pairing() -> None:
    with contextlib.suppress(Exception):  # it is imported again where it is needed, and says there what is wrong
        importlib.import_module("pipeline.pairing")
    signal.siginterrupt(signal.SIGINT, True)  # Polars makes reads go on after Ctrl-C; a pipe would then never end


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """Make a folder for the time of the block.

    Raises:
        DpoError: it can't be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=".dpo-", suffix=".unfinished", dir=parent))
    except OSError as error:
        where = path_text(parent or Path(tempfile.gettempdir()))
        raise DpoError(f"{where}: no place for temporary files: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # rmtree needs a file handle, and there may be none left
            folder.rmdir()


def _read_beside(
    sources: Sequence[Source], workers: Workers, *, across_files: bool
) -> tuple[dict[int, str], dict[int, set[int]]]:
    """Read the materialized inputs that lie beside rollout files: tables of tasks, and the rollouts to expect."""
    having = [(source.number, source.materialized) for source in sources if source.materialized]
    # tasks told in one file by the dataset row and in another by themselves would never meet
    tells_tasks = not across_files or len(having) == len(sources)
    found = workers.run(read_beside, [path for _, path in having])
    tables, expected = {}, {}
    for (number, _), beside in zip(having, found, strict=True):
        if tells_tasks:
            tables[number] = beside.table
        expected[number] = set(beside.expected)
    return tables, expected


def _tasks(
    sources: Sequence[Source],
    settings: Settings,
    machinery: Machinery,
    tables: dict[int, str],
    watched: "dict[int, hashlib._Hash]",
) -> Iterator[ScanTask]:
    for source in sources:
        watch = watched[source.number].update if source.number in watched else None
        for chunk in chunks_of(
            source, chunk_bytes=machinery.chunk_bytes, max_line_bytes=settings.max_line_bytes, watch=watch
        ):
            yield ScanTask(chunk, tables.get(source.number))
