"""SVD of weights against the eigenvectors of their small Gram matrix, as LoRA-XS would use them.

    python benchmarks/factors.py

Prints for each shape the processor seconds, the error of the leading right factors against those in
64 bits, and the difference between one and two threads. Then the milliseconds of a stop string's
detector on the vocabulary of an embedded model, the first and each further one.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, StopStringCriteria

RANK = 8
SHAPES = ((192, 576), (576, 576), (1536, 576), (576, 1536))
MODEL = Path(__file__).parent.parent / "examples" / "tiny" / "pretrained"


def signed(factor: Tensor) -> Tensor:
    """Return rows with a positive sum each."""
    return factor * factor.sum(1, keepdim=True).sign()


def by_svd(weight: Tensor) -> Tensor:
    """Return the leading right factors as PEFT makes them, shape [rank, inputs]."""
    _, values, right = torch.linalg.svd(weight, full_matrices=False)
    return signed(values[:RANK, None].sqrt() * right[:RANK])


def by_gram(weight: Tensor) -> Tensor:
    """Return the same from the eigenvectors of the smaller of `W W^T` and `W^T W`."""
    wide = weight.shape[0] < weight.shape[1]
    squares, vectors = torch.linalg.eigh(weight @ weight.T if wide else weight.T @ weight)
    values = squares[-RANK:].flip(0).clamp(min=0).sqrt()
    leading = vectors[:, -RANK:].flip(1).T
    right = leading @ weight / values[:, None] if wide else leading
    return signed(values[:, None].sqrt() * right)


def timed(work: Callable[[Tensor], Tensor], weight: Tensor, threads: int) -> tuple[Tensor, float]:
    """Return a result, and the processor seconds that it took with so many threads."""
    torch.set_num_threads(threads)
    began = time.process_time()
    return work(weight), time.process_time() - began


def main() -> None:
    """Print the comparison."""
    torch.manual_seed(0)
    for shape in SHAPES:
        # A few large singular values over many small ones, as trained weights have them.
        large = torch.randn(shape[0], 16) @ torch.randn(16, shape[1])
        weight = 0.02 * torch.randn(shape) + 0.005 * large
        exact = by_svd(weight.double())
        for work in (by_svd, by_gram):
            (one, seconds), (two, _) = (timed(work, weight, threads) for threads in (1, 2))
            error, change = (
                float((a - b).norm() / exact.norm()) for a, b in ((one, exact), (one, two))
            )
            print(
                f"{shape} {work.__name__}: {seconds:.3f} s, error {error:.1e}, "
                f"one against two threads {change:.1e}"
            )
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for name in ("first", "further"):
        began = time.process_time()
        StopStringCriteria(tokenizer, ["\n"])
        took = 1000 * (time.process_time() - began)
        print(f"{name} detector of a stop string, {len(tokenizer)} tokens: {took:.1f} ms")


if __name__ == "__main__":
    main()
