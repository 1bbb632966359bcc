"""What agreement on some texts says of all texts: an exact one-sided binomial bound."""


def lower_bound(agreeing: int, total: int, *, confidence: float = 0.95) -> float:
    """A share that the true rate of agreement is at least, with `confidence`, when `agreeing` of `total` texts agree.

    Over repeated independent draws of `total` texts, the bound lies at or below the true rate at least that often,
    whatever the rate: the rate at which `agreeing` or more would be seen with probability 1 - confidence. Clopper and
    Pearson, Biometrika 26 (1934); 0 if none agree, (1 - confidence)^(1/total) if all do. The texts must not have been
    used to choose what is compared. Raises ValueError for counts or a confidence out of range.

    >>> round(lower_bound(497, 500), 4), round(lower_bound(500, 500), 4)
    (0.9846, 0.994)
    """
    from scipy.special import betaincinv  # noqa: PLC0415 - scipy is slow to import

    if not 0 <= agreeing <= total or total < 1:
        raise ValueError(f"{agreeing} of {total} texts cannot agree")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    if agreeing == 0:
        return 0.0
    return float(betaincinv(agreeing, total - agreeing + 1, 1 - confidence))
