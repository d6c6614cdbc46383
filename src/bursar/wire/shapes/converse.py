"""Bedrock's Converse: a chat's messages as blocks, and an answer's blocks as events."""

from __future__ import annotations

import json
from typing import Any

from bursar.types.events import Event, ReasoningDelta, TextDelta, ToolCallDelta
from bursar.wire.shapes import Calls, Tree
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    cannot,
    chosen_name,
    data_url,
    dumped,
    file_of,
    image_of,
    name_of,
    parts_of,
    system_and_rest,
    turns_of,
)

_DOCUMENTS = {
    "application/pdf": "pdf", "text/plain": "txt", "text/markdown": "md", "text/html": "html", "text/csv": "csv",
    "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}  # fmt: skip


_OWN = frozenset({
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields",
    "additionalModelResponseFieldPaths", "outputConfig", "performanceConfig", "promptVariables", "requestMetadata",
    "serviceTier",
})  # fmt: skip


def write(chat: Tree) -> Tree:
    """The body of a request; the model is named in its address, and whether it is a stream too."""
    fields = Fields(chat)
    system, others = system_and_rest(fields.messages)
    turns = turns_of(others, _blocks, _use, _result)
    out: Tree = {"messages": [{"role": role, "content": blocks} for role, blocks in turns]}
    if instructions := [block for n, m in system for block in _blocks(m, n)]:
        out["system"] = instructions
    config: Tree = {}
    fields.move(config, temperature="temperature", topP="top_p")
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        config["maxTokens"] = most
    if stop := fields.stop():
        config["stopSequences"] = stop
    if config:
        out["inferenceConfig"] = config
    _tools(fields, out)
    if (schema := fields.only_schema()) is not None:
        text = {"schema": json.dumps(schema["schema"]), "name": schema.get("name", "answer")}
        out["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": text}}}
    if (effort := fields.take("reasoning_effort")) not in (None, "none"):
        out.setdefault("outputConfig", {})["effort"] = effort
    return _with_others(fields.finish(out))


def _with_others(out: Tree) -> Tree:
    """The body, with what is no field of Converse's own where it takes what only its model knows (`top_k`)."""
    others = {name: out.pop(name) for name in [*out] if name not in _OWN}
    if others:
        given = out.get("additionalModelRequestFields")
        out["additionalModelRequestFields"] = {**others, **given} if isinstance(given, dict) else others
    return out


def _use(call: Tree, n: int) -> Tree:
    return {"toolUse": {"toolUseId": call.get("id"), "name": name_of(call), "input": arguments_of(call, n)}}


def _result(message: Tree, n: int) -> Tree:
    return {"toolResult": {"toolUseId": message.get("tool_call_id"), "content": _blocks(message, n)}}


def _blocks(message: Tree, n: int) -> list[Any]:
    blocks: list[Any] = []
    for part in parts_of(message, n):
        kind, place = part.get("type"), f"messages[{n}].content"
        if kind in ("text", "refusal"):
            if text := part.get("text", part.get("refusal")):
                blocks.append({"text": text})
        elif kind == "image_url":
            found = data_url(image_of(part))
            if found is None:
                cannot(place, "an image must come with its data, as a data: address")
            format = found[0].removeprefix("image/").replace("jpg", "jpeg")
            blocks.append({"image": {"format": format, "source": {"bytes": found[1]}}})
        elif kind == "file":
            media, data, name = file_of(part, place)
            if media not in _DOCUMENTS:
                cannot(place, f"a file of type '{media}' cannot be said to this provider")
            title = "".join(c if c.isalnum() or c in " -()[]" else "-" for c in name or "document")
            document = {"format": _DOCUMENTS[media], "name": title, "source": {"bytes": data}}
            blocks.append({"document": document})
        else:
            cannot(place, f"a part of type '{kind}' cannot be said to this provider")
        if "cache_control" in part:
            ttl = part["cache_control"].get("ttl") if isinstance(part["cache_control"], dict) else None
            blocks.append({"cachePoint": {"type": "default", **({"ttl": ttl} if ttl in ("5m", "1h") else {})}})
    return blocks


def _tools(fields: Fields, out: Tree) -> None:
    tools = [
        {
            "toolSpec": {
                "name": f.get("name"),
                **({"description": f["description"]} if f.get("description") else {}),
                "inputSchema": {"json": f.get("parameters") or {"type": "object", "properties": {}}},
                **({"strict": True} if f.get("strict") is True else {}),
            }
        }
        for f in fields.functions()
    ]
    choice = fields.take("tool_choice")
    if not tools:
        return
    config: Tree = {"tools": tools}
    if choice == "required":
        config["toolChoice"] = {"any": {}}
    elif choice == "auto":
        config["toolChoice"] = {"auto": {}}
    elif isinstance(choice, dict):
        config["toolChoice"] = {"tool": {"name": chosen_name(choice)}}
    elif choice is not None:
        cannot("tool_choice", f"'{choice}' has no counterpart here")
    out["toolConfig"] = config


def said(value: Tree, event: str | None, calls: Calls) -> list[Event]:
    """The events of an answer, or of one message of a stream."""
    index = value.get("contentBlockIndex")
    if event == "contentBlockStop" and calls.is_bare(index):
        return [ToolCallDelta(calls.piece(index, "{}"), None, None, "{}")]
    block = value.get("start" if event == "contentBlockStart" else "delta")
    if event is not None and isinstance(block, dict):
        return _block(block, index, calls, whole=False)
    output = value.get("output")
    message = output.get("message") if isinstance(output, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return []
    return [e for n, b in enumerate(content) if isinstance(b, dict) for e in _block(b, n, calls, whole=True)]


def _block(block: Tree, index: object, calls: Calls, *, whole: bool) -> list[Event]:
    text, use, reasoning = block.get("text"), block.get("toolUse"), block.get("reasoningContent")
    if isinstance(text, str) and text:
        return [TextDelta(text)]
    if isinstance(use, dict):
        id, name, given = use.get("toolUseId"), use.get("name"), use.get("input")
        arguments = dumped(given) if whole or given is not None else ""
        return [ToolCallDelta(calls.piece(index, arguments), id and str(id), name and str(name), arguments)]
    if isinstance(reasoning, dict):
        told = reasoning.get("reasoningText", reasoning)
        thought = told.get("text") if isinstance(told, dict) else None
        return [ReasoningDelta(thought)] if isinstance(thought, str) and thought else []
    cited = block.get("citationsContent")
    parts = cited.get("content") if isinstance(cited, dict) else None
    found = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [TextDelta(said) for said in found if isinstance(said, str) and said]
