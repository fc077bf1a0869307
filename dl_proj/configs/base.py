"""What every schema inherits."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A schema that knows all its keys, never changes, and documents its fields by their docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )
