"""Sampling by a hash: counts, how evenly it draws, and that only seed, stage and number of a candidate decide.

The hash itself: tests/ops/test_sampling.py.
"""

from __future__ import annotations

import math

import torch

from fasterrcnn.training import Sampler, image_seeds


def masks(positives: int, negatives: int) -> tuple[torch.Tensor, torch.Tensor]:
    positive = torch.arange(positives + negatives) < positives
    return positive, ~positive


def test_every_candidate_is_drawn_equally_often():
    """Binomial(4000, 0.2): mean 800, standard deviation 25; six of them."""
    positive, negative = masks(50, 50)
    seeds = torch.arange(4000)
    drawn = Sampler(20, 0.5)(positive.expand(4000, -1), negative.expand(4000, -1), seeds)
    assert (drawn[0].sum(dim=1) == 10).all()
    assert (drawn[1].sum(dim=1) == 10).all()
    assert ((drawn[0] | drawn[1]).sum(dim=0) - 800).abs().max() < 6 * math.sqrt(4000 * 0.2 * 0.8)


def test_pairs_are_drawn_independently():
    """Two candidates together: 10 of 50 drawn twice over is 10·9 / (50·49); six standard deviations of 20,000 draws."""
    positive, negative = masks(50, 0)
    drawn = Sampler(10, 1.0)(positive.expand(20_000, -1), negative.expand(20_000, -1), torch.arange(20_000))[0].double()
    together = drawn.T @ drawn / 20_000
    share = 10 * 9 / (50 * 49)
    off_diagonal = together[~torch.eye(50, dtype=torch.bool)]
    assert (off_diagonal - share).abs().max() < 6 * math.sqrt(share * (1 - share) / 20_000)


def test_a_batch_draws_what_each_image_draws():
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(3, (5, 700), generator=generator)
    kinds[3] = 1  # no positives
    kinds[4] = 2  # nothing at all
    seeds = image_seeds(5, generator)
    sampler = Sampler(100, 0.25)
    together = sampler(kinds == 0, kinds == 1, seeds)
    for image, seed in enumerate(seeds):
        alone = sampler(kinds[image] == 0, kinds[image] == 1, int(seed))
        assert torch.equal(alone[0], together[0][image])
        assert torch.equal(alone[1], together[1][image])
    assert together[0].sum(dim=1).tolist() == [25, 25, 25, 0, 0]
    assert together[1].sum(dim=1).tolist() == [75, 75, 75, 100, 0]


def test_padding_of_candidates_changes_nothing():
    """More places that are no candidates, and places that come in another order but keep their numbers."""
    positive, negative = masks(40, 400)
    sampler = Sampler(64, 0.5)
    expected = torch.cat(sampler(positive, negative, 9))
    nothing = torch.zeros(1000, dtype=torch.bool)
    padded = sampler(torch.cat([positive, nothing]), torch.cat([negative, nothing]), 9)
    assert torch.equal(torch.cat([mask[:440] for mask in padded]), expected)
    order = torch.randperm(440, generator=torch.Generator().manual_seed(1))
    moved = sampler(positive[order], negative[order], 9, index=order)
    assert torch.equal(torch.cat([mask[order.argsort()] for mask in moved]), expected)


def test_seeds_and_stages_draw_differently():
    positive, negative = masks(0, 1000)
    sampler = Sampler(100, 0.5)
    draws = [sampler(positive, negative, seed, stage=stage)[1] for seed in (0, 1, 2**40) for stage in (0, 1)]
    for i, first in enumerate(draws):
        for second in draws[:i]:
            # Hypergeometric: 10 in common, standard deviation 2.9.
            assert (first & second).sum() < 10 + 6 * 2.9


def test_one_of_nothing():
    for kind in (torch.zeros(0, dtype=torch.bool), torch.zeros(2, 0, dtype=torch.bool)):
        drawn = Sampler(4, 0.5)(kind, kind, torch.zeros(kind.shape[:-1], dtype=torch.int64))
        assert [mask.shape for mask in drawn] == [kind.shape] * 2
    positive, negative = masks(5, 5)
    assert not Sampler(4, 0.0)(positive, negative, 0)[0].any()
    assert Sampler(4, 0.0)(positive, negative, 0)[1].sum() == 4


def test_seeds_of_images():
    """From the generator alone, and different."""
    first, again = (image_seeds(1000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.int64
    assert len(first.unique()) == 1000
