"""Ollama's own chat: OpenAI's messages, sampling under `options`, images as bare base64."""

from __future__ import annotations

from bursar.wire.shapes import Tree
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    called_before,
    cannot,
    data_url,
    image_of,
    name_of,
    parts_of,
)


def write(chat: Tree) -> Tree:
    """The body of a request."""
    fields = Fields(chat)
    messages = [_message(m, n, called_before(fields.messages, n)) for n, m in enumerate(fields.messages)]
    out: Tree = {"model": fields.model, "messages": messages, "stream": fields.stream}
    options: Tree = {}
    fields.move(
        options, temperature="temperature", top_p="top_p", top_k="top_k", seed="seed",
        presence_penalty="presence_penalty", frequency_penalty="frequency_penalty",
    )  # fmt: skip
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        options["num_predict"] = most
    if stop := fields.stop():
        options["stop"] = stop
    given = fields.take("options")
    if options or given:
        out["options"] = {**options, **(given or {})}
    if tools := fields.functions():
        out["tools"] = [{"type": "function", "function": f} for f in tools]
    kind, schema = fields.schema()
    if kind != "text":
        out["format"] = schema["schema"] if schema is not None else "json"
    effort = fields.take("reasoning_effort")
    if effort is not None:
        out["think"] = False if effort == "none" else effort if effort in ("low", "medium", "high") else True
    return fields.finish(out)


def _message(message: Tree, n: int, called: str | None) -> Tree:
    role = message.get("role")
    texts: list[str] = []
    images: list[str] = []
    for part in parts_of(message, n):
        kind = part.get("type")
        found = data_url(image_of(part)) if kind == "image_url" else None
        if found is not None:
            images.append(found[1])
        elif kind == "image_url":
            cannot(f"messages[{n}].content", "an image must come with its data, as a data: address")
        elif kind in ("text", "refusal"):
            texts.append(str(part.get("text", part.get("refusal"))))
        else:
            cannot(f"messages[{n}].content", f"a part of type '{kind}' cannot be said to this provider")
    out: Tree = {"role": "system" if role == "developer" else role, "content": "".join(texts)}
    if images:
        out["images"] = images
    if made := message.get("tool_calls"):
        out["tool_calls"] = [{"function": {"name": name_of(c), "arguments": arguments_of(c, n)}} for c in made]
    if role == "tool" and called:
        out["tool_name"] = called
    return out
