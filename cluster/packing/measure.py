"""Measurement of the largest pass, in tokens, that this device can run."""

import torch

from cluster.frozen import Frozen

# On CPUs the matrix products dominate. Measured on the embedded models, 4,096 tokens are the
# fastest (half and double are 10 % slower), because the matrices then stay in the cache.
_CPU_TOKENS = 4096
_TRIED = 1024
# Share of the free memory for a pass: adapters, optimizers and caches need the rest.
_SHARE = 0.6


def pass_tokens(frozen: Frozen) -> int:
    """Return the most tokens of a pass; on a GPU estimated from the memory of one training pass.

    If the estimate is too high, memory runs out and the planner halves it.
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
