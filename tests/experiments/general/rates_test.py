import math

from experiments.general.rates import finite_or_inf, rate_of, search


def _search(best: int, middle: int = -4, diverged_from: int = 99):
    """Searches where the loss is the distance to the best exponent, up to where it diverges."""
    tried = []

    def loss_of(rate):
        exponent = round(2 * math.log10(rate))
        tried.append(exponent)
        return math.inf if exponent >= diverged_from else abs(exponent - best)

    return search(loss_of, middle), tried


def test_rates_are_half_decades():
    assert [rate_of(exponent) for exponent in (-3, -2, 0, 1)] == [0.03162, 0.1, 1.0, 3.162]


def test_five_rates_are_tried_if_the_best_is_within_them():
    tuning, tried = _search(best=-4)
    assert tried == [-6, -5, -4, -3, -2]
    assert (tuning.best, tuning.is_at_edge) == (0.01, False)
    assert tuning.candidates == (0.001, 0.003162, 0.01, 0.03162, 0.1)
    assert tuning.losses == (2, 1, 0, 1, 2)


def test_the_grid_grows_by_one_beyond_its_edge_until_the_best_is_within():
    tuning, tried = _search(best=0)
    assert tried == [-6, -5, -4, -3, -2, -1, 0, 1]
    assert (tuning.best, tuning.is_at_edge) == (1.0, False)
    tuning, tried = _search(best=-7)
    assert tried == [-6, -5, -4, -3, -2, -7, -8]
    assert tuning.candidates[0] == 1e-4
    assert (tuning.best, tuning.is_at_edge) == (3.162e-4, False)


def test_a_grid_that_has_grown_by_six_ends_at_its_edge():
    tuning, tried = _search(best=50)
    assert len(tried) == 11
    assert (tuning.best, tuning.is_at_edge) == (100.0, True)


def test_a_grid_on_which_all_diverge_grows_down():
    tuning, tried = _search(best=-9, diverged_from=-7)
    assert tried == [-6, -5, -4, -3, -2, -7, -8, -9, -10]
    assert tuning.best == rate_of(-9)
    assert math.isinf(tuning.losses[-1])


def test_null_is_an_infinite_loss():
    assert (finite_or_inf(None), finite_or_inf(2)) == (math.inf, 2.0)
