"""`dpo eval`: measure a policy on preference pairs, beside the reference that it was trained from."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from schemas.errors import UsageError
from schemas.extras import needing_extra

ANSWERS, TASKS = "Answers to compare (--generate)", "General abilities (--lm-eval)"

Told = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL PAIRS|key=value",
        help="The policy: folder of a run, a checkpoint or a model, or a hub name. Behind it files of preference "
        "pairs, and settings such as policy.precision=float32.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="New folder for the result.", show_default="evals/<time>"),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL|none",
        help="What the policy is compared with: folder or hub name.",
        show_default="the model that it was trained from",
    ),
]
Beta = Annotated[float | None, typer.Option(help="Factor of log-ratios in margins.", show_default="that of training")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Most tokens of prompt and response; longer pairs are left out.", show_default="that of training"
    ),
]
Prompts = Annotated[
    list[Path] | None,
    typer.Option(
        "--generate",
        metavar="PROMPTS",
        help="File of tasks, rollouts, pairs or prompts that both policies answer; may be given again.",
        rich_help_panel=ANSWERS,
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--lm-eval",
        metavar="TASKS",
        help="Tasks of lm-evaluation-harness that both models do, such as hellaswag,ifeval.",
        rich_help_panel=TASKS,
    ),
]


def eval_command(
    arguments: Told,
    output: Output = None,
    reference: Reference = None,
    beta: Beta = None,
    max_length: MaxLength = None,
    generate: Prompts = None,
    samples_per_prompt: Annotated[
        int, typer.Option(min=1, help="Answers of each policy to a prompt.", rich_help_panel=ANSWERS)
    ] = 1,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the most probable token.", rich_help_panel=ANSWERS)
    ] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of the probability that is drawn from.", rich_help_panel=ANSWERS),
    ] = 1.0,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of an answer.", rich_help_panel=ANSWERS)
    ] = 512,
    generate_batch_size: Annotated[
        int, typer.Option(min=1, help="Answers that are generated at once.", rich_help_panel=ANSWERS)
    ] = 32,
    engine: Annotated[
        Literal["auto", "transformers", "vllm"],
        typer.Option(help="What generates; auto: vLLM on a GPU where it is installed.", rich_help_panel=ANSWERS),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.", rich_help_panel=ANSWERS)] = 0,
    lm_eval: Tasks = None,
    lm_eval_limit: Annotated[
        int | None, typer.Option(min=1, help="Documents of each task.", show_default="all", rich_help_panel=TASKS)
    ] = None,
    lm_eval_fewshot: Annotated[
        int | None,
        typer.Option(min=0, help="Examples before each.", show_default="what each task says", rich_help_panel=TASKS),
    ] = None,
    lm_eval_include: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Tasks of your own; they may run code.", rich_help_panel=TASKS)
    ] = None,
    lm_eval_batch_size: Annotated[int, typer.Option(min=1, help="Requests at once.", rich_help_panel=TASKS)] = 8,
    lm_eval_chat_template: Annotated[
        bool, typer.Option("--lm-eval-chat-template", help="Ask in the chat template.", rich_help_panel=TASKS)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what eval.json holds on stdout.")] = False,
) -> None:
    """Measure a policy on preference pairs.

    Accuracy, margins, calibration and log-probs against the reference, with 95 %
    intervals; on request answers of both, and general abilities of both.
    Prints the folder of the result on stdout.
    Example: dpo eval runs/first dpo_val.jsonl --generate heldout.jsonl
    """
    from trainer.commands import told_apart
    from trainer.evaluation.policies import find_judged
    from trainer.evaluation.request import Abilities, Generation, make_request
    from trainer.launch.launcher import take_place

    model, *rest = arguments
    pairs, overrides = told_apart(rest)
    generation = Generation(
        prompts=tuple(generate or ()),
        samples_per_prompt=samples_per_prompt,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_size=generate_batch_size,
        seed=seed,
        engine=engine,
    )
    abilities = Abilities(
        tasks=tuple(filter(None, (lm_eval or "").split(","))),
        limit=lm_eval_limit,
        num_fewshot=lm_eval_fewshot,
        include=lm_eval_include,
        chat_template=lm_eval_chat_template,
        batch_size=lm_eval_batch_size,
        seed=seed,
    )
    if not generation.prompts and replace(generation, seed=0) != Generation(()):
        raise UsageError("options of answers without prompts: name a file of them with --generate PROMPTS")
    if not abilities.tasks and (lm_eval is not None or replace(abilities, seed=0) != Abilities(())):
        raise UsageError("options of --lm-eval without a task: name some with --lm-eval TASKS")
    request = make_request(
        find_judged(model, reference),
        pairs,
        overrides,
        beta=beta,
        max_length=max_length,
        output=output,
        generation=generation if generation.prompts else None,
        abilities=abilities if abilities.tasks else None,
    )
    take_place(request.config)
    if not sys.stderr.isatty():  # the bars of the harness and of the data sets would fill a log
        os.environ.setdefault("TQDM_DISABLE", "1")
    with needing_extra("dpo eval", "train"):
        from trainer.evaluation.folder import make_page, write_folder
        from trainer.evaluation.result import result_of
        from trainer.evaluation.run import run_evaluation
        from trainer.evaluation.show import show
        from trainer.evaluation.shown_pairs import most_wrong
    found = run_evaluation(request, say=_say)
    result = result_of(found)
    folder = write_folder(
        request.output,
        result,
        pairs=found.scores.rows(),
        shown=most_wrong(found.scores, found.groups, request.num_shown),
        samples=None if found.sampled is None else found.sampled.rows,
    )
    show(result)
    if (problem := make_page(folder)) is not None:
        _say(f"warning: no report.html: {problem}")
    typer.echo(json.dumps(result) if as_json else str(folder))


def _say(text: str) -> None:
    from schemas.terminal import printable, stderr_console

    stderr_console().print(printable(text), soft_wrap=True)
