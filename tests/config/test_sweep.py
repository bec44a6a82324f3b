"""Grids of settings."""

from pipeline.config.sweep import expand_grid


def test_a_grid_is_the_product_in_the_order_written() -> None:
    points = expand_grid(
        {}, {"sampler.timesteps.num_steps": [6, 12], "sampler.solver": [{"kind": "euler"}, {"kind": "heun"}]}
    )
    assert [name for name, _ in points] == [
        "num_steps=6, euler", "num_steps=6, heun", "num_steps=12, euler", "num_steps=12, heun",
    ]  # fmt: skip
    assert points[3][1] == {"sampler": {"timesteps": {"num_steps": 12}, "solver": {"kind": "heun"}}}


def test_a_union_member_is_replaced_whole_and_the_rest_is_kept() -> None:
    base = {"sampler": {"solver": {"kind": "alpha", "alpha": 0.7}, "schedule": {"kind": "vp"}}}
    [(_, content)] = expand_grid(base, {"sampler.solver": [{"kind": "heun"}]})
    assert content == {"sampler": {"solver": {"kind": "heun"}, "schedule": {"kind": "vp"}}}
    assert base["sampler"]["solver"] == {"kind": "alpha", "alpha": 0.7}


def test_several_grids_follow_each_other_and_equal_points_are_one() -> None:
    points = expand_grid({"a": 0}, [{"a": [1, 2]}, {"a": [2, 3]}])
    assert [content["a"] for _, content in points] == [1, 2, 3]


def test_keys_of_the_guide_are_told_apart_from_those_of_the_checkpoint() -> None:
    points = expand_grid({"guide": None}, [{"checkpoint.ema": ["a"]}, {"guide.ema": ["a"], "guide.at": [7]}])
    assert [name for name, _ in points] == ["ema=a", "guide ema=a, guide at=7"]
    assert points[1][1] == {"guide": {"ema": "a", "at": 7}}
    [(name, _)] = expand_grid({}, {"guide": [{"training": "small", "at": 7}]})
    assert name == "guide training=small at=7"


def test_no_sweep_is_one_point() -> None:
    assert expand_grid({"a": 0}, {}) == expand_grid({"a": 0}, []) == [("", {"a": 0})]


def test_points_share_nothing_that_could_change() -> None:
    shared = {"kind": "x", "values": [1]}
    (_, one), (_, two) = expand_grid({}, {"n": [1, 2], "part": [shared]})
    one["part"]["values"].append(2)
    assert two["part"]["values"] == shared["values"] == [1]


def test_a_part_within_a_part_is_swept_and_named() -> None:
    constant = {"kind": "constant", "factor": 0.5}
    solvers = [{"kind": "sa_solver", "beta": constant}, {"kind": "sa_solver", "beta": {"kind": "zero"}}]
    by_solver = expand_grid({}, {"sampler.solver": solvers})
    assert [name for name, _ in by_solver] == ["sa_solver beta=(constant factor=0.5)", "sa_solver beta=(zero)"]
    base = {"sampler": {"solver": solvers[0]}}
    by_beta = expand_grid(base, {"sampler.solver.beta": [constant, {"kind": "song"}]})
    assert [name for name, _ in by_beta] == ["constant factor=0.5", "song"]
    assert by_beta[1][1]["sampler"]["solver"] == {"kind": "sa_solver", "beta": {"kind": "song"}}
    by_factor = expand_grid(base, {"sampler.solver.beta.factor": [0.25, 1.0]})
    assert [content["sampler"]["solver"]["beta"]["factor"] for _, content in by_factor] == [0.25, 1.0]
