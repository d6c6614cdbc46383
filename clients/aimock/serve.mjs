// A provider of many formats, on a free port of loopback, which it says; it ends with its standard input.
import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ port: 0, host: "127.0.0.1", chunkSize: 5, journalMaxEntries: 0 });
const usage = { prompt_tokens: 12, completion_tokens: 7, total_tokens: 19 };
mock.onMessage("weather", { toolCalls: [{ name: "weather", arguments: { city: "Rome" } }], usage });
mock.onMessage("hello", { content: "Good day to you, whoever you are.", usage });
mock.onEmbedding("hello", { embedding: [0.5, 0.25] });
mock.onImage("hello", { image: { b64Json: "AAAA" } });
mock.onSpeech("hello", { audio: Buffer.from("the sound of hello").toString("base64"), format: "mp3" });
mock.onTranscription({ transcription: { text: "Good day." } });
mock.onModerate("hello", { flagged: false, categories: {} });
mock.onRerank("hello", [{ index: 1, relevance_score: 0.9 }]);
await mock.start();
console.log(mock.url);
process.stdin.on("end", () => mock.stop().then(() => process.exit(0))).resume();
