"""What pairs are trained on, as a number: two runs with the same digest see the same tokens in the same pairs."""

import hashlib
import json
from collections.abc import Iterable

import numpy as np

from trainer.data.tokenize import TokenizedGroup

DIGEST_BYTES = 16


def data_digest(groups: Iterable[TokenizedGroup]) -> str:
    """Digest the token ids of prompts and responses, what of them is trained on, and the pairs with their rewards.

    Where the pairs lie (file and line) is no part of it, so files may be moved and mixtures renamed.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for group in groups:
        sequences = [group.prompt, *(ids for each in group.responses for ids in (each.ids, each.loss_mask))]
        for ids in sequences:
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(np.asarray(ids, dtype="<i4").tobytes())
        for pair in group.pairs:
            rewards = pair.chosen_reward, pair.rejected_reward
            place = pair.chosen, pair.rejected, pair.number, pair.dataset, pair.environment
            digest.update(json.dumps([*place, *rewards]).encode())
    return digest.hexdigest()
