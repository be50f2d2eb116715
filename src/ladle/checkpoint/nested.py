"""The state dict among the other things that a training keeps in its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ladle.checkpoint.base import Envelope

EMA = {
    "state_dict_ema": "state_dict",
    "model_ema": "model",
    "ema_state_dict": "state_dict",
    "ema": "model",
    "params_ema": "params",
}
"""Where frameworks keep an average, and where its weights are at home when there is none."""

LIVE = ("state_dict", "model_state_dict", "model", "module", "params", "state")
"""Where frameworks keep weights, in the order in which they are looked for."""

_LIGHTNING_LIVE = "current_model_state"
"""Beside it, Lightning's `WeightAveraging` keeps the average under `state_dict`."""

PLACES = frozenset((*EMA, *LIVE, _LIGHTNING_LIVE))
"""Every key that may hold weights."""

_TRAINING = re.compile(
    r"optim|sched|scaler|rng|random|loops|callbacks|epoch|step|iter|loss|metric|score|best"
    r"|averaging_state|dataloader|train_state",
    re.IGNORECASE,
)
"""Names of what belongs to a training under way, not to the model that came out of it."""

_DEPTH = 4

_MOST_VALUES = 100_000
_DEEPEST_VALUE = 30


@dataclass(frozen=True)
class Found:
    """A state dict, the keys that lead to it, and whether it is an average beside others."""

    key: tuple[str, ...]
    state: Mapping[str, Any]
    is_ema: bool


def find_state(
    content: object, is_tensor: Callable[[object], bool], *, use_ema: bool
) -> Found | str:
    """The state dict in what a file held: `content` itself, or something in it.

    Where there are several, an exponential moving average is preferred, or with `use_ema` False
    left aside. Without any, the answer is a sentence's end that says why.
    """
    if not isinstance(content, Mapping) or not content:
        return f"holds {type(content).__name__}, not a state dict"
    found = _search(content, is_tensor, use_ema, _DEPTH)
    if found is not None:
        return found
    states = [
        str(key)
        for key, value in content.items()
        if _is_state(value, is_tensor) and not _TRAINING.search(str(key))
    ]
    if len(states) == 1:
        return Found((states[0],), content[states[0]], is_ema=False)
    if states:
        return (
            f"holds several state dicts ({', '.join(sorted(states)[:5])}); save the one to average "
            "on its own"
        )
    named = {key for key, value in content.items() if isinstance(key, str) and is_tensor(value)}
    others = sorted(str(key) for key in content if key not in named)[:5]
    return (
        f"is no state dict and has none where it is looked for ({', '.join((*LIVE, *EMA))}): "
        f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} no named tensor; save the "
        "model's state_dict() alone"
    )


def _search(
    content: Mapping[Any, Any], is_tensor: Callable[[object], bool], use_ema: bool, depth: int
) -> Found | None:
    if _is_state(content, is_tensor):
        return Found((), content, is_ema=False)
    keys = [(key, True) for key in EMA if use_ema] + [(key, False) for key in LIVE]
    if _LIGHTNING_LIVE in content:
        # The other way round: the average has the usual name.
        keys = [("state_dict", True)] if use_ema else [(_LIGHTNING_LIVE, False)]
    for key, is_ema in keys:
        value = content.get(key)
        if isinstance(value, Mapping) and depth:
            inner = _search(value, is_tensor, use_ema, depth - 1)
            if inner is not None:
                return Found((key, *inner.key), inner.state, is_ema or inner.is_ema)
    return None


def _is_state(content: object, is_tensor: Callable[[object], bool]) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and is_tensor(value) for key, value in content.items())
    )


def plain_values(content: object, number: Callable[[object], object]) -> Any:
    """Numbers, texts, lists and dictionaries in `content`; whatever else is in there is left out.

    `number` turns a tensor of one element into its value, and anything else into itself. What lies
    too deep, or comes after too much, is left out too: a list may hold itself.
    """
    room = _MOST_VALUES

    def plain(value: object, depth: int) -> Any:
        nonlocal room
        value = number(value)
        room -= 1
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if depth and room > 0 and isinstance(value, Mapping):
            inner = {key: plain(item, depth - 1) for key, item in value.items()}
            return {
                str(key): item
                for key, item in inner.items()
                if item is not _NOTHING and isinstance(key, (str, int))
            }
        if depth and room > 0 and isinstance(value, (list, tuple)):
            items = (plain(item, depth - 1) for item in value)
            return [item for item in items if item is not _NOTHING]
        return _NOTHING

    return plain(content, _DEEPEST_VALUE)


_NOTHING = object()


def live_key(key: tuple[str, ...]) -> tuple[str, ...]:
    """The key under which weights are looked for that are not an average."""
    homes = {**EMA, _LIGHTNING_LIVE: "state_dict"}
    return tuple(homes.get(part, part) for part in key)


def enclosed(state: Mapping[str, Any], envelope: Envelope) -> Mapping[str, Any]:
    """A state dict as it was found: in its place, with what describes the model beside it."""
    content = state
    for part in reversed(live_key(envelope.key)):
        content = {part: content}
    model = {key: value for key, value in envelope.values.items() if not _TRAINING.search(key)}
    return {**model, **content}
