"""The convex programs behind the predictions, solved by cvxpy: oracles for a few classes (extra `convex`)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import ExtraError, SettingError
from deltagram.geometry.problem import Problem

_CLASSES = 64  # more take hours
_TOKENS = 160  # words and contexts together


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """`product` is X = W M^T N^(1/2), (class, class); `bias` (class) or None; `value` the objective's."""

    product: F64
    bias: F64 | None
    value: float

    def logits(self, counts: ArrayLike) -> F64:
        """W M^T, (class, class)."""
        found: F64 = self.product / np.sqrt(np.asarray(counts, np.float64))
        return found


def margin_program(problem: Problem, *, free_bias: bool = False, solver: str = "CLARABEL") -> Solved:
    """The cost-sensitive margin problem, Eqs. (4a) and (4b) of arXiv 2303.07608: least nuclear norm with margins of 1.

    `label_scale_y (class_scale_y z_y - class_scale_c z_c) >= 1`, and with `free_bias` `b_y - b_c` added (plain
    cross-entropy only). Raises SettingError for more than 64 classes and for a bias with scales, ExtraError without
    cvxpy.
    """
    cp, k = _cvxpy(problem)
    product = cp.Variable((k, k))
    bias = cp.Variable(k) if free_bias else None
    scaled = np.ptp(problem.class_scale) > 0 or np.ptp(problem.label_scale) > 0
    if free_bias and scaled:
        raise SettingError("free_bias", "with class or label scales", expected="plain cross-entropy")
    logits = product @ np.diag(1 / np.sqrt(problem.counts))
    rules = []
    for y in range(k):
        own = problem.class_scale[y] * logits[y, y] + (bias[y] if bias is not None else 0)
        for c in range(k):
            if c != y:
                other = problem.class_scale[c] * logits[c, y] + (bias[c] if bias is not None else 0)
                rules.append(problem.label_scale[y] * (own - other) >= 1)
    return _solved(cp, cp.Problem(cp.Minimize(cp.normNuc(product)), rules), product, bias, solver)


def ridge_program(problem: Problem, ridge: float, *, solver: str = "CLARABEL") -> Solved:
    """Ridge-regularised cross-entropy in X, as `path` solves it. Raises as `margin_program`."""
    cp, k = _cvxpy(problem)
    product = cp.Variable((k, k))
    loss = 0
    for y in range(k):
        z = product[:, y] / np.sqrt(problem.counts[y])
        s = problem.label_scale[y] * cp.multiply(problem.class_scale, z) + problem.offset
        loss = loss + problem.counts[y] * problem.weight[y] * (cp.log_sum_exp(s) - s[y])
    return _solved(cp, cp.Problem(cp.Minimize(loss + ridge * cp.normNuc(product))), product, None, solver)


@dataclass(frozen=True, kw_only=True, eq=False)
class SolvedGram:
    """`gram` of the features (class, class), `value` the objective's."""

    gram: F64
    value: float


def contrastive_program(
    counts: ArrayLike,
    *,
    temperature: float,
    prototypes: ArrayLike | None = None,
    copies: ArrayLike = 0.0,
    solver: str = "CLARABEL",
) -> SolvedGram:
    """The supervised contrastive loss of free unit features over the Gram matrix of a vector a class (`gramprogram`).

    With `prototypes` (class, feature; features of any dimension) and their `copies` the Gram of features and of the
    prototypes' coordinates. Raises as `margin_program`.
    """
    cp, k = _cvxpy(problem := Problem.of(counts))
    n, q = problem.counts, np.broadcast_to(np.asarray(copies, np.float64), k)
    w = np.zeros((k, 0)) if prototypes is None else np.asarray(prototypes, np.float64)
    joint = cp.Variable((k + w.shape[1],) * 2, PSD=True)
    rules = [cp.diag(joint)[:k] == 1]
    if w.shape[1]:
        rules.append(joint[k:, k:] == np.eye(w.shape[1]))
    loss = 0
    for c in range(k):
        weigh = n - (np.arange(k) == c)
        there = np.flatnonzero(weigh > 0)
        parts = [np.log(weigh[there]) + joint[c, there] / temperature]
        drawn = weigh[c] / temperature
        if w.shape[1]:
            parts.append(np.log(q) + (joint[c, k:] @ w.T) / temperature)
            drawn = drawn + q[c] * (joint[c, k:] @ w[c]) / temperature
        if weigh[c] + q[c] > 0:
            loss = loss + n[c] * (cp.log_sum_exp(cp.hstack(parts)) - drawn / (weigh[c] + q[c]))
    program = cp.Problem(cp.Minimize(loss), rules)
    found = _solved(cp, program, joint, None, solver)
    return SolvedGram(gram=found.product[:k, :k], value=found.value)


@dataclass(frozen=True, kw_only=True, eq=False)
class SolvedLogits:
    """`logits` (word, context), `value` the objective's."""

    logits: F64
    value: float


def support_program(labels: LabelMatrix, *, solver: str = "CLARABEL") -> SolvedLogits:
    """The margin program of next tokens as it is written, a variable an entry and nothing merged (`supportsvm`).

    Logits of one context are equal on its support and 1 or more below that off it. Raises SettingError for words and
    contexts beyond 160 together, ExtraError without cvxpy.
    """
    cp, logits = _token_variable(labels)
    rules = []
    for context, column in enumerate(labels.support.toarray().T > 0):
        inside, outside = np.flatnonzero(column), np.flatnonzero(~column)
        level = logits[inside[0], context]
        rules += [logits[z, context] == level for z in inside[1:]]
        rules += [level - logits[v, context] >= 1 for v in outside]
    found = _solved(cp, cp.Problem(cp.Minimize(cp.normNuc(logits)), rules), logits, None, solver)
    return SolvedLogits(logits=found.product, value=found.value)


def token_ridge_program(labels: LabelMatrix, ridge: float, *, solver: str = "CLARABEL") -> SolvedLogits:
    """Cross-entropy of next tokens plus `ridge ||L||_*`, as `supportridge` solves it. Raises as `support_program`."""
    cp, logits = _token_variable(labels)
    p = labels.probabilities.toarray()
    loss = 0
    for context, weight in enumerate(labels.weights):
        loss = loss + weight * (cp.log_sum_exp(logits[:, context]) - p[:, context] @ logits[:, context])
    program = cp.Problem(cp.Minimize(loss + ridge * cp.normNuc(logits)))
    found = _solved(cp, program, logits, None, solver)
    return SolvedLogits(logits=found.product, value=found.value)


def _token_variable(labels: LabelMatrix) -> tuple[Any, Any]:
    if sum(labels.shape) > _TOKENS:
        found = f"{labels.shape[0]} words and {labels.shape[1]} contexts"
        fix = "supportsvm.max_margin and supportridge.ridge_solution solve it with a certificate"
        raise SettingError("convex", found, expected=f"at most {_TOKENS} together", fix=fix)
    cp = _imported()
    return cp, cp.Variable(labels.shape)


def _solved(cp: Any, program: Any, product: Any, bias: Any, solver: str) -> Solved:
    try:
        program.solve(solver=solver)
    except cp.error.SolverError as fault:
        raise SettingError(solver, f"failed ({str(fault).splitlines()[0]})", fix="try another solver") from None
    if program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise SettingError(solver, f"ended as {program.status}", expected="an optimum", fix="try solver='SCS'")
    return Solved(
        product=np.asarray(product.value), bias=None if bias is None else np.asarray(bias.value),
        value=float(program.value),
    )  # fmt: skip


def _cvxpy(problem: Problem) -> tuple[Any, int]:
    if problem.classes > _CLASSES:
        fix = "predict.cross_entropy and path.finite_ridge solve it in closed form or with a certificate"
        raise SettingError("convex", f"{problem.classes} classes", expected=f"at most {_CLASSES}", fix=fix)
    return _imported(), problem.classes


def _imported() -> Any:
    try:
        import cvxpy  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ExtraError("cvxpy", "is not installed", fix="pip install 'deltagram[convex]'") from None
    return cvxpy
