"""From preference pairs to a trained policy: tokenise, plan, log-probs, loss, loop.

This package imports `schemas`, never `pipeline`. `trainer.config` and `trainer.settings` start without torch.
"""
