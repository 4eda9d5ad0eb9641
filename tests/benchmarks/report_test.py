import pytest

from benchmarks.report import Results, check_bars, format_results, write_json

FLOORS = {
    "mnist": {
        "flops": 2e9,
        "gflops_per_second": 20.0,
        "gflops_per_second_by_call": 10.0,
        "seconds": 0.1,
        "seconds_by_call": 0.2,
    }
}


def _measured(workload, contender, median, size):
    return {
        "workload": workload,
        "contender": contender,
        "status": "measured",
        "median": median,
        "quartiles": [median, 2 * median],
        "num_steps": 3,
        "first_step": 5.0,
        "bytes": size,
    }


RESULTS = Results(
    [
        _measured("mnist", "ours", 0.18, 10**8),
        _measured("mnist", "plain_tensorflow", 0.2, 10**8),
        {"workload": "mnist", "contender": "jax_scan", "status": "failed", "reason": "no luck"},
        _measured("mlp_1m", "ours", 5.0, 10**9),
        {
            "workload": "mlp_1m",
            "contender": "plain_tensorflow",
            "status": "extrapolated",
            "reason": "too large",
            "median": 9.0,
            "bytes": 4 * 10**10,
        },
        *(_measured(f"inner_1e{power}", "ours", 10.0**power, 0) for power in (4, 5, 6)),
        _measured("inner_1e7", "ours", 1.5e7, 0),
    ],
    FLOORS,
)


def test_bars_are_met_missed_or_not_measured():
    bars = {row["bar"]: (row["ratio"], row["is_met"]) for row in check_bars(RESULTS)}
    assert bars["mnist: ours / plain TensorFlow"] == (pytest.approx(0.9), False)
    assert bars["mnist: ours / JAX"] == (None, None)
    assert bars["mnist: ours / floor"] == (pytest.approx(1.8), False)
    assert bars["mnist: ours / floor, products called one by one"] == (pytest.approx(0.9), True)
    assert bars["mlp_1m, memory: ours / plain TensorFlow"] == (pytest.approx(0.025), True)
    assert bars["inner step, time of a coordinate: largest / least"] == (pytest.approx(1.5), False)


def test_tables_show_what_was_measured_and_why_not():
    lines = [" ".join(line.split()) for line in format_results(RESULTS).splitlines()]
    assert lines[0] == "workload contender median quartiles first memory"
    assert lines[2] == "mnist ours 180 ms 180 ms to 360 ms 5 s 100 MB"
    assert lines[4] == "mnist jax_scan - - - - no luck"
    assert lines[6] == "mlp_1m plain_tensorflow 9 s - - 40,000 MB too large"
    assert "mnist 2 20 100 ms 10 200 ms" in lines
    assert "mnist: ours / JAX 0.30 - not measured" in lines
    assert "mnist: ours / plain TensorFlow 0.75 0.90 not met" in lines


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"value": float("nan")})
    assert path.read_text() == '{\n  "value": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]
