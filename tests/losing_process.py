"""A training of two processes in which the second one is struck by a signal; started by `test_lost_process.py`.

python losing_process.py SIGNAL TIMEOUT_MINUTES FOLDER
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from schemas.errors import DpoError
from trainer.config.settings import resolve
from trainer.run import loop
from trainer.run.processes import lost_process

STRUCK_AT = 2


def main(name: str, timeout_minutes: str, folder: Path) -> None:
    """Train, and be struck in the second step."""
    step, calls = loop.train_step, 0

    def struck(*inputs: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == STRUCK_AT and os.environ["RANK"] == "1":
            os.kill(os.getpid(), getattr(signal, name))
        return step(*inputs, **options)

    loop.train_step = struck
    config = resolve(
        [
            "policy.train_global_batch_size=4",
            "reference.cache_dir=null",
            "policy.self_check=false",
            f"cluster.timeout_minutes={timeout_minutes}",
        ],
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / "run",
    )
    try:
        with lost_process():
            loop.train(config)
    except DpoError as error:
        sys.stderr.write(f"dpo: error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
