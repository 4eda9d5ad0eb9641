"""PyTorch with `torch.compile` around the rule and the loss."""

import functools

from benchmarks.contenders import pytorch

meta_step = functools.partial(pytorch.meta_step, compiled=True)
inner_step = functools.partial(pytorch.inner_step, compiled=True)
