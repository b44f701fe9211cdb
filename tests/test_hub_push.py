"""Publishing, against a stand-in of the hub on this machine: its answers as huggingface_hub asks for them.

The stand-in takes large files in the way of Git LFS; the hub's own way for those (Xet) can't be tried without it.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schemas.errors import DpoError, UsageError
from tests.tiny_models import save_tiny_policy
from trainer.run.hub import push

TOKEN = "hf_of_the_test"


@dataclass
class StandIn:
    """A hub that keeps what it is sent."""

    endpoint: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)  # name: private
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by digest
    refuses: str = ""  # part of a path that it answers with 403


def handler_of(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer({"id": "me/policy", "sha": "0" * 40}, 200)

        def do_PUT(self):
            content = self.body()
            hub.large[hashlib.sha256(content).hexdigest()] = content
            self.answer({}, 200)

        def do_POST(self):
            body = self.body()
            if self.headers["Authorization"] != f"Bearer {TOKEN}" or (hub.refuses and hub.refuses in self.path):
                self.answer({"error": "You may not write here.\nReally not."}, 403)
            elif self.path == "/api/repos/create":
                self.create(json.loads(body))
            elif "/preupload/" in self.path:
                files = [
                    {"path": each["path"], "uploadMode": mode_of(each["path"]), "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
                self.answer({"files": files}, 200)
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    each | {"actions": {"upload": {"href": f"{hub.endpoint}/large/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                self.answer({"transfer": "basic", "objects": objects}, 200)
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
                elif line["key"] == "lfsFile":
                    hub.files[line["value"]["path"]] = hub.large[line["value"]["oid"]]
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


def mode_of(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


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
    assert [*hub.large.values()] == [(policy / "model.safetensors").read_bytes()]


def test_a_repository_that_is_there_is_written_to(hub: StandIn, policy: Path) -> None:
    hub.repositories["me/policy"] = False
    push(policy, "me/policy", private=True, endpoint=hub.endpoint)
    assert hub.repositories == {"me/policy": False}
    assert hub.files == files_of(policy)


@pytest.mark.parametrize("part", ["/repos/create", "/commit/", "/lfs/"])
def test_what_the_hub_refuses_is_told_with_the_command_to_do_it_by_hand(hub: StandIn, policy: Path, part: str) -> None:
    hub.refuses = part
    with pytest.raises(DpoError) as caught:
        push(policy, "me/policy", private=True, endpoint=hub.endpoint)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert message.startswith("me/policy: can't be pushed to the hub: ")
    assert message.endswith(
        f"; the policy is in {policy}, and by hand it is: hf upload me/policy {policy} --exclude train_config.json --private"
    )
    assert "\n" not in message
    assert (policy / "model.safetensors").is_file()


def test_a_hub_that_can_t_be_reached_is_told(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DpoError, match="can't be pushed to the hub: .*by hand it is: hf upload"):
        push(policy, "me/policy", private=False, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["a/b/c", "", "-x", "a b"])
def test_names_that_no_repository_has_are_refused_before_anything_is_sent(policy: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name of a repository"):
        push(policy, name, private=True, endpoint="http://127.0.0.1:9")


def run_export(hub: StandIn, policy: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: huggingface_hub reads its variables when it is imported."""
    code = (
        "import sys, typer; from trainer.export_command import export_command; app = typer.Typer(); "
        "app.command()(export_command); app(sys.argv[1:], standalone_mode=False)"
    )
    arguments = [str(policy), "-o", str(target), "--push-to-hub", "me/policy", "--public", "--json"]
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_export_publishes_what_it_wrote(hub: StandIn, policy: Path, tmp_path: Path) -> None:
    done = run_export(hub, policy, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"] == f"{hub.endpoint}/me/policy"
    assert hub.repositories == {"me/policy": False}
    assert hub.files == files_of(tmp_path / "out")
    assert f"pushed to {hub.endpoint}/me/policy" in done.stderr
