"""Linear classifiers on features: support vector machine or logistic regression (scikit-learn)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError
from p3d.evaluation.probe_folds import divide_groups

Kind = Literal["svm", "logistic"]
Features = NDArray[np.float32]
Indices = NDArray[np.int64]

GRID = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Values of C to choose from."""
INNER_FOLDS = 3
_LOWEST = -100.0
"""Log-probability, or distance below the smallest decision value, of an impossible class."""


def check_installed() -> None:
    """Raise UserError if scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(
            "p3d probe needs scikit-learn; install it: pip install 'p3d[learn]'"
        ) from error


def normalize(values: Features) -> Features:
    """Take the signed square root of features, then scale each vector to length 1.

    Args:
        values: float32 `(V, ...)`; further axes are flattened.

    Returns:
        float32 `(V, D)`; a vector of zeros stays.
    """
    flat = values.reshape(len(values), -1)
    rooted = np.sign(flat) * np.sqrt(np.abs(flat))
    lengths = np.linalg.norm(rooted, axis=1, keepdims=True)
    return np.asarray(rooted / np.where(lengths > 0, lengths, 1), np.float32)


def _center(features: Features, unseen: Features) -> tuple[Features, Features]:
    """Subtract the mean of the training videos, and rotate into as many dimensions as there are.

    Without the mean, which is large, the solvers converge much faster. The rotation changes no
    decision value, since a linear classifier lies in the span of its training videos.
    """
    mean = features.mean(0)
    features, unseen = features - mean, unseen - mean
    if len(features) >= features.shape[1]:
        return features, unseen
    basis = np.linalg.qr(features.T.astype(np.float64))[0]
    return (features @ basis).astype(np.float32), (unseen @ basis).astype(np.float32)


@dataclass
class LinearClassifier:
    """Trains and applies linear classifiers.

    Attributes:
        kind: "svm", one linear support vector machine for each class against the others, or
            "logistic", multinomial logistic regression.
        c: Weight of the training errors against the regularization; None chooses it from `GRID` by
            cross-validation over groups.
        unconverged: Values of C whose solver stopped before it converged.
    """

    kind: Kind
    c: float | None = None
    unconverged: set[float] = field(default_factory=set)

    def logits(
        self,
        features: Features,
        labels: Indices,
        groups: Sequence[str],
        unseen: Features,
        num_classes: int,
    ) -> tuple[NDArray[np.float32], float]:
        """Train on some videos and score others.

        Args:
            features: `(V, D)`, of the training videos.
            labels: `(V,)`.
            groups: Group of each training video; "" is a group of its own.
            unseen: `(U, D)`, of the other videos.
            num_classes: Number of classes; those without training videos get the lowest scores.

        Returns:
            Decision values or log-probabilities `(U, num_classes)`, and C.

        Raises:
            UserError: There are too few groups to choose C.
        """
        features, unseen = _center(features, unseen)
        c = self._choose(features, labels, groups) if self.c is None else self.c
        model = self._fit(features, labels, c)
        if self.kind == "logistic":
            scores = np.maximum(model.predict_log_proba(unseen), _LOWEST)
        else:
            scores = model.decision_function(unseen)
        if scores.ndim == 1:  # of two classes, the decision value of the second
            scores = np.stack([-scores / 2, scores / 2], axis=1)
        logits = np.full((len(unseen), num_classes), scores.min() + _LOWEST, np.float32)
        logits[:, model.classes_] = scores
        return logits, c

    def _choose(self, features: Features, labels: Indices, groups: Sequence[str]) -> float:
        """Return the C of the highest accuracy over all inner folds; of equals, the smallest."""
        number = min(INNER_FOLDS, len({name or str(row) for row, name in enumerate(groups)}))
        if number < 2:
            raise UserError(
                f"the training videos are all in one group ({groups[0]}), so C cannot be chosen "
                "by cross-validation over groups; give --c"
            )
        right = dict.fromkeys(GRID, 0)
        for held_out in divide_groups(groups, number):
            rest = np.setdiff1d(np.arange(len(labels)), held_out)
            if len(np.unique(labels[rest])) < 2:
                continue
            for c in GRID:
                model = self._fit(features[rest], labels[rest], c)
                right[c] += int((model.predict(features[held_out]) == labels[held_out]).sum())
        return max(GRID, key=lambda c: (right[c], -c))

    def _fit(self, features: Features, labels: Indices, c: float) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC

        if self.kind == "svm":
            dual = features.shape[0] < features.shape[1]
            model = LinearSVC(C=c, dual=dual, max_iter=2000, random_state=0)
        else:
            model = LogisticRegression(C=c, max_iter=1000)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(features, labels)
        if caught:
            self.unconverged.add(c)
        return model
