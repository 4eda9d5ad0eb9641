from benchmarks import timing


def test_contenders_take_turns_and_each_comes_first(monkeypatch):
    order = []
    steps = {name: lambda name=name: order.append(name) for name in ("one", "two", "three")}
    # Each call of the clock is a second later, so that a step takes one.
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    seconds = timing.time_in_turns(steps, num_rounds=3, seconds_of_turn=0)
    assert order[:6] == ["one", "one", "two", "two", "three", "three"]
    assert order[6:9] == ["one", "two", "three"]
    assert order[9:12] == ["two", "three", "one"]
    assert order[12:] == ["three", "one", "two"]
    assert seconds == {name: [1.0, 1.0, 1.0] for name in steps}
