"""``concordant serve``: policies, their adapters and a reward model behind OpenAI's interface."""
