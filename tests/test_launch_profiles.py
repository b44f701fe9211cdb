"""cluster.accelerate_config: what Accelerate is told by each profile and by files of its own, and what is refused."""

import json
import logging
import os
from pathlib import Path

import pytest
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin, ParallelismConfig

from schemas.errors import InputError, UsageError
from trainer.config.cluster import PROFILES
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.launch.profile_file import read_profile
from trainer.launch.profiles import OF_SHARING, accelerate_environment, refuse_missing_deepspeed

USUAL = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "bf16",
    "num_machines": 1,
    "num_processes": 8,
    "rdzv_backend": "static",
    "same_network": True,
    "tpu_env": [],
    "tpu_use_cluster": False,
    "tpu_use_sudo": False,
    "use_cpu": False,
}
"""What `accelerate config` writes into every file."""

FSDP = {
    "fsdp_activation_checkpointing": False,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_offload_params": False,
    "fsdp_reshard_after_forward": False,
    "fsdp_state_dict_type": "FULL_STATE_DICT",
    "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
    "fsdp_version": 2,
}


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith((*OF_SHARING, "ACCELERATE_")) or name == "LOCAL_WORLD_SIZE":
            monkeypatch.delenv(name)


def configuration(*settings: str) -> TrainConfig:
    return resolve(settings, train_data_path=Path("pairs.jsonl"))


def told(name: object, *settings: str, num_processes: int = 4) -> dict[str, str]:
    return accelerate_environment(
        configuration(f"cluster.accelerate_config={name}", *settings), num_processes=num_processes
    )


@pytest.fixture
def file(tmp_path: Path):
    """Write a file as `accelerate config` would, with other keys in it."""

    def write(kind: str, name: str = "my accelerate.yaml", **keys: object) -> Path:
        path = tmp_path / name
        content = USUAL | {"distributed_type": kind} | keys
        path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))
        return path

    return write


def test_ddp_and_no_profile_tell_accelerate_nothing() -> None:
    assert told("ddp") == {}
    assert accelerate_environment(configuration(), num_processes=4) == {}


@pytest.mark.parametrize("name", PROFILES)
def test_one_process_shares_nothing(name: str) -> None:
    assert told(name, num_processes=1) == {}


@pytest.mark.parametrize("name", PROFILES)
def test_no_profile_knows_a_number_of_processes(name: str) -> None:
    profile = read_profile(configuration(f"cluster.accelerate_config={name}"))
    assert profile is not None
    assert not {"num_processes", "num_machines", "mixed_precision"} & profile.tree.keys()
    assert "size" not in json.dumps(profile.tree)


def test_fsdp2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate's own plugin reads the variables."""
    for name, value in told("fsdp2").items():
        monkeypatch.setenv(name, value)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    assert "ACCELERATE_USE_PARALLELISM_CONFIG" not in os.environ
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert str(plugin.state_dict_type) == "StateDictType.SHARDED_STATE_DICT"
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert type(plugin.cpu_offload).__name__ == "OffloadPolicy"  # none
    assert not plugin.activation_checkpointing
    assert not plugin.cpu_ram_efficient_loading


def test_fsdp2_off_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in told("fsdp2", "cluster.cpu_offload=true").items():
        monkeypatch.setenv(name, value)
    assert type(FullyShardedDataParallelPlugin().cpu_offload).__name__ == "CPUOffloadPolicy"


@pytest.mark.parametrize(
    ("settings", "here", "sizes"),
    [
        (("cluster.num_nodes=2",), None, (2, 4)),
        (("cluster.num_nodes=4",), None, (4, 2)),
        ((), "4", (2, 4)),  # nodes that a launcher has counted
    ],
)
def test_hsdp_copies_between_nodes(
    settings: tuple[str, ...], here: str | None, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if here is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    variables = told("hsdp", *settings, num_processes=8)
    assert variables.items() > told("fsdp2", num_processes=8).items()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    parallelism = ParallelismConfig()
    assert (parallelism.dp_replicate_size, parallelism.dp_shard_size) == sizes
    assert parallelism.total_size == 8


def test_hsdp_on_one_node_is_fsdp2() -> None:
    assert told("hsdp") == told("fsdp2")


@pytest.mark.parametrize(("num_processes", "nodes"), [(2, 2), (6, 4)])
def test_hsdp_needs_several_processes_on_each_node(num_processes: int, nodes: int) -> None:
    with pytest.raises(UsageError, match=f"{num_processes} processes on {nodes} nodes can't; take fsdp2"):
        told("hsdp", f"cluster.num_nodes={nodes}", num_processes=num_processes)


@pytest.mark.parametrize(
    ("name", "offload", "stage", "devices"),
    [
        ("zero2", "false", "2", ("none", "none")),
        ("zero2", "true", "2", ("cpu", "none")),
        ("zero3", "false", "3", ("none", "none")),
        ("zero3", "true", "3", ("cpu", "cpu")),
    ],
)
def test_zero(name: str, offload: str, stage: str, devices: tuple[str, str]) -> None:
    variables = told(name, f"cluster.cpu_offload={offload}")
    assert variables["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert variables["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
    assert variables["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == "false"
    assert variables["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "1"
    assert variables.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL") == ("true" if stage == "3" else None)
    assert "ACCELERATE_GRADIENT_CLIPPING" not in variables
    kinds = ("OPTIMIZER", "PARAM")
    assert tuple(variables[f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind}_DEVICE"] for kind in kinds) == devices


@pytest.mark.parametrize("name", ["my accelerate.yaml", "it's.json"])
def test_a_file_is_taken_in_full(file, name: str) -> None:
    variables = told(file("FSDP", name, fsdp_config=FSDP, enable_cpu_affinity=True))
    ours = told("fsdp2") | {
        "ACCELERATE_CPU_AFFINITY": "1",
        "FSDP_RESHARD_AFTER_FORWARD": "false",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    }
    assert variables == ours  # its cpu_ram_efficient_loading is put off, and its 8 processes count for nothing


def test_keys_without_their_prefix_are_accelerate_s_too(file) -> None:
    short = {key.removeprefix("fsdp_"): value for key, value in FSDP.items()}
    assert told(file("FSDP", fsdp_config=short)) == told(file("FSDP", fsdp_config=FSDP))


def test_copies_and_shards_of_a_file(file) -> None:
    sizes = {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 3}
    path = file("FSDP", fsdp_config=FSDP, parallelism_config=sizes)
    variables = told(path, num_processes=6)
    assert variables["PARALLELISM_CONFIG_DP_REPLICATE_SIZE"] == "2"
    assert variables["PARALLELISM_CONFIG_DP_SHARD_SIZE"] == "3"
    with pytest.raises(UsageError, match="dp_replicate_size 2 x dp_shard_size 3 is 6, and the run has 4 processes"):
        told(path)


def test_copies_alone_are_no_shards(file) -> None:
    path = file("FSDP", fsdp_config=FSDP, parallelism_config={"parallelism_config_dp_replicate_size": 4})
    with pytest.raises(UsageError, match="dp_shard_size 1 leaves nothing to share; use ddp"):
        told(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fsdp_config": FSDP | {"fsdp_auto_wrap_policy": "ALL"}}, "Invalid auto wrap policy: ALL"),
        ({"fsdp_config": FSDP | {"fsdp_state_dict_type": "HALF"}}, "'HALF'"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2.0}}, "invalid literal"),
    ],
)
def test_values_that_accelerate_can_t_read_are_told_before_there_are_processes(file, keys: dict, message: str) -> None:
    before = dict(os.environ)
    with pytest.raises(UsageError, match=f"my accelerate.yaml: Accelerate refuses it: .*{message}"):
        told(file("FSDP", **keys))
    assert dict(os.environ) == before


def test_an_engine_s_own_file_says_all_of_it(file, tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text('{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "auto"}}}')
    engine = {"deepspeed_config_file": str(path), "zero3_init_flag": True}
    assert told(file("DEEPSPEED", deepspeed_config=engine))["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == str(path)
    with pytest.raises(UsageError, match="When using `deepspeed_config_file`"):
        told(file("DEEPSPEED", deepspeed_config=engine | {"zero_stage": 2}))
    path.write_text('{"train_batch_size": "auto"}')
    with pytest.raises(UsageError, match="Please specify the ZeRO optimization config"):
        told(file("DEEPSPEED", deepspeed_config=engine))


def test_a_file_for_whole_models_tells_accelerate_nothing(file) -> None:
    assert told(file("MULTI_GPU", gpu_ids="all")) == {}


def test_accelerate_s_way_to_log_is_left_out() -> None:
    before = logging.root.handlers[:]
    told("fsdp2")
    assert logging.root.handlers == before


TP = {"parallelism_config_tp_size": 2}
REFUSED = [
    # kind, further keys, key with a line of its own, what the message says
    ("MEGATRON_LM", {}, "distributed_type", "Megatron-LM splits layers and rows, and each process computes whole rows"),
    ("XLA", {}, "distributed_type", "TPUs are not supported"),
    ("TPU", {}, "distributed_type", "got 'TPU', expected one of NO, MULTI_CPU"),
    (
        "FSDP",
        {"compute_environment": "AMAZON_SAGEMAKER", "fsdp_config": FSDP},
        "compute_environment",
        "AMAZON_SAGEMAKER",
    ),
    ("FSDP", {"fsdp_config": FSDP | {"fsdp_version": 1}}, "fsdp_config", "version 1 is not supported; .*to-fsdp2"),
    ("FSDP", {}, "fsdp_config", "FSDP version 1 is not supported"),
    ("FSDP", {"fsdp_config": 3}, "fsdp_config", "got 3, expected a mapping"),
    (
        "FSDP",
        {"fsdp_config": FSDP | {"fsdp_activation_checkpointing": True}},
        "fsdp_activation_checkpointing",
        "that is policy.gradient_checkpointing's to say",
    ),
    ("FSDP", {"fsdp_config": FSDP | {"fsdp_offload_params": "maybe"}}, "fsdp_offload_params", "expected true or false"),
    (
        "FSDP",
        {"fsdp_config": FSDP, "parallelism_config": TP},
        "parallelism_config_tp_size",
        "tensor parallelism is not",
    ),
    (
        "FSDP",
        {"fsdp_config": FSDP, "parallelism_config": {"parallelism_config_cp_size": 2}},
        "parallelism_config_cp_size",
        "context parallelism is not supported: each process computes whole rows",
    ),
    ("FSDP", {"fsdp_config": FSDP, "mixed_precision": "fp16"}, "mixed_precision", "'fp16' is not supported"),
    ("FSDP", {"fsdp_config": FSDP, "mixed_precision": "fp8"}, "mixed_precision", "'fp8' is not supported"),
    ("MULTI_GPU", {"gpu_ids": "0,1"}, "gpu_ids", "CUDA_VISIBLE_DEVICES"),
    ("MULTI_GPU", {"use_cpu": True}, "use_cpu", "--gpus none"),
    ("MULTI_GPU", {"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "dynamo_config", "compiled anew"),
    (
        "DEEPSPEED",
        {"deepspeed_config": {"zero_stage": 2, "gradient_accumulation_steps": 4}},
        "gradient_accumulation_steps",
        "expected 1",
    ),
    (
        "DEEPSPEED",
        {"deepspeed_config": {"zero_stage": 2, "gradient_clipping": 1.0}},
        "gradient_clipping",
        "gradients are clipped by policy.max_grad_norm",
    ),
    ("DEEPSPEED", {"deepspeed_config": {"zero_stage": 4}}, "zero_stage", "got 4, expected 0, 1, 2 or 3"),
    (
        "DEEPSPEED",
        {"deepspeed_config": {"deepspeed_config_file": "/no/such.json"}},
        "deepspeed_config_file",
        "/no/such.json: No such file",
    ),
]


@pytest.mark.parametrize(("kind", "keys", "key", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_can_t_be_had_is_refused_with_its_line(file, kind: str, keys: dict, key: str, message: str) -> None:
    path = file(kind, **keys)
    lines = path.read_text().splitlines()
    line = next((number for number, text in enumerate(lines, 1) if text.strip().startswith(f"{key}:")), None)
    where = f"{path}:{line}: " if line is not None else f"{path}: "
    with pytest.raises(UsageError, match=message) as caught:
        read_profile(configuration(f"cluster.accelerate_config={path}"))
    assert str(caught.value).startswith(where)


def test_all_that_is_wrong_is_told_at_once(file) -> None:
    path = file("FSDP", fsdp_config={}, mixed_precision="fp16", parallelism_config=TP, gpu_ids="1")
    with pytest.raises(UsageError) as caught:
        read_profile(configuration(f"cluster.accelerate_config={path}"))
    first, *problems = str(caught.value).splitlines()
    assert first == f"{path} can't be used:"
    assert [problem.split(": ")[1] for problem in problems] == [
        "gpu_ids",
        "mixed_precision",
        "parallelism_config.parallelism_config_tp_size",
        "fsdp_config",
    ]


def test_what_an_engine_s_own_file_may_not_say(file, tmp_path: Path) -> None:
    engine = tmp_path / "engine.json"
    engine.write_text('{"fp16": {"enabled": true}, "gradient_accumulation_steps": 2, "optimizer": {}}')
    path = file("DEEPSPEED", deepspeed_config={"deepspeed_config_file": str(engine), "zero3_init_flag": True})
    with pytest.raises(UsageError) as caught:
        told(path)
    assert [line.split(": ")[3] for line in str(caught.value).splitlines()[1:]] == [
        "gradient_accumulation_steps",
        "optimizer",
        "fp16",
    ]
    engine.write_text('{"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": "auto"}')
    variables = told(path)
    assert variables["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == str(engine)
    assert variables["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == "false"
    engine.write_text("{")
    with pytest.raises(UsageError, match="no JSON"):
        told(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a file that `accelerate config` wrote"),
        ("num_processes: 2\n", "has no distributed_type"),
        ("a: [\n", ":2: no YAML|:1: no YAML"),
        ("distributed_type: FSDP\ndistributed_type: NO\n", ":2: distributed_type stands there twice"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1: the tag"),
        ("- 1\n", ":1: expected a mapping"),
        ("distributed_type: MULTI_GPU\ncolour: red\n", "Accelerate refuses it: .*colour"),
        (
            "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, fsdp_colour: red}\n",
            "fsdp_config.fsdp_colour: Accelerate has no such setting",
        ),
    ],
)
def test_what_is_no_file_of_accelerate_s(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        told(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.yaml", "none.yaml: no such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=message):
            told(path)


@pytest.mark.parametrize(("name", "meant"), [("fsdp", "fsdp2"), ("zero-3", "zero3"), ("DDP", "ddp"), ("hsdp2", "hsdp")])
def test_the_profile_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"expected ddp, fsdp2, hsdp, zero2, zero3, .*; did you mean {meant}\?"):
        told(name)


def test_offload_needs_something_to_share() -> None:
    for settings in ((), ("cluster.accelerate_config=ddp",)):
        with pytest.raises(UsageError, match=r"cluster\.cpu_offload=true:? needs"):
            read_profile(configuration("cluster.cpu_offload=true", *settings))
    with pytest.raises(UsageError, match="one process shares nothing"):
        told("fsdp2", "cluster.cpu_offload=true", num_processes=1)


def test_precision_is_said_once(file) -> None:
    path = file("FSDP", fsdp_config=FSDP)
    told(path, "policy.precision=bfloat16")
    with pytest.raises(UsageError, match=r"bf16 here, and policy\.precision=float32"):
        told(path, "policy.precision=float32")


@pytest.mark.parametrize(
    ("launched", "name", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "fsdp2", "ACCELERATE_USE_DEEPSPEED=true"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp2", "FSDP_VERSION=2, .* FSDP_VERSION=1"),
        ({"ACCELERATE_USE_FSDP": "true"}, "ddp", "ACCELERATE_USE_FSDP=false"),
    ],
)
def test_another_launch_is_refused(
    launched: dict[str, str], name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in launched.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=message):
        told(name)
    assert {variable: os.environ.get(variable) for variable in launched} == launched
    assert accelerate_environment(configuration(), num_processes=4) == {}  # then the launch stands


def test_the_same_launch_is_none() -> None:
    variables = told("fsdp2")
    os.environ.update(variables)
    try:
        assert told("fsdp2") == variables
    finally:
        for variable in variables:
            del os.environ[variable]


def test_deepspeed_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.launch.profiles.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"zero2: needs the package deepspeed, .* '\.\[train,deepspeed\]'"):
        refuse_missing_deepspeed(configuration("cluster.accelerate_config=zero2"))
    refuse_missing_deepspeed(configuration("cluster.accelerate_config=fsdp2"))
