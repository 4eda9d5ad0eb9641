import pytest

from benchmarks.floors import Product, lstm_products, network_products, output_products, seconds_of
from benchmarks.networks import MLP


def _flops(products):
    return sum(product.flops for product in products)


def test_a_forward_step_of_the_rule_is_counted_for_each_coordinate():
    # [2 + 20] x [80], [20 + 20] x [80] and [20] x [1], two FLOPs for each product and sum.
    expected = 2 * (22 * 80 + 40 * 80 + 20)
    assert _flops(lstm_products(7, False)) + _flops(output_products(7, False)) == 7 * expected


def test_a_backward_step_has_no_gradient_of_what_the_rule_sees():
    forward = 2 * (22 * 80 + 40 * 80)
    weights = forward
    inputs = 2 * (20 * 80 + 40 * 80)
    assert _flops(lstm_products(7, True)) == 7 * (forward + weights + inputs)


def test_an_optimizee_has_no_gradient_of_its_images():
    products = network_products(MLP((4, 3, 2)).products(batch_size=5))
    assert _flops(products) == 2 * 5 * (2 * 4 * 3 + 3 * 3 * 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "product",
    [
        Product(5, 3, 2),
        Product(5, 3, 2, transpose_a=True),
        Product(5, 3, 2, transpose_b=True),
    ],
)
def test_a_product_is_cheaper_in_a_graph_than_by_itself(product):
    in_graph, by_call = seconds_of(product)
    assert 0 < in_graph < by_call


@pytest.mark.slow
def test_a_product_beyond_the_caches_is_counted_in_parts():
    part = seconds_of(Product(2**14, 2, 2))
    assert seconds_of(Product(2**16, 2, 2)) == pytest.approx([4 * time for time in part])
