"""The `anthropic` SDK, in front of a provider of chats."""

import json
import os

from anthropic import Anthropic

client = Anthropic(base_url=os.environ["URL"], api_key=os.environ["KEY"], max_retries=0)
asked = {"model": os.environ["MODEL"], "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}


def say(message: object) -> None:
    used = message.usage
    given = used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    text = "".join(block.text for block in message.content if block.type == "text")
    print(json.dumps({"input": given, "output": used.output_tokens, "text": text}))


say(client.messages.create(**asked))
with client.messages.stream(**asked) as stream:
    say(stream.get_final_message())
