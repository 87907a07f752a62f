"""sample_candidates, and the hash it draws by."""

from __future__ import annotations

import math

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from fasterrcnn_ops.reference import sampling as ref
from fasterrcnn_ops.reference.sampling import hashes, mixed
from fasterrcnn_ops.sampling import sample_candidates

WORD = 2**32
ANCHORS = {"num_samples": 256, "max_positive": 128}
FEW = {"num_samples": 8, "max_positive": 3}


def masks(*shape: int, positive: float = 0.2, negative: float = 0.6, device="cpu", seed: int = 0):
    """bool masks; the rest of the candidates is in neither."""
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    return draw < positive, draw > 1 - negative


def seeds_of(*shape: int, device="cpu"):
    """Of all 64 bits."""
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=torch.Generator().manual_seed(9)).to(device)


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        support.assert_bitwise_equal(one, other)


# ---------------------------------------------------------------------------------------------------------------------
# The hash: the published one, without collisions, uniform


def lowbias32(x: int) -> int:
    """Chris Wellons' finaliser as published, in whole numbers of any size."""
    x ^= x >> 16
    x = x * 0x7FEB352D % WORD
    x ^= x >> 15
    x = x * 0x846CA68B % WORD
    return x ^ x >> 16


def test_finaliser_is_the_published_one():
    """To the last bit, at the ends of its range as well: nothing overflows."""
    words = [0, 1, 2, 12345, 2**31 - 1, 2**31, WORD - 2, WORD - 1]
    words += torch.randint(WORD, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert mixed(torch.tensor(words)).tolist() == [lowbias32(word) for word in words]


def test_no_two_candidates_of_an_image_have_one_hash():
    for seed in (0, 1, -1, 2**62 + 12345, -(2**63)):
        found = hashes(torch.tensor(seed), 0, torch.arange(200_000))
        assert found.min() >= 0
        assert found.max() < WORD
        assert len(found.unique()) == 200_000


def test_hash_is_uniform():
    """64 equal parts of its range are hit equally often, by many numbers of one seed and by one number of many seeds.

    χ² with 63 degrees of freedom: mean 63, standard deviation 11.2; six of them.
    """
    many = torch.arange(64_000)
    for found in (hashes(torch.tensor(7), 0, many), hashes(many, 1, torch.tensor([3]))[:, 0]):
        hits = (found // (WORD // 64)).bincount(minlength=64).double()
        assert ((hits - 1000).square() / 1000).sum() < 63 + 6 * 11.2


def test_neighbouring_seeds_and_stages_are_unrelated():
    """A flipped bit of seed, stage or number flips half the bits of the hash, to six standard deviations."""
    numbers = torch.arange(2000)
    before = hashes(torch.tensor(5), 0, numbers)
    others = [hashes(torch.tensor(5 ^ 1 << bit), 0, numbers) for bit in (0, 1, 31, 32, 33, 62)]
    others += [hashes(torch.tensor(5), 1, numbers), hashes(torch.tensor(5), 0, numbers ^ 1)]
    for after in others:
        changed = (before ^ after)[:, None] >> torch.arange(32) & 1
        assert (changed.double().mean(dim=0) - 0.5).abs().max() < 6 * 0.5 / math.sqrt(2000)


# ---------------------------------------------------------------------------------------------------------------------
# Hand-computed


def test_the_smallest_hashes_are_drawn(device):
    """Hashes of seed 7, stage 0, numbers 0…5, in whole numbers of any size."""
    first = lowbias32(lowbias32(7 ^ 0x9E3779B9) ^ 0 ^ 0)
    second = lowbias32(lowbias32(0 ^ 0x85EBCA6B) ^ 7 ^ 0)
    of_hash = [lowbias32(lowbias32(number ^ first) ^ second) for number in range(6)]
    positive = torch.tensor([True, False, True, False, True, False], device=device)
    found = sample_candidates(positive, ~positive, torch.tensor(7, device=device), num_samples=4, max_positive=2)
    kinds = [sorted((0, 2, 4), key=of_hash.__getitem__)[:2], sorted((1, 3, 5), key=of_hash.__getitem__)[:2]]
    assert [mask.nonzero()[:, 0].tolist() for mask in found] == [sorted(kind) for kind in kinds]


@pytest.mark.parametrize(
    ("positives", "negatives", "num_samples", "max_positive", "expected"),
    [
        (100, 1000, 64, 16, (16, 48)),  # enough of both
        (5, 1000, 64, 16, (5, 59)),  # negatives fill up
        (100, 10, 64, 16, (16, 10)),  # positives do not
        (3, 4, 64, 16, (3, 4)),
        (0, 50, 64, 16, (0, 50)),
        (100, 0, 64, 64, (64, 0)),
        (100, 100, 64, 64, (64, 0)),
        (100, 100, 64, 0, (0, 64)),
        (100, 100, 0, 0, (0, 0)),
        (100, 100, 2**62, 2**62, (100, 100)),
    ],
)
def test_how_many_of_each(device, positives, negatives, num_samples, max_positive, expected):
    kind = torch.cat((torch.zeros(positives), torch.ones(negatives), torch.full((30,), 2))).to(device)
    kind = kind[torch.randperm(len(kind), generator=torch.Generator().manual_seed(1)).to(device)]
    seed = torch.tensor(3, device=device)
    limits = {"num_samples": num_samples, "max_positive": max_positive}
    drawn = sample_candidates(kind == 0, kind == 1, seed, **limits)
    assert tuple(int(mask.sum()) for mask in drawn) == expected
    assert (kind[drawn[0]] == 0).all()
    assert (kind[drawn[1]] == 1).all()


# ---------------------------------------------------------------------------------------------------------------------
# Against the reference


@pytest.mark.parametrize("limits", [ANCHORS, FEW, {"num_samples": 2000, "max_positive": 400}], ids=str)
@pytest.mark.parametrize("layout", support.LAYOUTS)
@pytest.mark.parametrize("count", [1, 2, 33, 255, 257, 2025, 16_385, 140_001])
def test_equals_reference(device, count, layout, limits):
    positive, negative = masks(2, count, device=device)
    seeds = seeds_of(2, device=device)
    expected = ref.sample_candidates(positive, negative, seeds, stage=1, **limits)
    positive, negative = support.LAYOUTS[layout](positive), support.LAYOUTS[layout](negative)
    assert_same(sample_candidates(positive, negative, seeds, stage=1, **limits), expected)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_rare_and_common_positives(device, share):
    positive, negative = masks(3, 40_000, positive=share, negative=1 - share, device=device)
    seeds = seeds_of(3, device=device)
    found = sample_candidates(positive, negative, seeds, **ANCHORS)
    assert_same(found, ref.sample_candidates(positive, negative, seeds, **ANCHORS))


def test_seeds_and_stages_count_whole(device):
    """All 64 bits of a seed, all 16 of a stage."""
    positive, negative = masks(500, device=device)
    draws = []
    for seed in (0, 1, -1, 2**31, 2**32, 2**62, -(2**63)):
        for stage in (0, 1, 65_535):
            given = (positive, negative, torch.tensor(seed, device=device))
            draws.append(torch.cat(sample_candidates(*given, stage=stage, **ANCHORS)))
            assert torch.equal(draws[-1], torch.cat(ref.sample_candidates(*given, stage=stage, **ANCHORS)))
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


@pytest.mark.parametrize("shared", [True, False], ids=["shared_numbers", "own_numbers"])
def test_numbers_of_candidates(device, shared):
    """Of any order; only their low 32 bits count."""
    positive, negative = masks(3, 700, device=device)
    seeds = seeds_of(3, device=device)
    numbers = torch.randperm(WORD // 2**12, generator=torch.Generator().manual_seed(2))[: 3 * 700].view(3, 700) * 4001
    numbers = (numbers[0] if shared else numbers).to(device)
    found = sample_candidates(positive, negative, seeds, index=numbers, **ANCHORS)
    assert_same(found, ref.sample_candidates(positive, negative, seeds, index=numbers, **ANCHORS))
    assert_same(found, sample_candidates(positive, negative, seeds, index=numbers - 5 * WORD, **ANCHORS))
    strided = support.strided_copy(numbers)
    assert_same(found, sample_candidates(positive, negative, seeds, index=strided, **ANCHORS))


@settings(deadline=None)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    count=st.integers(0, 60),
    num_samples=st.integers(0, 70),
    share=st.floats(0, 1),
    stage=st.integers(0, 65_535),
    repeated=st.booleans(),
)
def test_equals_reference_everywhere(seed, count, num_samples, share, stage, repeated):
    positive, negative = masks(count, positive=share, negative=0.8, seed=count)  # some in both masks
    options = {"num_samples": num_samples, "max_positive": int(num_samples * share), "stage": stage}
    options["index"] = torch.arange(count) // 3 if repeated else None
    given = (positive, negative, torch.tensor(seed))
    assert_same(sample_candidates(*given, **options), ref.sample_candidates(*given, **options))


# ---------------------------------------------------------------------------------------------------------------------
# Invariants


def test_a_batch_is_its_images(device):
    positive, negative = masks(4, 3000, device=device)
    positive[2], negative[3] = False, False
    seeds = seeds_of(4, device=device)
    together = sample_candidates(positive, negative, seeds, **ANCHORS)
    for image in range(4):
        alone = sample_candidates(positive[image], negative[image], seeds[image], **ANCHORS)
        assert_same(alone, [mask[image] for mask in together])


def test_order_and_padding_change_nothing(device):
    """Candidates keep their luck with their number."""
    positive, negative = masks(500, device=device)
    seed = torch.tensor(11, device=device)
    expected = sample_candidates(positive, negative, seed, **ANCHORS)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1)).to(device)
    moved = sample_candidates(positive[order], negative[order], seed, index=order, **ANCHORS)
    assert_same([mask[order.argsort()] for mask in moved], expected)
    nothing = positive.new_zeros(123)
    padded = sample_candidates(torch.cat((positive, nothing)), torch.cat((negative, nothing)), seed, **ANCHORS)
    assert_same([mask[:500] for mask in padded], expected)


def test_repeated_numbers_draw_no_more_than_asked(device):
    """A broken promise of the caller's; all hashes tie, and the first candidates are drawn."""
    everything = torch.ones(3000, dtype=torch.bool, device=device)
    numbers = torch.full((3000,), 5, device=device)
    found = sample_candidates(everything, everything, torch.tensor(0, device=device), index=numbers, **ANCHORS)
    expected = torch.arange(3000, device=device) < 128
    assert_same(found, (expected, expected))


def test_masks_of_any_byte_are_true(device):
    """torch lets a bool tensor view bytes other than 0 and 1."""
    raw = torch.tensor([0, 1, 2, 128, 255, 0], dtype=torch.uint8, device=device)
    found = sample_candidates(raw.view(torch.bool), raw.bool(), torch.tensor(0, device=device), **ANCHORS)
    assert [mask.view(torch.uint8).tolist() for mask in found] == [[0, 1, 1, 1, 1, 0]] * 2


# ---------------------------------------------------------------------------------------------------------------------
# Edges


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (0, 0)])
def test_empty(device, shape):
    nothing = torch.zeros(shape, dtype=torch.bool, device=device)
    for mask in sample_candidates(nothing, nothing, seeds_of(*shape[:-1], device=device), **ANCHORS):
        assert mask.shape == shape
        assert mask.dtype == torch.bool


def test_views_of_any_alignment(device):
    """Slices of larger masks start at any byte."""
    positive, negative = masks(5000, device=device)
    seed = torch.tensor(1, device=device)
    for start in (1, 3, 8, 16):
        given = positive[start:], negative[start:]
        copies = [mask.clone() for mask in given]
        assert_same(sample_candidates(*given, seed, **ANCHORS), sample_candidates(*copies, seed, **ANCHORS))
        mixed_starts = sample_candidates(given[0], copies[1], seed, **ANCHORS)
        assert_same(mixed_starts, sample_candidates(*copies, seed, **ANCHORS))


# ---------------------------------------------------------------------------------------------------------------------
# Operator contract, determinism


@pytest.mark.parametrize("shape", [(40,), (3, 40), (0,), (3, 0), (0, 7)])
@pytest.mark.parametrize("numbered", [False, True])
def test_opcheck(device, shape, numbered):
    positive, negative = masks(*shape, device=device)
    index = torch.arange(shape[-1], device=device) if numbered else None
    given = (positive, negative, seeds_of(*shape[:-1], device=device), 8, 3, 1, index)
    opcheck(torch.ops.fasterrcnn_ops.sample_candidates.default, given)


def test_meta_tensors():
    positive = torch.zeros(3, 40, dtype=torch.bool, device="meta")
    for mask in sample_candidates(positive, positive, torch.zeros(3, dtype=torch.int64, device="meta"), **FEW):
        assert (mask.shape, mask.dtype, mask.device.type) == ((3, 40), torch.bool, "meta")


def test_vmap(device):
    positive, negative = masks(4, 2, 90, device=device)
    seeds = seeds_of(4, 2, device=device)
    found = torch.vmap(lambda *given: sample_candidates(*given, **FEW))(positive, negative, seeds)
    each = [sample_candidates(*given, **FEW) for given in zip(positive, negative, seeds, strict=True)]
    assert_same(found, [torch.stack(column) for column in zip(*each, strict=True)])
    shared = torch.vmap(lambda seed: sample_candidates(positive[0, 0], negative[0, 0], seed, **FEW))(seeds[0])
    assert_same([mask[1] for mask in shared], sample_candidates(positive[0, 0], negative[0, 0], seeds[0, 1], **FEW))


def test_compiles_whole(device):
    positive, negative = masks(3, 200, device=device)
    seeds = seeds_of(3, device=device)
    compiled = torch.compile(sample_candidates, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_same(compiled(positive, negative, seeds, **FEW), sample_candidates(positive, negative, seeds, **FEW))


def test_same_result_for_any_number_of_threads():
    positive, negative = masks(3, 100_000, positive=0.001, negative=0.99)
    seeds = seeds_of(3)
    one, two, three = support.at_thread_counts(
        lambda: sample_candidates(positive, negative, seeds, **ANCHORS), (1, 2, 3)
    )
    assert_same(one, two)
    assert_same(one, three)


# ---------------------------------------------------------------------------------------------------------------------
# Errors

TEN = torch.ones(10, dtype=torch.bool)
TWO_TENS = TEN.expand(2, -1)
ONE, TWO = torch.tensor(0), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((TEN[0], TEN[0], ONE), {}, r"positive: expected shape \[N\] or \[B, N\], got \[\]"),
        ((TEN.expand(2, 2, 10), TEN, ONE), {}, r"positive: expected shape .*got \[2, 2, 10\]"),
        ((TEN.float(), TEN, ONE), {}, "positive: expected dtype bool, got float32"),
        ((TEN, TEN[1:], ONE), {}, r"negative: expected the shape of positive, \[10\], got \[9\]"),
        ((TWO_TENS, TEN, TWO), {}, r"negative: expected the shape of positive, \[2, 10\], got \[10\]"),
        ((TEN, TEN.to(torch.uint8), ONE), {}, "negative: expected dtype bool, got Byte"),
        ((TEN, TEN, TWO), {}, r"seeds: expected one for each image of positive \[10\], got shape \[2\]"),
        ((TWO_TENS, TWO_TENS, ONE), {}, r"seeds: expected one for each image of positive \[2, 10\], got shape \[\]"),
        ((TEN, TEN, ONE.int()), {}, "seeds: expected dtype int64, got Int"),
        (
            (TEN, TEN, ONE),
            {"index": TWO},
            r"index: expected one for each candidate of positive \[10\], got shape \[2\]",
        ),
        ((TEN, TEN, ONE), {"index": torch.zeros(1, 10).long()}, r"index: expected .* got shape \[1, 10\]"),
        ((TWO_TENS, TWO_TENS, TWO), {"index": torch.zeros(3, 10).long()}, r"index: expected .* got shape \[3, 10\]"),
        ((TEN, TEN, ONE), {"index": torch.zeros(10)}, "index: expected dtype int64, got float32"),
        ((TEN, TEN, ONE), {"num_samples": -1}, "num_samples: expected a number >= 0, got -1"),
        ((TEN, TEN, ONE), {"max_positive": -1}, r"max_positive: expected a number in 0 … num_samples \(8\), got -1"),
        ((TEN, TEN, ONE), {"max_positive": 9}, r"max_positive: expected a number in 0 … num_samples \(8\), got 9"),
        ((TEN, TEN, ONE), {"stage": -1}, "stage: expected a number in 0 … 65535, got -1"),
        ((TEN, TEN, ONE), {"stage": 65_536}, "stage: expected a number in 0 … 65535, got 65536"),
    ],
)
def test_bad_arguments_raise(given, options, message):
    with pytest.raises(RuntimeError, match=message):
        sample_candidates(*given, **{**FEW, **options})


@pytest.mark.parametrize(
    ("on_card", "odd"),
    [
        (("positive",), "negative"),
        (("positive", "negative", "index"), "seeds"),
        (("positive", "negative", "seeds"), "index"),
        (("negative",), "negative"),
        (("seeds",), "seeds"),
        (("index",), "index"),
    ],
)
def test_devices_must_agree(on_card, odd):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    given = {"positive": TEN, "negative": TEN, "seeds": ONE, "index": torch.arange(10)}
    given |= {name: given[name].cuda() for name in on_card}
    with pytest.raises(RuntimeError, match=f"{odd}: .*device"):
        sample_candidates(**given, **FEW)
