"""The `openai` SDK: chats and responses, plain and streamed."""

import json
import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["URL"] + "/v1", api_key=os.environ["KEY"], max_retries=0)
model, messages = os.environ["MODEL"], [{"role": "user", "content": "hello"}]


def say(usage: object, text: str) -> None:
    print(json.dumps({"input": usage.prompt_tokens, "output": usage.completion_tokens, "text": text}))


whole = client.chat.completions.create(model=model, messages=messages)
say(whole.usage, whole.choices[0].message.content)
chunks = list(
    client.chat.completions.create(model=model, messages=messages, stream=True, stream_options={"include_usage": True})
)
say(chunks[-1].usage, "".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
with client.chat.completions.stream(model=model, messages=messages, stream_options={"include_usage": True}) as stream:
    final = stream.get_final_completion()
say(final.usage, final.choices[0].message.content)
