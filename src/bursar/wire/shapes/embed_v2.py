"""Cohere's embed, version 2: texts, what they are for, and the type of their numbers."""

from __future__ import annotations

from bursar.wire.shapes import Tree
from bursar.wire.shapes.parts import Embedding


def write(asked: Tree) -> Tree:
    """The body of a request for vectors."""
    fields = Embedding(asked)
    out: Tree = {"model": fields.model, "texts": fields.texts, "input_type": "search_document"}
    out["embedding_types"] = [fields.take("encoding_format") or "float"]
    if (size := fields.take("dimensions")) is not None:
        out["output_dimension"] = size
    return {**out, **fields.rest()}
