"""The fast CNN against the same model of plain layers: one result, whatever the path."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from support.models.cnn import CNN, KEPT
from support.models.lookup import conv_max, fold
from support.models.params import Params
from support.models.training import train_cnn

SIZES = {"vocab_size": 39, "num_classes": 7, "embedding_dim": 16, "num_filters": 12, "hidden_dim": 10}
ALL_WIDTHS = list(range(1, 11))
# An odd number of texts of odd lengths, two of them empty and most shorter than the widest filter. 1 is
# the unknown token.
LENGTHS = [31, 0, 1, 2, 5, 9, 10, 11, 0, 17, 3]
DECIDES = CNN.uses_lookup


@pytest.fixture(autouse=True, scope="module")
def by_lookup():
    """Let these small batches be looked up, which alone they would not be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CNN, "uses_lookup", lambda model, tokens: tokens.device.type == "cpu")
        yield


class PlainCNN(nn.Module):
    """What CNN must compute, from plain layers, a filter width at a time, with no thought for speed."""

    def __init__(self, vocab_size, num_classes, embedding_dim, num_filters, hidden_dim, filter_sizes):
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, embedding_dim, padding_idx=0)
        self.conv = nn.ModuleList(nn.Conv1d(embedding_dim, num_filters, k) for k in filter_sizes)
        self.fc1 = nn.Linear(num_filters * len(filter_sizes), hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = []
        for conv in self.conv:
            (k,) = conv.kernel_size
            # In front, the lesson's "same" padding. Behind, room for one window of padding alone.
            embedded = self.embeddings(F.pad(tokens, ((k - 1) // 2, k)))
            pooled.append(conv(embedded.transpose(1, 2)).max(2).values)
        return self.fc2(self.fc1(torch.cat(pooled, 1)))


def make_pair(filter_sizes=ALL_WIDTHS, **sizes) -> tuple[CNN, PlainCNN]:
    torch.manual_seed(0)
    plain = PlainCNN(**SIZES | sizes, filter_sizes=filter_sizes)
    ours = CNN(**SIZES | sizes, filter_sizes=filter_sizes, dropout_p=0.0)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


def make_tokens(lengths=LENGTHS, vocab_size=39, seed=0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocab_size, (len(lengths), max(lengths)), generator=generator)
    return tokens * (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1))


def make_targets(tokens: Tensor) -> Tensor:
    return (torch.arange(len(tokens) * 7, device=tokens.device).view(-1, 7) % 3 == 0).float()


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens)
    return F.binary_cross_entropy_with_logits(logits, make_targets(tokens).to(logits.dtype))


def assert_same(ours: CNN, plain: PlainCNN, tokens: Tensor) -> None:
    """Compare the logits to 1e-5 and every gradient to 1e-6."""
    torch.testing.assert_close(ours(tokens), plain(tokens), atol=1e-5, rtol=0)
    for model in (ours, plain):
        model.zero_grad()
        loss_of(model, tokens).backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-6, rtol=0, msg=name)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("filter_sizes", [*([k] for k in ALL_WIDTHS), ALL_WIDTHS, [5, 2, 9]], ids=str)
def test_logits_and_gradients_equal_those_of_plain_layers(filter_sizes, dtype, device):
    ours, plain = (model.to(device, dtype) for model in make_pair(filter_sizes))
    assert_same(ours, plain, make_tokens().to(device))


@pytest.mark.parametrize(
    "lengths", [[1], [7], [200], [0, 0, 0], [3, 0], [64] * 9, list(range(19))], ids=lambda x: str(x)[:20]
)
def test_batches_of_any_shape(lengths):
    assert_same(*make_pair(), make_tokens(lengths))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
@pytest.mark.parametrize("uses_lookup", [True, False])
def test_a_batch_without_texts_or_without_tokens(shape, uses_lookup, monkeypatch):
    monkeypatch.setattr(CNN, "uses_lookup", lambda model, tokens: uses_lookup)
    ours, plain = make_pair()
    tokens = torch.zeros(shape, dtype=torch.int64)
    torch.testing.assert_close(ours(tokens), plain(tokens), atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 24), min_size=1, max_size=20),
    filter_sizes=st.lists(st.integers(1, 10), min_size=1, max_size=4, unique=True),
    vocab_size=st.integers(3, 60),
    seed=st.integers(0, 999),
)
def test_any_texts_and_any_widths(lengths, filter_sizes, vocab_size, seed):
    # In float64, where no two windows tie by rounding.
    ours, plain = (model.double() for model in make_pair(filter_sizes, vocab_size=vocab_size))
    assert_same(ours, plain, make_tokens(lengths, vocab_size, seed))


def test_gradcheck():
    torch.manual_seed(0)
    embeddings = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(2, 3, k, dtype=torch.float64, requires_grad=True) for k in (1, 2, 5)]
    tokens = make_tokens([9, 4, 0, 1, 7, 2, 3, 5, 6], vocab_size=6)
    assert torch.autograd.gradcheck(lambda e, *w: conv_max(tokens, fold(e, w), [1, 2, 5]), (embeddings, *weights))


def test_state_dict_has_the_lessons_keys_and_shapes():
    shapes = {key: tuple(value.shape) for key, value in CNN(vocab_size=39, num_classes=35).state_dict().items()}
    convs = {}
    for i in range(10):
        convs |= {f"conv.{i}.weight": (128, 128, i + 1), f"conv.{i}.bias": (128,)}
    assert shapes == {
        "embeddings.weight": (39, 128),
        **convs,
        "fc1.weight": (128, 1280),
        "fc1.bias": (128,),
        "fc2.weight": (35, 128),
        "fc2.bias": (35,),
    }


def test_weights_go_both_ways_between_plain_layers_and_ours():
    ours, plain = make_pair()
    tokens = make_tokens()
    other = CNN(**SIZES, dropout_p=0.0)
    plain.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close(other(tokens), plain(tokens), atol=1e-5, rtol=0)
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(ours(tokens), other(tokens))


def test_weights_survive_copies_and_files():
    ours, _ = make_pair()
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    loaded = CNN(**SIZES, dropout_p=0.0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    tokens = make_tokens()
    for other in (loaded, copy.deepcopy(ours)):
        assert torch.equal(other(tokens), ours(tokens))
        for mine, theirs in zip(ours.conv, other.conv, strict=True):
            assert theirs.weight.stride() == mine.weight.stride()


@pytest.mark.parametrize("vocab_size", [39, 5000])
def test_small_and_large_vocabularies_equal_plain_layers(vocab_size):
    ours, plain = make_pair([1, 2, 3, 7], vocab_size=vocab_size)
    assert_same(ours, plain, make_tokens(vocab_size=vocab_size))


def test_a_batch_decides_by_its_tokens_and_a_kept_table_by_its_size():
    texts = torch.ones(10, 200, dtype=torch.int64)
    texts[:, 100:] = 0  # padding, which does not count
    small, large = CNN(500, 3), CNN(501, 3)
    assert [DECIDES(model, texts) for model in (small, large)] == [True, False]
    with torch.no_grad():
        assert [DECIDES(CNN(size, 3), texts[:1]) for size in (KEPT, KEPT + 1)] == [True, False]


@pytest.mark.parametrize("uses_lookup", [True, False])
def test_a_text_gets_the_same_probabilities_in_any_company(uses_lookup, monkeypatch):
    monkeypatch.setattr(CNN, "uses_lookup", lambda model, tokens: uses_lookup)
    model = CNN(**SIZES).eval()
    tokens = make_tokens()
    together = model(tokens).sigmoid()
    for row in range(len(tokens)):
        text = tokens[row : row + 1]
        alone = text[:, : int((text > 0).sum())]
        padded = F.pad(text, (0, 100))
        pair = torch.cat([padded, make_tokens([131], seed=1)])
        for batch in (alone, padded, pair):
            torch.testing.assert_close(model(batch)[0].sigmoid(), together[row], atol=1e-6, rtol=0)
    shuffled = torch.randperm(len(tokens))
    torch.testing.assert_close(model(tokens[shuffled]).sigmoid(), together[shuffled], atol=1e-6, rtol=0)


def test_the_paddings_row_gets_no_gradient():
    ours, _ = make_pair()
    loss_of(ours, make_tokens()).backward()
    assert not ours.embeddings.weight.grad[0].any()
    assert ours.embeddings.weight.grad[1:].any()


def train_steps(model: CNN, fused: bool, steps: int = 5) -> dict[str, Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, make_tokens(seed=step)).backward()
        for name, parameter in model.named_parameters():
            # Fused Adam walks through memory: it needs the gradient laid out as the weight is.
            assert parameter.grad.stride() == parameter.stride(), name
        optimizer.step()
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    return model.state_dict()


def unfreeze_and_train(model: CNN, fused: bool) -> None:
    train_steps(model.requires_grad_(True), fused, steps=1)  # fused Adam counts no version up
    model.requires_grad_(False)


def replace_data(model: CNN) -> None:
    model.conv[3].weight.data = model.conv[3].weight.data * 0.5


CHANGES = {
    "a training step": lambda model: unfreeze_and_train(model, fused=True),
    "a training step of plain Adam": lambda model: unfreeze_and_train(model, fused=False),
    "other weights": lambda model: model.load_state_dict(CNN(**SIZES).state_dict()),
    "new values": lambda model: nn.init.normal_(model.embeddings.weight),
    "a change in place": lambda model: model.conv[3].weight.mul_(0.5),
    "a new memory": replace_data,
    "float64": lambda model: model.double(),
    "nothing": lambda model: None,
}


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("change", CHANGES)
def test_no_table_outlives_its_weights(change, mode, frozen):
    ours, plain = make_pair()
    ours.requires_grad_(not frozen)
    tokens = make_tokens()
    with mode():
        ours(tokens)
    assert (ours._kept is not None) == frozen
    with torch.no_grad() if "step" not in change else torch.enable_grad():
        CHANGES[change](ours)
    plain = plain.to(ours.fc1.weight.dtype)
    plain.load_state_dict(ours.state_dict())
    with mode():
        torch.testing.assert_close(ours(tokens), plain(tokens), atol=1e-5, rtol=0)
    assert_same(copy.deepcopy(ours).requires_grad_(True), plain, tokens)  # gradients still flow
    assert set(ours.state_dict()) == set(plain.state_dict())


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        ours, plain = make_pair()
        ours.requires_grad_(False)
        tokens = make_tokens()
        torch.testing.assert_close(ours(tokens), plain(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("uses_lookup", [True, False])
def test_fused_adam_equals_adam(uses_lookup, monkeypatch):
    monkeypatch.setattr(CNN, "uses_lookup", lambda model, tokens: uses_lookup)
    weights = train_steps(make_pair()[0].double(), fused=True)
    torch.testing.assert_close(weights, train_steps(make_pair()[0].double(), fused=False), atol=1e-10, rtol=0)


def test_training_gives_the_same_weights_by_either_path(monkeypatch):
    by_lookup = train_steps(make_pair()[0].double(), fused=True)
    monkeypatch.setattr(CNN, "uses_lookup", lambda model, tokens: False)
    by_convolution = train_steps(make_pair()[0].double(), fused=True)
    torch.testing.assert_close(by_lookup, by_convolution, atol=1e-10, rtol=0)


def test_two_trainings_give_the_same_weights_bit_for_bit(sample_splits):
    first, second = (train_cnn(Params(num_epochs=2), sample_splits) for _ in range(2))
    assert first.history == second.history
    for key, value in first.tagger.model.state_dict().items():
        assert torch.equal(value, second.tagger.model.state_dict()[key]), key
