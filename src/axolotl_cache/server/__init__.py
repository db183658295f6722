"""The OpenAI-compatible server. The only home of a web framework."""
