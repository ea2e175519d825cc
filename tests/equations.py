"""The paper's equations in float64, in NumPy except convolution and upsampling, one function each.

Written as the equations stand and with loops over samples and heads; padding words are left out, not masked.
``w`` holds a Cell's weights by name, Dense weights as (out, in).
"""

from __future__ import annotations

import numpy as np
import torch

Weights = dict[str, np.ndarray]


def under(w: Weights, prefix: str) -> Weights:
    """Weights whose names start with ``prefix``, by the rest of their names."""
    return {name[len(prefix) + 1 :]: value for name, value in w.items() if name.startswith(prefix + ".")}


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer_norm(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.gamma"] + w[f"{name}.beta"]


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    """Multi-head attention of one sample: query (L, D), key and value (S, D) -> (L, D)."""
    results = []
    for q, k, v in zip(*(np.split(x, heads, axis=-1) for x in (query, key, value))):
        results.append(softmax(q @ k.T / np.sqrt(q.shape[-1])) @ v)
    return np.concatenate(results, -1)


def gate(f: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Eq 6, and the gate."""
    opening = np.tanh(linear(np.maximum(linear(f, w, "fc1"), 0), w, "fc2"))
    return opening * f, opening


def token_norm(x: np.ndarray) -> np.ndarray:
    """Tokens (L, C) minus their mean, divided by the RMS of what is left."""
    deviation = x - x.mean(0)
    return deviation / np.sqrt(np.square(deviation).mean() + 1e-12)


def word_pixel_alignment(
    pixels: np.ndarray, words: np.ndarray, token_mask: np.ndarray, w: Weights, normed: bool = False
):
    """Eq 1, 2, 4, 5: V + L', L + V', both attentions, and the mean magnitude of both gates.

    In one direction V' and its gate are 0. With `normed`, tokens are normalised before they are compared, and what they
    attended to before its gate.
    """
    fused_pixels, fused_words = pixels.copy(), words.copy()
    over_words = np.zeros((len(pixels), pixels.shape[1], words.shape[1]))
    over_pixels = np.zeros((len(pixels), words.shape[1], pixels.shape[1]))
    openings = np.zeros((2, len(pixels)))
    for b, real in enumerate(token_mask == 1):
        compared = [pixels[b], words[b].copy()]
        if normed:
            compared[0], compared[1][real] = token_norm(pixels[b]), token_norm(words[b][real])
            compared[1][~real] = 0
        v, l_hat = linear(compared[0], w, "image_proj"), linear(compared[1], w, "text_proj")
        scores = v @ l_hat.T / np.sqrt(v.shape[-1])
        over_words[b][:, real] = softmax(scores[:, real])
        over_pixels[b] = softmax(scores.T)
        to_pixels = linear(over_words[b][:, real] @ l_hat[real], w, "text_to_image")
        if normed:
            to_pixels = layer_norm(to_pixels, w, "text_to_image_norm")
        gated, opening = gate(to_pixels, under(w, "image_gate"))
        fused_pixels[b] += gated
        openings[0, b] = np.abs(opening).mean()
        if "image_to_text.weight" in w:
            to_words = linear(over_pixels[b] @ v, w, "image_to_text")
            if normed:
                to_words = layer_norm(to_words, w, "image_to_text_norm")
            gated, opening = gate(to_words[real], under(w, "text_gate"))
            fused_words[b][real] += gated
            openings[1, b] = np.abs(opening).mean()
    return fused_pixels, fused_words, over_words, over_pixels, *openings


def cross_attention(
    pixels: np.ndarray, words: np.ndarray, token_mask: np.ndarray, heads: int, w: Weights
) -> np.ndarray:
    """Eq 7, 8: self-attention over pixels and real words; the rows of the pixels are kept."""
    results = []
    for v_o, l_o, real in zip(pixels, words, token_mask == 1):
        image = linear(v_o, w, "image_proj") + w["position_embedding"][0]
        f_o = np.concatenate([image, linear(l_o[real], w, "text_proj")])
        fused = attention(*(linear(f_o, w, name) for name in ("query", "key", "value")), heads)
        added = linear(fused, w, "output")[: len(v_o)]
        results.append((layer_norm(added, w, "output_norm") if "output_norm.gamma" in w else added) + v_o)
    return np.stack(results)


def mask_generator(
    pixels: np.ndarray, layers: int, heads: int, w: Weights, places: np.ndarray | None = None
) -> np.ndarray:
    """Eq 9: a post-norm transformer decoder on the learned queries.

    With the encodings `places` of the pixels, S_o is normalised over its tokens, and queries and places are added to
    queries and keys of each attention.
    """

    def attend(q, source, names):
        keys = source
        if places is not None:
            keys = source + (w["queries"] if source is q else places)
            q = q + w["queries"]
        projected = linear(q, names, "query"), linear(keys, names, "key"), linear(source, names, "value")
        return linear(attention(*projected, heads), names, "output")

    results = []
    for s_o in pixels:
        memory, q = linear(s_o if places is None else token_norm(s_o), w, "memory_proj"), w["queries"]
        for i in range(layers):
            layer = under(w, f"layers.{i}")
            q = layer_norm(q + attend(q, q, under(layer, "self_attention")), layer, "norm1")
            q = layer_norm(q + attend(q, memory, under(layer, "cross_attention")), layer, "norm2")
            q = layer_norm(q + linear(np.maximum(linear(q, layer, "fc1"), 0), layer, "fc2"), layer, "norm3")
        results.append(q)
    return np.stack(results)


def convolution(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """(B, C, h, w) -> (B, C', h, w), by PyTorch: a kernel of odd size and zero padding."""
    kernel, bias = torch.from_numpy(w[f"{name}.weight"]), torch.from_numpy(w[f"{name}.bias"])
    return torch.nn.functional.conv2d(torch.from_numpy(x), kernel, bias, padding=kernel.shape[-1] // 2).numpy()


def batch_norm(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    """Batch normalisation with the moving statistics."""
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    mean, variance, gamma, beta = (w[f"{name}.{part}"][:, None, None] for part in names)
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def upsample(x: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear with half-pixel centres and clamped edges, by PyTorch."""
    return torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=factor, mode="bilinear").numpy()


def seg_head(fused: np.ndarray, stages: list[np.ndarray], w: Weights) -> np.ndarray:
    """Eq 10."""
    y = fused
    for i in (4, 3, 2, 1):
        rho = under(w, f"rho.{i - 1}")
        for k in (1, 2):
            y = batch_norm(np.maximum(convolution(y, rho, f"conv{k}"), 0), rho, f"bn{k}")
        y = y if i == 4 else upsample(y, 2)
        y = y + convolution(stages[i - 1], w, f"gamma.{i - 1}")
    return y


def sentence_mask_alignment(
    queries: np.ndarray, pixels: np.ndarray, sentence: np.ndarray, temperature: float, w: Weights
):
    """Eq 11, 12: M (B, h, w), Q_w (B, N), Y_N (B, N, h, w)."""
    q_hat = linear(queries, w, "query_proj")
    cosine = (q_hat @ sentence[:, :, None])[:, :, 0]
    cosine /= np.linalg.norm(q_hat, axis=-1) * np.linalg.norm(sentence, axis=-1, keepdims=True)
    weights = softmax(cosine / temperature)
    y_hat = linear(pixels.transpose(0, 2, 3, 1), w, "pixel_proj")
    masks = np.einsum("bhwd,bnd->bnhw", y_hat, q_hat)
    return (masks * weights[:, :, None, None]).sum(1), weights, masks
