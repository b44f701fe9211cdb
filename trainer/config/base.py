"""What all sections of the configuration share: strictness, and the types with bounds."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Smoothing = Annotated[float, Field(ge=0.0, lt=0.5)]
Temperature = Annotated[float, Field(gt=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def path_alone(value: Any) -> Any:
    """Read a bare path as a data set with that path."""
    return {"data_path": value} if isinstance(value, str) else value


def one_or_more(value: Any) -> Any:
    """Read a single data set as a mixture of one."""
    return [path_alone(each) for each in value] if isinstance(value, (list, tuple)) else [path_alone(value)]
