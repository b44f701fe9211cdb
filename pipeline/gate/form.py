"""What the rows of a file are: told by the user, or by the keys of the file's first row that has those of a form."""

from typing import NamedTuple

from pipeline.gate.settings import GateSettings
from schemas.forms import DEFAULT_KEYS, RANKED, Form, binary_form, form_of
from schemas.validation import Kind, detect_kind

UNKNOWN = "unknown"


class RowForm(NamedTuple):
    """How the rows of a file are read."""

    kind: Kind | None  # of the first row, once it is converted; None where no row told
    form: Form | None  # of pairs

    @property
    def name(self) -> str:
        """Name it, as reports do."""
        if self.form is not None and self.form.name:
            return self.form.name
        return UNKNOWN if self.kind is None else str(self.kind)


NO_FORM = RowForm(None, None)


def row_form(row: object, settings: GateSettings) -> RowForm | None:
    """Tell the form of a file by one of its rows; None where the row doesn't tell."""
    if settings.kind is not None:
        return RowForm(settings.kind, _named_form(settings))
    kind = detect_kind(row)
    if kind is Kind.ROLLOUT and settings.keys == DEFAULT_KEYS:
        return RowForm(kind, None)
    form = form_of(row, settings.keys)
    if form is None:
        return None
    return RowForm(Kind.PREFERENCE if form.is_ranked else kind or Kind.BINARY_PREFERENCE, form)


def _named_form(settings: GateSettings) -> Form | None:
    match settings.kind:
        case Kind.ROLLOUT:
            return None
        case Kind.PREFERENCE:
            return RANKED
        case _:
            return binary_form(settings.keys)


def skeleton(row: object) -> object:
    """Leave of a row what its form is told by, so that it can be sent to other processes."""
    if not isinstance(row, dict):
        return None
    return {key: [] if isinstance(value, list) else None for key, value in row.items()}
