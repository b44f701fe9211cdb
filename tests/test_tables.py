"""Tables as other programs leave them: bytes for text, columns of one name twice, damage, times that are none."""

import datetime
import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from schemas.errors import InputError
from schemas.preference import PreferencePair, read_pairs
from schemas.tables import saved_splits
from tests.gate_runs import checked, errors

ROW = {"prompt": "Q", "chosen": "A", "rejected": "B"}


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


def texts(pair: PreferencePair) -> list[str]:
    return [messages[0]["content"] for messages in (pair.prompt, pair.chosen, pair.rejected)]


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.arrow"])
def test_text_may_be_written_as_bytes_and_an_image_is_passed_over(tmp_path: Path, name: str) -> None:
    row = {key: text.encode() for key, text in ROW.items()} | {"image": {"bytes": b"\xff\xd8", "path": None}}
    (pair,) = read_pairs(write(tmp_path / name, pa.Table.from_pylist([row])))
    assert texts(pair) == ["Q", "A", "B"]


def test_a_prompt_of_other_bytes_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.parquet", pa.Table.from_pylist([ROW | {"prompt": b"\xff"}]))
    with pytest.raises(InputError, match=r"\(row\): got no key prompt"):
        read_pairs(path)


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.arrow", "pairs.csv"])
def test_of_two_columns_of_one_name_none_is_chosen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".csv"):
        path.write_text("prompt,chosen,chosen,rejected\nQ,A,C,B\n")
    else:
        columns = [pa.array([text]) for text in "QACB"]
        write(path, pa.Table.from_arrays(columns, names=["prompt", "chosen", "chosen", "rejected"]))
    with pytest.raises(InputError, match=rf"{name}: has several columns called chosen"):
        read_pairs(path)


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.arrow"])
def test_a_time_that_python_has_none_for_is_told(tmp_path: Path, name: str) -> None:
    table = pa.Table.from_pylist([ROW]).append_column("when", pa.array([2**62], pa.timestamp("us")))
    with pytest.raises(InputError, match=rf"{name}: can't be read as .*out of range"):
        read_pairs(write(tmp_path / name, table))


def test_a_damaged_arrow_stream_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.arrow", pa.Table.from_pylist([ROW] * 500))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = b"\xff" * 300
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pairs\.arrow: can't be read as Arrow"):
        read_pairs(path)


@pytest.mark.parametrize("name", ["pairs.parquet.gz", "pairs.arrow.zst"])
def test_what_is_compressed_twice_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="is not read compressed; unpack the file first"):
        read_pairs(tmp_path / name)


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b'{"_data_files": 3}', b'{"_data_files": [3]}', b"\xff"])
def test_a_damaged_folder_of_save_to_disk_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.json: is not what save_to_disk writes; save the data set again"):
        read_pairs(tmp_path)
    (tmp_path / "dataset_dict.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dataset_dict\.json: is not what save_to_disk writes"):
        saved_splits(tmp_path)


def test_messages_that_python_has_shown_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n\"[{'role': 'user', 'content': 'Q'}]\",A,B\n")
    with pytest.raises(InputError, match=r"pairs\.csv:1: /prompt: got messages as Python shows them, expected JSON"):
        read_pairs(path)


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.arrow"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (pa.array([datetime.date(2026, 1, 2)]), "'2026-01-02'"),
        (pa.array([1], pa.timestamp("us")), "'1970-01-01 00:00:00.000001'"),
        (pa.array([1_999], pa.timestamp("ns", "UTC")), "'1970-01-01 00:00:00.000001+00:00'"),
        (pa.array([1_999], pa.duration("ns")), "'0:00:00.000001'"),
        (pa.array([1_999], pa.time64("ns")), "'00:00:00.000001'"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "an array of 1"),
        (pa.array([float("nan")]), "NaN"),
        (pa.array([float("-inf")]), "-Infinity"),
    ],
    ids=str,
)
def test_what_json_has_no_type_for(tmp_path: Path, name: str, value: pa.Array, shown: str) -> None:
    innocent = write(tmp_path / f"innocent-{name}", pa.Table.from_pylist([ROW]).append_column("when", value))
    assert len(read_pairs(innocent)) == 1
    assert checked(innocent).counts == {}
    path = write(tmp_path / name, pa.Table.from_pylist([ROW]).append_column("chosen_reward", value))
    with pytest.raises(InputError, match=re.escape(f"{name}:1: /chosen_reward: got {shown}, expected null or number")):
        read_pairs(path)
    (finding,) = errors(checked(path))
    assert finding.message == f"/chosen_reward: got {shown}, expected null or number"


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.arrow"])
def test_exact_numbers_are_numbers(tmp_path: Path, name: str) -> None:
    rewards = {"chosen_reward": [Decimal("2.50")], "rejected_reward": [Decimal("2.00")]}
    path = write(tmp_path / name, pa.table({key: [text] for key, text in ROW.items()} | rewards))
    (pair,) = read_pairs(path)
    assert [(type(reward), reward) for reward in (pair.chosen_reward, pair.rejected_reward)] == [(float, 2.5), (int, 2)]
