"""What eval.json says: every number with the settings, models and versions that it hangs on."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from schemas.streams import place_text
from trainer.evaluation.breakdown import breakdowns
from trainer.evaluation.calibration import calibration
from trainer.evaluation.histograms import histograms
from trainer.evaluation.measures import by_prompt, measure, reward_correlation
from trainer.evaluation.request import Generation
from trainer.evaluation.run import Evaluation, Part, Sampled, trained_on

FORMAT = 1
PACKAGES = ("dpo", "torch", "transformers", "tokenizers", "numpy", "lm_eval", "vllm")


def result_of(found: Evaluation) -> dict[str, Any]:
    """Give the content of eval.json; what is no finite number is null."""
    scores, config = found.scores, found.request.config
    files = [
        str(each.dataset_name) if each.data_path is None else place_text(each.data_path) for each in config.data.train
    ]
    numbers = Counter(scores.dataset.tolist())
    result = {
        "kind": "dpo_eval",
        "format": FORMAT,
        "policy": _model(found.policy)
        | {"run": None if found.request.judged.run is None else str(found.request.judged.run)},
        "reference": None if found.reference is None else _model(found.reference),
        "data": {
            "files": [{"path": path, "num_pairs": numbers[place]} for place, path in enumerate(files)],
            "num_pairs": len(scores),
            "num_prompts": len(found.data.groups),
            "num_responses": sum(len(group.responses) for group in found.data.groups),
            "dropped": {str(reason): count for reason, count in found.data.dropped.items()},
            "notes": list(found.notes),
            "trained_on": trained_on(found.request),
        },
        "settings": {
            "beta": scores.beta,
            "max_total_sequence_length": config.policy.max_total_sequence_length,
            "precision": found.precision,
            "device": found.device,
            "attention": found.policy.scored.attention,
            "self_check_nats_per_token": found.policy.scored.check,
            "loss_mask": config.data.loss_mask,
            "token_ids": config.data.token_ids,
        },
        "metrics": measure(scores),
        "by_prompt": by_prompt(scores),
        "calibration": None if scores.reference is None else calibration(scores.margin, scores.prompt),
        "rewards": reward_correlation(scores),
        **breakdowns(scores, files),
        "histograms": histograms(scores),
        "generation": _generation(found.request.generation, found.sampled),
        "abilities": _abilities(found),
        "versions": {name: known for name in PACKAGES if (known := _version(name)) is not None},
    }
    finite: dict[str, Any] = _finite(result)
    return finite


def _model(part: Part) -> dict[str, Any]:
    return {"name": part.name, "weights_digest": part.digest}


def _generation(options: Generation | None, sampled: Sampled | None) -> dict[str, Any] | None:
    if options is None or sampled is None:
        return None
    told = asdict(options) | {"prompts": [str(path) for path in options.prompts], "engine": sampled.engine}
    return {
        "settings": told,
        "num_prompts": sampled.num_prompts,
        "num_answers": len(sampled.rows),
        "metrics": sampled.metrics,
    }


def _abilities(found: Evaluation) -> dict[str, Any] | None:
    options = found.request.abilities
    if options is None or found.abilities is None:
        return None
    told = asdict(options) | {"include": None if options.include is None else str(options.include)}
    return {"settings": told, "results": found.abilities}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
