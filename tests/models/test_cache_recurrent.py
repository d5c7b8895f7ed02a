"""The cache layers: what they hold, how rows are moved, how states come out and go in, and what is refused."""

import copy
import io

import pytest
import torch
from transformers import DynamicCache, StaticCache

from hflab.models.recurrent import RecurrentConfig, RecurrentModel, RecurrentState, cache_from_states, detach_cache, states_from_cache
from hflab.models.recurrent.cache_recurrent import RecurrentCacheLayer, StaticRecurrentCacheLayer, recurrent_layers

ROWS = 4


@pytest.fixture
def config(cell_type):
    return RecurrentConfig(cell_type=cell_type, hidden_size=5, num_hidden_layers=2)


@pytest.fixture(params=["dynamic", "static"])
def cache(request, config):
    """A cache of `ROWS` rows that has read three tokens."""
    torch.manual_seed(0)
    cache = DynamicCache(config=config) if request.param == "dynamic" else StaticCache(config=config, max_cache_len=9)
    with torch.no_grad():
        for layer in recurrent_layers(cache, 2):
            layer.store_state(random_state(config), num_tokens=3)
    return cache


def random_state(config):
    has_cell = config.cell_type == "lstm"
    return RecurrentState(torch.randn(ROWS, 5), torch.randn(ROWS, 5) if has_cell else None)


def tensors(cache):
    return [part for state in states_from_cache(cache) for part in state if part is not None]


def test_transformers_builds_our_layers(cache):
    kind = StaticRecurrentCacheLayer if isinstance(cache, StaticCache) else RecurrentCacheLayer
    assert [type(layer) for layer in cache.layers] == [kind] * 2
    assert cache.is_compileable
    assert not cache.is_croppable


def test_counts_tokens(cache):
    assert cache.get_seq_length() == 3
    recurrent_layers(cache, 2)[0].store_state(recurrent_layers(cache, 2)[0].state, num_tokens=2)
    assert cache.get_seq_length() == 5
    assert cache.get_max_length() == -1
    assert DynamicCache(config=RecurrentConfig()).get_seq_length() == 0


@pytest.mark.parametrize("rows", [[2, 0, 0, 3], [1, 1, 1, 1]])
def test_reorder(cache, rows):
    before = tensors(cache)
    cache.reorder_cache(torch.tensor(rows))
    assert all(torch.equal(new, old[rows]) for new, old in zip(tensors(cache), before, strict=True))
    assert cache.get_seq_length() == 3


def test_repeat_and_select(cache):
    before = tensors(cache)
    cache.batch_repeat_interleave(2)
    assert all(torch.equal(new, old.repeat_interleave(2, 0)) for new, old in zip(tensors(cache), before, strict=True))
    cache.batch_select_indices(torch.tensor([1, 4]))
    assert all(torch.equal(new, old[[0, 2]]) for new, old in zip(tensors(cache), before, strict=True))


def test_reset_begins_anew(cache, config):
    model = RecurrentModel(config).eval()
    tokens = torch.arange(2 * ROWS).view(ROWS, 2)
    addresses = [layer.keys.data_ptr() for layer in cache.layers]
    with torch.no_grad():
        cache.reset()
        assert cache.get_seq_length() == 0
        outputs = model(input_ids=tokens, past_key_values=cache)
        torch.testing.assert_close(outputs.last_hidden_state, model(input_ids=tokens).last_hidden_state)
    if isinstance(cache, StaticCache):
        assert addresses == [layer.keys.data_ptr() for layer in cache.layers]
    else:
        cache.reset()
        model(input_ids=tokens[:1], past_key_values=cache)  # another number of rows


def test_moving_rows_of_an_empty_cache_does_nothing(config):
    for cache in (DynamicCache(config=config), StaticCache(config=config, max_cache_len=9)):
        cache.reorder_cache(torch.tensor([0]))
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0]))
        cache.reset()
        assert cache.get_seq_length() == 0


def test_crop_is_refused_and_names_the_alternative(cache):
    cache.crop(0)
    with pytest.raises(ValueError, match=r"crop\(-1\).*states_from_cache"):
        cache.crop(-1)


def test_states_go_out_and_in(cache, config):
    states = states_from_cache(cache)
    assert all((state.cell is None) == (config.cell_type != "lstm") for state in states)
    again = cache_from_states(config, states, num_tokens=3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(again), tensors(cache), strict=True))
    assert again.get_seq_length() == 3
    assert cache_from_states(config, states).get_seq_length() == 0


def test_states_taken_out_do_not_change_later(cache, config):
    states = states_from_cache(cache)
    kept = copy.deepcopy(states)
    with torch.no_grad():
        for layer in recurrent_layers(cache, 2):
            layer.store_state(random_state(config), num_tokens=1)
    assert all(torch.equal(state.hidden, old.hidden) for state, old in zip(states, kept, strict=True))
    assert not torch.equal(states_from_cache(cache)[0].hidden, kept[0].hidden)


def test_static_states_stay_at_their_address(config):
    cache = StaticCache(config=config, max_cache_len=9)
    layer = recurrent_layers(cache, 2)[0]
    with torch.no_grad():
        layer.store_state(random_state(config), num_tokens=1)
        addresses = [layer.keys.data_ptr(), layer.cumulative_length.data_ptr()]
        new = random_state(config)
        layer.store_state(new, num_tokens=1)
        cache.reorder_cache(torch.tensor([3, 2, 1, 0]))
    assert addresses == [layer.keys.data_ptr(), layer.cumulative_length.data_ptr()]
    assert torch.equal(layer.keys, new.hidden.flip(0))


def test_gradients_pass_until_detached(cache, config):
    hidden = torch.randn(ROWS, 5, requires_grad=True)
    layer = recurrent_layers(cache, 2)[0]
    layer.store_state(RecurrentState(hidden * 2, random_state(config).cell), num_tokens=1)
    layer.state.hidden.sum().backward()
    assert torch.equal(hidden.grad, torch.full_like(hidden, 2.0))
    assert layer.state.hidden.requires_grad
    assert detach_cache(cache) is cache
    assert not layer.state.hidden.requires_grad


def test_copies_and_saves(cache):
    buffer = io.BytesIO()
    torch.save(tensors(cache), buffer)
    buffer.seek(0)
    for again in (tensors(copy.deepcopy(cache)), torch.load(buffer)):
        assert all(torch.equal(a, b) for a, b in zip(again, tensors(cache), strict=True))


def test_refusals_name_the_alternative(config):
    with pytest.raises(ValueError, match="holds no state yet"):
        states_from_cache(DynamicCache(config=config))
    with pytest.raises(ValueError, match=r"1 states were given for 2 layers"):
        cache_from_states(config, [random_state(config)])
    with pytest.raises(ValueError, match=r"DynamicCache\(config=model.config\)"):
        recurrent_layers(DynamicCache(), 2)
