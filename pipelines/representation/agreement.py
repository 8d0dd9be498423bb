"""Do classes mean something? Agreement with known factors, and what a linear probe reads from features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import entropy
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import mutual_info_score

from pipelines.representation.params import KnownFactors
from pipelines.representation.spectrum import standardised
from pipelines.representation.spreads import LEFT_OUT, Found, Labellings, Metric, Unavailable, with_spreads

PREFIX = "factor_"


def factor_labels(index: pd.DataFrame, known: KnownFactors) -> dict[str, np.ndarray]:
    """Integer labels [N] of every factor of the data, and of the combinations ``identity`` and ``motion``.

    Factors with one value, with missing values, or that the data does not have are left out.
    """
    columns = {str(name).removeprefix(PREFIX): index[name] for name in index.columns if str(name).startswith(PREFIX)}
    columns = {name: column.astype(str) for name, column in columns.items() if not bool(column.hasnans)}
    for combined in ("identity", "motion"):
        names = getattr(known, combined)
        if all(name in columns for name in names) and names:
            columns[combined] = pd.Series(
                ["/".join(row) for row in zip(*(columns[name] for name in names), strict=True)]
            )
    labels = {name: pd.factorize(column, sort=True)[0] for name, column in columns.items()}
    return {name: values for name, values in labels.items() if values.max(initial=0) > 0}


def missing_factors(factors: Mapping[str, np.ndarray], known: KnownFactors) -> dict[str, str]:
    """Why ``identity`` or ``motion`` is not among the factors of :func:`factor_labels`, as ``unavailable`` entries."""
    if not factors:
        return {"agreement": "the data has no known factors (columns factor_*) that vary"}
    has = ", ".join(sorted(factors.keys() - {"identity", "motion"}))
    asked = {"identity": known.identity, "motion": known.motion}
    return {
        f"agreement/{label}": f"known_factors.{label} is [{', '.join(names)}]; the data has {has}"
        for label, names in asked.items()
        if label not in factors
    }


def contingency(labels: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Samples per class and value [K, F], of numbers from 0 (one pass: scikit-learn sorts both for every metric).

    Raises:
        Unavailable: there is no sample.
    """
    if not len(labels):
        raise Unavailable("no samples")
    values = int(factor.max()) + 1
    cells = labels.astype(np.int64) * values + factor
    return np.bincount(cells, minlength=(int(labels.max()) + 1) * values).reshape(-1, values)


def _entropies(table: np.ndarray) -> list[float]:
    """H(Y) and H(F) of a contingency table, the smaller first."""
    return sorted(float(entropy(table.sum(axis))) for axis in (0, 1))


def nmi_of(table: np.ndarray) -> float:
    """Normalised mutual information I(Y; F) / ((H(Y) + H(F)) / 2) of a contingency table, in [0, 1].

    Raises:
        Unavailable: both have one value, so there is nothing to agree on.
    """
    entropies = sum(_entropies(table))
    if not entropies > 0:
        raise Unavailable("classes and factor have one value each")
    return min(1.0, 2 * float(mutual_info_score(None, None, contingency=table)) / entropies)


def ari_of(table: np.ndarray) -> float:
    """Adjusted Rand index of a contingency table (Hubert and Arabie 1985): pairs of samples that are together in both,
    less those expected by chance, over the same of a perfect match; 0 by chance, 1 equal.

    Raises:
        Unavailable: all samples are together in both, or none are in either: any two such labellings match.
    """

    def pairs(counts: np.ndarray) -> float:
        exact = counts.astype(np.float64)
        return float((exact * (exact - 1) / 2).sum())

    together, left, right = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = left * right / max(pairs(table.sum(keepdims=True)), 1.0)
    most = (left + right) / 2
    if most == expected:
        raise Unavailable("both labellings have one class, or nothing but classes of one sample")
    return (together - expected) / (most - expected)


def nmi(labels: np.ndarray, factor: np.ndarray) -> float:
    """:func:`nmi_of` labels and a factor."""
    return nmi_of(contingency(labels, factor))


def nmi_most(labels: np.ndarray, factor: np.ndarray) -> float:
    """2 min(H(Y), H(F)) / (H(Y) + H(F)): the most :func:`nmi` that labels with these class sizes could have, because
    I(Y; F) is at most either entropy. Below 1 where there are more classes than values of the factor, or fewer.

    Raises:
        Unavailable: both have one value.
    """
    low, high = _entropies(contingency(labels, factor))
    if not high > 0:
        raise Unavailable("classes and factor have one value each")
    return 2 * low / (low + high)


def agreements(factors: Mapping[str, np.ndarray], given: Labellings) -> dict[str, dict[str, float]]:
    """``nmi`` and ``ari`` (adjusted Rand index: 0 by chance, 1 equal) of the classes with every factor, each with its
    chance level and spreads (:mod:`pipelines.representation.spreads`); ``nmi_most`` (:func:`nmi_most`)."""

    def metric(factor: np.ndarray) -> Metric:
        def measured(labels: np.ndarray) -> Found:
            kept = labels != LEFT_OUT
            table = contingency(labels[kept], factor[kept])
            return {"nmi": nmi_of(table), "ari": ari_of(table)}

        return measured

    return {
        name: {**with_spreads(name, metric(values), given).values, "nmi_most": nmi_most(given.classes, values)}
        for name, values in factors.items()
    }


def probe(
    features: np.ndarray, factors: Mapping[str, np.ndarray], train: np.ndarray, ridge: float
) -> dict[str, dict[str, float]]:
    """Accuracy on held-out samples of a ridge classifier on standardised features, per factor.

    Args:
        features: [N, D]. train: bool [N]; the others are held out. ridge: penalty times the number of train samples.

    Returns:
        Per factor ``accuracy``, ``accuracy_chance`` (of always saying the most frequent train value) and
        ``accuracy_std`` (binomial). Factors with one value in train are left out.

    Raises:
        Unavailable: values that are not finite.
    """
    if not np.isfinite(features).all():
        raise Unavailable("values that are not finite")
    values = standardised(features)
    found = {}
    for name, factor in factors.items():
        if len(np.unique(factor[train])) < 2 or train.all():
            continue
        model = RidgeClassifier(alpha=ridge * int(train.sum())).fit(values[train], factor[train])
        accuracy = float(model.score(values[~train], factor[~train]))
        frequent = np.bincount(factor[train]).argmax()
        found[name] = {
            "accuracy": accuracy,
            "accuracy_chance": float((factor[~train] == frequent).mean()),
            "accuracy_std": float(np.sqrt(accuracy * (1 - accuracy) / (~train).sum())),
        }
    return found
