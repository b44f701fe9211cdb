"""The recipe of NeMo Gym's page on DPO data in pure Python, for comparison: all pairs that are a margin apart.

With --thrifty it keeps only reward and text of each rollout and switches the garbage collector off.
"""

import gc
import itertools
import json
import sys
from collections import defaultdict

MIN_MARGIN = 0.1


def main() -> None:
    """Read rollouts, write pairs."""
    thrifty = "--thrifty" in sys.argv
    source, target = sys.argv[-2:]
    if thrifty:
        gc.disable()
    groups = defaultdict(list)
    with open(source, encoding="utf-8") as stream:  # noqa: PTH123 (as the page has it)
        for line in stream:
            rollout = json.loads(line)
            prompt = rollout["responses_create_params"]["input"][-1]["content"]
            groups[prompt].append((rollout["reward"], text_of(rollout)) if thrifty else rollout)
    with open(target, "w", encoding="utf-8") as stream:  # noqa: PTH123
        for prompt, rollouts in groups.items():
            scored = rollouts if thrifty else [(rollout["reward"], text_of(rollout)) for rollout in rollouts]
            ranked = sorted(scored, key=lambda pair: pair[0], reverse=True)
            for (high, chosen), (low, rejected) in itertools.combinations(ranked, 2):
                if high - low >= MIN_MARGIN:
                    stream.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def text_of(rollout: dict) -> str:
    """Join the texts of a rollout's messages."""
    messages = [item for item in rollout["response"]["output"] if item["type"] == "message"]
    return " ".join(message["content"][0]["text"] for message in messages)


if __name__ == "__main__":
    main()
