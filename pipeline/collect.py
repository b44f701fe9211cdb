"""`dpo collect-pairs`: from rollout files to files of preference pairs, with an account of every row.

scan (worker processes) -> table -> pair -> split (Polars, here) -> compose (worker processes) -> write (here)
"""

import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.attrition import Attrition, Reason
from pipeline.compose import ComposeTask, Names, compose
from pipeline.intake import Intake, Machinery, Missing, intake
from pipeline.labels import Labels, labels_entry, read_labels
from pipeline.manifest import manifest_path, write_manifest
from pipeline.output import Written, open_output, path_of_part, refuse_suffix
from pipeline.rejects import refuse_unrepeatable, write_rejects
from pipeline.settings import Part, Settings
from pipeline.sources import MANIFEST, PAIRS, REJECTS, Inputs, find_inputs
from schemas.atomic import refuse_unwritable
from schemas.errors import UsageError
from schemas.streams import STDIN, local_path, place_text
from schemas.terminal import path_text, progress

if TYPE_CHECKING:  # Polars starts threads when it is imported; the worker processes are forked before
    import polars as pl

    from pipeline.pairing import Pairing
    from pipeline.table import Rollouts

COMPOSED_BYTES = 2 << 20  # what is under way stays in the processor's cache


@dataclass(frozen=True)
class Collection:
    """What a collection did."""

    attrition: Attrition
    inputs: Inputs
    missing: list[Missing]
    examples: dict[Reason, str]  # file:line of the first row of each reason, and what was met
    outputs: list[Written] = field(default_factory=list)  # none in a dry run, and none without pairs
    stale: list[Path] = field(default_factory=list)  # parts of an earlier run, which may share prompts with these

    def as_dict(self) -> dict[str, Any]:
        """Give the account as JSON types."""
        return {
            **self.attrition.as_dict(),
            "left_out": [{"path": place_text(path), "kind": kind} for path, kind in self.inputs.left_out],
            "missing_rollouts": {place_text(path): missing for path, _, missing in self.missing},
            "outputs": [{"path": path_text(out.path), "pairs": out.num_pairs} for out in self.outputs],
        }


def collect_pairs(
    places: Sequence[Path],
    output: Path | None,
    settings: Settings,
    machinery: Machinery | None = None,
    *,
    rejects: Path | None = None,
) -> Collection:
    """Read rollouts, pair them, and write the pairs; without an output, only give the account.

    Raises:
        InputError: an input can't be read.
        UsageError: the output is an input too, or of a kind that can't be written.
        DpoError: the output can't be written, or a process died.
    """
    inputs = find_inputs(places)
    _refuse_outputs(inputs, output, rejects, settings)
    machinery = machinery or Machinery()
    if output is not None and machinery.scratch_parent is None:
        machinery = Machinery(machinery.num_workers, machinery.chunk_bytes, _folder_of(output))
    labels = None if settings.labels is None else read_labels(settings.labels)
    writes = output is not None
    with intake(
        inputs, settings, machinery, keep_texts=writes, keep_rejects=bool(rejects), hash_inputs=writes
    ) as taken:
        return _pair_and_write(inputs, taken, output, settings, labels, rejects)


def _pair_and_write(
    inputs: Inputs, taken: Intake, output: Path | None, settings: Settings, labels: Labels | None, rejects: Path | None
) -> Collection:
    from pipeline.pairing import pair_rollouts
    from pipeline.split import parts_of_groups
    from pipeline.table import rollouts_of

    gathered = taken.gathered
    rollouts = rollouts_of(gathered, settings)
    pairing = pair_rollouts(rollouts.ranked, settings, labels)
    attrition = account(taken, rollouts, pairing)
    examples = examples_of(inputs, taken, rollouts, pairing)
    outputs: list[Written] = []
    if output is not None and attrition.pairs:
        parts = parts_of_groups(
            rollouts.ranked,
            pairing.pairs,
            validation_fraction=settings.validation_fraction,
            test_fraction=settings.test_fraction,
            seed=settings.seed,
        )
        files = {path_of_part(output, part): pairs for part, pairs in parts.items() if len(pairs)}
        outputs = _write(files, inputs, taken, rollouts, settings, labels)
    if rejects is not None:
        write_rejects(
            rejects, inputs.sources, _rejected(taken, rollouts, pairing), max_line_bytes=settings.max_line_bytes
        )
    if outputs and output is not None and not _is_special(output):
        write_manifest(
            manifest_path(output),
            settings=settings,
            inputs=[_input_entry(path, taken.digests.get(path)) for path in _read(inputs)],
            outputs=outputs,
            attrition=attrition,
            labels=None if settings.labels is None else labels_entry(settings.labels),
        )
    return Collection(attrition, inputs, taken.missing, examples, outputs, _stale(output, outputs))


def _stale(output: Path | None, outputs: Sequence[Written]) -> list[Path]:
    if output is None or not outputs or _is_special(output):
        return []
    written = {out.path for out in outputs}
    return [path for part in Part if (path := path_of_part(output, part)) not in written and path.is_file()]


def account(taken: Intake, rollouts: "Rollouts", pairing: "Pairing") -> Attrition:
    """Put together the reasons of reading, of the table and of pairing, and hold the sum."""
    gathered = taken.gathered
    later: Counter[Reason] = Counter()
    for frame in (rollouts.duplicates, pairing.unpaired):
        later += Counter({Reason(reason): count for reason, count in frame["reason"].value_counts().iter_rows()})
    not_parsed = sum(
        gathered.dropped[reason] for reason in (Reason.LINE_TOO_LONG, Reason.NOT_JSON, Reason.NOT_A_ROLLOUT)
    )
    attrition = Attrition(
        rows=gathered.num_rows,
        dropped=gathered.dropped + later,
        parsed=gathered.num_rows - not_parsed,
        eligible=len(rollouts.ranked),
        groups=pairing.num_groups,
        varied_groups=pairing.num_varied_groups,
        paired_groups=pairing.num_paired_groups,
        paired_rollouts=pairing.num_paired_rollouts,
        pairs=len(pairing.pairs),
        left_out=pairing.left_out,
        several_messages=pairing.num_several_messages,
        with_token_ids=pairing.num_with_token_ids,
        labels=pairing.labels,
    )
    attrition.check()
    return attrition


def examples_of(inputs: Inputs, taken: Intake, rollouts: "Rollouts", pairing: "Pairing") -> dict[Reason, str]:
    """Give the place of the first row of each reason, and what was met there."""
    found = dict(taken.gathered.examples)
    for frame in (rollouts.duplicates, pairing.unpaired):
        for reason, row in _first_rows(frame):
            source, line = rollouts.payload["source", "line"].row(row)
            found.setdefault(Reason(reason), (source, line, ""))
    paths = [place_text(source.path) for source in inputs.sources]
    return {
        reason: f"{paths[source]}:{line}" + (f": {detail}" if detail else "")
        for reason, (source, line, detail) in found.items()
    }


def _first_rows(frame: "pl.DataFrame") -> list[tuple[str, int]]:
    rows = frame.sort("row").unique("reason", keep="first", maintain_order=True)
    return rows.select("reason", "row").rows()


def _rejected(taken: Intake, rollouts: "Rollouts", pairing: "Pairing") -> list[tuple[int, int, str, str]]:
    rejected = [(source, line, str(reason), detail) for source, line, reason, detail in taken.gathered.rejected]
    for frame in (rollouts.duplicates, pairing.unpaired):
        places = rollouts.payload.select("source", "line")[frame["row"]]
        rejected += [
            (source, line, reason, "") for (source, line), reason in zip(places.rows(), frame["reason"], strict=True)
        ]
    return sorted(rejected)


def _write(
    files: "dict[Path, pl.DataFrame]",
    inputs: Inputs,
    taken: Intake,
    rollouts: "Rollouts",
    settings: Settings,
    labels: Labels | None,
) -> list[Written]:
    """Write all files; each is moved into its place once all are whole."""
    names = Names(rollouts.spools, rollouts.agents, [place_text(source.path) for source in inputs.sources])
    outputs = [Written(path, len(pairs)) for path, pairs in files.items()]
    num_slots = taken.workers.tasks_ahead + 1
    total = sum(out.num_pairs for out in outputs)
    with ExitStack() as stack:
        advance = stack.enter_context(progress("writing", total=total, unit="pairs"))
        for out in outputs:
            write = stack.enter_context(open_output(out.path, settings, out))
            tasks = _compose_tasks(files[out.path], rollouts, names, num_slots, labels)
            for composed in taken.workers.run(compose, tasks):
                write(_content(taken.scratch / composed.name, composed.num_bytes))
                advance(composed.num_rows)
    return outputs


def _content(path: Path, num_bytes: int) -> memoryview:
    with path.open("rb", buffering=0) as stream:
        content = memoryview(bytearray(num_bytes))
        position = 0
        while position < num_bytes:
            position += stream.readinto(content[position:]) or 0
        return content


def _compose_tasks(
    pairs: "pl.DataFrame", rollouts: "Rollouts", names: Names, num_slots: int, labels: Labels | None
) -> Iterator[ComposeTask]:
    """Cut the pairs into tasks of some megabytes of output each."""
    import polars as pl

    from pipeline.labelled import told_of_pairs

    asked_in_ids = {"prompt_tokens"} & set(rollouts.ranked.columns)
    ranked = rollouts.ranked.select("row", "reward", "flags", "agent", "group_high", "group_low", *asked_in_ids)
    columns = pl.concat([ranked.drop("row"), rollouts.payload[ranked["row"]]], how="horizontal")
    written = [name for name in columns.columns if name.endswith("_bytes") and name != "tools_bytes"]
    sizes = columns.select(size=pl.sum_horizontal(written).cast(pl.Int64))["size"]
    ends = (sizes.gather(pairs["chosen"]) + sizes.gather(pairs["rejected"])).cum_sum() // COMPOSED_BYTES
    starts = [0, *(ends != ends.shift(1)).fill_null(False).arg_true().to_list(), len(pairs)]
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        some = pairs[start:end].to_dict(as_series=False)
        if not some["chosen"]:
            continue
        first, last = min(some["chosen"]), max(some["rejected"])
        told: tuple[list[bytes], list[bool]] | tuple[()] = ()
        if labels is not None:  # which turn pairs
            first, last = min(first, *some["rejected"]), max(last, *some["chosen"])
            told = told_of_pairs(pairs[start:end], rollouts.ranked, labels)
        rows = columns[first : last + 1].to_dict(as_series=False)
        chosen, rejected, margin = (some[name] for name in ("chosen", "rejected", "margin"))
        yield ComposeTask(number % num_slots, first, rows, chosen, rejected, margin, names, *told)


def _refuse_outputs(inputs: Inputs, output: Path | None, rejects: Path | None, settings: Settings) -> None:
    """Tell before the work that its result has no place."""
    if rejects is not None:
        refuse_unrepeatable(inputs.sources)
        if rejects.suffix.lower() in {".gz", ".zst", ".parquet"}:
            raise UsageError(f"{path_text(rejects)}: rejects are written as plain JSONL; name a .jsonl file")
    if output is not None:
        refuse_suffix(output)
    wanted = _planned_files(output, settings) + ([] if rejects is None else [rejects])
    for path in wanted:
        if path.is_file() and any(_is_same(path, given) for given in _given(inputs, settings)):
            raise UsageError(f"{path_text(path)}: is an input too; name another file")
        refuse_unwritable(path)
    if len({os.path.realpath(path) for path in wanted}) < len(wanted):
        raise UsageError(
            f"{path_text(wanted[-1])}: named for --rejects and for pairs or their manifest; name two files"
        )


def _given(inputs: Inputs, settings: Settings) -> Iterator[Path]:
    """Name all files that must not be written over: what is read, and what was named but is not read.

    Pairs and rejects of an earlier run, found in a folder, are written anew.
    """
    yield from _read(inputs)
    if settings.labels is not None:
        yield settings.labels
    yield from (path for path, kind in inputs.left_out if kind not in {PAIRS, REJECTS, MANIFEST})


def _is_same(path: Path, given: Path) -> bool:
    try:
        stat = os.fstat(sys.stdin.fileno()) if given == STDIN else (local_path(given) or given).stat()
    except (OSError, ValueError):  # a URL, or no stdin
        return False
    return os.path.samestat(path.stat(), stat)


def _planned_files(output: Path | None, settings: Settings) -> list[Path]:
    """Name all files that a collection may write beside its rejects."""
    if output is None:
        return []
    fractions = {Part.VALIDATION: settings.validation_fraction, Part.TEST: settings.test_fraction}
    parts = [part for part, fraction in fractions.items() if fraction]
    if _is_special(output):
        if parts:
            raise UsageError(f"{path_text(output)}: is no file, so a split has no place beside it; name a file with -o")
        return [output]
    return [output, *(path_of_part(output, part) for part in parts), manifest_path(output)]


def _folder_of(output: Path) -> Path | None:
    """Choose the folder of the output for what is unfinished: there is room for it where the result has room."""
    folder = Path(os.path.realpath(output)).parent
    return None if _is_special(output) or not folder.is_dir() else folder


def _is_special(path: Path) -> bool:
    """Tell a pipe or a device from a file, there or not."""
    return path.exists() and not path.is_file()


def _read(inputs: Inputs) -> Iterator[Path]:
    """Name all files that the pairs were made of."""
    for source in inputs.sources:
        yield source.path
        if source.materialized:
            yield source.materialized


def _input_entry(path: Path, digest: str | None) -> dict[str, Any]:
    return {"path": place_text(path), "bytes": path.stat().st_size if path.is_file() else None, "sha256": digest}
