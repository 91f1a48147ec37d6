"""Keras' attention between two sequences. Sources: keras/src/layers/attention of Keras 3.15."""

from __future__ import annotations

from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.models.keras.activations import softmax
from numlstm.models.keras.layers import layer
from numlstm.models.keras.signal import Context, Function, Json, Signal, Signals, Weights

FAR = 1e9  # subtracted from the scores of masked steps


@layer("Attention", "AdditiveAttention", weights=("use_scale:scale", "?concat_score_weight"))
def _attention(config: Json, weights: Weights, context: Context) -> Function:
    scale, whole = weights.get("scale"), weights.get("concat_score_weight", 1)
    is_additive, mode = config["class_name"] == "AdditiveAttention", config.get("score_mode", "dot")

    def scored(query: Array, key: Array) -> Array:
        if not is_additive and mode == "dot":
            scores: Array = query @ key.swapaxes(-2, -1)
            return scores if scale is None else scores * scale
        pairs = query[..., :, None, :] + key[..., None, :, :]
        if is_additive:
            terms = np.tanh(pairs)
            scores = (terms if scale is None else terms * scale).sum(axis=-1)
            return scores
        return np.asarray(whole * np.tanh(pairs if scale is None else scale * pairs).sum(axis=-1))

    def attend(
        signals: list[Signal],
        mask: Any = None,
        *,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Signals:
        query, value = signals[0].array, signals[1].array
        key = signals[2].array if len(signals) > 2 else value
        of_query, of_value = (signals[at].mask for at in (0, 1))
        if mask is not None:
            of_query, of_value = (None if each is None else each.array.astype(bool) for each in mask[:2])
        scores = scored(query, key)
        kept = None if of_value is None else of_value[..., None, :]
        if use_causal_mask:
            causal = np.tri(*scores.shape[-2:]).astype(bool)
            kept = causal if kept is None else kept & causal
        if kept is not None:
            scores = np.where(kept, scores, scores - scores.dtype.type(FAR))
        shares = softmax(scores)
        y = shares @ value
        if of_query is not None:
            y = np.where(of_query[..., None], y, y.dtype.type(0))
        attended = Signal(y, of_query)
        return [attended, Signal(shares)] if return_attention_scores else attended

    return attend


_PARTS = [
    f"{part}_dense/{name}" for part in ("query", "key", "value", "output") for name in ("kernel", "use_bias:bias")
]


@layer("MultiHeadAttention", weights=tuple(_PARTS))
def _multi_head(config: Json, weights: Weights, context: Context) -> Function:
    if config.get("attention_axes") not in (None, [1]) or config.get("use_gate") or config.get("sliding_window"):
        raise ValueError("its attention_axes, use_gate or sliding_window are set, which is not supported")
    root = context.dtype.type(1 / float(config["key_dim"]) ** 0.5)

    def projected(x: Array, part: str) -> Array:
        """(batch, heads, steps, size of a head)."""
        y: Array = np.einsum("btf,fhd->bhtd", x, weights[f"{part}_dense/kernel"], optimize=True)
        bias = weights.get(f"{part}_dense/bias")
        return y if bias is None else np.add(y, bias[:, None])

    def attend(
        query: Signal,
        value: Signal,
        key: Signal | None = None,
        *,
        attention_mask: Signal | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
        **masks: Any,
    ) -> Signals:
        if any(given is not None for given in masks.values()):
            raise ValueError(f"its arguments {', '.join(masks)} are not supported")
        key = value if key is None else key
        scores = projected(query.array, "query") * root @ projected(key.array, "key").swapaxes(-2, -1)
        kept: Any = None if attention_mask is None else np.asarray(attention_mask.array, bool)
        kept = kept[:, None] if kept is not None and kept.ndim == 3 else kept
        for own in (
            None if query.mask is None else query.mask[:, None, :, None],
            None if value.mask is None else value.mask[:, None, None, :],
            None if key.mask is None or key is value else key.mask[:, None, None, :],
            np.tri(*scores.shape[-2:]).astype(bool) if use_causal_mask else None,
        ):
            if own is not None:
                kept = own if kept is None else kept & own
        if kept is not None:
            scores = np.where(kept, scores, scores - scores.dtype.type(FAR))
        shares = softmax(scores)
        mixed = shares @ projected(value.array, "value")
        y = np.einsum("bhtd,hdf->btf", mixed, weights["output_dense/kernel"], optimize=True)
        if "output_dense/bias" in weights:
            y = y + weights["output_dense/bias"]
        attended = Signal(y, query.mask)
        return [attended, Signal(shares)] if return_attention_scores else attended

    return attend
