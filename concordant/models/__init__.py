"""What a model is. transformers is imported by the modules of this folder, after this file."""

import os

# transformers takes faster layers of some architectures from a hub, as code, where the package `kernels` is installed.
# Nobody asked for that code. Whoever wants it sets USE_HUB_KERNELS=YES.
os.environ.setdefault("USE_HUB_KERNELS", "NO")
