"""What both halves share: the row schemas, their validation, reading and writing of preference files, errors.

This package imports neither `pipeline` nor `trainer`, and never torch.
"""
