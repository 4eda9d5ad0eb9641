from experiments.general.contenders import (
    DEFAULT_BASELINES,
    FIRST_THREE,
    fingerprint,
    untuned_optimizer,
)
from experiments.harness.keras_optimizers import BASELINES
from l2l_tf import LearnedOptimizer


def test_seven_baselines_run_by_default():
    assert len(DEFAULT_BASELINES) == 7
    assert set(FIRST_THREE) < set(DEFAULT_BASELINES) < set(BASELINES)


def test_a_fingerprint_tells_settings_and_rules_apart():
    make = BASELINES["nag_cosine"].make
    assert fingerprint(make(1.0, 100)) == fingerprint(make(1.0, 100))
    different = [
        fingerprint(optimizer)
        for optimizer in (
            make(1.0, 100),
            make(0.5, 100),
            make(1.0, 200),
            BASELINES["nag95_cosine"].make(1.0, 100),
            untuned_optimizer("quadratic_lstm", 100),
            untuned_optimizer("mnist_lstm", 100),
        )
    ]
    assert len(set(different)) == len(different)


def test_a_rule_is_loaded_as_an_optimizer():
    assert isinstance(untuned_optimizer("quadratic_lstm", 100), LearnedOptimizer)
