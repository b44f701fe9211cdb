"""What all sections of the configuration share: strictness, and the types with bounds."""

import os
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]
Minutes = Annotated[float, Field(gt=0.0, le=1_000_000.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Smoothing = Annotated[float, Field(ge=0.0, lt=0.5)]
Temperature = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(gt=0.0, le=1000.0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _says_something(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true for a number, which would be 1, and no text for a name or path, which would be this folder.

        In a path, `~` is the user's home, as a shell would have it; in a default it stays as it is shown.
        """
        field = cls.model_fields[str(info.field_name)]
        kinds = _kinds(field.annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"got {str(value).lower()}, expected a number")
        if value == "" and kinds & {str, Path}:
            raise ValueError("is empty; leave it out for the default")
        if isinstance(value, str) and value.startswith("~") and Path in kinds and value != str(field.default):
            return os.path.expanduser(value)  # noqa: PTH111 (never raises, whoever ~name is)
        return value


def _kinds(annotation: Any) -> set[Any]:
    """Give the types that an annotation is made of."""
    return {annotation}.union(*map(_kinds, get_args(annotation))) if get_args(annotation) else {annotation}


def path_alone(value: Any) -> Any:
    """Read a bare path as a data set with that path."""
    return {"data_path": value} if isinstance(value, str) else value


def one_or_more(value: Any) -> Any:
    """Read a single data set as a mixture of one."""
    return [path_alone(each) for each in value] if isinstance(value, (list, tuple)) else [path_alone(value)]
