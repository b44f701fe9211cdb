"""What the environment lacks is told before a run, all at once, with what to do and without a secret."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UsageError
from schemas.secrets import without_secrets
from trainer.config import environment
from trainer.config.environment import check_environment, folder_problem
from trainer.config.records import TRACKERS, LoggerSection
from trainer.config.sections import TrainConfig
from trainer.watch.trackers import flat_config

ROOT = Path(__file__).parents[1]

VARIABLES = (
    "HF_DATASETS_CACHE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "NETRC",
    "SWANLAB_API_KEY",
    "SWANLAB_MODE",
    "SWANLAB_ROOT",
    "SWANLAB_SAVE_DIR",
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_DISABLED",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_MODE",
)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start with an empty home and no variables; whether packages are there is another question."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: name)


def config_of(tmp_path: Path, **sections: Any) -> TrainConfig:
    (tmp_path / "policy").mkdir(exist_ok=True)
    (tmp_path / "pairs.jsonl").touch()
    settings = {
        "data": {"train": {"data_path": str(tmp_path / "pairs.jsonl")}},
        "policy": {"model_name": str(tmp_path / "policy")},
        "output_dir": str(tmp_path / "run"),
    }
    return TrainConfig.model_validate(settings | sections)


def problem(tmp_path: Path, **sections: Any) -> str:
    with pytest.raises(UsageError) as raised:
        check_environment(config_of(tmp_path, **sections))
    return str(raised.value)


def test_nothing_is_needed_for_a_plain_run(tmp_path: Path) -> None:
    check_environment(config_of(tmp_path))


def test_each_tracker_has_a_switch() -> None:
    assert LoggerSection().trackers == ()
    for name in TRACKERS:
        assert LoggerSection.model_validate({f"{name}_enabled": True}).trackers == (name,)


def test_missing_packages_are_named_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    text = problem(tmp_path, logger={f"{name}_enabled": True for name in TRACKERS})
    for name in TRACKERS:
        assert f"logger.{name}_enabled=true needs the package {name}: pip install {name}" in text
    assert "WANDB_API_KEY" in text
    assert "SWANLAB_API_KEY" in text


def test_a_package_that_is_there_is_found(tmp_path: Path) -> None:
    check_environment(config_of(tmp_path, logger={"tensorboard_enabled": True}))


@pytest.mark.usefixtures("_all_packages")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "0123456789"),
        ("WANDB_MODE", "offline"),
        ("WANDB_MODE", "disabled"),
        ("WANDB_DISABLED", "true"),
        ("WANDB_IDENTITY_TOKEN_FILE", "/run/token"),
    ],
)
def test_what_wandb_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    logger = {"wandb_enabled": True}
    text = problem(tmp_path, logger=logger)
    assert text.startswith("logger.wandb_enabled=true: no Weights & Biases key; set WANDB_API_KEY")
    assert "WANDB_MODE=offline" in text
    monkeypatch.setenv(name, value)
    check_environment(config_of(tmp_path, logger=logger))


@pytest.mark.usefixtures("_all_packages")
def test_a_login_of_wandb_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = {"wandb_enabled": True}
    login = tmp_path / ".netrc"
    login.write_text("machine api.example.com\n  login user\n  password secret123\n")
    login.chmod(0o600)
    assert "no Weights & Biases key" in problem(tmp_path, logger=logger)
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.example.com")
    check_environment(config_of(tmp_path, logger=logger))
    monkeypatch.delenv("WANDB_BASE_URL")
    login.write_text("machine api.wandb.ai\n  login user\n")
    assert "no Weights & Biases key" in problem(tmp_path, logger=logger)
    login.write_text("machine api.wandb.ai\n  login user\n  password secret123\n")
    check_environment(config_of(tmp_path, logger=logger))
    login.rename(tmp_path / "elsewhere")
    assert "no Weights & Biases key" in problem(tmp_path, logger=logger)
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    check_environment(config_of(tmp_path, logger=logger))
    (tmp_path / "elsewhere").write_text("machine machine secret123 {")
    assert "secret123" not in problem(tmp_path, logger=logger)


@pytest.mark.usefixtures("_all_packages")
def test_what_swanlab_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = {"swanlab_enabled": True}
    assert "no key for SwanLab; set SWANLAB_API_KEY" in problem(tmp_path, logger=logger)
    for name, value in (("SWANLAB_API_KEY", "0123456789"), ("SWANLAB_MODE", "local"), ("SWANLAB_MODE", "offline")):
        monkeypatch.setenv(name, value)
        check_environment(config_of(tmp_path, logger=logger))
        monkeypatch.delenv(name)
    folder = tmp_path / ".swanlab"
    folder.mkdir()
    (folder / ".netrc").write_text("machine https://api.swanlab.cn/api\n  login x\n  password secret123\n")
    (folder / ".netrc").chmod(0o600)
    check_environment(config_of(tmp_path, logger=logger))


@pytest.mark.usefixtures("_all_packages")
def test_the_others_need_no_key(tmp_path: Path) -> None:
    check_environment(config_of(tmp_path, logger={"mlflow_enabled": True, "trackio_enabled": True}))


def test_publishing_needs_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = {"repo_id": "me/my-policy"}
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    text = problem(tmp_path, hub=hub)
    assert text.startswith(
        "hub.repo_id=me/my-policy: no token for the Hugging Face hub; log in once with `hf auth login`"
    )
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    check_environment(config_of(tmp_path, hub=hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in problem(tmp_path, hub=hub)


def test_a_token_of_the_environment_is_found_and_not_shown(tmp_path: Path) -> None:
    """The hub's own client looks for it; in a process of its own, because it reads variables when it is imported."""
    code = (
        "from trainer.config.environment import check_environment; from trainer.config.sections import TrainConfig;"
        "check_environment(TrainConfig.model_validate({'data': {'train': {'data_path': 'pairs.jsonl'}},"
        "'policy': {'model_name': '.'}, 'output_dir': 'run', 'hub': {'repo_id': 'me/x'}}));"
        "import sys; assert 'torch' not in sys.modules; print('fine')"
    )
    (tmp_path / "pairs.jsonl").touch()

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=kept | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)} | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "no token" in run().stderr
    with_token = run(HF_TOKEN="hf_abcdefghijklmnop")
    assert with_token.stdout == "fine\n", with_token.stderr


def test_folders_that_can_t_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "pairs.jsonl"
    logs = {"log_dir": str(taken / "logs"), "tensorboard_enabled": True}
    text = problem(tmp_path, logger=logs)
    assert text.startswith(f"logger.log_dir={taken}/logs: can't be written: Not a directory; name another")
    text = problem(tmp_path, checkpointing={"checkpoint_dir": str(taken / "steps")})
    assert text.startswith(f"checkpointing.checkpoint_dir={taken}/steps: can't be written: Not a directory; name")
    text = problem(tmp_path, checkpointing={"checkpoint_dir": str(tmp_path / ("x" * 300))})
    assert "can't be written: File name too long" in text
    check_environment(config_of(tmp_path, logger={**logs, "tensorboard_enabled": False}))  # nobody writes there

    monkeypatch.setenv("HF_HOME", str(taken / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(taken / "datasets"))
    check_environment(config_of(tmp_path))  # nothing is downloaded
    download = {"policy": {"model_name": "org/model"}, "data": {"train": {"dataset_name": "HelpSteer3"}}}
    text = problem(tmp_path, **download)
    assert text.startswith("the run can't start:\n  HF_HOME=")
    assert f"  HF_DATASETS_CACHE={taken}/datasets: can't be written: Not a directory; downloads are kept there" in text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_environment(config_of(tmp_path, **download))  # the loader says what is not there


def test_a_model_in_a_cache_that_is_read_only_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "folder_problem", lambda folder: "Read-only file system")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert "HF_HOME" in problem(tmp_path, policy={"model_name": "org/model"})
    (tmp_path / "hf" / "hub" / "models--org--model").mkdir(parents=True)
    check_environment(config_of(tmp_path, policy={"model_name": "org/model"}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    assert "HF_HUB_CACHE" in problem(tmp_path, policy={"model_name": "org/model"})


def test_trying_a_folder_leaves_nothing(tmp_path: Path) -> None:
    assert folder_problem(tmp_path / "a" / "b") is None
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "AKIA/and+more")
    monkeypatch.setenv("SHORT_KEY", "a")
    assert without_secrets("key 0123456789abcdef, AKIA/and+more, a cat") == "key ***, ***, a cat"
    assert without_secrets("postgresql://user:pass@host:5432/db") == "postgresql://***@host:5432/db"
    assert without_secrets("got https://h/p.jsonl?X-Signature=abc&b=c for") == "got https://h/p.jsonl?*** for"
    assert without_secrets("https:/u:p@h/p") == "https:/***@h/p"  # what pathlib makes of it
    assert without_secrets("sqlite:////tmp/me@home/x.db") == "sqlite:////tmp/me@home/x.db"
    assert without_secrets("mail me@example.com? yes") == "mail me@example.com? yes"


def test_the_configuration_is_given_flat_and_without_secrets(tmp_path: Path) -> None:
    uri = "postgresql://user:geheim@host/db"
    config = config_of(
        tmp_path,
        data={"train": [{"data_path": "a.jsonl"}, {"data_path": "https://h/b.jsonl?sig=geheim", "weight": 2}]},
        logger={"mlflow": {"tracking_uri": uri}},
        policy={"model_name": "m", "hf_config_overrides": {"rope_theta": 1e6}},
    )
    flat = flat_config(config)
    assert flat["policy.optimizer.lr"] == 5e-6
    assert flat["policy.optimizer.betas"] == "[0.9, 0.98]"
    assert flat["policy.hf_config_overrides.rope_theta"] == 1e6
    assert flat["data.train.1.weight"] == 2
    assert flat["dpo.max_num_steps"] == "null"
    assert flat["logger.mlflow.tracking_uri"] == "postgresql://***@host/db"
    assert "geheim" not in str(flat)
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
