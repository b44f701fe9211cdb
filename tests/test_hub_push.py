"""Publishing, against a stand-in of the hub on this machine: its answers as huggingface_hub asks for them.

The stand-in takes every file within the commit, as the hub takes small ones; its own way for large ones (Xet) can't be
tried without it.
"""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from huggingface_hub import constants
from typer.testing import CliRunner

from schemas.errors import DpoError, UsageError
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from trainer.config.environment import check_environment
from trainer.config.records import HubSection
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.export_command import export_command
from trainer.run.loop import train
from trainer.save.hub import push

TOKEN = "hf_of_the_test"


@dataclass
class StandIn:
    """A hub that keeps what it is sent."""

    endpoint: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)  # name: private
    files: dict[str, bytes] = field(default_factory=dict)
    refuses: str = ""  # part of a path that it answers with 403


def handler_of(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer({"id": "me/policy", "sha": "0" * 40}, 200)

        def do_POST(self):
            body = self.body()
            if self.headers["Authorization"] != f"Bearer {TOKEN}" or (hub.refuses and hub.refuses in self.path):
                self.answer({"error": "You may not write here.\nReally not."}, 403)
            elif self.path == "/api/repos/create":
                self.create(json.loads(body))
            elif "/preupload/" in self.path:
                files = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
                self.answer({"files": files}, 200)
            elif "/commit/" in self.path:
                self.commit([json.loads(line) for line in body.splitlines()])
            else:  # validate-yaml
                self.answer({"warnings": [], "errors": []}, 200)

        def create(self, asked):
            name = "/".join(filter(None, (asked.get("organization") or "me", asked["name"])))
            exists = name in hub.repositories
            hub.repositories.setdefault(name, bool(asked.get("private") or asked.get("visibility") == "private"))
            self.answer({"url": f"{hub.endpoint}/{name}"}, 409 if exists else 200)

        def commit(self, lines):
            for line in lines:
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{hub.endpoint}/me/policy/commit/{'1' * 40}", "commitOid": "1" * 40}, 200)

        def body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def answer(self, content, status):
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stand_in = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(stand_in))
    stand_in.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = save_tiny_policy(tmp_path / "policy")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A policy\n")
    (folder / "train_config.json").write_text('{"output_dir": "/home/someone/runs/x"}')
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "train_config.json"}


@pytest.mark.parametrize("private", [True, False])
def test_a_policy_is_published_but_for_where_it_lies_here(hub: StandIn, policy: Path, private: bool) -> None:
    url = push(policy, "me/policy", private=private, endpoint=hub.endpoint)
    assert url == f"{hub.endpoint}/me/policy"
    assert hub.repositories == {"me/policy": private}
    assert hub.files == files_of(policy)


def test_a_repository_that_is_there_is_written_to(hub: StandIn, policy: Path) -> None:
    hub.repositories["me/policy"] = False
    push(policy, "me/policy", private=True, endpoint=hub.endpoint)
    assert hub.repositories == {"me/policy": False}
    assert hub.files == files_of(policy)


@pytest.mark.parametrize("part", ["/repos/create", "/preupload/", "/commit/"])
def test_what_the_hub_refuses_is_told_with_the_command_to_do_it_by_hand(hub: StandIn, policy: Path, part: str) -> None:
    hub.refuses = part
    with pytest.raises(DpoError) as caught:
        push(policy, "me/policy", private=True, endpoint=hub.endpoint)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert message.startswith("me/policy: can't be pushed to the hub: ")
    by_hand = f"hf upload me/policy {policy} --exclude train_config.json --private"
    assert message.endswith(f"; the policy is in {policy}, and by hand it is: {by_hand}")
    assert "\n" not in message
    assert (policy / "model.safetensors").is_file()


def test_a_hub_that_can_t_be_reached_is_told(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DpoError, match=r"can't be pushed to the hub: .*by hand it is: hf upload"):
        push(policy, "me/policy", private=False, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["a/b/c", "", "-x", "a b"])
def test_names_that_no_repository_has_are_refused_before_anything_is_sent(policy: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name of a repository"):
        push(policy, name, private=True, endpoint="http://127.0.0.1:9")


def test_export_publishes_what_it_wrote(
    hub: StandIn, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)  # HF_ENDPOINT is read once, when the library is imported
    app = typer.Typer()
    app.command()(export_command)
    arguments = [str(policy), "-o", str(tmp_path / "out"), "--push-to-hub", "me/policy", "--public", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["url"] == f"{hub.endpoint}/me/policy"
    assert hub.repositories == {"me/policy": False}
    assert hub.files == files_of(tmp_path / "out")
    assert f"pushed to {hub.endpoint}/me/policy" in result.stderr


def test_a_run_with_such_a_name_does_not_start(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    config = config_of(tmp_path, policy)
    check_environment(config)
    wrong = config.model_copy(update={"hub": HubSection(repo_id="a/b/c")})
    with pytest.raises(UsageError, match=r"hub.repo_id=a/b/c: no name that a repository can have"):
        check_environment(wrong)


def config_of(tmp_path: Path, policy: Path) -> TrainConfig:
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Q", "chosen": "yes", "rejected": "no"}])
    return resolve(
        ["hub.repo_id=me/policy", "hub.private=false"],
        train_data_path=tmp_path / "pairs.jsonl",
        model_name=str(policy),
        output_dir=tmp_path / "run",
    )


def test_a_run_publishes_its_policy(
    hub: StandIn, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    result = train(config_of(tmp_path, policy))
    assert result is not None
    assert hub.repositories == {"me/policy": False}
    assert hub.files == files_of(result.policy_dir)
    assert b'from_pretrained("me/policy")' in hub.files["README.md"]


def test_a_run_that_can_t_publish_keeps_its_policy(
    hub: StandIn, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    hub.refuses = "/commit/"
    with pytest.raises(DpoError, match="by hand it is: hf upload me/policy") as caught:
        train(config_of(tmp_path, policy))
    assert caught.value.exit_code == 1
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
