"""How many tokens one pass of a base model may hold here."""

import torch

from cluster.frozen import Frozen

# On CPUs passes are bound by the matrix products: measured, 4,096 tokens are the fastest on the
# embedded models (half and double are 10 % slower), whose matrices then stay in the cache.
_CPU_TOKENS = 4096
_TRIED = 1024
# Adapters, optimizers and caches need room beside a pass.
_SHARE = 0.6


def pass_tokens(frozen: Frozen) -> int:
    """Return the most tokens of a pass; on a GPU by the memory that a training pass took.

    What is wrong with it shows as memory that runs out, and the planner then halves it.
    """
    device = frozen.model.device
    if device.type != "cuda":
        return _CPU_TOKENS
    width = min(128, frozen.context or 128)
    ids = torch.zeros(max(1, _TRIED // width), width, dtype=torch.long, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    embedded = frozen.model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = frozen.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=8).logits
    torch.autograd.backward(logits.float().logsumexp(-1).sum())
    used = torch.cuda.max_memory_allocated(device) - before
    del embedded, logits
    free, _ = torch.cuda.mem_get_info(device)
    return max(_TRIED, int(_SHARE * free / max(used, 1) * ids.numel()))
