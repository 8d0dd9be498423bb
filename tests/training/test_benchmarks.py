"""The benchmarks that need a GPU run, at a size for a processor, so that they work on the day there is one."""

from benchmarks.gpu_training import TOY, WAN, flops_per_token, measure_gpu


def test_the_gpu_benchmark_runs_at_toy_size() -> None:
    rows = measure_gpu(TOY, 12, 3, "fp32", (False,))
    assert [row["checkpointing"] for row in rows] == [False, True]
    assert all(row["tokens_per_second"] > 0 and row["times_bare"] > 0 for row in rows)


def test_flops_of_the_wan_shape_are_six_per_weight_and_token_and_attention() -> None:
    width = WAN.heads * 128
    weights = WAN.layers * (6 * width**2 + 2 * width * WAN.feed_forward)  # cross keys and values see the text only
    attention = WAN.layers * 12 * width * (WAN.tokens + WAN.text[0])
    assert 1.2e9 < weights < 1.4e9
    assert flops_per_token(WAN, width) == 6 * weights + attention
