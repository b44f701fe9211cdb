"""From rollouts to preference pairs: read, convert, identify, pair, write.

This package knows rollouts and Polars; it imports neither `trainer` nor torch.
"""
