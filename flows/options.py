"""Fields that the options of several flows share."""

from typing import Annotated

from pydantic import BeforeValidator

PlaceText = Annotated[str, BeforeValidator(str)]
"""A path or URL; JSON and Prefect's forms know only text."""
