"""What a block of parameters is made of: strict frozen blocks, numbers with a range. Plain pydantic."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Params(BaseModel):
    """A block of parameters: unknown keys are errors, values are frozen, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _number(value: Any) -> Any:
    """A whole number is a number too; the same number in quotes is text, and is told so."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return value
        raise ValueError(f"{value!r} is text; write {value} without quotes")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Real = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
BelowOne = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Fraction = Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)]
Pair = Annotated[tuple[Real, Real], BeforeValidator(_tuple)]
Betas = Annotated[tuple[BelowOne, BelowOne], BeforeValidator(_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
