"""A VQ codebook: VQ-VAE's dictionary, learned by moving averages over batches (arXiv:1711.00937, appendix A.1).

With n_k and s_k the number and the sum of a batch's samples of code k, and d the decay,

    N_k <- d N_k + (1 - d) n_k,   m_k <- d m_k + (1 - d) s_k,   c_k = m_k / N_k.

A code whose average use N_k falls below ``revive_below`` times even use is dead and is moved to a random sample of the
batch (as in arXiv:2005.00341, section 3.1). How it differs from k-means: it sees batches, not all samples at once, so
it costs ``steps`` batches whatever the number of samples and can go on when data arrives; it does not settle in a
minimum of the inertia, and revival pulls use towards even. The start is the same.
"""

from __future__ import annotations

import numpy as np
import torch

from pipelines import stage
from pipelines.representation.kmeans import start
from pipelines.representation.params import Vq
from pipelines.representation.passes import Codebook, Samples, check_count, classified, nearest, without_empty
from pipelines.representation.ranks import Ranks


def fit(samples: Samples, num_classes: int, params: Vq, seed: int, ranks: Ranks) -> Codebook:
    """Train the codes on ``steps`` batches; classes that are empty in the end are filled as in k-means.

    Raises:
        StageError: there are fewer samples, or fewer different samples, than classes.
    """
    check_count(samples, num_classes)
    rng = np.random.default_rng(seed)
    size = min(params.batch_size, len(samples))
    even = size / num_classes
    centres = start(samples, num_classes, seed, ranks).astype(np.float64)
    use, sums = np.full(num_classes, even), even * centres
    for step in range(params.steps):
        batch = rng.choice(samples.rows, size, replace=False)
        own = np.sort(batch[ranks.rank :: ranks.count])
        values = torch.from_numpy(np.asarray(samples.h[own], dtype=np.float32)).to(ranks.device)
        labels, _ = nearest(values, torch.from_numpy(centres.astype(np.float32)).to(ranks.device))
        found, added = classified(labels, values, num_classes)
        packed = ranks.summed(np.concatenate([found.cpu().numpy()[:, None], added.double().cpu().numpy()], axis=1))
        use = params.decay * use + (1 - params.decay) * packed[:, 0]
        sums = params.decay * sums + (1 - params.decay) * packed[:, 1:]
        dead = np.flatnonzero(use < params.revive_below * even)
        if dead.size:
            use[dead] = even
            sums[dead] = even * samples.h[rng.choice(batch, len(dead), replace=len(dead) > len(batch))]
        centres = sums / use[:, None]
        stage.report(step + 1, params.steps, "steps", dead=float(dead.size))
    filled, last = without_empty(samples, centres.astype(np.float32), ranks)
    return Codebook(filled, last.inertia)
