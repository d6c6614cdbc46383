"""Vertex's embedContent: the vector of one text."""

from __future__ import annotations

from bursar.wire.shapes import Tree
from bursar.wire.shapes.parts import Embedding, cannot


def write(asked: Tree) -> Tree:
    """The body of a request for a vector; the model is named in its address."""
    fields = Embedding(asked)
    if len(fields.texts) > 1:
        cannot("input", "this provider takes one text a request")
    size = fields.take("dimensions")
    out: Tree = {"content": {"parts": [{"text": fields.texts[0]}]}}
    if size is not None:
        out["outputDimensionality"] = size
    return {**out, **fields.rest()}
