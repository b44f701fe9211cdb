"""Pages for people: reports in one file, and a local page for review.

Fed by files that the other stages wrote. Needs the extra `report` (Jinja2, Matplotlib), review the extra `review` too.
"""
