"""A generator that samples with vLLM. vLLM is an extra: only this folder imports it, and only when it is asked for."""
