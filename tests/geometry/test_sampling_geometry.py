"""The hash that candidates are drawn by, which host and device share, against its definition in int64 arithmetic."""

from __future__ import annotations

import subprocess

import torch

from fasterrcnn_ops.reference.sampling import hashes


def test_hash_bit_by_bit(compile_geometry):
    generator = torch.Generator().manual_seed(0)
    seeds = torch.randint(-(2**63), 2**63 - 1, (20_000,), generator=generator)
    seeds[:8] = torch.tensor([0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -(2**63)])
    numbers = torch.randint(2**32, (20_000,), generator=generator)
    numbers[8:13] = torch.tensor([0, 1, 2**31, 2**32 - 1, -1])
    stages = [0, 1, 2, 65_535]
    lines, expected = [], []
    for stage in stages:
        lines += [f"{seed} {stage} {number}" for seed, number in zip(seeds.tolist(), numbers.tolist(), strict=True)]
        expected += hashes(seeds, stage, numbers[:, None])[:, 0].tolist()
    said = subprocess.run(
        [compile_geometry("sampling_geometry")], input="\n".join(lines), capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    assert [int(line) for line in said.stdout.split()] == expected
