"""General abilities before and after, by lm-evaluation-harness: the same tasks, the same documents, both models.

The harness keeps what each document was worth, so the difference has an interval that compares document by document,
which is narrower than what two standard errors tell. Needs the extra `evaluation`.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from schemas.bootstrap import bootstrap_mean
from schemas.errors import DpoError, UsageError
from schemas.terminal import one_line, printable
from trainer.evaluation.measures import told
from trainer.evaluation.request import Abilities

Results = Mapping[str, Any]
"""What the harness gives."""


def load_tasks(options: Abilities) -> Any:
    """Find the tasks, before models are loaded.

    Raises:
        UsageError: the harness is not installed, or it has no such task.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--lm-eval needs {error.name}, which comes with the extra evaluation: pip install -e '.[evaluation]' in "
            "the clone, or uv run --extra evaluation dpo eval"
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=None if options.include is None else str(options.include))
    unknown = [task for task in options.tasks if not manager.match_tasks([task])]
    if unknown:
        raise UsageError(
            f"--lm-eval {printable(','.join(unknown))}: the harness has no such task; lm-eval ls tasks has them all, "
            "and --lm-eval-include names a folder of your own"
        )
    return manager


def measure_abilities(
    model: Any,
    tokenizer: Any,
    options: Abilities,
    manager: Any,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Results:
    """Let a loaded model do the tasks.

    Raises:
        DpoError: the harness fails, as where a data set can't be fetched.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    try:
        with autocast():
            wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size)
            results: Results = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=list(options.tasks),
                task_manager=manager,
                num_fewshot=options.num_fewshot,
                limit=options.limit,
                apply_chat_template=options.chat_template,
                fewshot_as_multiturn=options.chat_template,
                bootstrap_iters=0,  # the intervals are made here
                log_samples=True,
                random_seed=options.seed,
                numpy_random_seed=options.seed,
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
            )
    except Exception as error:  # the harness, its data sets and its metrics each raise their own
        raise DpoError(f"--lm-eval {printable(','.join(options.tasks))}: {one_line(error)}") from error
    return results


def compared_abilities(before: Results, after: Results) -> list[dict[str, Any]]:
    """Give each metric of each task of both models, and how much it changed."""
    found = []
    for task, old in before["results"].items():
        new = after["results"][task]
        for key, value in old.items():
            name, _, variant = key.partition(",")
            if not variant or name.endswith("_stderr") or not _is_number(value) or not _is_number(new.get(key)):
                continue
            pairs = _by_document(before, after, task, name, variant)
            difference = bootstrap_mean([there - here for here, there in pairs])
            is_same = bool(pairs) and math.isclose(difference.mean, new[key] - value, abs_tol=1e-9)
            found.append(
                {
                    "task": task,
                    "metric": name,
                    "filter": variant,
                    "higher_is_better": before.get("higher_is_better", {}).get(task, {}).get(name),
                    "num_documents": len(pairs) or None,
                    "num_fewshot": before.get("n-shot", {}).get(task),
                    "version": before.get("versions", {}).get(task),
                    "before": value,
                    "after": new[key],
                    # a metric that is no mean of its documents (F1, perplexity) has no interval
                    "difference": told(difference)
                    if is_same
                    else {"mean": new[key] - value, "low": None, "high": None},
                }
            )
    return found


def _by_document(before: Results, after: Results, task: str, name: str, variant: str) -> Sequence[tuple[float, float]]:
    """Give what each document was worth to both models."""
    sides = []
    for results in (before, after):
        samples = results.get("samples", {}).get(task, [])
        wanted = [one for one in samples if one.get("filter", "none") == variant and _is_number(one.get(name))]
        sides.append({one["doc_id"]: float(one[name]) for one in wanted})
    return [(worth, sides[1][document]) for document, worth in sides[0].items() if document in sides[1]]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
