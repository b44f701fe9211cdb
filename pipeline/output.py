"""The files of pairs: JSONL, packed JSONL or Parquet by their suffix, whole or not at all, and hashed."""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pipeline.settings import Format, Part, Settings
from schemas.atomic import atomic_writer
from schemas.errors import UsageError
from schemas.streams import STDIN
from schemas.terminal import path_text

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


@dataclass
class Written:
    """A file that was written."""

    path: Path
    num_pairs: int = 0
    num_bytes: int = 0
    sha256: str = ""


def path_of_part(output: Path, part: Part) -> Path:
    """Name the file of a part: dpo_train.jsonl goes with dpo_val.jsonl and dpo_test.jsonl."""
    if part is Part.TRAIN:
        return output
    suffix = max((each for each in SUFFIXES if output.name.lower().endswith(each)), key=len, default=output.suffix)
    stem = output.name[: len(output.name) - len(suffix)]
    renamed = re.sub(r"(?<![A-Za-z])train(?![A-Za-z])", part, stem)
    return output.with_name((renamed if renamed != stem else f"{stem}_{part}") + output.name[len(stem) :])


def refuse_suffix(output: Path) -> None:
    """Tell a packing that is not known before the work.

    Raises:
        UsageError: the suffix says something else than JSONL, gzip, zstd or Parquet.
    """
    if output == STDIN:
        raise UsageError(f"-o -: pairs go to a file, with a manifest beside it; name one ({', '.join(SUFFIXES)})")
    is_special = output.exists() and not output.is_file()
    if not is_special and not output.name.lower().endswith(SUFFIXES):
        raise UsageError(f"{path_text(output)}: can't tell how to write it; expected one of {', '.join(SUFFIXES)}")


@contextmanager
def open_output(path: Path, settings: Settings, written: Written) -> Iterator[Callable[[memoryview], object]]:
    """Open a file for composed rows; when the block ends without an error it is in its place, and `written` filled.

    Raises:
        DpoError: it can't be written; nothing of it is left behind.
    """
    with atomic_writer(path) as stream:
        hashing = _Hashing(stream)
        with _packed(path, hashing, settings) as write:
            yield write
        written.num_bytes, written.sha256 = hashing.num_bytes, hashing.digest.hexdigest()


class _Hashing:
    """A writer that hashes what goes through it."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.num_bytes = 0
        self._stream = stream

    def write(self, content: bytes | memoryview) -> int:
        self.digest.update(content)
        self._stream.write(content)
        size = memoryview(content).nbytes
        self.num_bytes += size
        return size

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        """Leave it to the file below, which is flushed once at its end."""

    def close(self) -> None:
        """Leave it to the file below."""


@contextmanager
def _packed(path: Path, stream: _Hashing, settings: Settings) -> Iterator[Callable[[memoryview], object]]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=cast(BinaryIO, stream), mtime=0) as packed:
            yield packed.write
    elif suffix == ".zst":
        import pyarrow as pa

        with pa.CompressedOutputStream(pa.PythonFile(stream, "w"), "zstd") as packed:
            yield packed.write
    elif suffix == ".parquet":
        with _parquet(stream, settings) as write:
            yield write
    else:
        yield stream.write


@contextmanager
def _parquet(stream: _Hashing, settings: Settings) -> Iterator[Callable[[memoryview], object]]:
    import pyarrow as pa
    from pyarrow import parquet

    schema = _arrow_schema(settings.format, token_ids=settings.token_ids, labels=settings.labels is not None)
    with parquet.ParquetWriter(pa.PythonFile(stream, "w"), schema, compression="zstd") as writer:

        def write(lines: memoryview) -> None:
            rows = [_columnar(json.loads(line)) for line in bytes(lines).split(b"\n") if line]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))

        yield write


def _arrow_schema(form: Format, *, token_ids: bool, labels: bool) -> "pa.Schema":
    """Say the types of the columns.

    Tool schemas and arguments differ from row to row, so they are JSON in strings.
    """
    import pyarrow as pa

    call = pa.struct(
        [
            ("id", pa.string()),
            ("type", pa.string()),
            ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
        ]
    )
    message = pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("tool_calls", pa.list_(call)),
            ("tool_call_id", pa.string()),
            ("weight", pa.int8()),
        ]
    )
    messages = pa.list_(message)
    texts = ("group", "agent", "chosen_agent", "rejected_agent", "tools")
    tokens = [("token_ids", pa.list_(pa.int32())), ("loss_mask", pa.list_(pa.int8()))] if token_ids else []
    common = [("margin", pa.float64()), *((name, pa.string()) for name in texts)]
    if token_ids:
        common.append(("prompt_token_ids", pa.list_(pa.int32())))
    if labels:
        votes = pa.struct([(name, pa.int64()) for name in ("chosen", "rejected", "tie", "both_bad")])
        common += [("review", pa.string()), ("reviewers", pa.list_(pa.string())), ("review_votes", votes)]
        common += [(name, pa.float64()) for name in ("verifier_chosen_reward", "verifier_rejected_reward")]
    if form is Format.PREFERENCE:
        completion = pa.struct(
            [
                ("rank", pa.int64()),
                ("completion", messages),
                ("reward", pa.float64()),
                ("truncated", pa.bool_()),
                ("source", pa.string()),
                *tokens,
            ]
        )
        return pa.schema([("context", messages), ("completions", pa.list_(completion)), *common])
    response = pa.string() if form is Format.BINARY else messages
    sides = [
        (f"{side}_{name}", kind)
        for name, kind in (("reward", pa.float64()), ("truncated", pa.bool_()), ("source", pa.string()), *tokens)
        for side in ("chosen", "rejected")
    ]
    return pa.schema([("prompt", messages), ("chosen", response), ("rejected", response), *sides, *common])


def _columnar(row: dict[str, Any]) -> dict[str, Any]:
    """Give each column the one type that Parquet asks for."""
    if isinstance(row.get("prompt"), str):
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
    if isinstance(row.get("tools"), list):
        row["tools"] = json.dumps(row["tools"], ensure_ascii=False)
    lists = [row.get("prompt"), row.get("context"), row.get("chosen"), row.get("rejected")]
    lists += [completion["completion"] for completion in row.get("completions", ())]
    for message in (message for messages in lists if isinstance(messages, list) for message in messages):
        for call in message.get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            if not isinstance(arguments, str):
                call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return row
