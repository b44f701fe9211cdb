"""A configuration as YAML: with the meaning of each key, or with a remark on what differs from the defaults."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from trainer.config.data import DatasetSection
from trainer.config.keys import SETS, field_of, is_mapping
from trainer.config.secrets import config_without_secrets
from trainer.config.sections import TrainConfig
from trainer.config.settings import PLACEHOLDER, check, has_data
from trainer.config.told import Told
from trainer.config.yaml_file import ConfigLoader

INDENT = "  "
SCHEMA_LINE = "# yaml-language-server: $schema=../schemas/train_config.schema.json\n"
HEAD = """
# Every option of `dpo train` with its default. Copy it, keep what differs, and run
#   dpo train dpo_train.jsonl --config my.yaml
# Pairs on the command line take the place of data.train.data_path; key=value settings win over this file.
"""


class ConfigDumper(yaml.SafeDumper):  # type: ignore[misc]
    """Puts text in quotes wherever YAML 1.1 or 1.2 would take it for something else."""

    yaml_implicit_resolvers: dict[str, Any] = copy.deepcopy(yaml.SafeDumper.yaml_implicit_resolvers)


for _resolvers in (ConfigLoader.yaml_implicit_resolvers,):
    for _first, _rules in _resolvers.items():
        ConfigDumper.yaml_implicit_resolvers.setdefault(_first, []).extend(_rules)

Remark = Callable[[str, Any], str]
"""What to say of a key and its value; nothing where it is empty."""


def default_tree() -> dict[str, Any]:
    """Give every key with its default; the pairs and the folder of the run have none."""
    return config_tree(check(Told(), needs_data=False), Told())


def config_tree(config: TrainConfig, told: Told) -> dict[str, Any]:
    """Give a configuration as a file has it: a single set as such, and null for what was not told."""
    tree = config_without_secrets(config)
    sets = tree["data"]["train"]
    if len(sets) == 1:
        tree["data"]["train"] = sets[0]
        if not has_data(told.tree) and sets[0]["data_path"] == PLACEHOLDER:
            sets[0]["data_path"] = None
    named = tree["data"]["val_data_paths"]
    tree["data"]["val_data_paths"] = {name: _short_set(each) for name, each in named.items()}
    if told.tree.get("output_dir") is None:
        tree["output_dir"] = None
    return tree


def _short_set(keys: dict[str, Any]) -> Any:
    """Give a data set as its path where that is all there is to say, else by the keys that differ."""
    told = {key: value for key, value in keys.items() if value != DatasetSection.model_fields[key].default}
    return told["data_path"] if told.keys() == {"data_path"} else told


def default_yaml() -> str:
    """Write configs/dpo.yaml."""
    lines = [SCHEMA_LINE + HEAD.strip("\n")]
    for name, value in default_tree().items():
        lines += ["", *yaml_lines({name: value}, above=lambda key, _: _meaning(key))]
    return "\n".join(lines) + "\n"


def differing_yaml(tree: Mapping[str, Any]) -> str:
    """Write a configuration with a remark where it differs from the defaults."""
    defaults = dict(_leaves(default_tree()))

    def beside(key: str, value: Any) -> str:
        if key not in defaults:
            return "set" if value is not None else ""
        return "" if defaults[key] == value else f"default: {scalar(defaults[key])}"

    return "\n".join(yaml_lines(tree, beside=beside)) + "\n"


def plain_yaml(tree: Mapping[str, Any]) -> str:
    """Write settings alone."""
    return "\n".join(yaml_lines(tree)) + "\n"


def scalar(value: Any) -> str:
    """Write a value on one line."""
    text: str = yaml.dump(
        value, Dumper=ConfigDumper, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def yaml_lines(
    tree: Mapping[str, Any],
    *,
    prefix: str = "",
    above: Remark = lambda key, value: "",
    beside: Remark = lambda key, value: "",
) -> Iterator[str]:
    """Yield the lines of a mapping of sections, with remarks above and beside its keys."""
    margin = INDENT * prefix.count(".")
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if remark := above(key, value):
            yield f"{margin}# {remark}"
        if key == SETS and isinstance(value, list):
            yield f"{margin}{scalar(name)}:"
            for each in value:
                lines = list(yaml_lines(each, prefix=f"{SETS}.0.", beside=beside))
                first = lines[0].removeprefix(margin + INDENT * 2)
                yield f"{margin}{INDENT}- {first}"
                yield from lines[1:]
        elif isinstance(value, Mapping) and value and _is_section(key):
            yield f"{margin}{scalar(name)}:"
            yield from yaml_lines(value, prefix=f"{key}.", above=above, beside=beside)
        else:
            remark = beside(key, value)
            yield f"{margin}{scalar(name)}: {scalar(value)}" + (f"  # {remark}" if remark else "")


def _is_section(key: str) -> bool:
    declared = field_of(key)
    return declared is None or not is_mapping(declared)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and _is_section(key):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value
            if key.startswith(f"{SETS}."):  # of each set of a list
                yield key.replace(SETS, f"{SETS}.0"), value


def _meaning(key: str) -> str:
    declared = field_of(key)
    if declared is None:
        return ""
    if declared.description:
        return declared.description
    return (declared.annotation.__doc__ or "").strip() if isinstance(declared.annotation, type) else ""
