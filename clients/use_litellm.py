"""`litellm` as a client, of chats and of messages."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

messages = [{"role": "user", "content": "hello"}]


def say(answer: object) -> None:
    used = answer.usage
    text = answer.choices[0].message.content
    print(json.dumps({"input": used.prompt_tokens, "output": used.completion_tokens, "text": text}))


for shape, address in (("openai", "/v1"), ("anthropic", "")):
    given = {
        "model": f"{shape}/{os.environ['MODEL']}", "api_base": os.environ["URL"] + address,
        "api_key": os.environ["KEY"], "messages": messages, "max_tokens": 50, "num_retries": 0,
    }  # fmt: skip
    say(litellm.completion(**given))
    chunks = list(litellm.completion(**given, stream=True, stream_options={"include_usage": True}))
    say(litellm.stream_chunk_builder(chunks, messages=messages))
