import torch

from outmask.losses.points import draw_training_points, sample_points


def test_a_point_at_a_pixel_centre_has_its_value_and_one_between_two_centres_their_mean() -> None:
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    points = torch.tensor([[[1.5 / 4, 0.5 / 3], [2.0 / 4, 1.5 / 3]]])
    torch.testing.assert_close(sample_points(maps, points), torch.tensor([[[1.0, (5 + 6) / 2]]]))


def test_coordinates_do_not_depend_on_the_resolution() -> None:
    # A linear ramp stays linear at any resolution, away from the border where samples fade.
    points = 0.2 + 0.6 * torch.rand(1, 50, 2)
    for width in (16, 64):
        ramp = ((torch.arange(width) + 0.5) / width).expand(1, 1, 8, width)
        torch.testing.assert_close(sample_points(ramp, points)[0, 0], points[0, :, 0])


def test_points_are_drawn_where_a_mask_is_least_certain() -> None:
    columns = torch.arange(32.0) - 15.5  # certain but for the boundary, in the middle or a quarter of the way
    mask_logits = torch.stack([columns, columns + 8])[:, None].expand(3, 2, 16, 32)
    points, labels = draw_training_points(mask_logits, torch.zeros(3, 16, 32), [1, 2], 200, 3, 0.75, [None, None])
    assert points.shape == (3, 2, 200, 2)
    assert labels.shape == (3, 2, 200)
    for layer, boundary in enumerate((0.5, 0.25)):
        # 150 of 600 uniform candidates are the nearest quarter: +-0.125 but for chance; the other 50 are anywhere
        near = ((points[:, layer, :, 0] - boundary).abs() < 0.2).float().mean()
        assert near > 0.75
        assert (points[:, layer, :, 0] > 0.8).any()


def test_labels_are_the_targets_values_at_the_points() -> None:
    target_maps = (torch.rand(3, 16, 32) > 0.5).float()
    points, labels = draw_training_points(torch.randn(3, 2, 4, 8), target_maps, [3], 40, 3, 0.75, [None])
    for layer in range(2):
        torch.testing.assert_close(sample_points(target_maps[:, None], points[:, layer])[:, 0], labels[:, layer])


def test_an_ignored_point_is_chosen_for_its_uncertainty_only_when_no_other_is_left() -> None:
    mask_logits = torch.ones(1, 1, 16, 16)
    mask_logits[..., 8:] = 0  # most uncertain exactly where ignored
    target_maps = torch.zeros(1, 16, 16)
    target_maps[..., 8:] = torch.nan
    assert not draw_training_points(mask_logits, target_maps, [1], 100, 3, 1.0, [None])[1].isnan().any()
    _, labels = draw_training_points(mask_logits, target_maps, [1], 100, 1, 1.0, [None])  # as many candidates as points
    assert labels.shape == (1, 1, 100)
    assert labels.isnan().any()


def test_nothing_matched_gives_no_points() -> None:
    points, labels = draw_training_points(torch.zeros(0, 2, 4, 4), torch.zeros(0, 16, 16), [0], 10, 3, 0.75, [None])
    assert points.shape == (0, 2, 10, 2)
    assert labels.shape == (0, 2, 10)
