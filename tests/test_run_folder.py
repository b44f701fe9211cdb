"""Folders that are there whole or not at all."""

from pathlib import Path

import pytest

from schemas.errors import DpoError, InputError
from trainer.config.preflight import refuse_missing_folder
from trainer.save.whole_folder import whole_folder


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "policy") as unfinished:
        (unfinished / "weights").write_text("w")
        assert not (tmp_path / "policy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert (tmp_path / "policy" / "weights").read_text() == "w"


def test_of_a_folder_that_fails_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DpoError, match="policy: can't be written: no room"), whole_folder(tmp_path / "policy"):
        raise OSError("no room")
    assert list(tmp_path.iterdir()) == []


def test_where_the_name_is_taken_the_work_is_kept(tmp_path: Path) -> None:
    for number in (2, 3):
        (tmp_path / "policy").mkdir(exist_ok=True)
        (tmp_path / "policy" / "notes").write_text("mine")
        with (
            pytest.raises(DpoError, match=rf"the name is taken .*all of it is in .*policy\.{number}$"),
            whole_folder(tmp_path / "policy") as unfinished,
        ):
            (unfinished / "weights").write_text("w")
    assert {path.name for path in tmp_path.iterdir()} == {"policy", "policy.2", "policy.3"}
    assert (tmp_path / "policy.2" / "weights").read_text() == "w"
    assert (tmp_path / "policy" / "notes").read_text() == "mine"


def test_adapters_alone_are_no_model_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds adapters alone; merge them first: dpo export "):
        refuse_missing_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    refuse_missing_folder(str(tmp_path))
