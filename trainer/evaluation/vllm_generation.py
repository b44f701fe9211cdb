"""Sampling with vLLM, where it is installed: the same questions and seeds, by an engine made for it.

A policy is answered by a process of its own, for the engine gives the GPU's memory back only when its process ends.
vLLM draws in its own way, so its answers are others than those of transformers; the seeds are the same for both
policies. Whether an answer hangs on its batch is vLLM's affair.
"""

import importlib.util
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from schemas.errors import DpoError, UsageError
from schemas.terminal import one_line, printable
from trainer.evaluation.question import Question
from trainer.evaluation.request import Engine, Generation


def uses_vllm(engine: Engine, *, is_on_gpu: bool) -> bool:
    """Say whether vLLM answers: where it is asked for, or is there and can use a GPU.

    Raises:
        UsageError: it is asked for, and not installed.
    """
    is_there = importlib.util.find_spec("vllm") is not None
    if engine == "vllm" and not is_there:
        raise UsageError("--engine vllm: the package vllm is not installed; pip install vllm, or --engine transformers")
    return engine == "vllm" or (engine == "auto" and is_there and is_on_gpu)


def generate_with_vllm(
    name: str, asked: Sequence[Question], options: Generation, *, end_ids: frozenset[int], dtype: str
) -> list[list[int]]:
    """Answer all questions; give the tokens of each answer.

    Raises:
        DpoError: the engine fails.
    """
    # spawned, for a process that was forked can't use CUDA
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_generate, name, list(asked), options, sorted(end_ids), dtype).result()
        except Exception as error:  # the engine has many ways to fail
            raise DpoError(
                f"--generate: vLLM can't answer with {printable(name)}: {one_line(error)}; --engine transformers "
                "works without it"
            ) from error


def _generate(name: str, asked: list[Question], options: Generation, end_ids: list[int], dtype: str) -> list[list[int]]:
    import vllm

    longest = max(len(one.ids) for one in asked)
    engine: Any = vllm.LLM(
        model=name,
        dtype=dtype,
        seed=options.seed,
        max_model_len=longest + options.max_new_tokens,
        trust_remote_code=False,
    )
    parameters = [
        vllm.SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=options.max_new_tokens,
            seed=one.seed,
            stop_token_ids=end_ids,
        )
        for one in asked
    ]
    prompts = [{"prompt_token_ids": list(one.ids)} for one in asked]
    outputs = engine.generate(prompts, parameters)
    return [list(output.outputs[0].token_ids) for output in outputs]
