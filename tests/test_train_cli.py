"""`dpo train` as a user meets it: what it prints where, and one clear line for each mistake."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from schemas.errors import DpoError
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from trainer.config.sections import TrainConfig

ROWS = [{"prompt": "Q", "chosen": f"yes {number}", "rejected": "no"} for number in range(3)]
QUICK = ("policy.train_micro_batch_size=4", "policy.train_global_batch_size=4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    save_tiny_policy(tmp_path / "policy")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n{"prompt": "Q",\n')
    (tmp_path / "schema.jsonl").write_text('{"prompt": "Q", "chosen": "A"}\n')
    (tmp_path / "tie.jsonl").write_text(
        '{"context": [{"role": "user", "content": "Q"}], "completions": ['
        '{"rank": 1, "completion": [{"role": "assistant", "content": "A"}]},'
        '{"rank": 1, "completion": [{"role": "assistant", "content": "B"}]}]}\n'
    )
    (tmp_path / "rollouts.jsonl").write_text(
        '{"responses_create_params": {"input": "Q"}, "response": {"output": []}}\n'
    )
    (tmp_path / "more=pairs.jsonl").write_text((tmp_path / "pairs.jsonl").read_text())
    (tmp_path / "run.yaml").write_text("policy: {model_name: policy, optimizer: {lr: 1e-4}}\n")
    (tmp_path / "old.yaml").write_text("loss_fn: {sft_loss_weight: 1}\npolicy: {model_name: policy}\n")
    (tmp_path / "no_model").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "metrics.jsonl").touch()
    return tmp_path


MISUSES = [
    # arguments, exit code, what the message says
    (["missing.jsonl", "--model", "policy"], 3, "missing.jsonl: no such file"),
    (["policy", "--model", "policy"], 3, "data set policy: can't be loaded: "),
    (["empty.jsonl", "--model", "policy"], 1, "empty.jsonl: has no rows; make pairs with: dpo collect-pairs"),
    (["broken.jsonl", "--model", "policy"], 3, "broken.jsonl:2: Input data was truncated"),
    (
        ["schema.jsonl", "--model", "policy"],
        3,
        "schema.jsonl:1: (row): got an object with keys chosen, prompt, expected a key rejected",
    ),
    (["tie.jsonl", "--model", "policy"], 3, "tie.jsonl:1: /completions: got two completions of rank 1"),
    (
        ["rollouts.jsonl", "--model", "policy"],
        3,
        "rollouts.jsonl: holds rollouts, not pairs; make pairs with: dpo collect-pairs rollouts.jsonl",
    ),
    (["pairs.jsonl", "--model", "./nowhere"], 3, "model ./nowhere: no such folder; name a local folder"),
    (["pairs.jsonl", "--model", "pairs.jsonl"], 3, "model pairs.jsonl: no such folder"),
    (["pairs.jsonl", "--model", "no_model"], 3, "model no_model: the folder has no config.json"),
    (
        ["pairs.jsonl", "--model", "some-org/no-such-model"],
        3,
        "model some-org/no-such-model: no such folder, and the hub",
    ),
    (["pairs.jsonl"], 3, "model Qwen/Qwen2.5-1.5B-Instruct: no such folder, and the hub can't be asked"),
    (["pairs.jsonl", "--model", "policy", "-o", "used"], 2, "used: exists and is not empty; name a new folder with -o"),
    (["pairs.jsonl", "--model", "policy", "-o", "pairs.jsonl"], 2, "pairs.jsonl: exists and is not empty"),
    (["pairs.jsonl", "--model", "policy", "-o", "pairs.jsonl/run"], 1, "pairs.jsonl/run: can't be written"),
    (["pairs.jsonl", "--modell", "policy"], 2, "No such option: --modell"),
    (["pairs.jsonl", "--model", "policy", "dpo.sed=3"], 2, "dpo.sed: no such setting; did you mean dpo.seed?"),
    (
        ["pairs.jsonl", "--model", "policy", "policy.max_total_sequence_length=3"],
        1,
        "no pair is left to train on (3 too_long)",
    ),
    (["pairs.jsonl", "--model", "policy", "-o", "/proc/run"], 1, "/proc/run: can't be written"),
    (["pairs.jsonl", "--model", "policy", "reference.model_name=./none"], 3, "model ./none: no such folder"),
    (["pairs.jsonl", "--model", "policy", "reference.model_name=some-org/none"], 3, "model some-org/none: no such"),
    (["pairs.jsonl", "--model", "a b"], 3, "model a b: no such folder, and the hub can't be asked"),
    (["x" * 300, "--model", "policy"], 3, "File name too long"),
    (["pairs.jsonl", "--model", "policy", "dpo.seed=" + "[" * 20_000], 2, "dpo.seed="),
    ([], 2, "no pairs to train on: name a file of pairs, such as dpo_train.jsonl"),
    (["pairs.jsonl", "--epochs", "x"], 2, "Invalid value for '--epochs': Input should be a valid integer"),
    (["pairs.jsonl", "--model", "policy", "--gpus", "8"], 2, "cluster.gpus_per_node=8 (--gpus 8): "),
    (["pairs.jsonl", "-c", "old.yaml"], 2, "wrong settings:"),
]
MANY_LINES = ("wrong settings:",)
MISCONFIGURATIONS = [
    (["--config", "none.yaml"], 3, "none.yaml: no such file; expected a YAML file of settings"),
    (["--config", "broken.jsonl"], 2, "broken.jsonl:2: no YAML: "),
    (["pairs.jsonl", "--config", "run.yaml", "dpo.seed=x"], 2, "dpo.seed='x': Input should be a valid integer"),
    (["pairs.jsonl", "--lr", "-1"], 2, "policy.optimizer.lr=-1.0: Input should be greater than 0"),
    (["pairs.jsonl", "--loss", "dpoo"], 2, "loss.name='dpoo': Input should be 'sigmoid'"),
    (["pairs.jsonl", "loss_fn.sft_loss_weight=1"], 2, "loss_fn.sft_loss_weight: is dpo.sft_loss_weight here"),
    (["pairs.jsonl", "--model", "policy", "cluster.num_nodes=2"], 2, "nothing says which of the nodes this is"),
    (["pairs.jsonl", "--accelerate-config", "fsdp"], 2, "did you mean fsdp2?"),
    (["pairs.jsonl", "--accelerate-config", "none.yaml"], 3, "none.yaml: no such file"),
    (["pairs.jsonl", "--gpus", "many"], 2, "cluster.gpus_per_node: got 'many', expected auto, none, or a number"),
    (["pairs.jsonl", "--gpus", "0"], 2, "cluster.gpus_per_node: got '0', expected auto, none, or a number"),
    (["pairs.jsonl", "--model", "policy", "--validation", "missing.jsonl"], 3, "missing.jsonl: no such file"),
    (["pairs.jsonl", "--model", "policy", "data.train.prompt_file=none.txt"], 2, "none.txt"),
    (["pairs.jsonl", "--model", "policy", "policy.tokenizer.chat_template=none.jinja"], 2, "none.jinja: no such file"),
]


@pytest.mark.parametrize(("arguments", "exit_code", "message"), MISUSES, ids=lambda value: str(value)[:60])
def test_misuse(warm_dpo, folder: Path, arguments: list[str], exit_code: int, message: str) -> None:
    before = {path: path.stat().st_size for path in folder.rglob("*")}
    result = warm_dpo("train", *arguments, cwd=folder)
    assert result.returncode == exit_code, result.stderr
    line, *more = result.stderr.splitlines()
    assert line.startswith("dpo: error: ")
    assert message in line
    assert all(text.startswith("  ") for text in more)
    assert bool(more) == any(text in line for text in MANY_LINES)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert {path: path.stat().st_size for path in folder.rglob("*")} == before


@pytest.fixture
def refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `dpo train` in this process, for what ends before torch is loaded, and give the error."""
    monkeypatch.chdir(folder)

    def refused(*arguments: str) -> DpoError:
        result = CliRunner().invoke(cli.app, ["train", *arguments])
        assert isinstance(result.exception, DpoError), result.exception
        return result.exception

    return refused


@pytest.fixture
def told(refused, monkeypatch: pytest.MonkeyPatch):
    """Give the configuration that a command makes; the run is cut short before it."""

    class Enough(DpoError):
        config: TrainConfig

    def stop(config: TrainConfig, **options: object) -> None:
        error = Enough()
        error.config = config
        raise error

    monkeypatch.setattr("trainer.config.preflight.preflight", stop)
    return lambda *arguments: refused(*arguments).config


@pytest.mark.parametrize(("arguments", "exit_code", "message"), MISCONFIGURATIONS, ids=lambda value: str(value)[:60])
def test_misconfiguration(refused, arguments: list[str], exit_code: int, message: str) -> None:
    error = refused(*arguments)
    assert message in str(error)
    assert error.exit_code == exit_code


def test_everything_that_is_missing_is_told_at_once(refused) -> None:
    error = refused("pairs.jsonl", "missing.jsonl", "--model", "./nowhere", "--validation", "gone.jsonl")
    assert [line.split(":")[0] for line in str(error).splitlines()[1:]] == [
        "  missing.jsonl",
        "  gone.jsonl",
        "  model ./nowhere",
    ]


def test_a_wrong_configuration_is_told_without_torch(folder: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None; import cli;"
        "sys.argv = ['dpo', 'train', 'pairs.jsonl', 'dpo.sed=1']; cli.main()"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "dpo: error: dpo.sed: no such setting; did you mean dpo.seed?\n")


def test_a_file_several_sets_and_short_options(told) -> None:
    config = told("pairs.jsonl", "more=pairs.jsonl", "-c", "run.yaml", "--batch-size", "4", "++dpo.seed=3", "-o", "run")
    assert [each.data_path for each in config.data.train] == [Path("pairs.jsonl"), Path("more=pairs.jsonl")]
    assert (config.policy.model_name, config.policy.train_global_batch_size) == ("policy", 4)
    assert (config.policy.optimizer.lr, config.dpo.seed, config.output_dir) == (1e-4, 3, Path("run"))


SHORT = {
    "--model": ("policy.model_name", "policy"),
    "--validation": ("data.validation.data_path", "pairs.jsonl"),
    "--loss": ("loss.name", "ipo"),
    "--beta": ("dpo.reference_policy_kl_penalty", 0.3),
    "--lr": ("policy.optimizer.lr", 1e-3),
    "--epochs": ("dpo.max_num_epochs", 3),
    "--max-steps": ("dpo.max_num_steps", 2),
    "--batch-size": ("policy.train_global_batch_size", 7),
    "--max-length": ("policy.max_total_sequence_length", 64),
    "--push-to-hub": ("hub.repo_id", "me/my-policy"),
    "--gpus": ("cluster.gpus_per_node", 2),
    "--accelerate-config": ("cluster.accelerate_config", "zero2"),
    "--output": ("output_dir", "there"),
}


def test_each_short_option_is_a_setting(told) -> None:
    config = told("pairs.jsonl", *(text for option, (_, value) in SHORT.items() for text in (option, str(value))))
    for key, value in SHORT.values():
        found: object = config
        for part in key.split("."):
            found = getattr(found, part)
        assert found == (Path(value) if isinstance(found, Path) else value), key


@pytest.mark.parametrize("option", SHORT)
def test_an_option_given_both_ways_is_refused(refused, option: str) -> None:
    key, value = SHORT[option]
    error = refused("pairs.jsonl", option, str(value), f"{key}={value}")
    assert str(error) == f"{key}: given as an option and as {key}=; give one"


def test_the_policy_is_all_that_goes_to_stdout(dpo, folder: Path) -> None:
    result = dpo("train", "pairs.jsonl", "--model", "policy", "-o", "run", *QUICK, cwd=folder)
    assert (result.returncode, result.stdout) == (0, "run/policy\n"), result.stderr
    assert "3 pairs of 4 distinct responses to 1 prompt\n" in result.stderr
    assert "step    1/1  loss 0.6931" in result.stderr


def test_pairs_may_come_from_stdin(warm_dpo, folder: Path) -> None:
    rows = (folder / "pairs.jsonl").read_text()
    result = warm_dpo("train", "-", "--model", "policy", "-o", "run", *QUICK, cwd=folder, stdin=rows)
    assert (result.returncode, result.stdout) == (0, "run/policy\n"), result.stderr


def test_json(warm_dpo, folder: Path) -> None:
    result = warm_dpo("train", "pairs.jsonl", "--model", "policy", "-o", "run", "--json", *QUICK, cwd=folder)
    summary = json.loads(result.stdout)
    assert (summary["policy_dir"], summary["steps"], summary["pairs"]) == ("run/policy", 1, 3)
    assert summary["metrics"]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_without_the_extra_the_remedy_is_told(folder: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None; import cli;"
        "sys.argv = ['dpo', 'train', 'pairs.jsonl', '--model', 'policy']; cli.main()"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("dpo: error: dpo train needs torch, which comes with the extra train")


def test_a_full_disk_leaves_no_half_policy(folder: Path) -> None:
    """Files of this process may have 20 kB: the metrics fit in, the weights don't.

    Python would not notice that its own bytecode is cut, too, and leave it to others.
    """
    script = "import resource, sys, cli; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); cli.main()"
    command = [sys.executable, "-c", script, "train", "pairs.jsonl", "--model", "policy", "-o", "run", *QUICK]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert "dpo: error: run/policy: can't be written: " in result.stderr.splitlines()[-1]
    assert {path.name for path in (folder / "run").iterdir()} == {
        *("train_config.json", "metrics.jsonl", "run.json", "health.json")
    }


def test_of_two_runs_one_gets_the_folder(folder: Path) -> None:
    command = [sys.executable, "-m", "cli", "train", "pairs.jsonl", "--model", "policy", "-o", "run", *QUICK]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""}
    runs = [subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2], errors
    told = ("run: another run has taken the folder", "run: another run is writing there", "exists and is not empty")
    assert any(each in text for text in errors for each in told)
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 75), (signal.SIGTERM, 75)])
def test_a_run_that_is_interrupted_says_so_and_leaves_no_policy(folder: Path, number: int, exit_code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "cli",
        "train",
        "pairs.jsonl",
        "--model",
        "policy",
        "-o",
        "run",
        "dpo.max_num_epochs=100000",
    ]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "run" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code, errors
    assert output == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("dpo: stopped: after step ")
    assert f", by {signal.Signals(number).name}; the policy so far is in run/checkpoints/step_" in errors
    assert not (folder / "run" / "policy").exists()
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)  # each line is whole
