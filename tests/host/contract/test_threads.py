"""Several threads, each with passes of its own, through one model."""

from concurrent.futures import ThreadPoolExecutor

import torch

import clvq_lens as cl
from tests.host.contract.checks import commonest
from tests.hosts import words


def test_threads_under_an_open_edit_get_what_one_thread_gets(model, lens):
    batches = [words(2 + seed % 3, 10, seed=seed) for seed in range(12)]
    with lens.edit(cl.Swap(*commonest(lens, words(4, 12)))), torch.no_grad():
        expected = [model(tokens) for tokens in batches]

        def passes(index):
            with torch.no_grad():
                return [torch.equal(model(batches[i]), expected[i]) for i in range(index, 12, 3)]

        with ThreadPoolExecutor(3) as pool:
            right = sum(pool.map(passes, range(3)), [])
    assert right == [True] * 12


def test_verbs_of_several_threads_do_not_see_one_anothers_passes(model, lens):
    batches = [words(2 + seed % 3, 10, seed=seed) for seed in range(12)]
    expected = [lens.encode(tokens).codes for tokens in batches]

    def verbs(index):
        return [
            torch.equal(lens.encode(batches[i]).codes, expected[i]) for i in range(index, 12, 3)
        ]

    with ThreadPoolExecutor(3) as pool:
        right = sum(pool.map(verbs, range(3)), [])
    assert right == [True] * 12
