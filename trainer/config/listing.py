"""Every option with default, bounds and meaning, as the declarations have them: `dpo config list`, schema, docs.

`python -m trainer.config.listing` writes the files that are made of the declarations anew: configs/dpo.yaml,
schemas/train_config.schema.json and docs/configuration.md. Run it where an option has changed; a test compares.
"""

import fnmatch
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config.keys import options, section_of
from trainer.config.sections import TrainConfig
from trainer.config.show import default_yaml

REPOSITORY = Path(__file__).parents[2]
SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
OWN_ID = "urn:dpo:schema:train-config:1"  # the number grows when a file that was valid is so no more
EXAMPLES: dict[str, list[Any]] = {
    "": [
        {"data": {"train": "dpo_train.jsonl"}},
        {
            "data": {"train": [{"data_path": "ours.jsonl", "weight": 2}, "theirs.parquet"], "validation": "val.jsonl"},
            "policy": {"model_name": "Qwen/Qwen2.5-1.5B-Instruct", "optimizer": {"lr": 1e-6}},
            "dpo": {"max_num_epochs": 3},
            "output_dir": "runs/first",
        },
    ],
    "output_dir": ["runs/first"],
    "data": [{"train": "dpo_train.jsonl", "validation": "val.jsonl"}],
    "CheckpointingSection.checkpoint_dir": ["/scratch/checkpoints"],
    "CheckpointingSection.metric_name": ["val:loss"],
    "CheckpointingSection.checkpoint_must_save_by": ["0:03:45:00"],
    "ClusterSection.accelerate_config": ["fsdp2", "zero3.yaml"],
    "DataSection.train": ["dpo_train.jsonl", ["ours.jsonl", {"data_path": "theirs.parquet", "weight": 0.5}]],
    "DataSection.validation": ["val.jsonl", {"dataset_name": "HelpSteer3", "split": "validation"}],
    "DataSection.val_data_paths": [{"hard": "hard.jsonl"}],
    "DatasetSection.data_path": ["dpo_train.jsonl", "org/name"],
    "DatasetSection.dataset_name": ["HelpSteer3"],
    "DatasetSection.subset": ["preference"],
    "DatasetSection.split": ["train"],
    "DatasetSection.system_prompt_file": ["system.txt"],
    "DatasetSection.prompt_file": ["prompt.txt"],
    "DpoSection.max_num_steps": [150],
    "DpoSection.val_micro_batch_size": [2],
    "HubSection.repo_id": ["me/my-policy"],
    "LoggerSection.log_dir": ["runs/logs"],
    "LoggerSection.sample_period": [100],
    "LoraSection.alpha": [32],
    "LoraSection.target_modules": [["q_proj", "v_proj"]],
    "LoraSection.exclude_modules": [["lm_head"]],
    "LossSection.mix": [{"sigmoid": 1.0, "ipo": 0.5}],
    "MlflowSection.run_name": ["first"],
    "MlflowSection.tracking_uri": ["http://localhost:5000"],
    "PolicySection.tokens_per_microbatch": [8192],
    "PolicySection.hf_config_overrides": [{"rope_theta": 1000000.0}],
    "ProjectSection.name": ["first"],
    "ReferenceSection.model_name": ["Qwen/Qwen2.5-1.5B-Instruct"],
    "SchedulerSection.warmup_steps": [20],
    "TokenizerSection.name": ["Qwen/Qwen2.5-1.5B-Instruct"],
    "TokenizerSection.chat_template": ["default", "chat.jinja", None],
    "TokenizerSection.chat_template_kwargs": [{"enable_thinking": False}],
}
"""Values of keys whose default does not show what a value looks like, by section and key."""
BOUNDS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}
TYPES = {
    "boolean": "true, false",
    "integer": "integer",
    "number": "number",
    "string": "text",
    "null": "null",
    "object": "mapping",
    "array": "list",
}
HEAD = """# Configuration

Every option of `dpo train`, made from the declarations in `trainer/config/`. [training.md](training.md) says what they
do.

    dpo train dpo_train.jsonl policy.optimizer.lr=1e-6 dpo.max_num_epochs=3
    dpo train dpo_train.jsonl --config my.yaml --beta 0.1
    dpo config show --config my.yaml dpo.seed=7      # the configuration of a run, without a run
    dpo config list warmup                           # this page, in the terminal
    dpo config import old.yaml -o my.yaml            # a YAML of NeMo RL, NeMo Gym's example or an older tutorial
    dpo schema train-config                          # for editors

- Later wins: the defaults, the file of `--config`, the pairs and short options of the command line, `key=value`
  settings. A setting that is given as a short option and as `key=value` too is refused.
- `configs/dpo.yaml` has every option with its default; a file needs only those that differ. Paths in it are relative to
  where `dpo` is started, and `~` is your home. Numbers and words are read as in YAML 1.2, and a key that stands there
  twice is refused.
- In `key=value`, the value is JSON (`true`, `[0.9, 0.98]`), a list or mapping as YAML writes it (`[q_proj, v_proj]`),
  `None` or `null`, else text. `+key=value` and `++key=value` are the same; `~key` goes back to the default.
- Arguments of `dpo train` without a dotted key before a `=`, and files that are there, are pairs to train on; several
  are a mixture. They take the place of the file's `data.train.data_path`.
- `data.train` is one set or a list of them; in a list, `data.train.0.weight=2` sets one, `data.train.prompt_key=ask`
  all. `data.val_data_paths.NAME=FILE` adds a validation set, `data.val_data_paths.NAME.split=test` sets a key of it.
- An unknown key, a wrong value and what can't be together are told all at once, with exit code 2, before anything heavy
  loads. Names of NeMo RL's earlier versions and of TRL are answered with the name here.

## Configurations of other tools

`dpo config import OLD.yaml [key=value ...]` reads a DPO configuration of NeMo RL of any generation (with its parents
under `defaults:` and its `${...}`), NeMo Gym's example, that of NeMo RL's older tutorial, or TRL's settings. The YAML
goes to stdout or to `-o`, and stderr has a line for each key of the old file:

| word | what became of the key |
|---|---|
| carried | it has the same name here |
| renamed | it has another name here, and maybe another form of value |
| not needed | the run is the same without it; the reason stands behind it |
| lost | the run would need it to be the same; the reason stands behind it |

With `--strict` the exit code is 1 where a key is lost. What the old file does not set has the default below, not that
of the other tool; NeMo RL's own files set every key.
"""


@dataclass(frozen=True)
class Option:
    """An option as people are to see it."""

    key: str
    default: str
    values: str
    meaning: str

    def as_dict(self) -> dict[str, str]:
        """Give the option as JSON types."""
        return {"key": self.key, "default": self.default, "values": self.values, "meaning": self.meaning}


def list_options(pattern: str = "") -> list[Option]:
    """List the options whose key or meaning has the words of a pattern in it, or whose key fits a glob."""
    schema = train_config_schema()
    found = [
        Option(key, _default(field), describe(_declared(schema, key)), str(field.description))
        for key, field in options()
    ]
    return [option for option in found if _fits(option, pattern)]


def train_config_schema() -> dict[str, Any]:
    """Make the JSON Schema of a configuration file; nothing is required in one, the command line may say it."""
    schema = TrainConfig.model_json_schema()
    schema.pop("required")
    for section in schema["$defs"].values():
        section.pop("required", None)
    schema["properties"]["output_dir"] |= {"type": ["string", "null"], "default": None}
    for part in (schema, *schema["$defs"].values()):
        for declared in part.get("properties", {}).values():
            declared.pop("title", None)
            declared.pop("format", None)
    _add_notes(schema, "")
    for name, section in schema["$defs"].items():
        section["title"] = _words(re.sub("(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Section")))
        _add_notes(section, {"TrainDatasetSection": "DatasetSection"}.get(name, name) + ".")
    for declared in (each for part in (schema, *schema["$defs"].values()) for each in part["properties"].values()):
        if "description" not in declared:  # a section alone, which says itself what it is
            declared["description"] = schema["$defs"][declared["$ref"].rpartition("/")[2]]["description"]
    schema["title"] = "Configuration of dpo train"
    schema["description"] = "What --config of `dpo train` may hold; made from the declarations in trainer/config."
    return {"$schema": SCHEMA_ID, "$id": OWN_ID, **schema, "examples": EXAMPLES[""]}


def _add_notes(section: dict[str, Any], prefix: str) -> None:
    """Give the keys of a section titles, which editors show, and examples."""
    for key, declared in section["properties"].items():
        declared["title"] = _words(key)
        if examples := EXAMPLES.get(prefix + key):
            declared["examples"] = examples


def _words(name: str) -> str:
    name = name.replace("_", " ")
    return name[0].upper() + name[1:].lower()


def describe(declared: dict[str, Any]) -> str:
    """Say in a few words which values a schema allows."""
    if "anyOf" in declared:
        return " or ".join(dict.fromkeys(describe(part) for part in declared["anyOf"]))
    if "enum" in declared:
        return ", ".join(map(str, declared["enum"]))
    if "const" in declared:
        return str(declared["const"])
    if "$ref" in declared:
        return "a set of pairs"
    if declared.get("type") == "array" and isinstance(declared.get("items"), dict):
        return f"list of {describe(declared['items'])}"
    if "prefixItems" in declared:
        return "[" + ", ".join(describe(part) for part in declared["prefixItems"]) + "]"
    kind = declared.get("type")
    words = " or ".join(TYPES[each] for each in (kind if isinstance(kind, list) else [kind or "object"]))
    if "pattern" in declared:
        return f"{words} like {declared['pattern']}"
    bounds = [text.format(_number(declared[name])) for name, text in BOUNDS.items() if name in declared]
    return " ".join([words, ", ".join(bounds)]).strip()


def configuration_page() -> str:
    """Write docs/configuration.md."""
    schema = train_config_schema()
    lines = [HEAD]
    for title, meaning, keys in _sections(TrainConfig, "", "At the top of the file."):
        lines += [f"## `{title}`", "", meaning, "", "| key | default | values | meaning |", "|---|---|---|---|"]
        for key, field in keys:
            values = describe(_declared(schema, key)).replace("|", r"\|")
            text = str(field.description).replace("|", r"\|")
            lines.append(f"| `{key}` | `{_default(field)}` | {values} | {text} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def generated_files() -> dict[Path, str]:
    """Give each file that is made of the declarations, with what it holds."""
    return {
        Path("configs/dpo.yaml"): default_yaml(),
        Path("schemas/train_config.schema.json"): json.dumps(train_config_schema(), indent=2, ensure_ascii=False)
        + "\n",
        Path("docs/configuration.md"): configuration_page(),
    }


def _sections(
    model: type[BaseModel], prefix: str, meaning: str
) -> Iterator[tuple[str, str, list[tuple[str, FieldInfo]]]]:
    """Yield each section with its meaning and its own keys, those of the top last."""
    own = [(prefix + name, field) for name, field in model.model_fields.items() if section_of(field) is None]
    if prefix:
        yield prefix + "*", meaning, own
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None:
            inner = field.description or (section.__doc__ or "").strip()
            yield from _sections(section, f"{prefix}{name}.", inner)
    if not prefix:
        yield ", ".join(key for key, _ in own), meaning, own


def _declared(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Find what the schema says of a key."""
    here = schema
    for part in key.split("."):
        here = here["properties"][part]
        for choice in (here, *here.get("anyOf", [])):
            if "$ref" in choice and not key.endswith(f".{part}"):
                here = schema["$defs"][choice["$ref"].rpartition("/")[2]]
    return here


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "null"
    default = field.get_default(call_default_factory=True)
    return json.dumps(default, default=str, ensure_ascii=False) if not isinstance(default, str) else default


def _fits(option: Option, pattern: str) -> bool:
    if any(char in pattern for char in "*?["):
        return fnmatch.fnmatch(option.key, pattern)
    text = f"{option.key} {option.meaning}".lower()
    return all(word in text for word in pattern.lower().split())


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


if __name__ == "__main__":
    for path, text in generated_files().items():
        (REPOSITORY / path).parent.mkdir(exist_ok=True)
        (REPOSITORY / path).write_text(text)
