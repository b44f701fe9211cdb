"""`dpo cluster`: job files hold what was asked for, quoted, and nothing where something is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import cli
from schemas.errors import InputError, UsageError
from trainer.jobs.job import seconds_of

ROOT = Path(__file__).parents[1]

SLURM = ("slurm", "pairs.jsonl", "--model", "m", "-o", "runs/x")
SKYPILOT = ("skypilot", "pairs.jsonl", "--model", "m", "-o", "/storage/x", "--image", "me/dpo:1")
K8S = ("k8s", "pairs.jsonl", "--model", "m", "-o", "runs/x", "--image", "me/dpo:1")
BUCKET, VOLUME = ("--bucket", "s3://my-runs"), ("--volume", "shared")

HOSTILE = (
    "with space",
    "it's",
    'a "quote"',
    "$HOME",
    "$(HOME)",
    "$$",
    "`id`",
    "back\\slash",
    "a: b",
    "#c",
    "d - e",
    "null",
)
"""For YAML, for a shell and for Kubernetes, which puts variables into $(NAME)."""

NOT_OF_A_JOB = {"dry", "as_json", "self_check", "gpus", "resume", "resume_anyway"}
"""Parameters of dpo train that a job has no use for, or gives itself."""


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Give what `dpo cluster ARGUMENTS...` prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        cli.app(["cluster", *arguments], standalone_mode=False)
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return run


def kubernetes(text: str) -> dict[str, dict[str, Any]]:
    """Read the objects of a file by their kinds."""
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def container_of(text: str) -> dict[str, Any]:
    (container,) = kubernetes(text)["Job"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def expanded(argument: str, variables: dict[str, str]) -> str:
    """Put variables into an argument as Kubernetes documents it: $(NAME), and $$ for a dollar sign."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]), argument)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # as dpo train has it
        (["slurm"], "no pairs to train on"),
        ([*SLURM, "dpo.beta=1", "--nodes", "2"], "dpo.beta"),
        ([*SLURM, "--lr", "2"], "policy.optimizer.lr=2.0"),
        ([*SLURM, "policy.model_name=n"], "policy.model_name: given as an option and as policy.model_name="),
        ([*SLURM, "--nodes", "2", "cluster.num_nodes=2"], "cluster.num_nodes: given as an option and as"),
        ([*SLURM, "--gpus-per-node", "many"], "cluster.gpus_per_node"),
        ([*SLURM, "--accelerate-config", "fsdp"], "cluster.accelerate_config='fsdp': expected ddp, fsdp2"),
        ([*SLURM, "cluster.cpu_offload=true"], "cluster.cpu_offload=true: needs cluster.accelerate_config="),
        ([*SLURM, "--gpus-per-node", "0"], "cluster.gpus_per_node"),
        # what would not go on by itself
        ([*SLURM, "checkpointing.resume=auto"], "checkpointing.resume: leave it out; each start of a job has"),
        ([*SLURM, "+checkpointing.resume=runs/old"], "checkpointing.resume: leave it out; each start of a job has"),
        (["slurm", "-", "--model", "m"], "-: a job has no stdin to read pairs from"),
        ([*SKYPILOT], "name what the run is kept on"),
        ([*SKYPILOT, *BUCKET, *VOLUME], "one of them"),
        ([*SKYPILOT, *BUCKET, "--nodes", "2"], "--bucket with 2 nodes: all nodes write into one checkpoint"),
        ([*SKYPILOT[:5], "runs/x", *SKYPILOT[6:], *BUCKET], "-o 'runs/x': would be lost with the machine"),
        ([*SKYPILOT[:5], "/storage/../x", *SKYPILOT[6:], *BUCKET], "would be lost with the machine"),
        ([*SKYPILOT, *BUCKET, "checkpointing.checkpoint_dir=/tmp/c"], "checkpoint_dir= '/tmp/c': would be lost"),
        ([*K8S[:5], "/runs/x", *K8S[6:]], "-o '/runs/x': would be lost with the machine"),
        ([*K8S[:5], "../x", *K8S[6:]], "-o '../x': would be lost with the machine"),
        # what a scheduler has no place for, or needs
        ([*SLURM, "--image", "i"], "--image is about skypilot and k8s, not slurm"),
        ([*K8S, "--time", "1:00:00", "--spot"], "--time is about slurm, not k8s"),
        ([*K8S, "--time", "1:00:00", "--spot"], "--spot is about skypilot, not k8s"),
        ([*K8S[:6]], "k8s needs --image"),
        ([*SKYPILOT[:6], *BUCKET], "skypilot starts on a bare machine: name --image"),
        # what would end a line of the file early
        ([*SLURM, "--name", "a b"], "--name 'a b': expected small letters"),
        ([*SLURM, "--name", "x" * 53], "at most 52"),
        ([*K8S, "--name", "1st"], "--name '1st': expected small letters, digits and - between them, a letter first"),
        ([*SLURM, "--setup", "echo it's"], """--setup "echo it's": ends inside of a quote"""),
        ([*SLURM, "--setup", "export HF_TOKEN=hf_1"], "holds a key or a password, which has no place in a job file"),
        ([*SLURM, "--setup", "true \\"], "ends inside of a quote, or with a backslash"),
        ([*SLURM, "--partition", "a\n#SBATCH --uid=0"], r"--partition 'a\n#SBATCH --uid=0': expected a name"),
        ([*SLURM, "--account", ""], "--account '': expected a name"),
        ([*SLURM, "--gpu", "h100:8 --x"], "--gpu 'h100:8 --x': expected a kind"),
        ([*SLURM, "--setup", "a\nb"], r"--setup 'a\nb': has a line break"),
        ([*K8S[:6], "--image", "a: b"], "--image 'a: b': expected the name of a container image"),
        ([*K8S, "--volume", "a,b"], "--volume 'a,b': expected the name of a volume"),
        (["slurm", "a\nb.jsonl"], r"a\nb.jsonl': has a line break"),
        (["slurm", "a\x1b[31m.jsonl"], "has a line break or another character that can't be shown"),
        (["slurm", "a\u202eb.jsonl"], "has a line break or another character that can't be shown"),
        ([*SLURM, "--time", "soon"], "--time 'soon': expected minutes, hours:minutes:seconds"),
        ([*SLURM, "--time", "9:59"], "--time 9:59: expected at least 10 minutes"),
        (["slurm", "https://me:word@host/pairs.jsonl"], "holds a key or a password"),
    ],
    ids=lambda value: ascii(value)[:60],
)  # fmt: skip
def test_what_is_wrong_prints_no_file(tmp_path, monkeypatch, capsys, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        cli.app(["cluster", *arguments, "-O", "job"] if arguments[-1] != "-O" else arguments, standalone_mode=False)
    assert message in str(raised.value)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_accelerate_s_is_looked_at_where_it_is_here(job_file, tmp_path: Path) -> None:
    assert "--accelerate-config=there.yaml" in job_file(*SLURM, "--accelerate-config", "there.yaml")
    (tmp_path / "here.yaml").write_text("distributed_type: MEGATRON_LM")
    with pytest.raises(UsageError, match=r"here\.yaml:1: distributed_type: Megatron-LM"):
        job_file(*SLURM, "--accelerate-config", str(tmp_path / "here.yaml"))


def test_a_missing_file_of_settings_is_an_input_that_can_not_be_read(job_file) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        job_file(*SLURM, "--config", "absent.yaml")


def test_a_file_of_settings_that_is_wrong_is_told_as_by_dpo_train(job_file, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("cluster: 3\n")
    with pytest.raises(UsageError, match=r"my\.yaml:1: cluster=3: is a section"):
        job_file(*SLURM, "--config", "my.yaml")


def test_misuse_is_one_line_and_exit_code_2(dpo) -> None:
    run = dpo("cluster", *SLURM, "dpo.beta=1")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert dpo("cluster", "pbs", "pairs.jsonl").returncode == 2


def test_a_file_that_exists_stays_as_it_is(job_file, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("edited")
    with pytest.raises(UsageError, match=r"job\.sh: exists; name a new file with -O"):
        job_file(*SLURM, "-O", "job.sh")
    assert (tmp_path / "job.sh").read_text() == "edited"
    text = job_file(*SLURM)
    assert job_file(*SLURM, "-O", "new/job.sh") == ""
    assert (tmp_path / "new" / "job.sh").read_text() == text


def test_it_takes_what_dpo_train_takes() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    options = {name: {each.name: each.opts for each in commands[name].params} for name in ("train", "cluster")}
    of_a_job = {name: flags for name, flags in options["train"].items() if name not in NOT_OF_A_JOB}
    assert "model" in of_a_job
    assert {name: options["cluster"].get(name) for name in of_a_job} == of_a_job


def test_the_line_is_one_that_dpo_train_takes(job_file) -> None:
    """Each short option, in the words of dpo train's own parser."""
    short = {
        "validation": "v.jsonl", "loss": "ipo", "beta": "0.2", "lr": "1e-06", "epochs": "2", "max-steps": "9",
        "batch-size": "16", "max-length": "512", "push-to-hub": "me/policy", "accelerate-config": "hsdp",
    }  # fmt: skip
    given = [f"--{option}={value}" for option, value in short.items()]
    command = container_of(job_file(*K8S, "dpo.seed=3", "--nodes", "2", *given))["command"]
    assert command[:2] == ["dpo", "train"]
    parser = typer.main.get_command(cli.app).commands["train"]  # type: ignore[attr-defined]
    found = parser.make_context("train", command[2:]).params
    pairs_and_settings = ["pairs.jsonl", "dpo.seed=3", "cluster.num_nodes=2", "cluster.gpus_per_node=8"]
    assert found["arguments"] == pairs_and_settings
    assert {name: str(found[name.replace("-", "_")]) for name in short} == short
    assert (str(found["output"]), found["model"], found["resume"]) == ("runs/x", "m", "auto")


def test_the_usual_job_of_slurm(job_file) -> None:
    lines = [line for line in job_file(*SLURM).splitlines() if line.startswith("#SBATCH")]
    assert lines == [
        "#SBATCH --job-name=dpo",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --time=24:00:00",
        "#SBATCH --signal=USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --output=%x-%j.out",
        "#SBATCH --open-mode=append",
    ]


def test_a_job_of_slurm_with_all_that_can_be_asked_for(job_file) -> None:
    asked = ["--name", "big", "--nodes", "4", "--gpus-per-node", "4", "--gpu", "h100", "--cpus-per-task", "12"]
    asked += ["--mem", "900", "--time", "2-00", "--partition", "gpu,long", "--account", "team"]
    lines = [line for line in job_file(*SLURM, *asked).splitlines() if line.startswith("#SBATCH")]
    assert lines[:9] == [
        "#SBATCH --job-name=big",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=h100:4",
        "#SBATCH --cpus-per-task=12",
        "#SBATCH --mem=900G",
        "#SBATCH --partition=gpu,long",
        "#SBATCH --account=team",
        "#SBATCH --time=2-00",
    ]


def test_the_shape_may_be_told_by_settings_or_a_file(job_file, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "cluster: {num_nodes: 2, gpus_per_node: none, cpu_processes: 3}\noutput_dir: here\n"
    )
    text = job_file(*SLURM[:4], "--config", "my.yaml", "cluster.num_nodes=5")
    assert "#SBATCH --nodes=5\n" in text
    assert "#SBATCH --ntasks-per-node=3\n" in text
    assert "gpus" not in "".join(line for line in text.splitlines() if line.startswith("#SBATCH"))
    line = re.search(r"^arguments=\(\n(.*?)^\)", text, flags=re.DOTALL | re.MULTILINE)
    assert line is not None
    expected = ["dpo", "train", "pairs.jsonl", "cluster.num_nodes=5", "--config=my.yaml", "--model=m", "--resume=auto"]
    assert line[1].split() == expected  # the folder is in the file, and nothing of the shape is said twice


def test_resuming_is_part_of_what_is_checked(job_file, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("checkpointing: {resume: never}\n")  # as dpo config show prints it
    text = job_file(*SLURM, "--config", "my.yaml", "checkpointing.resume_anyway=true")  # for nothing without a resume
    assert text.count("--resume=auto\n") == 1


def test_a_run_without_a_name_has_one_folder_for_all_its_starts(job_file) -> None:
    assert re.search(r"^    --output=runs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$", job_file(*SLURM[:4]), flags=re.MULTILINE)
    task = job_file("skypilot", "pairs.jsonl", "--model", "m", "--image", "i", *BUCKET)
    assert re.search(r"^    --output=/storage/runs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$", task, flags=re.MULTILINE)


def test_a_job_that_saves_nothing_is_told(capsys) -> None:
    cli.app(["cluster", *SLURM, "checkpointing.enabled=false"], standalone_mode=False)
    assert "nothing is saved before the end" in capsys.readouterr().err


def test_a_kind_of_gpu_for_a_run_on_the_cpu_is_told(capsys) -> None:
    cli.app(["cluster", *SLURM, "--gpu", "h100", "--gpus-per-node", "none"], standalone_mode=False)
    output, errors = capsys.readouterr()
    assert "h100" not in output
    assert errors.startswith("--gpu h100: the run is on the CPU")


def test_a_task_of_skypilot_on_one_node(job_file) -> None:
    task = yaml.safe_load(job_file(*SKYPILOT, *BUCKET, "--spot", "--mem", "200", "--name", "on", "--gpu", "A100"))
    run = task.pop("run")
    assert task == {
        "name": "on",
        "workdir": ".",
        "num_nodes": 1,
        "resources": {
            "accelerators": "A100:8",
            "cpus": "64+",
            "memory": "200+",
            "image_id": "docker:me/dpo:1",
            "use_spot": True,
            "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [75]},
        },
        "file_mounts": {"/storage": {"source": "s3://my-runs", "mode": "MOUNT_CACHED"}},
    }
    assert "MASTER_ADDR" not in run


def test_a_task_of_skypilot_on_many_nodes(job_file) -> None:
    setup = ("--setup", "pip install .", "--setup", "true  # 'ok'")
    task = yaml.safe_load(job_file(*SKYPILOT[:6], *setup, *VOLUME, "--nodes", "3"))
    assert (task["num_nodes"], task["volumes"]) == (3, {"/storage": "shared"})
    assert task["setup"] == "pip install .\ntrue  # 'ok'\n"
    assert "file_mounts" not in task
    assert "image_id" not in task["resources"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_run_of_skypilot_starts_dpo_with_what_was_given(job_file, tmp_path: Path, nodes: int) -> None:
    folder = "/storage/" + " ".join(HOSTILE)
    pairs = [f"{name}.jsonl" for name in HOSTILE]
    text = job_file("skypilot", *pairs, "--model", folder, "-o", folder, "--image", "i", *VOLUME, "--nodes", str(nodes))
    (tmp_path / "dpo").write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "names = ('NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT')\n"
        "print(json.dumps([sys.argv[1:], [os.environ.get(name) for name in names]]))\nsys.exit(75)\n"
    )
    (tmp_path / "dpo").chmod(0o755)
    bare = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "MASTER_PORT")}
    told = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8"}
    run = subprocess.run(
        ["bash", "-c", yaml.safe_load(text)["run"]],
        env=bare | told | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (75, "")
    arguments, place = json.loads(run.stdout)
    given = [*([f"cluster.num_nodes={nodes}"]), "cluster.gpus_per_node=8", f"--output={folder}", f"--model={folder}"]
    assert arguments == ["train", *pairs, *given, "--resume=auto"]
    assert place == (["1", "10.0.0.7", "29500"] if nodes > 1 else [None, None, None])


def test_a_job_of_kubernetes_on_one_node(job_file) -> None:
    text = job_file(*K8S, "--gpus-per-node", "2", "--cpus-per-task", "4", "--mem", "64")
    assert list(kubernetes(text)) == ["Job"]
    job = kubernetes(text)["Job"]
    assert (job["apiVersion"], job["metadata"]) == ("batch/v1", {"name": "dpo"})
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (1, 1, "Indexed")
    assert spec["backoffLimit"] == 6
    assert [
        (rule["action"], rule.get("onExitCodes", {}).get("values"), rule.get("onPodConditions"))
        for rule in spec["podFailurePolicy"]["rules"]
    ] == [
        ("FailJob", [2, 3], None),
        ("Ignore", [75], None),
        ("Ignore", None, [{"type": "DisruptionTarget", "status": "True"}]),
    ]
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 150)
    assert "subdomain" not in pod
    assert pod["volumes"] == [
        {"name": "storage", "persistentVolumeClaim": {"claimName": "dpo"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
    ]
    container = container_of(text)
    assert container["resources"] == {"requests": {"cpu": 8, "memory": "64Gi"}, "limits": {"nvidia.com/gpu": 2}}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/workspace", "/dev/shm"}
    assert "NODE_RANK" not in {variable["name"] for variable in container["env"]}


def test_a_job_of_kubernetes_on_many_nodes(job_file) -> None:
    text = job_file(*K8S, "--nodes", "2", "--name", "no", *VOLUME)  # no would be false without quotes
    service, job = kubernetes(text)["Service"], kubernetes(text)["Job"]
    assert service["metadata"]["name"] == job["metadata"]["name"] == "no"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": "no"}
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (2, 2, 12)
    assert spec["template"]["spec"]["subdomain"] == "no"
    variables = {each["name"]: each for each in container_of(text)["env"]}
    assert variables["MASTER_ADDR"]["value"] == "no-0.no"  # the pod with index 0, under the service
    assert variables["MASTER_PORT"]["value"] == "29500"
    assert "job-completion-index" in variables["NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_kubernetes_starts_dpo_with_what_was_given(job_file) -> None:
    folder = "runs/" + " ".join(HOSTILE)
    pairs = [f"{name}.jsonl" for name in HOSTILE]
    command = container_of(job_file("k8s", *pairs, "--model", folder, "-o", folder, "--image", "i"))["command"]
    given = ["cluster.gpus_per_node=8", f"--output={folder}", f"--model={folder}", "--resume=auto"]
    assert [expanded(argument, {"HOME": "gone"}) for argument in command] == ["dpo", "train", *pairs, *given]


def test_on_the_cpu_nothing_asks_for_a_gpu(job_file) -> None:
    on_cpu = ("--gpus-per-node", "none", "cluster.cpu_processes=2")
    assert "gpus-per-node=" not in job_file(*SLURM, *on_cpu).replace("cluster.gpus_per_node", "")
    assert "accelerators" not in yaml.safe_load(job_file(*SKYPILOT, *BUCKET, *on_cpu))["resources"]
    assert container_of(job_file(*K8S, *on_cpu))["resources"] == {"requests": {"cpu": 16}}


@pytest.mark.parametrize("arguments", [SLURM, (*SKYPILOT, *BUCKET), K8S])
def test_nothing_of_the_environment_is_in_a_file(job_file, monkeypatch, arguments: tuple[str, ...]) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "HF_HOME", "XDG_CACHE_HOME", "MASTER_ADDR"):
        monkeypatch.setenv(name, "canary-canary")
    assert "canary" not in job_file(*arguments)
    with pytest.raises(UsageError, match="holds a key or a password"):
        job_file(*arguments, "logger.wandb.name=canary-canary")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:02:03", 3723), ("2-03", 183600), ("2-03:04", 183840), ("1-0:0:5", 86405)],
)
def test_times_are_those_of_slurm(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_it_starts_without_torch(tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "accelerate", "jinja2"}
    script = (
        f"import sys, cli\nsys.argv = ['dpo', 'cluster', *{SLURM!r}]\n"
        "try: cli.main()\n"
        f"finally: print(sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == "[]"
