"""Writing files: whole or not at all, links and special files left as they are."""

import os
import stat
import threading
from pathlib import Path

import pytest

from schemas.atomic import atomic_writer
from schemas.errors import DpoError


def write(path, content=b"new"):
    with atomic_writer(path) as stream:
        stream.write(content)


def write_half(path, error):
    with atomic_writer(path) as stream:
        stream.write(b"half")
        raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_is_there_whole(tmp_path):
    write(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b"new"
    assert names(tmp_path) == ["out.jsonl"]


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / "out.jsonl").write_bytes(b"an older, longer one")
    write(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b"new"
    assert names(tmp_path) == ["out.jsonl"]


def test_missing_folders_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "out.jsonl")
    assert (tmp_path / "a" / "b" / "out.jsonl").read_bytes() == b"new"


def test_the_file_is_not_there_before_the_block_ends(tmp_path):
    with atomic_writer(tmp_path / "out.jsonl") as stream:
        stream.write(b"new")
        assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "out.jsonl", error)
    assert names(tmp_path) == []


def test_an_error_inside_leaves_the_older_file(tmp_path):
    (tmp_path / "out.jsonl").write_bytes(b"older")
    with pytest.raises(ValueError, match="broken"):
        write_half(tmp_path / "out.jsonl", ValueError("broken"))
    assert (tmp_path / "out.jsonl").read_bytes() == b"older"
    assert names(tmp_path) == ["out.jsonl"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real.jsonl").write_bytes(b"older")
    link = tmp_path / "link.jsonl"
    link.symlink_to("real.jsonl")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "real.jsonl").read_bytes() == b"new"
    assert names(tmp_path) == ["link.jsonl", "real.jsonl"]


def test_a_link_to_nothing_yet_is_followed(tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(Path("runs") / "real.jsonl")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "runs" / "real.jsonl").read_bytes() == b"new"


def test_a_link_in_a_circle_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DpoError, match="can't be written"):
        write(tmp_path / "loop")


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=10)
    assert received == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_an_open_pipe_named_by_its_descriptor_is_written_to():
    read_end, write_end = os.pipe()  # what a shell's >(gzip > pairs.gz) and -o /dev/stdout are
    try:
        write(Path(f"/dev/fd/{write_end}"))
        os.set_blocking(read_end, False)
        assert os.read(read_end, 100) == b"new"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_device_is_written_to_and_stays(tmp_path):
    device = tmp_path / "null"  # a copy: were it replaced, no harm would be done
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.open("wb").close()
    except PermissionError:
        pytest.skip("devices can't be made or opened here")
    write(device)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert names(tmp_path) == ["null"]


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DpoError, match="is a directory; name the file to write"):
        write(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["file.txt/out.jsonl", "file.txt/a/out.jsonl", "a" * 300, "a" * 300 + "/out.jsonl"])
def test_what_can_not_be_written_is_named_with_the_path(tmp_path, name):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DpoError, match="can't be written: "):
        write(tmp_path / name)
    assert names(tmp_path) == ["file.txt"]


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path):
    write(tmp_path / ("a" * 255))
    assert (tmp_path / ("a" * 255)).read_bytes() == b"new"
