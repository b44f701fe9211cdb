"""What a model, a file of pairs or a configuration from somebody else can't do; docs/security.md has the list."""

import ast
import contextlib
import json
import os
import pickle
import re
import socket
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from schemas import lines, rows
from schemas.errors import DpoError, InputError, UsageError
from schemas.lines import LineError
from schemas.rows import read_rows
from schemas.secrets import tree_without_secrets, without_logins, without_secrets
from schemas.terminal import excerpt, path_text
from tests.conversations import pair
from tests.tiny_models import save_tiny_policy
from tests.training_runs import filled, run
from trainer.config.preflight import refuse_missing_folder
from trainer.config.secrets import config_without_secrets
from trainer.config.sections import TrainConfig
from trainer.config.show import config_tree, differing_yaml
from trainer.config.told import Told
from trainer.config.yaml_file import read_yaml
from trainer.data.hub import hub_rows
from trainer.data.limits import bounded_memory
from trainer.data.prompts import PromptTexts, with_texts
from trainer.model.lora import load_adapter
from trainer.model.policy import load_policy, load_shape, load_tokenizer
from trainer.save.card import Result, model_card
from trainer.save.export import export, find_source
from trainer.save.run_folder import RunFolder

REPOSITORY = Path(__file__).parents[1]
OURS = [
    *sorted(path for folder in ("trainer", "pipeline", "schemas") for path in (REPOSITORY / folder).rglob("*.py")),
    REPOSITORY / "cli.py",
]
LOADERS = re.compile(r"^Auto\w+$|^auto$")


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


def calls_of(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of a file, each with the dotted name that it calls."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def config_of(folder: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.model_validate({"data": {"train": "a.jsonl"}, "output_dir": str(folder / "run"), **sections})


def keywords_of(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


# Pickles


class Canary:
    """What a pickle runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_read_anywhere() -> None:
    assert len(OURS) > 100
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    for path in OURS:
        imported = {
            name.partition(".")[0]
            for node in nodes_of(path)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not imported & modules, path
        for name, call in calls_of(path):
            assert name not in ("torch.load", "torch.save", "np.load", "numpy.load", "pd.read_pickle"), path
            assert not {"allow_pickle", "weights_only"} & keywords_of(call).keys(), path
            assert not name.endswith((".load_state", "register_for_checkpointing", "torch.jit.load", "torch.hub.load"))


def test_yaml_is_read_by_safe_loaders_alone() -> None:
    for path in OURS:
        for name, call in calls_of(path):
            assert name not in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "eval", "exec"), path
            if name == "yaml.load":
                assert keywords_of(call)["Loader"] == "ConfigLoader", path


def test_each_loader_is_told_to_read_safetensors_and_to_run_no_code() -> None:
    found = 0
    for path in OURS:
        for name, call in calls_of(path):
            owner, _, method = name.rpartition(".")
            if method not in ("from_pretrained", "from_config") or not LOADERS.match(owner):
                continue
            found += 1
            keywords = keywords_of(call)
            assert keywords["trust_remote_code"] == "False", f"{path}:{call.lineno}"
            if owner == "AutoModelForCausalLM":
                assert keywords["use_safetensors"] == "True", f"{path}:{call.lineno}"
    assert found >= 8


def test_torch_is_new_enough_for_what_is_known_of_its_loader() -> None:
    """CVE-2025-32434 is torch's up to 2.5, CVE-2026-24747 that before 2.10; older sandboxes of Jinja have holes."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {each.name: each.specifier for each in map(Requirement, extras["train"])}
    assert not wanted["torch"].contains("2.9.1")
    assert not wanted["jinja2"].contains("3.1.5")


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A policy whose weights are a pickle that makes a folder."""
    policy = save_tiny_policy(tmp_path / "policy")
    weights = load_file(policy / "model.safetensors")
    (policy / "model.safetensors").unlink()
    torch.save({**weights, "canary": Canary(tmp_path / "canary")}, policy / "pytorch_model.bin")
    return policy


def test_a_model_of_pickles_is_refused_before_it_is_read(pickled: Path) -> None:
    for load in (load_policy, load_shape):
        with pytest.raises(
            InputError, match=r"its weights are pickles \(pytorch_model.bin\).*convert them to safetenso"
        ):
            load(str(pickled))
    with pytest.raises(InputError, match=r"its weights are pickles"):
        export(find_source(pickled, None), pickled.parent / "out", as_adapter=False, dtype="float32")
    assert not (pickled.parent / "canary").exists()
    with pytest.raises(Exception, match=r".*"):  # the canary is alive: this is what is kept from happening
        torch.load(pickled / "pytorch_model.bin", weights_only=False)["missing"]
    assert (pickled.parent / "canary").exists()


@pytest.mark.parametrize(
    "named", ["pytorch_model.bin", "../outside.safetensors", "/etc/passwd", "a/../../x.safetensors"]
)
def test_an_index_names_only_safetensors_of_its_folder(pickled: Path, named: str) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": named}}
    (pickled / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=rf"index.json names '{re.escape(named)}', which is no file of safetensors"):
        load_policy(str(pickled))
    assert not (pickled.parent / "canary").exists()


@pytest.mark.parametrize("named", ["adapter_model.bin", "pytorch_model.bin", "../policy.safetensors", "/x.safetensors"])
def test_a_configuration_names_no_other_weights(pickled: Path, named: str) -> None:
    config = json.loads((pickled / "config.json").read_text())
    (pickled / "config.json").write_text(json.dumps(config | {"transformers_weights": named}))
    with pytest.raises(InputError, match=rf"config.json names '{re.escape(named)}' as its weights"):
        load_policy(str(pickled))
    assert not (pickled.parent / "canary").exists()


def test_a_sharded_model_of_safetensors_is_read(tmp_path: Path) -> None:
    policy = save_tiny_policy(tmp_path / "policy")
    weights = load_file(policy / "model.safetensors")
    (policy / "model.safetensors").unlink()
    (policy / "parts").mkdir()
    save_file(weights, policy / "parts" / "one.safetensors", metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, "parts/one.safetensors")}
    (policy / "model.safetensors.index.json").write_text(json.dumps(index))
    model, _ = load_policy(str(policy))
    assert torch.equal(model.state_dict()["model.norm.weight"], weights["model.norm.weight"])


def test_adapters_in_pickles_are_refused(tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base")
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    described = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(base)}
    (adapters / "adapter_config.json").write_text(json.dumps(described))
    torch.save({"canary": Canary(tmp_path / "canary")}, adapters / "adapter_model.bin")
    for as_adapter in (True, False):
        with pytest.raises(InputError, match=r"there is no adapter_model.safetensors; adapters in pickles"):
            export(find_source(adapters, None), tmp_path / "out", as_adapter=as_adapter, dtype="float32")
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        load_adapter(load_policy(str(base))[0], adapters)
    for name in ("adapter_config.json", "adapter_model.bin"):  # transformers would put them on a model unasked
        (base / name).write_bytes((adapters / name).read_bytes())
    with pytest.raises(InputError, match=r"holds adapters \(adapter_config.json\) for another model"):
        load_policy(str(base))
    assert not (tmp_path / "canary").exists()


def test_pickles_beside_a_checkpoint_are_never_opened(tmp_path: Path) -> None:
    """Those of other tools hold optimizer.pt, .metadata of torch's, DeepSpeed's *.pt: none is resumed from."""
    filled(tmp_path)
    settings = ("checkpointing.save_period=1", "checkpointing.resume=auto")
    run(tmp_path, "run", *settings, "checkpointing.checkpoint_must_save_by=0:0:0:0", num_steps=3)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_1"
    for name in (".metadata", "__0_0.distcp", "optimizer.pt", "random_states_0.pkl", "mp_rank_00_model_states.pt"):
        for folder in (checkpoint, *(path for path in checkpoint.iterdir() if path.is_dir())):
            (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with contextlib.suppress(DpoError):  # it may be refused, as long as it is not opened
        run(tmp_path, "run", *settings, num_steps=3)
    assert not (tmp_path / "canary").exists()


# Code that comes with models and data sets

CODE = """
import os
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
os.mkdir({canary!r})
class Config(Qwen3Config):
    model_type = "nobody_s"
class Model(Qwen3ForCausalLM):
    pass
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy with code of its own, and a person who would say yes to everything."""
    policy = save_tiny_policy(tmp_path / "policy")
    (policy / "canary.py").write_text(CODE.format(canary=str(tmp_path / "canary")))
    (policy / "custom_generate").mkdir()
    (policy / "custom_generate" / "generate.py").write_text(CODE.format(canary=str(tmp_path / "canary")))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return policy


def changed(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def test_the_code_of_a_model_is_never_run(coded: Path) -> None:
    names = {"AutoConfig": "canary.Config", "AutoModelForCausalLM": "canary.Model"}
    changed(coded / "config.json", auto_map=names, model_type="nobody_s")
    for load in (load_policy, load_shape):
        with pytest.raises(InputError, match=r"brings code of its own, which is never run; name one that transformers"):
            load(str(coded))
    with pytest.raises(InputError, match=r"brings code of its own, which is never run"):
        export(find_source(coded, None), coded.parent / "out", as_adapter=False, dtype="float32")
    assert not (coded.parent / "canary").exists()


def test_a_model_with_code_is_read_by_the_class_of_transformers_where_there_is_one(coded: Path) -> None:
    changed(coded / "config.json", auto_map={"AutoConfig": "canary.Config", "AutoModelForCausalLM": "canary.Model"})
    changed(coded / "tokenizer_config.json", auto_map={"AutoTokenizer": ["canary.Tokenizer", "canary.Tokenizer"]})
    model, tokenizer = load_policy(str(coded))
    assert type(model).__module__.startswith("transformers.")
    assert type(tokenizer).__module__.startswith("transformers.")
    assert not (coded.parent / "canary").exists()
    for each in (model, tokenizer):
        each.save_pretrained(coded.parent / "saved")
    export(find_source(coded, None), coded.parent / "exported", as_adapter=False, dtype="float32")
    for folder in ("saved", "exported"):  # nobody who loads what is saved is led to that code
        files = list((coded.parent / folder).glob("*.json"))
        assert len(files) >= 3
        assert not any("canary" in file.read_text() for file in files)


def test_the_code_of_a_tokenizer_is_never_run(coded: Path) -> None:
    names = {"AutoTokenizer": ["canary.Tokenizer", "canary.Tokenizer"]}
    changed(coded / "tokenizer_config.json", auto_map=names, tokenizer_class="CanaryTokenizer")
    (coded / "tokenizer.json").unlink()
    for load in (load_policy, load_tokenizer):
        with pytest.raises(InputError):
            load(str(coded))
    assert not (coded.parent / "canary").exists()


def test_the_script_of_a_data_set_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "pairs.py").write_text(CODE.format(canary=str(tmp_path / "canary")))
    with pytest.raises(InputError, match="data set"):
        list(hub_rows(str(folder), None, None))
    assert not (tmp_path / "canary").exists()


# Configuration

HOSTILE_YAML = {
    "apply": "dpo: !!python/object/apply:os.mkdir [canary]\n",
    "new": "dpo: !!python/object/new:os.mkdir [canary]\n",
    "name": "policy: {model_name: !!python/name:os.mkdir }\n",
    "module": "policy: !!python/module:os\n",
    "laughs": "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]\n" for n in range(1, 30)),
    "merged laughs": "a: &a {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1 or ''}, *a{n - 1 or ''}]}}\n" for n in range(1, 30)),
    "merged emptiness": "a: &a {}\n"
    + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1 or ''}, *a{n - 1 or ''}]}}\n" for n in range(1, 30)),
    "itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 100_000,
    "deep JSON": '{"a":' * 5000 + "1" + "}" * 5000,
    "large": "a: " + "x" * (5 << 20),
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_a_hostile_configuration_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(HOSTILE_YAML[name])
    with pytest.raises(UsageError, match=r"^c.yaml.*: (the tag|no settings|an anchor)"):
        read_yaml(Path("c.yaml"))
    assert not (tmp_path / "canary").exists()


def test_an_endless_file_is_no_configuration() -> None:
    with pytest.raises(UsageError, match="more than 4 MiB"):
        read_yaml(Path("/dev/zero"))


# Files of pairs


def test_an_endless_line_never_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 MiB of zeros in some kilobytes no more is unpacked than a line may have."""
    import gzip

    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(lines.numbered_lines, "__defaults__", (1 << 20,))
    for name in ("pairs.jsonl.gz", "pairs.json.gz"):
        with gzip.open(tmp_path / name, "wb") as stream:
            for _ in range(64):
                stream.write(bytes(1 << 20))
        assert (tmp_path / name).stat().st_size < 1 << 20
        with pytest.raises(InputError, match=r":1: a line of more than 1 MiB"):
            list(read_rows(tmp_path / name))


def test_ten_gigabytes_of_zeros_are_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    monkeypatch.setattr("trainer.data.limits.MAX_GROWTH_BYTES", 2 << 30)
    frame = pa.compress(bytes(64 << 20), codec="zstd", asbytes=True)
    (tmp_path / "pairs.jsonl.zst").write_bytes(frame * 160)
    assert len(frame) * 160 < 4 << 20
    with bounded_memory(), pytest.raises(InputError, match=r":1: a line of more than 256 MiB"):
        list(read_rows(tmp_path / "pairs.jsonl.zst"))


def test_an_array_that_is_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ARRAY_BYTES", 1000)
    (tmp_path / "pairs.json").write_text("[" + "1," * 600 + "1]")
    with pytest.raises(InputError, match=r"a JSON array of more than 0 GiB.*write one object on each line"):
        list(read_rows(tmp_path / "pairs.json"))
    (tmp_path / "pairs.json").write_text("\ufeff" + " \n" * 200 + "[1, 2]")
    assert [row for _, row in read_rows(tmp_path / "pairs.json")] == [1, 2]


def test_rows_that_are_nested_too_deeply_are_told(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"a": 1}\n' + "[" * 100_000 + "\n" + '{"a":' * 5000 + "1" + "}" * 5000 + "\n"
    )
    first, *others = (row for _, row in read_rows(tmp_path / "pairs.jsonl"))
    assert first == {"a": 1}
    assert [isinstance(row, LineError) for row in others] == [True, True]
    (tmp_path / "pairs.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="JSON nested too deep"):
        list(read_rows(tmp_path / "pairs.json"))


@pytest.mark.parametrize("frame", ["{0.__class__} {}", "{0[0]} {}", "{} {x!r}", "{:>{width}}", "{}{{{}}}{:9}"])
def test_a_frame_for_prompts_is_no_program(frame: str) -> None:
    """Braces that are more than a place for the question stay as they are, and so do those of the question."""
    framed = with_texts(pair("a", "b", prompt="{0.__class__}"), PromptTexts(None, frame), Counter()).prompt[0]
    assert framed["content"] == frame.replace("{}", "{0.__class__}")


# Names


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "a\0b", "a\nb", "a\n", "", "a b", "\x1b[2J", "a\u202eb"])
def test_a_validation_set_has_a_name_that_can_be_part_of_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="val_data_paths"):
        config_of(tmp_path, data={"train": "a.jsonl", "val_data_paths": {name: "b.jsonl"}})


HOSTILE_NAME = "---\nlicense: mit\nbase_model: evil/evil\n---\n# a\n::error file=x::y\x1b]0;t\x07\u202e<script>|`"


def front_matter(card: str) -> dict[str, Any]:
    opening, text, _ = card.split("---\n", 2)
    assert opening == ""
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_a_hostile_name_adds_nothing_to_a_card(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        policy={"model_name": HOSTILE_NAME},
        data={"train": {"data_path": HOSTILE_NAME}},
        logger={"wandb": {"name": HOSTILE_NAME}},
        output_dir=HOSTILE_NAME,
    )
    card = model_card(config, title=HOSTILE_NAME, place=HOSTILE_NAME, kind="merged", result=Result([]))
    assert front_matter(card) == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["dpo"]}
    assert card.count("\n---\n") == 1
    assert not any(char in card for char in "\x1b\x07\u202e")
    assert not any(line.startswith(("::", "license:", "base_model:")) for line in card.splitlines())
    assert "<script>" not in card.partition("```python")[0]


@pytest.mark.parametrize("name", ["./a\n::error file=x::y\x1b[2J", "/a\u202e\x9b2J/b\r::debug::z"])
def test_the_name_of_a_model_is_shown_on_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing in it drives a terminal, or is a line that GitHub's runners take for a command."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for refused in (refuse_missing_folder, load_policy):
        with pytest.raises(InputError) as caught:
            refused(name)
        assert not any(char in str(caught.value) for char in "\n\r\x1b\x9b\u202e")


# Secrets

SECRETS = {
    "WANDB_API_KEY": "canary-wandb-0123456789",
    "HF_TOKEN": "hf_canary0123456789",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+0123456789",
    "PGPASSWORD": "canary-postgres",
    "GITLAB_PAT": "canary-gitlab",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=canaryazure",
    "my_api_key": "canary-lower-case",
}
LOGIN, SIGNATURE = "canary-login:canary@pass", "canary-signature"
URL = f"https://{LOGIN}@127.0.0.1:9/pairs.jsonl?X-Amz-Signature={SIGNATURE}&x=canary"
TRACKING = f"postgresql://{LOGIN}@db/mlflow?password={SIGNATURE}"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("secrets")
def test_no_error_tells_a_secret() -> None:
    for value in (*SECRETS.values(), URL, TRACKING):
        for kind in (DpoError, UsageError, InputError):
            assert "canary" not in str(kind(f"{value}: no such file"))
            assert "canary" not in repr(kind(f"got {value}"))
    assert str(InputError(f"{URL}: gone")) == "https://***@127.0.0.1:9/pairs.jsonl?***: gone"
    assert "canary" not in path_text(Path(URL))
    assert "canary" not in excerpt(TRACKING)  # which is longer than what is shown, and so is the login


@pytest.mark.usefixtures("secrets")
def test_no_configuration_that_is_shown_or_written_has_a_secret(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        data={"train": [URL, SECRETS["HF_TOKEN"]], "val_data_paths": {"other": {"data_path": URL}}},
        logger={"mlflow": {"tracking_uri": TRACKING, "run_name": SECRETS["WANDB_API_KEY"]}},
        policy={"model_name": "m", "hf_config_overrides": {"a": [TRACKING, {"b": SECRETS["PGPASSWORD"]}]}},
    )
    assert "canary" not in json.dumps(config_without_secrets(config))
    assert "canary" not in differing_yaml(config_tree(config, Told()))
    assert type(config).model_validate(config_without_secrets(config))  # and is one that can be read again


def test_what_is_no_secret_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path))  # where a token lies
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "canary-false")
    monkeypatch.setenv("SHORT_KEY", "pairs")
    tree = {"a": [str(tmp_path / "pairs"), 1, 2.5, None, True], "b": {"c": "canary-false", "d": "s3://bucket/me@home"}}
    assert tree_without_secrets(tree) == tree


def test_logins_are_hidden_in_every_form() -> None:
    assert without_logins("a,https://u:p@h/x,s3://k:s@b/y?z=1.") == "a,https://***@h/x,s3://***@b/y?***."
    assert without_logins("https://h/?u=https://x/&sig=abc'") == "https://h/?***'"
    assert without_logins('"https://u:p@h?sig=1","b"') == '"https://***@h?***","b"'
    assert without_logins("https://u:p@ss@h") == "https://***@h"
    assert without_logins("https://h? what") == "https://h? what"


@pytest.mark.parametrize("text", ["a." * 200_000 + ":/", "x" * 400_000 + " a:/", "a:/" * 100_000, "a://x" * 100_000])
def test_a_long_text_costs_no_more_than_its_length(text: str) -> None:
    import time

    started = time.monotonic()
    assert without_secrets(text) == text
    assert time.monotonic() - started < 5  # and minutes, were it the square


# A run


@pytest.mark.usefixtures("secrets")
def test_a_run_needs_no_network_and_leaves_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is asked of anybody, and what the run prints and writes has neither secrets nor control characters."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network is asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    filled(tmp_path)
    hostile = [
        {"prompt": f"\x1b[2J\n::error file=x::y\u202e {n}", "chosen": "yes\n::stop-commands::x", "rejected": "\x9b2Jno"}
        for n in range(9)
    ]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hostile))
    run(
        tmp_path,
        "run",
        f"data.validation.data_path={tmp_path / 'held_out.jsonl'}",
        "logger.num_val_samples_to_print=3",
        "logger.sample_max_new_tokens=8",
        f"logger.mlflow.tracking_uri={TRACKING}",
        "logger.tensorboard_enabled=true",
        num_steps=2,
    )
    printed = "".join(capfd.readouterr())
    assert "sample after step" in printed
    assert "canary" not in printed
    assert not any(char in printed for char in "\x1b\x9b\u202e")
    assert not any(line.lstrip().startswith("::") for line in printed.splitlines())
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            assert b"canary" not in file.read_bytes(), file


def test_foreign_files_behind_a_link_stay(tmp_path: Path) -> None:
    """The folder of the checkpoints is a link to elsewhere, where somebody keeps other things meanwhile."""
    filled(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "linked").symlink_to(elsewhere)
    settings = ("checkpointing.save_period=1", "checkpointing.keep_top_k=1")
    foreign = [elsewhere / name for name in ("notes.txt", "step_x", "step_2.bak", "xstep_1")]
    saving = RunFolder.log

    def log(self: RunFolder, line: Any) -> None:
        for each in foreign:
            each.write_text("mine")
        saving(self, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "log", log)
        run(tmp_path, "run", f"checkpointing.checkpoint_dir={tmp_path / 'linked'}", *settings, num_steps=3)
    assert [each.read_text() for each in foreign] == ["mine"] * 4
    kept = {path.name for path in elsewhere.iterdir() if re.fullmatch(r"step_\d+", path.name)}
    assert len(kept) == 1
    assert "step_1" not in kept  # so there was something to take away


# The page


def test_the_page_names_tests_that_there_are() -> None:
    page = (REPOSITORY / "docs" / "security.md").read_text()
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 15
    tests = [path.read_text() for path in (REPOSITORY / "tests").glob("test_*.py")]
    defined = {name for text in tests for name in re.findall(r"^def (test_\w+)", text, flags=re.MULTILINE)}
    assert set(named) - defined == set()
