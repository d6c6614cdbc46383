"""Gemini's batchEmbedContents: a request for each text."""

from __future__ import annotations

from bursar.wire.shapes import Tree
from bursar.wire.shapes.parts import Embedding


def write(asked: Tree) -> Tree:
    """The body of a request for vectors; the model is named in its address and in each request."""
    fields = Embedding(asked)
    model = fields.model if fields.model.startswith("models/") else f"models/{fields.model}"
    size = fields.take("dimensions")
    own = fields.rest()
    more = {"outputDimensionality": size} if size is not None else {}
    return {
        "requests": [{"model": model, "content": {"parts": [{"text": text}]}, **more, **own} for text in fields.texts]
    }
