"""From preference pairs to a trained policy: tokenise, plan, log-probs, loss, loop.

This package imports `schemas`, never `pipeline`. `trainer.config` starts without torch.
"""

import logging

# Accelerate imports bitsandbytes where it is installed, and on a CPU that warns of a kernel nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
