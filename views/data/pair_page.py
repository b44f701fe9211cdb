"""The page of a report on pairs: figures, findings of the gate, and pairs side by side with filters of CSS alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.gate.finding import Finding
from pipeline.gate.rules import ABOUT, Rule
from schemas.terminal import counted
from views.conversation import as_text, tools_text
from views.data.advice import pair_advice
from views.data.flow import Stage, flow_of, flow_words, left_out_pairs
from views.data.options import DataOptions, Sort
from views.data.pair_data import PairData
from views.data.pair_plots import pair_plots
from views.data.pair_sample import Buckets, ShownPair, environment_buckets, length_buckets, margin_buckets
from views.data.rollout_page import data_style, marked_advice
from views.figures import drawn
from views.page import render
from views.text import count, marked, number, percent, visible
from views.word_diff import word_diff

PROMPT_CHARACTERS = 500
SHOWN_CHARACTERS = 900
MOST_CHARACTERS = 8_000
"""Of one text; a page of a hundred pairs stays below some megabytes."""

SORTED = {
    Sort.MIXED: "drawn from every environment and from small and great margins alike",
    Sort.MARGIN: "those with the greatest and the least margins",
    Sort.LENGTH: "those whose chosen response is far longer, or far shorter, than the rejected one",
    Sort.RANDOM: "drawn at random",
}


@dataclass(frozen=True)
class PairShown:
    """A pair as the page has it."""

    shown: ShownPair
    classes: str  # the buckets that it is in
    prompt: Markup
    tools: Markup | None
    chosen: Markup
    rejected: Markup
    note: str


@dataclass(frozen=True)
class Filter:
    """One set of radio buttons."""

    key: str  # of ids and classes
    legend: str
    choices: tuple[tuple[str, int], ...]  # name, number of pairs


@dataclass(frozen=True)
class Origin:
    """What the manifest of a file tells."""

    path: str
    note: str
    stages: list[Stage]
    words: str
    left_out: list[tuple[int, str]]
    made_of: tuple[str, ...]
    settings: str


def pair_page(data: PairData, options: DataOptions) -> str:
    """Make the page."""
    figures = data.figures
    parted = {
        "margin": ("Margin", margin_buckets([pair.margin for pair in data.shown])),
        "length": ("Length", length_buckets(data.shown)),
        "environment": ("Environment", environment_buckets(data.shown)),
    }
    filters = [
        Filter(key, legend, tuple((bucket.name, bucket.count) for bucket in parts.buckets))
        for key, (legend, parts) in parted.items()
        if len(parts.buckets) > 1
    ]
    return render(
        "data_pairs.html",
        title=options.title or f"{'Preference pairs' if data.gate.num_rows else 'No rows'}: {_named(data)}",
        style=data_style() + "".join(_rules(each) for each in filters),
        summary=_summary(data),
        cards=_cards(data),
        files=[(marked(file.path), file.form, count(file.rows), count(file.invalid_rows)) for file in data.gate.files],
        advice=marked_advice(pair_advice(figures)),
        origins=_origins(data),
        plots=drawn(pair_plots(data.table, figures, seed=options.seed)),
        environments=_environment_rows(data),
        findings=_findings(data),
        verdict=_verdict(data),
        filters=filters,
        pairs=_shown(data.shown, {key: parts for key, (_, parts) in parted.items()}),
        num_shown=len(data.shown),
        drawn_as=_drawn_as(data, options),
        is_sample=len(data.shown) < data.num_matching,
        figures=figures,
    )


def _named(data: PairData) -> str:
    return data.paths[0].name if len(data.paths) == 1 else f"{len(data.paths):,} files"


def _summary(data: PairData) -> str:
    figures, rows = data.figures, data.gate.num_rows
    if not rows:
        return "There are no rows."
    if not figures.pairs:
        return f"None of {counted(rows, 'row')} is a preference pair that can be read; the gate's findings say why."
    rest = rows - figures.pairs
    told = f" {counted(rest, 'row')} can't be used: see the gate's findings." if rest else ""
    pairs, prompts = counted(figures.pairs, "pair"), counted(figures.prompts, "prompt")
    return f"{pairs} of {figures.responses:,} responses to {prompts}.{told}"


def _cards(data: PairData) -> list[tuple[str, str, str]]:
    figures = data.figures
    duplicates = data.gate.counts.get(Rule.DUPLICATE_ROW, 0)
    contradictory = data.gate.counts.get(Rule.CONTRADICTORY_PAIR, 0)
    truncated = figures.chosen_truncated + figures.rejected_truncated
    return [
        ("Pairs", count(figures.pairs), f"of {counted(figures.prompts, 'prompt')}"),
        ("Mean margin", number(figures.margin.mean), f"{counted(figures.with_rewards, 'pair')} with both rewards"),
        ("Median length of chosen", number(figures.chosen_length.median), "characters"),
        ("Median length of rejected", number(figures.rejected_length.median), "characters"),
        ("Chosen longer", percent(figures.chosen_longer_share), "of pairs of different lengths"),
        (
            "Truncated",
            count(truncated),
            f"chosen {count(figures.chosen_truncated)}, rejected {count(figures.rejected_truncated)}",
        ),
        ("Duplicates", count(duplicates), "rows that are there already"),
        ("Contradictions", count(contradictory), "the same pair the other way round"),
    ]


def _origins(data: PairData) -> list[Origin]:
    found = []
    for path, told in data.told.items():
        settings = told.settings or {}
        named = ", ".join(
            f"{key} {settings[key]}" for key in ("strategy", "min_margin", "reasoning") if key in settings
        )
        account = told.attrition
        found.append(
            Origin(
                path,
                told.note,
                flow_of(account) if account else [],
                flow_words(account) if account else "",
                left_out_pairs(account) if account else [],
                told.inputs,
                named,
            )
        )
    return found


def _environment_rows(data: PairData) -> list[list[str | Markup]]:
    return [
        [
            marked(each.name),
            count(each.pairs),
            percent(each.share),
            count(each.prompts),
            number(each.margin.mean),
            f"{number(each.margin.least)} to {number(each.margin.most)}",
            number(each.median_chosen),
            number(each.median_rejected),
            percent(each.chosen_longer_share),
        ]
        for each in data.figures.environments
    ]


def _findings(data: PairData) -> list[tuple[str, str, str, str, str]]:
    """Give each rule that found something: severity, name, how often, what and why, the first place."""
    first: dict[Rule, Finding] = {}
    for finding in data.gate.findings:
        first.setdefault(finding.rule, finding)
    return [
        (
            data.gate.severities[rule].value,
            rule.value,
            count(number_found),
            f"{ABOUT[rule].finds[:1].upper()}{ABOUT[rule].finds[1:]}. {ABOUT[rule].why}",
            f"{first[rule].place}: {first[rule].message}" if rule in first else "",
        )
        for rule, number_found in data.gate.counts.items()
    ]


def _verdict(data: PairData) -> str:
    gate = data.gate
    told = f"{counted(gate.num_errors, 'error')} and {counted(gate.num_warnings, 'warning')}"
    if gate.num_errors:
        return f"dpo validate refuses this data: {told}."
    return f"dpo validate passes this data: {told}." if gate.num_warnings else "dpo validate finds nothing."


def _drawn_as(data: PairData, options: DataOptions) -> str:
    if len(data.shown) == data.num_matching:
        told = f"All {counted(data.num_matching, 'pair')}"
    else:
        told = f"{len(data.shown):,} of {counted(data.num_matching, 'pair')}, {SORTED[options.sort]}"
    asked = [
        f"of {options.environment}" if options.environment is not None else "",
        f"with a margin of at least {options.min_margin:g}" if options.min_margin is not None else "",
        f"with a margin of at most {options.max_margin:g}" if options.max_margin is not None else "",
    ]
    return " ".join([told, *filter(None, asked)]) + "."


def _shown(pairs: Sequence[ShownPair], parted: dict[str, Buckets]) -> list[PairShown]:
    return [
        _one(pair, " ".join(f"{key}-{parts.of_pair[place]}" for key, parts in parted.items()))
        for place, pair in enumerate(pairs)
    ]


def _one(shown: ShownPair, classes: str) -> PairShown:
    pair = shown.pair
    diff = word_diff(
        as_text(pair.rejected, "assistant"),
        as_text(pair.chosen, "assistant"),
        shown=SHOWN_CHARACTERS,
        most=MOST_CHARACTERS,
        names="responses",
    )
    prompt = visible(as_text(pair.prompt, "user"), shown=PROMPT_CHARACTERS, most=MOST_CHARACTERS)
    tools = visible(tools_text(pair.tools), shown=MOST_CHARACTERS, most=MOST_CHARACTERS) if pair.tools else None
    return PairShown(shown, classes, prompt, tools, diff.after, diff.before, diff.note)


def _rules(parts: Filter) -> str:
    """Write the style that hides what a filter leaves out; it holds nothing but our own names and numbers."""
    return "".join(
        f".pairs:has(#{parts.key}-is-{place}:checked) .pair:not(.{parts.key}-{place}) {{ display: none; }}\n"
        for place in range(len(parts.choices))
    )
