"""The rules on a single preference pair."""
