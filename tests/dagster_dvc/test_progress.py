"""How many observations a run leaves in Dagster's database."""

from dagster_dvc.resource import observe_every


def test_a_day_of_training_leaves_at_most_one_observation_a_minute_after_the_first_ten() -> None:
    elapsed, kept = 0.0, 0
    while elapsed < 24 * 3600:
        elapsed, kept = elapsed + observe_every(elapsed, 5.0), kept + 1
    assert kept <= 600 / 5 + 24 * 60
    assert observe_every(0, 0.2) == 0.2 and observe_every(3600, 90.0) == 90.0
