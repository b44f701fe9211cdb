"""Which prompts go to training, validation and test: by prompt, never by row, near-identical prompts together.

Near-identical are prompts that are equal once case, punctuation, white space and Unicode's forms are folded. A prompt's
part is drawn from its text and the seed alone, so it stays where it is when more rollouts come.
"""

import polars as pl

from pipeline.select import mixed_column
from pipeline.settings import Part


def parts_of_groups(
    ranked: pl.DataFrame, pairs: pl.DataFrame, *, validation_fraction: float, test_fraction: float, seed: int
) -> dict[Part, pl.DataFrame]:
    """Split the pairs into the parts that are asked for.

    A part that is asked for is never empty while there are prompts enough: it then gets the one that came nearest.
    """
    if not (validation_fraction or test_fraction):
        return {Part.TRAIN: pairs}
    clusters = ranked.lazy().group_by("group").agg(pl.col("cluster").first())
    drawn = (
        pairs.lazy()
        .select(pl.col("group").unique())
        .join(clusters, on="group")
        .with_columns(draw=mixed_column("cluster", seed))
        .collect()
    )
    order = drawn.select("cluster", "draw").unique().sort("draw", "cluster")
    share = order["draw"].cast(pl.Float64) / 2.0**64
    num_test = _number(int((share < test_fraction).sum()), test_fraction, len(order))
    up_to = int((share < test_fraction + validation_fraction).sum()) - num_test
    num_validation = _number(up_to, validation_fraction, len(order) - num_test)
    bounds = {
        Part.TRAIN: order[num_test + num_validation :],
        Part.VALIDATION: order[num_test : num_test + num_validation],
        Part.TEST: order[:num_test],
    }
    wanted = {Part.TRAIN: True, Part.VALIDATION: validation_fraction > 0, Part.TEST: test_fraction > 0}
    return {
        part: pairs.join(drawn.join(members, on="cluster", how="semi"), on="group", how="semi", maintain_order="left")
        for part, members in bounds.items()
        if wanted[part]
    }


def _number(drawn: int, fraction: float, num_left: int) -> int:
    """Give at least one where a part is asked for, and leave at least one."""
    return max(0, min(max(drawn, 1), num_left - 1)) if fraction else 0
