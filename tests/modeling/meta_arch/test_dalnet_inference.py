# SPDX-License-Identifier: Apache-2.0
"""What DALNet predicts: sizes, scores, batches, symmetry."""

import torch
from helpers import make_item, make_model


def test_inference_sizes_and_scores(tiny_cfg):
    model = make_model(tiny_cfg).eval()
    item = {**make_item(0), "height": 50, "width": 41}
    result = model([item])[0]
    assert result["sem_seg"].shape == (11, 50, 41)
    torch.testing.assert_close(result["sem_seg"].sum(0), torch.ones(50, 41))
    for key in ("cam", "cam_inter"):
        assert result[key].shape == (10, 50, 41)
        assert result[key].min() >= 0
        assert result[key].max() <= 1
        absent = item["image_labels"] == 0
        assert not result[key][absent].any()
        assert result[key][~absent].any()
    assert result["pseudo_label"].shape == (50, 41)
    assert set(result["pseudo_label"].unique().tolist()) <= {0, 2, 5, 255}
    without_labels = {key: item[key] for key in ("image", "height", "width")}
    assert set(model([without_labels])[0]) == {"sem_seg"}


def test_inference_does_not_depend_on_the_batch(tiny_cfg):
    model = make_model(tiny_cfg).eval()
    items = [make_item(seed, labels=(seed,)) for seed in range(3)]
    together = model(items)
    for item, result in zip(reversed(items), reversed(together), strict=True):
        for key, value in model([item])[0].items():
            assert torch.equal(value, result[key])


def test_mirror_and_scales_make_inference_symmetric(tiny_cfg):
    model = make_model(tiny_cfg, "TEST.MULTI_SCALE.ENABLED", True).eval()
    item = make_item(0)
    mirrored = {**item, "image": item["image"].flip(-1)}
    plain, other = model([item, mirrored])
    for key in ("sem_seg", "cam", "cam_inter"):
        torch.testing.assert_close(plain[key], other[key].flip(-1), rtol=1e-4, atol=1e-5)


def test_crf_in_inference_keeps_a_distribution(tiny_cfg):
    model = make_model(tiny_cfg, "TEST.CRF.ENABLED", True).eval()
    scores = model([make_item(0)])[0]["sem_seg"]
    torch.testing.assert_close(scores.sum(0), torch.ones(32, 32), rtol=1e-4, atol=1e-4)
    assert not torch.equal(scores, make_model(tiny_cfg).eval()([make_item(0)])[0]["sem_seg"])
