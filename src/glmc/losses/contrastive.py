"""Contrastive losses of embeddings: who attracts whom, and who stands in the denominator.

Each is `contrast` of a table of scores, one row for each anchor and one column for each candidate. Anchors may be a
part of the candidates: where a batch is spread over machines, each takes its own anchors and the gathered candidates,
and the mean of their gradients is that of the whole batch.
"""

import torch
from torch import Tensor

from glmc.losses.base import precise


def similarities(anchors: Tensor, pool: Tensor, temperature: float) -> Tensor:
    """Inner products over a temperature: float [A, E] and [M, E] -> [A, M], in float32 or better."""
    with torch.autocast(anchors.device.type, enabled=False):
        return precise(anchors) @ precise(pool).T / temperature


def left_out(mask: Tensor) -> Tensor:
    """Logarithms of weights in a denominator: -inf where bool [...] is true, else 0; float32 [...]."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -torch.inf)


def contrast(scores: Tensor, positives: Tensor, log_weight: Tensor) -> Tensor:
    """Mean over anchors i of -sum_j q_ij log p_ij, with p_ij = exp(s_ij) / sum_k w_ik exp(s_ik).

    Shape:
        scores      float [A, M]  similarity over temperature, or logits
        positives   float [A, M]  >= 0; each row divided by its sum gives q. A row of zeros contributes no loss
        log_weight  float [A, M]  log w; -inf leaves a candidate out of the denominator, and one of each row must stay
        output      float []      nats
    """
    log_p = scores - (scores + log_weight).logsumexp(1, keepdim=True)
    mass = positives.sum(1)
    each = -(positives * log_p).sum(1) / torch.where(mass > 0, mass, 1)
    return each.mean()


def supervised_contrastive(
    anchors: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor, places: Tensor, temperature: float
) -> Tensor:
    """SupCon: all candidates of an anchor's class attract it. Khosla et al., NeurIPS 2020, arXiv:2004.11362, eq. 2.

    Shape:
        anchors      float [A, E]  of length 1
        labels       int64 [A]
        pool         float [M, E]  candidates, the anchors among them
        pool_labels  int64 [M]
        places       int64 [A]     where each anchor stands in the pool: there it is left out
        output       float []
    """
    itself = places[:, None] == torch.arange(len(pool), device=places.device)  # [A, M]
    same = (labels[:, None] == pool_labels) & ~itself
    scores = similarities(anchors, pool, temperature)
    return contrast(scores, same.to(scores.dtype), left_out(itself))


def instance_contrastive(
    queries: Tensor, keys: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor, temperature: float
) -> Tensor:
    """MoCo beside labels: its own key attracts a query, keys of other classes repel it, others of its class do neither.

    He et al., CVPR 2020, arXiv:1911.05722, eq. 1; without negatives of the same class it is that of SSD (Li et al.,
    ICCV 2021, arXiv:2109.04075).

    Shape:
        queries      float [B, E]  of length 1
        keys         float [B, E]  of length 1, of the same images; no gradient
        labels       int64 [B]
        pool         float [K, E]  earlier keys
        pool_labels  int64 [K]     below 0 where a place in the pool is still empty, which counts for nothing
        output       float []
    """
    own = torch.eye(len(queries), len(queries) + len(pool), dtype=torch.bool, device=queries.device)  # [B, B + K]
    candidates = torch.cat([labels, pool_labels])  # [B + K]
    ignored = ~own & ((labels[:, None] == candidates) | (candidates < 0))
    scores = similarities(queries, torch.cat([keys.to(pool.dtype), pool]), temperature)
    return contrast(scores, own.to(scores.dtype), left_out(ignored))


def balanced_contrastive(z: Tensor, labels: Tensor, centres: Tensor, temperature: float) -> Tensor:
    """BCL: one centre of each class joins the batch, and every class has the same share in the denominator.

    Zhu et al., CVPR 2022, arXiv:2207.09052, section 3: class complement and class averaging. A class with N_c
    candidates, its centre included, is divided by N_c, and an anchor's own class, which lacks the anchor, by N_c - 1.

    Shape:
        z        float [A, E]  anchors, of length 1
        labels   int64 [A]
        centres  float [C, E]  of length 1; candidates, not anchors
        output   float []
    """
    classes = torch.arange(len(centres), device=labels.device)
    pool_labels = torch.cat([labels, classes])  # [M], M = A + C
    itself = torch.eye(len(z), len(pool_labels), dtype=torch.bool, device=z.device)  # [A, M]
    same = labels[:, None] == pool_labels  # [A, M]
    sizes = (pool_labels[:, None] == pool_labels).sum(0)  # [M], N of each candidate's class
    scores = similarities(z, torch.cat([z, centres]), temperature)
    log_weight = left_out(itself) - (sizes - same.long()).to(scores.dtype).log()  # N - 1 >= 1: the centre is there
    return contrast(scores, (same & ~itself).to(scores.dtype), log_weight)


def parametric_contrastive(
    centres: Tensor,
    similar: Tensor,
    labels: Tensor,
    pool_labels: Tensor,
    *,
    alpha: float,
    smoothing: float = 0.0,
) -> Tensor:
    """PaCo: learnt class centres and embeddings in one softmax. Cui et al., ICCV 2021, arXiv:2107.12028, eq. 4 and 5.

    The own centre attracts with weight 1, each embedding of the class with weight alpha, in proportion.

    Args:
        centres: float [A, C], logits of the centres with the log prior, not divided by a temperature.
        similar: float [A, M], similarities to the pool, whose first A are the anchors themselves.
        labels: int64 [A].
        pool_labels: int64 [M]; below 0 where a place in the pool is still empty, which counts for nothing.
        alpha: weight of an embedding beside that of a centre.
        smoothing: share of the centres' weight that is spread evenly over all of them, in [0, 1).

    Returns:
        float [].
    """
    itself = torch.eye(*similar.shape, dtype=torch.bool, device=similar.device)  # [A, M]
    same = (labels[:, None] == pool_labels) & ~itself
    own = (labels[:, None] == torch.arange(centres.shape[1], device=labels.device)).to(similar.dtype)  # [A, C]
    own = (1 - smoothing) * own + smoothing / centres.shape[1]
    positives = torch.cat([own, alpha * same.to(similar.dtype)], 1)  # [A, C + M]
    log_weight = torch.cat([torch.zeros_like(own), left_out(itself | (pool_labels < 0))], 1)
    return contrast(torch.cat([precise(centres), similar], 1), positives, log_weight)
