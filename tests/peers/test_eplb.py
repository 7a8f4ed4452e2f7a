"""Expert placements by load, against the published algorithm (DeepSeek's EPLB) in numpy.

Greedy choices in float32: groups of experts are packed onto nodes, the expert with the highest load
a replica gets another one until a node's replicas are spent, and the replicas are packed onto the
node's GPUs. Where nodes do not divide the groups, all GPUs are one node with one group. Loads
without ties only: between equal ones the published program's order is chance.
"""

import subprocess
import unittest

import numpy as np

import tools

# experts, replicas, groups, nodes, gpus
SIZES = [
    (8, 8, 1, 1, 4), (8, 12, 4, 2, 4), (12, 16, 4, 2, 8), (12, 16, 4, 3, 8), (16, 24, 8, 4, 8),
    (24, 40, 8, 8, 8), (32, 40, 4, 1, 8), (32, 64, 4, 4, 32), (30, 45, 5, 3, 9), (64, 80, 8, 2, 16),
    (256, 256, 8, 4, 32), (256, 288, 8, 4, 32), (256, 320, 8, 8, 64), (256, 320, 8, 40, 320),
]
LOADS_A_SIZE = 15


class Tie(Exception):
    """Two loads that a choice compares are equal."""


def pack(loads, owners, packs):
    """Items of each pack: heaviest first, to the least loaded pack with room."""
    room = len(loads) // packs
    if room == 1:
        return [[item] for item in range(packs)]
    order = np.argsort(-loads, kind="stable")
    for a, b in zip(order, order[1:]):
        if loads[a] == loads[b] and owners[a] != owners[b]:
            raise Tie
    result = [[] for _ in range(packs)]
    total = np.zeros(packs, np.float32)
    for item in order:
        free = [i for i in range(packs) if len(result[i]) < room]
        best = free[int(np.argmin(total[free]))]
        result[best].append(int(item))
        total[best] += loads[item]
    return result


def replicate(loads, replicas):
    """The expert of each replica: every expert once, then those with the highest load a replica."""
    count = np.ones(len(loads), np.float32)
    experts = list(range(len(loads)))
    while len(experts) < replicas:
        share = loads / count
        best = int(np.argmax(share))
        if np.count_nonzero(share == share[best]) > 1:
            raise Tie
        experts.append(best)
        count[best] += 1
    return experts, loads / count


def rebalance(loads, replicas, groups, nodes, gpus):
    """The logical expert of each physical one."""
    if groups % nodes != 0:
        groups = nodes = 1
    members = np.arange(len(loads)).reshape(groups, -1)
    group_loads = loads.astype(np.float64).reshape(groups, -1).sum(1).astype(np.float32)
    result = []
    for held in pack(group_loads, range(groups), nodes):
        experts = members[held].reshape(-1)
        owners, share = replicate(loads[experts], replicas // nodes)
        for gpu in pack(share[owners], owners, gpus // nodes):
            result += [int(experts[owners[replica]]) for replica in gpu]
    return result


def draw(generator, experts):
    """A random load: counts of tokens, or decimals of which few experts have most."""
    if generator.random() < 0.5:
        return generator.permutation(1 << 20)[:experts].astype(np.float32)
    return (generator.exponential(size=experts) ** 3).astype(np.float32)


class Eplb(unittest.TestCase):
    def test_the_rendering_gives_the_published_example(self):
        loads = np.float32([90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86])
        expected = [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1]
        self.assertEqual(rebalance(loads, 16, 4, 2, 8), expected)

    def test_random_loads(self):
        generator = np.random.default_rng(17)
        lines, expected = [], []
        for experts, *sizes in SIZES:
            for _ in range(LOADS_A_SIZE):
                loads = draw(generator, experts)
                try:
                    expected.append(rebalance(loads, *sizes))
                except Tie:
                    continue
                lines.append(" ".join([*map(str, sizes), *(repr(float(x)) for x in loads)]))
        self.assertGreater(len(lines), 0.95 * len(SIZES) * LOADS_A_SIZE)
        done = subprocess.run([tools.BIN / "dsv3-eplb-check"], input="\n".join(lines) + "\n",
                              capture_output=True, text=True, check=True)
        answers = done.stdout.splitlines()
        self.assertEqual(len(answers), len(lines))
        for line, answer, want in zip(lines, answers, expected):
            self.assertEqual(list(map(int, answer.split())), want, line)


if __name__ == "__main__":
    unittest.main()
