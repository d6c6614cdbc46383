"""The gateway server: OpenAI's endpoints as raw ASGI, the control plane as FastAPI, and who may do what."""
