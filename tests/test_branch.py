"""One branch's decoding state, held against the same model computing every row alone from its first token."""

from __future__ import annotations

from functools import cache

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generic_logits.errors import ModelError
from generic_logits.models.branch import Branch

CROPPABLE = ["llama", "mistral", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt", "phi", "mixtral"]
RECURRENT = ["mamba", "mamba2", "lfm2", "falcon_h1", "bamba", "qwen3_next"]

model = cache(tiny.model)


class Followed:
    """A branch whose every answer is checked, and the tokens that it fed."""

    def __init__(self, family: str) -> None:
        self.model = tiny.model(family)
        self.fed = tiny.count_fed(self.model)
        self.branch = Branch(self.model)
        self.alone = model(family)  # a second copy, so that the check is not counted

    def show(self, rows: Tensor, mask: Tensor | None = None) -> int:
        """Check the answer to these rows and return how many columns of tokens went through the model."""
        before = len(self.fed)
        logits = self.branch.next_logits(rows, mask)
        texts = list(rows) if mask is None else [row[keep.bool()] for row, keep in zip(rows, mask, strict=True)]
        torch.testing.assert_close(logits, tiny.last_logits(self.alone, texts), rtol=0, atol=2e-4)
        assert len(self.fed) == before + 1
        return self.fed[-1]


@pytest.fixture(params=CROPPABLE)
def followed(request) -> Followed:
    return Followed(request.param)


@pytest.fixture(params=RECURRENT)
def recurrent(request) -> Followed:
    return Followed(request.param)


def text(rows: int, length: int, seed: int = 0) -> Tensor:  # [rows, length]
    return torch.stack(tiny.prompts(*[length] * rows, seed=seed))


def test_one_more_token_feeds_one_token(followed):
    rows = text(2, 20)
    assert followed.show(rows[:, :8]) == 8
    for length in range(9, 21):
        assert followed.show(rows[:, :length]) == 1
        assert followed.branch.extended


def test_several_more_tokens_feed_those_only(followed):
    rows = text(2, 20)
    followed.show(rows[:, :8])
    assert followed.show(rows[:, :13]) == 5
    assert not followed.branch.extended
    assert followed.show(rows) == 7


def test_rows_in_another_order_reorder_the_cache(followed):
    rows = text(4, 20)
    followed.show(rows[:, :10])
    assert followed.show(rows[[2, 0, 3, 1], :11]) == 1
    assert followed.show(rows[[1, 1, 2, 1], :12]) == 1  # beams die and multiply
    assert followed.show(rows[[1, 2], :13]) == 1
    assert followed.show(rows[[2, 2, 1, 1, 2, 1], :14]) == 1  # one prompt becomes several sequences


def test_a_roll_back_crops_the_cache(followed):
    rows = text(2, 20)
    followed.show(rows[:, :12])
    followed.show(rows[:, :15])
    other = torch.cat([rows[:, :13], text(2, 3, seed=9)], -1)
    assert followed.show(other) == 3
    assert followed.show(rows[:, :14]) == 1
    assert followed.show(rows[:, :14]) == 1  # the same question again
    # A shorter one: sliding layers dropped at the first crop what this second one needs.
    assert followed.show(rows[:, :13]) == (13 if followed.branch._sliding else 1)


def test_rows_that_share_different_lengths_keep_the_shortest(followed):
    rows = text(3, 16)
    followed.show(rows[:, :14])
    other = rows.clone()
    other[0, 13:] = text(1, 3, seed=5)
    other[1, 12:] = text(1, 4, seed=6)
    assert followed.show(other) == 4


def test_nothing_in_common_starts_anew(followed):
    followed.show(text(2, 12))
    assert followed.show(text(2, 9, seed=1)) == 9
    assert followed.show(text(3, 9, seed=2)) == 9
    assert followed.show(text(1, 1, seed=3)) == 1


def test_one_row_in_common_does_not_save_the_other(followed):
    rows = text(2, 12)
    followed.show(rows)
    assert followed.show(torch.stack([rows[0], text(1, 12, seed=1)[0]])) == 12


def test_reset_forgets(followed):
    rows = text(2, 9)
    followed.show(rows)
    followed.branch.reset()
    assert followed.show(rows) == 9


def test_left_padding_moves_no_position(followed):
    ids, mask = tiny.padded(tiny.prompts(3, 9, 1))
    assert followed.show(ids, mask) == 9
    for step in range(4):
        ids = torch.cat([ids, text(3, 1, seed=step)], -1)
        mask = torch.cat([mask, mask.new_ones(3, 1)], -1)
        assert followed.show(ids, mask) == 1
    order = [2, 0, 1, 1]
    ids = torch.cat([ids[order], text(4, 1, seed=7)], -1)
    mask = torch.cat([mask[order], mask.new_ones(4, 1)], -1)
    assert followed.show(ids, mask) == 1
    assert followed.show(ids[:, :-1], mask[:, :-1]) == 1


def test_the_same_tokens_under_another_mask_are_other_text(followed):
    ids = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    followed.show(ids)
    assert followed.show(ids, mask) == 6
    assert followed.show(ids) == 6


def test_a_recurrent_state_is_continued_and_reordered(recurrent):
    rows = text(3, 20)
    assert recurrent.show(rows[:, :8]) == 8
    for length in range(9, 14):
        assert recurrent.show(rows[:, :length]) == 1
    assert recurrent.show(rows[[2, 0, 0, 1], :14]) == 1
    assert recurrent.show(rows[[1, 2], :15]) == 1


def test_a_recurrent_state_is_computed_again_where_it_cannot_be_rolled_back(recurrent):
    rows = text(2, 20)
    recurrent.show(rows[:, :12])
    assert recurrent.show(rows[:, :11]) == 11
    assert recurrent.show(rows[:, :11]) == 11
    assert recurrent.show(torch.cat([rows[:, :10], text(2, 3, seed=4)], -1)) == 13
    recurrent.show(rows[:, :12])
    recurrent.show(rows[:, :17])  # several new tokens at once
    recurrent.show(text(3, 6, seed=4))


def test_a_recurrent_state_ignores_left_padding(recurrent):
    ids, mask = tiny.padded(tiny.prompts(3, 9, 1))
    recurrent.show(ids, mask)
    for step in range(4):
        ids = torch.cat([ids[[1, 2, 0]], text(3, 1, seed=step)], -1)
        mask = torch.cat([mask[[1, 2, 0]], mask.new_ones(3, 1)], -1)
        assert recurrent.show(ids, mask) == 1


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_crop_below_the_kept_window_is_computed_again(family):
    followed, window = Followed(family), tiny.WINDOW
    rows = text(2, 60)
    followed.show(rows[:, :40])
    assert followed.show(rows[:, : 40 - window + 1]) == 1  # as far back as one window: cropped
    for far in (20, 32):  # farther, within and beyond what is held: computed again
        followed.branch.reset()
        followed.show(rows[:, :40])
        assert followed.show(rows[:, :far]) == far
    followed.branch.reset()
    followed.show(rows[:, :40])
    assert followed.show(rows[:, :38]) == 1
    assert followed.show(rows[:, :35]) == 35  # the first crop has dropped what the second one needs
    for length in range(36, 60):
        assert followed.show(rows[:, :length]) == 1


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_sliding_layers_hold_at_most_three_windows(family):
    branch, rows = Branch(tiny.model(family)), text(1, 240)
    largest = 0
    for length in range(40, 241):
        branch.next_logits(rows[:, :length])
        sliding = [layer for layer in branch._cache.layers if layer.is_sliding]
        assert sliding
        largest = max(largest, *(layer.keys.shape[-2] for layer in sliding))
        assert all(layer.keys.untyped_storage().nbytes() <= 3 * tiny.WINDOW * 2 * 8 * 8 for layer in sliding)
    assert largest <= 3 * tiny.WINDOW + 1
    torch.testing.assert_close(branch.next_logits(rows), tiny.last_logits(model(family), list(rows)), rtol=0, atol=2e-4)


def test_long_rejected_drafts_stay_exact_beyond_the_window():
    followed, rows = Followed("mistral"), text(1, 90)
    followed.show(rows[:, :30])
    for length in range(31, 90, 3):
        for guess in range(1, 5):  # a caller that verifies four drafts one by one, then drops all but one
            followed.show(torch.cat([rows[:, :length], text(1, guess, seed=length)], -1))
    assert sum(followed.fed) < 400  # 80 calls of up to 90 tokens


MOVES = ["extend", "roll back", "permute", "duplicate", "drop", "new prompt", "repeat", "padded prompt"]
moves = st.lists(
    st.tuples(
        st.sampled_from(MOVES),
        st.integers(0, 2**16),
    ),
    min_size=3,
    max_size=14,
)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "mamba", "lfm2"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(moves=moves)
def test_any_sequence_of_moves_equals_recomputation(family, moves):
    alone, branch = model(family), Branch(model(family))
    ids, mask = tiny.padded(tiny.prompts(5, 5))
    padded = False
    for move, seed in moves:
        pick = torch.Generator().manual_seed(seed)
        rows, length = ids.shape

        def number(low: int, high: int, pick=pick) -> int:
            return int(torch.randint(low, high + 1, (1,), generator=pick))

        if move == "extend":
            new = text(rows, number(1, 4), seed=seed)
            ids, mask = torch.cat([ids, new], -1), torch.cat([mask, torch.ones_like(new)], -1)
        elif move == "roll back":
            keep = max(int((mask == 0).sum(-1).max()) + 1, length - number(1, 9))
            new = text(rows, number(0, 2), seed=seed)
            ids, mask = torch.cat([ids[:, :keep], new], -1), torch.cat([mask[:, :keep], torch.ones_like(new)], -1)
        elif move == "permute":
            order = torch.randperm(rows, generator=pick)
            ids, mask = ids[order], mask[order]
        elif move == "duplicate":
            order = torch.randint(0, rows, (min(rows + 1, 4),), generator=pick)
            ids, mask = ids[order], mask[order]
        elif move == "drop":
            ids, mask = ids[: max(1, rows - 1)], mask[: max(1, rows - 1)]
        elif move == "new prompt":
            ids, padded = text(number(1, 3), number(1, 30), seed=seed), False
            mask = torch.ones_like(ids)
        elif move == "padded prompt":
            ids, mask = tiny.padded(tiny.prompts(number(1, 12), number(1, 12), seed=seed))
            padded = True
        logits = branch.next_logits(ids, mask if padded else None)
        texts = [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
        torch.testing.assert_close(logits, tiny.last_logits(alone, texts), rtol=0, atol=2e-4)


def test_only_the_last_position_goes_through_the_head():
    made, shapes = tiny.model(), []
    made.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    Branch(made).next_logits(text(2, 9))
    assert shapes == [(2, 1, tiny.VOCAB)]


def test_the_answer_carries_no_gradient():
    assert not Branch(model()).next_logits(text(1, 4)).requires_grad


def test_the_caller_may_change_its_rows_in_place_afterwards():
    followed, rows = Followed("llama"), text(1, 6)
    followed.show(rows)
    rows[0, 2] = 50
    assert followed.show(rows) == 4


def test_an_interrupted_step_leaves_nothing_wrong_behind():
    followed, rows = Followed("llama"), text(1, 12)
    followed.show(rows[:, :9])

    def interrupt(*args):
        raise KeyboardInterrupt

    hook = followed.model.model.layers[1].register_forward_pre_hook(interrupt)  # one layer's cache has grown by then
    with pytest.raises(KeyboardInterrupt):
        followed.branch.next_logits(rows[:, :7])
    hook.remove()
    assert followed.show(rows[:, :10]) == 10


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ModelError) as caught:
        Branch(tiny.encoder_decoder())
    assert str(caught.value) == (
        "wanted a decoder-only language model; got an encoder-decoder (t5); "
        "generic logits need one causal model that reads and continues the same text"
    )


def test_a_model_with_its_state_elsewhere_is_refused_at_the_first_step():
    branch = Branch(tiny.model("recurrent_gemma"))
    with pytest.raises(ModelError) as caught:
        branch.next_logits(text(1, 4))
    assert str(caught.value) == (
        "wanted a model that decodes with a transformers Cache; got RecurrentGemmaForCausalLM; "
        "its decoding state cannot be followed; use a model of another family"
    )


def test_a_model_that_takes_no_cache_is_refused():
    with pytest.raises(ModelError, match="^wanted a model that decodes with a transformers Cache; got Rwkv"):
        Branch(tiny.model("rwkv"))
