// Vercel's `ai`, with an OpenAI-compatible provider and with Anthropic's.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const { URL: url, KEY: apiKey, MODEL: model } = process.env;
const chats = createOpenAICompatible({ name: "ours", baseURL: `${url}/v1`, apiKey, includeUsage: true });
const messages = createAnthropic({ baseURL: `${url}/v1`, apiKey });

const say = (usage, text) =>
  console.log(JSON.stringify({ input: usage.inputTokens, output: usage.outputTokens, text }));

for (const provider of [chats, messages]) {
  const asked = { model: provider(model), prompt: "hello", maxRetries: 0, maxOutputTokens: 50 };
  const whole = await generateText(asked);
  say(whole.usage, whole.text);
  const streamed = streamText(asked);
  const text = await streamed.text;
  say(await streamed.usage, text);
}
