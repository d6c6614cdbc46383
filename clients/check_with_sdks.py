"""The vendors' own SDKs as judges of requests: each body is held against the types of the vendor it is written for.

Reads, one JSON object a line: `kind` (anthropic, bedrock, gemini, mistral, openai) and `body`. Writes a line for each:
empty, or what is wrong with it.
"""

import base64
import json
import sys
from functools import cache
from typing import Any

import botocore.session
from anthropic.types import message_create_params as messages
from botocore.validate import ParamValidator
from google.genai import types as google
from mistralai.client import models as mistral
from openai.types.chat import completion_create_params as chats
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class Generate(BaseModel):
    """The body of generateContent, of Google's own types."""

    model_config = ConfigDict(extra="forbid")
    contents: list[google.Content]
    systemInstruction: google.Content | None = None  # noqa: N815
    generationConfig: google.GenerationConfig | None = None  # noqa: N815
    tools: list[google.Tool] | None = None
    toolConfig: google.ToolConfig | None = None  # noqa: N815


@cache
def adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


@cache
def converse() -> Any:
    model = botocore.session.Session().get_service_model("bedrock-runtime")
    return model.operation_model("Converse").input_shape


def with_bytes(value: Any) -> Any:
    """The same with blobs as bytes: the SDK takes them so, and writes them as base64."""
    if isinstance(value, dict):
        plain = {k: with_bytes(v) for k, v in value.items()}
        return {k: base64.b64decode(v) if k == "bytes" and isinstance(v, str) else v for k, v in plain.items()}
    return [with_bytes(v) for v in value] if isinstance(value, list) else value


def check(kind: str, body: dict[str, Any]) -> None:
    """Raises ValueError where the vendor's types do not take it."""
    if kind == "anthropic":
        stream = messages.MessageCreateParamsStreaming, messages.MessageCreateParamsNonStreaming
        adapter(stream[not body.get("stream")]).validate_python(body)
    elif kind == "openai":
        streamed = chats.CompletionCreateParamsStreaming, chats.CompletionCreateParamsNonStreaming
        adapter(streamed[not body.get("stream")]).validate_python(body)
    elif kind == "mistral":
        mistral.ChatCompletionRequest.model_validate(body)
    elif kind == "gemini":
        Generate.model_validate(body)
    else:
        report = ParamValidator().validate({"modelId": "m", **with_bytes(body)}, converse())
        if report.has_errors():
            raise ValueError(report.generate_report())


for line in sys.stdin:
    asked = json.loads(line)
    try:
        check(asked["kind"], asked["body"])
        said = ""
    except ValidationError as e:
        said = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in e.errors()[:3])
    except ValueError as e:
        said = str(e)
    print(json.dumps(said), flush=True)
