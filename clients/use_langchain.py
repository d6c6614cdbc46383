"""`langchain-openai`: `usage_metadata`, streamed and not."""

import json
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=os.environ["MODEL"], base_url=os.environ["URL"] + "/v1", api_key=os.environ["KEY"], stream_usage=True,
    max_retries=0,
)  # fmt: skip


def say(message: object) -> None:
    used = message.usage_metadata
    print(json.dumps({"input": used["input_tokens"], "output": used["output_tokens"], "text": message.content}))


say(model.invoke("hello"))
whole = None
for chunk in model.stream("hello"):
    whole = chunk if whole is None else whole + chunk
say(whole)
