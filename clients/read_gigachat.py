"""The `gigachat` SDK as a reader: both versions of the API, plain and streamed, functions, vectors, an error.

Prints one JSON object a call: `{"kind", "text", "calls", "finish", "usage"}`, each as the SDK has it.
"""

import json
import os

from gigachat import GigaChat
from gigachat.exceptions import ResponseError

client = GigaChat(
    base_url=os.environ["URL"], auth_url=os.environ["TOKEN_URL"], credentials=os.environ["KEY"], model="GigaChat-2"
)
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}


def say(kind: str, text: str, calls: list, finish: str | None, usage: object) -> None:
    counts = usage.model_dump() if usage is not None else None
    print(json.dumps({"kind": kind, "text": text, "calls": calls, "finish": finish, "usage": counts}))


def first(kind: str, **more: object) -> None:
    made = client.chat({"messages": HELLO, **more})
    choice = made.choices[0]
    call = choice.message.function_call
    calls = [[call.name, call.arguments]] if call else []
    say(kind, choice.message.content, calls, choice.finish_reason, made.usage)


def first_streamed(kind: str, **more: object) -> None:
    text, calls, finish, usage = "", [], None, None
    for chunk in client.stream({"messages": HELLO, **more}):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        if choice.delta.function_call:
            calls.append([choice.delta.function_call.name, choice.delta.function_call.arguments])
        finish, usage = choice.finish_reason or finish, chunk.usage or usage
    say(kind, text, calls, finish, usage)


def second(kind: str, *, stream: bool, **more: object) -> None:
    asked = {"messages": HELLO, **more}
    text, calls, finish, usage = "", [], None, None
    for part_of in client.chat.stream(asked) if stream else [client.chat.create(asked)]:
        for message in part_of.messages or []:
            for part in message.content or []:
                text += part.text or ""
                if part.function_call:
                    calls.append([part.function_call.name, part.function_call.arguments])
        finish, usage = part_of.finish_reason or finish, part_of.usage or usage
    say(kind, text, calls, finish, usage)


first("v1")
first("v1 functions", functions=[SCHEMA])
first_streamed("v1 stream")
first_streamed("v1 stream functions", functions=[SCHEMA])
tools = [{"functions": {"specifications": [SCHEMA]}}]
second("v2", stream=False)
second("v2 functions", stream=False, tools=tools)
second("v2 stream", stream=True)
second("v2 stream functions", stream=True, tools=tools)
vectors = client.embeddings(["a", "b"])
print(json.dumps({"kind": "vectors", "usage": sum(d.usage.prompt_tokens for d in vectors.data)}))
try:
    client.chat({"messages": []})
except ResponseError as e:
    print(json.dumps({"kind": "error", "status": e.status_code, "message": json.loads(e.content)["message"]}))
