"""Sampling by a hash: counts, its quality, and that only seed, stage and number of a candidate decide."""

from __future__ import annotations

import math

import torch

from fasterrcnn.training import Sampler, image_seeds
from fasterrcnn.training.sampling import ANCHORS, PROPOSALS, hashes, mixed

WORD = 2**32


def lowbias32(x: int) -> int:
    """Chris Wellons' finaliser as published, in whole numbers of any size."""
    x ^= x >> 16
    x = x * 0x7FEB352D % WORD
    x ^= x >> 15
    x = x * 0x846CA68B % WORD
    return x ^ x >> 16


def masks(positives: int, negatives: int) -> tuple[torch.Tensor, torch.Tensor]:
    positive = torch.arange(positives + negatives) < positives
    return positive, ~positive


def test_finaliser_is_the_published_one():
    """To the last bit, at the ends of its range as well: nothing overflows."""
    words = [0, 1, 2, 12345, 2**31 - 1, 2**31, WORD - 2, WORD - 1]
    words += torch.randint(WORD, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert mixed(torch.tensor(words)).tolist() == [lowbias32(word) for word in words]


def test_no_two_candidates_of_an_image_have_one_hash():
    for seed in (0, 1, -1, 2**62 + 12345, -(2**63)):
        found = hashes(torch.tensor(seed), ANCHORS, torch.arange(200_000))
        assert found.min() >= 0
        assert found.max() < WORD
        assert len(found.unique()) == 200_000


def test_hash_is_uniform():
    """64 equal parts of its range are hit equally often, by many numbers of one seed and by one number of many seeds.

    χ² with 63 degrees of freedom: mean 63, standard deviation 11.2; six of them.
    """
    many = torch.arange(64_000)
    for found in (hashes(torch.tensor(7), ANCHORS, many), hashes(many, PROPOSALS, torch.tensor([3]))[:, 0]):
        hits = (found // (WORD // 64)).bincount(minlength=64).double()
        assert ((hits - 1000).square() / 1000).sum() < 63 + 6 * 11.2


def test_neighbouring_seeds_and_stages_are_unrelated():
    """A flipped bit of seed, stage or number flips half the bits of the hash, to six standard deviations."""
    numbers = torch.arange(2000)
    before = hashes(torch.tensor(5), ANCHORS, numbers)
    others = [hashes(torch.tensor(5 ^ 1 << bit), ANCHORS, numbers) for bit in (0, 1, 31, 32, 33, 62)]
    others += [hashes(torch.tensor(5), PROPOSALS, numbers), hashes(torch.tensor(5), ANCHORS, numbers ^ 1)]
    for after in others:
        changed = (before ^ after)[:, None] >> torch.arange(32) & 1
        assert (changed.double().mean(dim=0) - 0.5).abs().max() < 6 * 0.5 / math.sqrt(2000)


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
