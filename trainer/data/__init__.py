"""From preference pairs to tokenised groups and planned steps."""
