"""Text classification on the real model of the demo, with tens of examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ladle.errors import BadInput, BadTask, LadleError, MissingExtra
from ladle.files import cache_folder
from ladle.tasks import Trainable, demo_text
from ladle.tasks.text import TextClassification, read_texts
from ladle.tasks.text_tokens import PackedTokens, pad, without_some

CPU = torch.device("cpu")
GOOD = ["a joy", "warm, funny and wise from the first scene to the last", "wonderful acting"]
BAD = ["a bore", "dull, and an insult to anybody who paid for it, or who did not", "awful acting"]
TEXTS, LABELS = [*GOOD, *BAD], [1, 1, 1, 0, 0, 0]
SPLITS = {"train": ("train", TEXTS, LABELS), "dev": ("held-out", TEXTS[::-1], LABELS[::-1])}
NAMES = ("negative", "positive")
FOLDER = demo_text._model_folder()


def make(**changes):
    settings = {"name": "reviews", "model": FOLDER, "splits": SPLITS, "label_names": NAMES}
    return TextClassification(**{**settings, **changes})


@pytest.fixture(scope="module")
def whole():
    return make()


@pytest.fixture(scope="module")
def frozen():
    return make(freeze=5)


def with_a_head(task):
    model = task.build()
    generator = torch.Generator().manual_seed(1)
    head = model.get_submodule(task.head)
    torch.nn.init.normal_(head.weight, generator=generator)
    return model


def test_it_is_trainable(whole):
    assert isinstance(whole, Trainable)
    assert whole.head == "classifier"


def test_the_head_starts_at_zero_and_the_rest_is_the_same_each_time(whole):
    first, second = whole.build(), make().build(dropout=0.3)
    assert not first.training
    assert torch.count_nonzero(first.classifier.weight) == 0
    assert second.config.hidden_dropout_prob == 0.3
    assert second.bert.encoder.layer[0].attention.self.dropout.p == 0.3
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_building_draws_nothing_from_the_global_generator(whole):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    whole.build(dropout=0.1)
    make().build()
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_is_frozen_is_the_embeddings_and_the_lower_layers(whole, frozen):
    names = [name for name, _ in frozen.build().named_parameters()]
    assert all(whole.trainable(name) for name in names)
    trained = {name for name in names if frozen.trainable(name)}
    assert trained == {
        name
        for name in names
        if name.startswith(("bert.encoder.layer.5.", "bert.pooler.", "classifier."))
    }


@pytest.mark.parametrize("freeze", [1, 5, 6])
def test_cached_and_full_logits_agree(whole, freeze):
    model = with_a_head(whole)
    full = whole.predict(model, "dev", device=CPU, batch_size=2)
    cut = make(freeze=freeze).predict(model, "dev", device=CPU, batch_size=4)
    assert full.shape == (6, 2)
    assert full.dtype == cut.dtype == np.float32
    np.testing.assert_allclose(cut, full, atol=1e-4)
    assert np.ptp(full) > 0.1


def test_cached_and_full_gradients_agree(whole, frozen):
    gradients = []
    for task in (whole, frozen):
        model = with_a_head(task)
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        ((inputs, labels),) = task.batches(batch_size=6, augmentation=0, generator=generator)
        torch.nn.functional.cross_entropy(task.logits(model, inputs), labels).backward()
        gradients.append(model.bert.encoder.layer[5].attention.self.key.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_the_last_layer_is_computed_for_the_first_token_alone(frozen):
    # Nothing would be wrong otherwise, only five times slower.
    seen = []
    model = frozen.build()
    model.bert.encoder.layer[5].output.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(output.shape))
    )
    frozen.predict(model, "dev", device=CPU, batch_size=6)
    assert seen == [(6, 1, 384)]


def test_predictions_are_in_the_order_of_the_split(whole):
    model = with_a_head(whole)
    finished = []
    there = whole.predict(model, "train", device=CPU, batch_size=2, advance=finished.append)
    back = whole.predict(model, "dev", device=CPU, batch_size=5)
    np.testing.assert_allclose(there, back[::-1], atol=1e-4)
    assert finished == [2, 2, 2]


def test_a_model_with_other_frozen_tensors_runs_in_full(whole, frozen):
    model = with_a_head(whole)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    np.testing.assert_allclose(
        frozen.predict(model, "dev", device=CPU, batch_size=4),
        whole.predict(model, "dev", device=CPU, batch_size=4),
        atol=1e-4,
    )


def test_an_epoch_has_every_example_once_in_an_order_of_the_generator(frozen):
    def labels(seed):
        generator = torch.Generator().manual_seed(seed)
        batches = frozen.batches(batch_size=1, augmentation=0.5, generator=generator)
        return [int(label) for _, label in batches]

    assert sorted(labels(0)) == sorted(LABELS)
    assert labels(0) == labels(0)
    assert len({tuple(labels(seed)) for seed in range(5)}) > 1


def test_augmentation_keeps_order_and_both_ends():
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(10, 1010)
    fewer = without_some(rows, 1.0, generator)
    assert 600 < len(fewer) < 800
    assert fewer[0] == 10
    assert fewer[-1] == 1009
    assert torch.equal(fewer, fewer.sort().values)
    assert torch.equal(without_some(rows, 0.0, generator), rows)


def test_padding_is_masked_on_either_side():
    rows = [torch.tensor([4, 5, 6]), torch.tensor([7])]
    index, mask = pad(rows, left=False)
    assert index.tolist() == [[4, 5, 6], [7, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    index, mask = pad(rows, left=True)
    assert index.tolist() == [[4, 5, 6], [0, 0, 7]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_batches_of_like_length_hold_every_example_once():
    tokens = PackedTokens.of([[0] * (1 + i % 7) for i in range(100)])
    for batches in (tokens.by_length(8), tokens.shuffled(8, torch.Generator().manual_seed(0))):
        assert sorted(torch.cat(batches).tolist()) == list(range(100))
        assert sorted(map(len, batches)) == [4, *[8] * 12]


def test_a_saved_model_is_read_by_its_own_library(whole, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = with_a_head(whole)
    whole.save(model, tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, local_files_only=True)
    assert again.config.id2label == dict(enumerate(NAMES))
    AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert not (tmp_path / "config.json").read_text().count(str(FOLDER))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    # The folder of a classifier is a model folder too; its head starts at zero again.
    build = make(model=tmp_path).build()
    assert torch.count_nonzero(build.classifier.weight) == 0


def test_digests_tell_what_they_should(whole):
    assert whole.digest == make().digest
    others = {make(max_length=64).digest, make(freeze=1).digest, make(label_names="ab").digest}
    assert len(others - {whole.digest}) == 3
    changed = make(splits={**SPLITS, "train": ("train", TEXTS, LABELS[::-1])})
    assert changed.digest == whole.digest
    assert changed.splits["train"].digest != whole.splits["train"].digest
    assert changed.splits["dev"].digest == whole.splits["dev"].digest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "nowhere"}, "nowhere holds no config.json"),
        ({"label_names": ("one",)}, "at least two"),
        ({"max_length": 1}, "max_length = 1"),
        ({"splits": {"train": ("train", TEXTS, LABELS)}}, "0 splits with the role held-out"),
        ({"splits": {**SPLITS, "b": ("held-out", TEXTS, LABELS)}}, "2 splits .* held-out"),
        ({"splits": {**SPLITS, "b": ("dev", TEXTS, LABELS)}}, "the role 'dev'; the roles are"),
        ({"splits": {**SPLITS, "b": ("shift", [], [])}}, "split 'b' .* is empty"),
        ({"splits": {**SPLITS, "b": ("shift", TEXTS, [0])}}, "6 texts and 1 labels"),
        ({"splits": {**SPLITS, "b": ("shift", ["x"], [2])}}, "label 2 at example 0"),
    ],
)
def test_a_wrong_task_is_refused_with_the_reason(changes, says):
    with pytest.raises(BadTask, match=says):
        make(**changes)


def test_more_frozen_layers_than_there_are_is_refused():
    with pytest.raises(BadTask, match="freeze = 7, but the model has 6"):
        make(freeze=7).trainable("x")


def test_an_architecture_without_known_layers_cannot_be_frozen(tmp_path):
    from transformers import AlbertConfig, AlbertForSequenceClassification, AutoTokenizer

    config = AlbertConfig(
        vocab_size=30522, hidden_size=16, embedding_size=8, num_attention_heads=2,
        intermediate_size=16, num_hidden_layers=2,
    )  # fmt: skip
    AlbertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(FOLDER, local_files_only=True).save_pretrained(tmp_path)
    assert make(model=tmp_path).predict(
        make(model=tmp_path).build(), "dev", device=CPU, batch_size=4
    ).shape == (6, 2)
    with pytest.raises(BadTask, match="set freeze = 0"):
        make(model=tmp_path, freeze=1).trainable("x")


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta"])
def test_other_encoders_can_be_frozen_too(kind, tmp_path):
    import transformers

    sizes = {"vocab_size": 30522, "hidden_size": 16, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "num_hidden_layers": 3, "max_position_embeddings": 64}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_heads": 2, "hidden_dim": 16, "n_layers": 3}
    config = getattr(transformers, f"{kind}Config")(**sizes, pad_token_id=0)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    tokenizer.save_pretrained(tmp_path)
    whole, frozen = (make(model=tmp_path, freeze=freeze, max_length=32) for freeze in (0, 2))
    model = with_a_head(whole)
    np.testing.assert_allclose(
        frozen.predict(model, "dev", device=CPU, batch_size=4),
        whole.predict(model, "dev", device=CPU, batch_size=4),
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label,source\n"good, really",positive,x\nbad,0,y\n'),
        ("a.tsv", "label\ttext\n1\tgood, really\nnegative\tbad\n"),
        (
            "a.jsonl",
            '{"text": "good, really", "label": 1}\n\n{"text": "bad", "label": "negative"}\n',
        ),
    ],
)
def test_files_of_texts_are_read(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name, NAMES) == (["good, really", "bad"], [1, 0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text,label\nx,0\ny,neutral\n", r"a.csv:3 has the label 'neutral'; write one of"),
        ("a.csv", "text,label\nx,2\n", r"a.csv:2 has the label '2'.* from 0 to 1"),
        ("a.csv", "text;label\nx;1\n", r"a.csv:1 names no column text .* and no column label"),
        ("a.csv", "text,label\n,1\n", r"a.csv:2 has no text"),
        ("a.csv", "text,label\n", r"a.csv holds no examples"),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"text"\n', r"a.jsonl:2 is not JSON"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"text": "x", "label": true}\n', r"a.jsonl:1 has the label True"),
        ("a.txt", "", r"a.txt is not a .csv"),
        ("a.csv", "text,label\n\xe9,1\n".encode("latin-1"), r"a.csv is not UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(name, content, says, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=says):
        read_texts(path, NAMES)
    with pytest.raises(BadInput, match="does not exist"):
        read_texts(tmp_path / "none.csv", NAMES)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("LADLE_CACHE", "/l")
    assert cache_folder() == Path("/l")
    monkeypatch.delenv("LADLE_CACHE")
    assert cache_folder() == Path("/x/ladle")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ladle"


def test_another_source_archive_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_text, "_fetch", lambda: b"something else")
    with pytest.raises(LadleError, match="sha256 differs"):
        demo_text.demo_text(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_network_the_demo_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(LadleError, match="run the demo once with network"):
        demo_text.demo_text(tmp_path)


def test_without_its_model_the_demo_names_the_extra(monkeypatch):
    monkeypatch.setattr(demo_text, "_MODEL_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtra, match=r"ladle\[demo\]"):
        demo_text.demo_text()


@pytest.mark.slow  # where nothing is kept yet, the data are fetched
def test_the_demo_reads_kept_data_and_no_text_twice():
    task = demo_text.demo_text()
    sizes = {name: len(split) for name, split in task.splits.items()}
    assert sizes == {
        "train": 2500, "held-out": 3000, "test": 4570, "amazon": 2977, "tweets": 3432, "nyt": 2931
    }  # fmt: skip
    texts = [text for those in task._texts.values() for text in those]
    assert len(texts) == len(set(texts))
    assert 0.45 < task.splits["test"].labels.mean() < 0.55
