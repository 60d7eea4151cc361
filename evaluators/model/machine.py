"""Machine that lengths of programs are relative to: the files of a base model that decide outputs.

The weights alone do not pin it: with another tokenizer, chat template, config or generation config
the same weights say other things, and what is hidden in one of them would cost a program no bits.
Device, type of the weights and libraries are not parts of it, because a program's recipe names the
first two and its verification says where it ran.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Left by the library that saved or loaded the files last; they decide nothing.
_VOLATILE = frozenset(
    (
        "_from_model_config",
        "_name_or_path",
        "architectures",
        "backend",
        "chat_template",
        "dtype",
        "is_local",
        "local_files_only",
        "name_or_path",
        "padding",
        "padding_side",
        "tokenizer_file",
        "torch_dtype",
        "transformers_version",
        "truncation",
        "truncation_side",
    )
)


def machine_parts(model: Any, tokenizer: Any, weights: str) -> dict[str, str]:
    """Return a digest of each part of a base model, 16 hex digits, by the name of the part.

    Args:
        model: the loaded model.
        tokenizer: its tokenizer.
        weights: digest of its weights.
    """
    return {
        "weights": weights,
        "config": _digest(_lasting(model.config.to_diff_dict())),
        "generation config": _digest(_lasting(model.generation_config.to_diff_dict())),
        "tokenizer": _digest(_tokenizer_files(tokenizer)),
        "chat template": _digest(tokenizer.chat_template),
    }


def machine_digest(parts: Mapping[str, str]) -> str:
    """Return the digest of all parts: 16 hex digits."""
    return _digest(dict(parts))


def differing_parts(parts: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """Return the names of the parts that differ from recorded ones, as words of a sentence."""
    names = [name for name in parts if recorded.get(name) != parts[name]]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _lasting(content: Any) -> Any:
    """Return a config without what its files only carry along."""
    if not isinstance(content, dict):
        return content
    return {str(k): _lasting(v) for k, v in content.items() if k not in _VOLATILE}


def _tokenizer_files(tokenizer: Any) -> dict[str, Any]:
    """Return the content of the files of a tokenizer, which transformers writes anew."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kilobit-tokenizer-") as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).rglob("*")):
            if path.suffix == ".json":
                found[path.name] = _lasting(json.loads(path.read_text("utf-8")))
            elif path.is_file() and path.suffix != ".jinja":
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
