"""Where other programs take this library in.

    axolotl_cache.integrations.axolotl     the plugin for Axolotl
    axolotl_cache.integrations.http        a transport for httpx and httpx2: the OpenAI and Anthropic clients
    axolotl_cache.integrations.langchain   a LangChain `BaseCache`
    axolotl_cache.integrations.litellm     a LiteLLM `Cache`

Nothing here is loaded by `import axolotl_cache`. Where a framework is missing, the error says which extra to
install.
"""
