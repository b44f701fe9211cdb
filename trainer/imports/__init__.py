"""Configurations of other tools, in our words."""
