# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a classifier's table says of it, without its tensors."""

from __future__ import annotations

__all__ = ("METADATA_KEY", "ClassifierError", "parse_description")

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"tno_classifier"
"""Key of the description in the metadata of a classifier's schema."""


class ClassifierError(ValueError):
    """A table does not hold a classifier that this package can use."""


def parse_description(schema: pa.Schema) -> Any:
    """Return the description of a classifier, of whatever version.

    Parameters
    ----------
    schema
        Schema of its table.

    Returns
    -------
    description
        JSON data.

    Raises
    ------
    ClassifierError
        Raised if there is none.
    """
    content = (schema.metadata or {}).get(METADATA_KEY)
    if content is None:
        columns = [f"{field.name} ({field.type})" for field in schema]
        raise ClassifierError(
            f"The table holds no classifier of meas_tno: it has no description, and the columns {columns}."
        )
    try:
        return json.loads(content)
    except ValueError as error:
        raise ClassifierError(f"The description of the classifier is not JSON: {error}.") from error
