"""Features of real clips that are kept: the same bits as features that are not."""

import torch

from pipelines.generation.drifting.features import FeatureSpaces
from pipelines.generation.drifting.kept import KeptVectors
from pipelines.models.latent_mae import LatentMae
from tests.generation.toy import CHANNELS, refining

CLIPS = torch.randn(5, 3, CHANNELS, 3, 4, 4, generator=torch.Generator().manual_seed(0))
"""Three views of each of five clips."""
SIZES = {"patch": [1, 1, 1], "width": 24, "depth": 2, "heads": 2, "decoder_width": 12, "decoder_depth": 1}


class Counted(FeatureSpaces):
    """Spaces that count how often they are asked."""

    asked = 0

    def __call__(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Vectors of the latents."""
        self.asked += 1
        return super().__call__(latents)


def spaces() -> Counted:
    torch.manual_seed(0)
    drift = refining().drift
    assert drift is not None
    return Counted(drift.features, LatentMae(CHANNELS, {"family": "transformer", **SIZES}))


def vectors(kept: KeptVectors, names: list[int]) -> dict[str, torch.Tensor]:
    return dict(kept(names, lambda place: CLIPS[names[place]], torch.device("cpu")))


def test_what_is_kept_is_what_would_be_computed_to_the_last_bit() -> None:
    warm, full, features = KeptVectors(spaces()), KeptVectors(spaces(), most_bytes=0), spaces()
    vectors(warm, [3, 1, 0])
    found = vectors(warm, [0, 4, 3, 3])
    for name, whole in vectors(full, [0, 4, 3, 3]).items():
        assert torch.equal(found[name], whole) and not found[name].requires_grad
        alone = torch.cat([features(CLIPS[row])[name] for row in (0, 4, 3, 3)])
        assert torch.equal(found[name], alone)


def test_a_clip_is_encoded_once_while_there_is_room() -> None:
    features = spaces()
    kept = KeptVectors(features)
    vectors(kept, [0, 1, 2, 0, 1])
    vectors(kept, [2, 1])
    assert features.asked == 3
    size = sum(part.numel() * 4 for part in features(CLIPS[0]).values())
    small = KeptVectors(features, most_bytes=2 * size)
    features.asked = 0
    for _ in range(2):
        vectors(small, [0, 1, 2, 3])
    assert features.asked == 4 + 2, "two fit, two are computed at every visit"
