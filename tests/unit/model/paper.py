"""The paper's equations in float64, one utterance and one pair at a time: slow, obvious, and free of torch.

It shares no code with the package; `p` maps a weight's name to its array, as in a state_dict. Layers that the
package has side by side are told apart by `of`: theirs is the first axis, and their matrices lie the other way.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Params = Mapping[str, Array]


def below(p: Params, prefix: str) -> dict[str, Array]:
    return {name[len(prefix) :]: value for name, value in p.items() if name.startswith(prefix)}


def of(p: Params, number: int) -> dict[str, Array]:
    """The weights of one of the layers side by side, as those of a layer of its own."""
    return {
        name: value[number].T if name.endswith("weight") and value.ndim == 3 else value[number].ravel()
        for name, value in p.items()
    }


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    raised = [math.exp(score - top) for score in scores]
    return [one / sum(raised) for one in raised]


def linear(x: Array, p: Params, name: str) -> Array:
    y = p[f"{name}.weight"] @ x
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def project(x: Array, p: Params, number: int) -> Array:
    """One of the linear layers side by side."""
    mine = of(p, number)
    return mine["weight"] @ x + mine["bias"]


def relu(x: Array) -> Array:
    return np.array([max(value, 0.0) for value in x])


def layer_norm(x: Array, p: Params, name: str) -> Array:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / math.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def sees(i: int, j: int, context: int | None) -> bool:
    return context is None or (j <= i and i - j < context)


def attend(scores_of, values: Sequence[Array], context: int | None) -> list[Array]:
    found = []
    for i in range(len(values)):
        seen = [j for j in range(len(values)) if sees(i, j, context)]
        shares = softmax([scores_of(i, j) for j in seen])
        found.append(sum(share * values[j] for share, j in zip(shares, seen, strict=True)))
    return found


def attention(
    queries: Sequence[Array], keys: Sequence[Array], values: Sequence[Array], context: int | None, heads: int
) -> list[Array]:
    """Eq. 4, 7, 10; heads take consecutive slices."""
    d_k = len(queries[0]) // heads
    parts = []
    for head in range(heads):
        cut = slice(head * d_k, (head + 1) * d_k)

        def score(i: int, j: int, cut: slice = cut) -> float:
            return float(queries[i][cut] @ keys[j][cut]) / math.sqrt(d_k)

        parts.append(attend(score, [value[cut] for value in values], context))
    return [np.concatenate([part[i] for part in parts]) for i in range(len(queries))]


def add_norm(own: Array, found: Array, p: Params) -> Array:
    """Eq. 5-6, 8-9, 11-12."""
    hidden = layer_norm(own + found, p, "attention_norm")
    return layer_norm(hidden + linear(relu(linear(hidden, p, "up")), p, "down"), p, "output_norm")


def block(asking: list[Array], own: list[Array], p: Params, context: int | None, heads: int) -> list[Array]:
    queries = [linear(x, p, "query") for x in asking]
    keys, values = np.split(np.array([linear(x, p, "key_value") for x in own]), 2, axis=1)
    found = attention(queries, keys, values, context, heads)
    return [add_norm(x, y, below(p, "add_norm.")) for x, y in zip(own, found, strict=True)]


def joint(audio: list[Array], text: list[Array], p: Params, context: int | None, heads: int) -> list[Array]:
    """Eq. 13-14."""
    projections = below(p, "query_key_value.")
    Qa, Ka, Va = np.split(np.array([of(projections, 0)["weight"] @ x for x in audio]), 3, axis=1)
    Ql, Kl, Vl = np.split(np.array([of(projections, 1)["weight"] @ x for x in text]), 3, axis=1)
    values = [(a + b) / 2 for a, b in zip(Va, Vl, strict=True)]
    d_k = len(values[0]) // heads
    lambda_ = float(p["lambda_"])
    parts = []
    for head in range(heads):
        cut = slice(head * d_k, (head + 1) * d_k)

        def within(i: int, j: int, cut: slice = cut) -> float:
            return float(Qa[i][cut] @ Ka[j][cut] + Ql[i][cut] @ Kl[j][cut]) / math.sqrt(d_k)

        def across(i: int, j: int, cut: slice = cut) -> float:
            return float(Qa[i][cut] @ Kl[j][cut]) / math.sqrt(d_k)

        cut_values = [value[cut] for value in values]
        first, second = attend(within, cut_values, context), attend(across, cut_values, context)
        parts.append([a - lambda_ * b for a, b in zip(first, second, strict=True)])
    return [np.concatenate([part[i] for part in parts]) for i in range(len(values))]


def autoencode(H: Array, p: Params) -> tuple[Array, Array]:
    """Eq. 1-2: e and d."""
    e = H
    for layer in range(3):
        e = relu(linear(e, p, f"encoder.{layer}"))
    d = e
    for layer in range(3):
        d = linear(d, p, f"decoder.{layer}")
        d = relu(d) if layer < 2 else d
    return e, d


def cosine(x: Array, y: Array) -> float:
    return float(x @ y) / math.sqrt(float(x @ x)) / math.sqrt(float(y @ y))


def bcaf(
    p: Params, H_a: list[Array], H_l: list[Array], *, layers: int, heads: int, context: int | None
) -> dict[str, Array]:
    """Eq. 1-2, 4-17, 19, 21, 23 of one dialogue: logits, and everything eq. 3 needs."""
    self_a, self_l, cross_a, cross_l = H_a, H_l, H_a, H_l
    for n in range(layers):
        blocks = [of(below(p, f"bimodal.layers.{n}."), number) for number in range(4)]
        self_a = block(self_a, self_a, blocks[0], context, heads)
        self_l = block(self_l, self_l, blocks[1], context, heads)
        cross_a, cross_l = (
            block(cross_l, cross_a, blocks[2], context, heads),
            block(cross_a, cross_l, blocks[3], context, heads),
        )
    e_a, d_a = zip(*(autoencode(H, of(below(p, "latents."), 0)) for H in H_a), strict=True)
    e_l, d_l = zip(*(autoencode(H, of(below(p, "latents."), 1)) for H in H_l), strict=True)
    projections, unimodal = below(p, "correlative.projection."), below(p, "unimodal_heads.")
    star = joint(self_a, self_l, below(p, "correlative.joint."), context, heads)
    fused, joined_widths = [], set()
    for u in range(len(H_a)):
        h_b = linear(star[u], p, "correlative.fusion")
        star_a = project(self_a[u], projections, 0) * cosine(e_a[u], h_b)
        star_l = project(self_l[u], projections, 1) * cosine(e_l[u], h_b)
        x = np.concatenate([cross_a[u], cross_l[u], star_a, star_l])
        joined_widths.add(len(x))
        for layer in (0, 3, 6):
            x = relu(linear(x, p, f"fused_head.{layer}"))
        fused.append(linear(x, p, "fused_head.9"))
    return {
        "fused": np.array(fused),
        "audio": np.array([project(x, unimodal, 0) for x in self_a]),
        "text": np.array([project(x, unimodal, 1) for x in self_l]),
        "e_a": np.array(e_a),
        "d_a": np.array(d_a),
        "e_l": np.array(e_l),
        "d_l": np.array(d_l),
        "joined": np.array(sorted(joined_widths)),
    }


def frobenius(A: Array) -> float:
    return sum(float(value) ** 2 for row in A for value in row)


def cross_product(x: Array, y: Array) -> Array:
    """x^T y, entry by entry."""
    width = x.shape[1]
    return np.array([[sum(x[n, i] * y[n, j] for n in range(len(x))) for j in range(width)] for i in range(width)])


def standardised(x: Array) -> Array:
    out = np.empty_like(x)
    for feature in range(x.shape[1]):
        column = x[:, feature]
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        out[:, feature] = (column - mean) / math.sqrt(variance + 1e-5)
    return out


def printed_connection_loss(
    H_a: Array, d_a: Array, H_l: Array, d_l: Array, e_a: Array, e_l: Array, mu: float
) -> float:
    """Eq. 3 to the letter."""
    latent = frobenius(np.eye(e_a.shape[1]) - cross_product(e_a, e_l))
    rebuilt = frobenius(np.eye(d_a.shape[1]) - cross_product(d_a, d_l))
    return frobenius(H_a - d_a) + frobenius(H_l - d_l) + mu * (latent - rebuilt)


def stable_connection_loss(
    H_a: Array, d_a: Array, H_l: Array, d_l: Array, e_a: Array, e_l: Array, mu: float
) -> float:
    """mean((H_a - d_a)^2) + mean((H_l - d_l)^2) + mu (S(e_a, e_l) + S(d_a, d_l)), standardised."""
    N, E, D = len(e_a), e_a.shape[1], d_a.shape[1]
    latent = frobenius(np.eye(E) - cross_product(standardised(e_a), standardised(e_l)) / N) / E
    rebuilt = frobenius(np.eye(D) - cross_product(standardised(d_a), standardised(d_l)) / N) / D
    return frobenius(H_a - d_a) / H_a.size + frobenius(H_l - d_l) / H_l.size + mu * (latent + rebuilt)
