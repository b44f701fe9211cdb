"""`dpo eval`: what a policy makes of preference pairs, beside the reference that it was trained from.

Named otherwise than the function `trainer.evaluate`, which a module of that name would hide.
"""
