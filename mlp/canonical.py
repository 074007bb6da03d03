"""The one form of a plain value: its JSON text, the digest of that, and keys that are texts."""

import hashlib
import json
from typing import Any

from mlp.errors import shown


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, no NaN.

    Example:
        >>> canonical_json({"b": 1, "a": [0.5]})
        '{"a":[0.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a plain value, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def text_keys(value: Any) -> Any:
    """A plain value whose keys are texts, at any depth: YAML reads the branch `1:` as a number.

    Example:
        >>> text_keys({"by": "model.depth", 1: [0.1], None: {"low": 2}})
        {'by': 'model.depth', '1': [0.1], 'null': {'low': 2}}
    """
    if not isinstance(value, dict):
        return value
    texts = [key if isinstance(key, str) else canonical_json(key) for key in value]
    if len(set(texts)) < len(texts):
        raise ValueError(f"must name each key once, but has {shown(list(value))}")
    return dict(zip(texts, map(text_keys, value.values()), strict=True))
