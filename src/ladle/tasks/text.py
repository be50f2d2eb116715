"""Classes or numbers for texts, with any encoder that transformers can load from a folder."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ladle.errors import BadInput, BadTask, MissingExtra
from ladle.predictions import Array, ExampleNumbers, Metric, accuracy
from ladle.predictions.metrics import mse
from ladle.tasks.base import Advance, Lender, Role, Split, no_progress
from ladle.tasks.text_files import Text, read_texts
from ladle.tasks.text_splits import Texts, as_split, check_splits
from ladle.tasks.text_tokens import PackedTokens, pad, without_some
from ladle.tasks.text_trunk import Cut

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["TextClassification", "Texts", "read_texts"]

_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
# One head, and one start for parts that the pre-trained file lacks, in every process.
_INITIAL_SEED = 0
# Texts that go through frozen layers together, and how many such batches are a piece of the work.
_STATES_BATCH, _STATES_BATCHES = 64, 4
# Tokens: a word, or two, and what tokenizers put around and between.
_SHORTEST, _SHORTEST_PAIR = 3, 6


class TextClassification:
    """A `Trainable` task: one label per text, from a model folder of the transformers library.

    All texts are strings, or all are pairs of strings, which the model sees together, told apart
    by token types where it knows such. With `label_names` None the labels are numbers and the
    head gives one: regression, which transformers, too, calls sequence classification.

    `model` is a folder with config.json, a tokenizer and pre-trained weights; nothing is ever
    downloaded, and code in the folder is never run. A folder without a classification head is
    fine: the head is made, and starts at zero whether or not the folder has one.

    `freeze` keeps the embeddings and that many lower encoder layers as they are; 0 trains
    everything. What the frozen part says about a split is computed once and kept in memory
    (4 bytes x hidden size per token), which makes training and evaluation faster; a model whose
    frozen tensors are not bit for bit those of the folder is evaluated in full.

    `space` is what a sweep draws from, written as in a TOML file; None for the sweep's own.

    Raises:
        BadTask: for wrong labels, splits or folders, with what to do about it.
        MissingExtra: without transformers.
    """

    def __init__(
        self,
        name: str,
        model: str | Path,
        splits: Mapping[str, Texts | tuple[Role, Sequence[Text], Sequence[float]]],
        *,
        label_names: Sequence[str] | None,
        metric: Metric | None = None,
        max_length: int = 128,
        freeze: int = 0,
        space: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.metric = metric or (mse if label_names is None else accuracy)
        self.max_length = max_length
        self.freeze = freeze
        self.label_names = None if label_names is None else tuple(label_names)
        self.space = space
        self._folder = Path(model)
        if not (self._folder / "config.json").is_file():
            raise BadTask(f"{model} holds no config.json; give the folder of a transformers model")
        if label_names is not None and not 1 < len(label_names) == len(set(label_names)):
            raise BadTask(f"task {name} needs at least two different label names")
        examples = {key: Texts(*value) for key, value in splits.items()}
        check_splits(name, examples, None if label_names is None else len(label_names))
        self._texts = {key: tuple(value.texts) for key, value in examples.items()}
        self._paired = not all(isinstance(text, str) for text in next(iter(self._texts.values())))
        shortest = _SHORTEST_PAIR if self._paired else _SHORTEST
        if max_length < shortest or freeze < 0:
            raise BadTask(
                f"max_length = {max_length} and freeze = {freeze} cannot be used in task {name}; "
                f"max_length starts at {shortest} tokens, freeze at 0 layers"
            )
        self.splits: Mapping[str, Split] = {
            key: as_split(key, value, regression=label_names is None)
            for key, value in examples.items()
        }
        # Filled when first needed: the tokens of a split, and its trunk's hidden states (T, H), of
        # all examples or, under another key, of some.
        self._tokens: dict[str, PackedTokens] = {}
        self._states: dict[str, Tensor] = {}
        self._lender: Lender | None = None

    @cached_property
    def digest(self) -> str:
        """sha256 over model, tokenizer and the settings that logits depend on."""
        total = hashlib.sha256()
        settings = [2, self.max_length, self.freeze, self.label_names]
        total.update(json.dumps(settings).encode())
        weights = next(filter(None, (sorted(self._folder.glob(p)) for p in _WEIGHTS)), [])
        tokenizer = sorted({file for p in _TOKENIZER for file in self._folder.glob(p)})
        for path in (self._folder / "config.json", *tokenizer, *weights):
            with path.open("rb") as file:
                total.update(f"{path.name} {_file_digest(file)}\n".encode())
        return total.hexdigest()

    @cached_property
    def head(self) -> str:
        """Module path of the final linear layer."""
        return _head_of(self._base, self._outputs)

    def build(self, *, dropout: float | None = None) -> nn.Module:
        """The pre-trained model with a head of zeros, in eval mode, float32, on the CPU.

        `dropout` is put in the place of every dropout rate in the model's config.
        """
        if dropout is None:
            return copy.deepcopy(self._base)  # type: ignore[no-any-return]
        config = self._config
        for key, value in config.to_dict().items():
            if "drop" in key and isinstance(value, float):
                setattr(config, key, dropout)
        with torch.random.fork_rng(devices=[]):
            model = _transformers().AutoModelForSequenceClassification.from_config(config)
        model.load_state_dict(self._base.state_dict())
        return model.float().eval()  # type: ignore[no-any-return]

    def trainable(self, parameter: str) -> bool:
        return self._cut is None or not self._cut.below(parameter)

    def predict(
        self,
        model: nn.Module,
        split: str,
        *,
        device: torch.device,
        batch_size: int,
        advance: Advance = no_progress,
    ) -> Array:
        """Logits (N, C) of `model`, which is put in eval mode, in the order of the split.

        For regression, C is 1 and these are the numbers.
        """
        batches = self.in_batches(split, batch_size=batch_size)
        logits = np.empty((len(self._tokens_of(split)), self._outputs), np.float32)
        said = self.predict_some(model, split, batches, device=device)
        for batch, rows in zip(batches, said, strict=True):
            logits[batch] = rows
            advance(len(batch))
        return logits

    def in_batches(self, split: str, *, batch_size: int) -> list[ExampleNumbers]:
        """Texts of like length share a batch: see `PredictsInBatches`."""
        return [batch.numpy() for batch in self._tokens_of(split).by_length(batch_size)]

    def arranged(
        self, split: str, order: ExampleNumbers, *, batch_size: int
    ) -> list[ExampleNumbers]:
        """`order` in batches of like length: see `PredictsSome`."""
        tokens = self._tokens_of(split)
        return [batch.numpy() for batch in tokens.nearly(torch.from_numpy(order), batch_size)]

    @torch.inference_mode()
    def predict_some(
        self,
        model: nn.Module,
        split: str,
        batches: Sequence[ExampleNumbers],
        *,
        device: torch.device,
    ) -> Generator[Array, None, None]:
        """Logits (B, C) of `model`, which is put in eval mode, batch by batch."""
        tokens = self._tokens_of(split)
        states = self._states_of(split, batches) if self._has_our_trunk(model) else None
        model.eval()
        for batch in batches:
            inputs = self._inputs(tokens, states, [tokens.rows(i) for i in batch.tolist()])
            yield self._logits(model, inputs, device).float().cpu().numpy()

    def batches(
        self, *, batch_size: int, augmentation: float | str, generator: torch.Generator
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """One epoch of the training split; augmentation drops up to 30 % of the words' tokens.

        Texts of like length share a batch. With frozen layers, the inputs are what these say, so
        they suit only models whose frozen tensors are the folder's, as those of `build` are.
        """
        self.check_augmentation(augmentation)
        strength = float(augmentation)
        split = next((s for s in self.splits.values() if s.role == "train"), None)
        if split is None:
            raise BadTask(f"task {self.name} has no split with the role train; add one")
        labels = torch.from_numpy(split.labels)
        tokens = self._tokens_of(split.name)
        states = self._states_of(split.name)
        for batch in tokens.shuffled(batch_size, generator):
            rows = [tokens.rows(i) for i in batch.tolist()]
            if strength:
                rows = [without_some(x, strength, generator, tokens.special) for x in rows]
            yield self._inputs(tokens, states, rows), labels[batch]

    def check_augmentation(self, augmentation: float | str) -> None:
        """Raise `BadInput` for one that is no number from 0 to 1: texts have no policies."""
        if isinstance(augmentation, str) or not 0 <= augmentation <= 1:
            raise BadInput(
                f"augmentation is {augmentation!r}, but the examples of task {self.name} are "
                "texts; give a number from 0 to 1"
            )

    def labelled(
        self, model: nn.Module, split: str, batches: Sequence[ExampleNumbers]
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """(inputs, labels) of these examples of a split, batch by batch, as `predict` sees them.

        What the frozen layers say comes from memory where they are the folder's and ask for no
        gradient.
        """
        tokens = self._tokens_of(split)
        states = self._states_of(split) if self._stops_at_trunk(model) else None
        labels = torch.from_numpy(self.splits[split].labels)
        for batch in batches:
            rows = [tokens.rows(i) for i in batch.tolist()]
            yield self._inputs(tokens, states, rows), labels[batch]

    def logits(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._logits(model, inputs, next(model.parameters()).device)

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Write model and tokenizer, for AutoModelForSequenceClassification.from_pretrained."""
        with _quiet():
            model.save_pretrained(folder)  # type: ignore[operator]
            self._tokenizer.save_pretrained(folder)

    def _logits(
        self, model: nn.Module, inputs: Mapping[str, Tensor], device: torch.device
    ) -> Tensor:
        if self._cut is not None and "inputs_embeds" in inputs:
            model = self._cut.upper(model)
        moved = {key: value.to(device) for key, value in inputs.items()}
        return model(**moved).logits  # type: ignore[no-any-return]

    def _inputs(
        self, tokens: PackedTokens, states: Tensor | None, rows: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        index, mask = pad(rows, left=self._tokenizer.padding_side == "left")
        if states is not None:
            return {"inputs_embeds": states[index], "attention_mask": mask}
        ids = tokens.ids[index].where(mask.bool(), self._tokenizer.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if tokens.types is not None:
            inputs["token_type_ids"] = tokens.types[index]
        return inputs

    @cached_property
    def _cut(self) -> Cut | None:
        if not self.freeze:
            return None
        some = [("a", "b and c"), ("two or three words", "d")]
        tokens = self._packed(some if self._paired else [first for first, _ in some])
        inputs = self._inputs(tokens, None, [tokens.rows(0), tokens.rows(1)])
        return Cut.of(self._base, self.freeze).tried(self._base, self.head, inputs)

    @cached_property
    def _base(self) -> Any:
        model = _classifier(self._folder, self._config)
        head = model.get_submodule(_head_of(model, self._outputs))
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        return model

    @property
    def _config(self) -> Any:
        """The folder's config, with our labels in it; a new one at each call."""
        with _reading(self._folder):
            config = _transformers().AutoConfig.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
        if self.label_names is None:
            config.num_labels = 1
            config.problem_type = "regression"
        else:
            config.id2label = dict(enumerate(self.label_names))
            config.label2id = {name: number for number, name in enumerate(self.label_names)}
            config.problem_type = "single_label_classification"
        return config

    @property
    def _outputs(self) -> int:
        return 1 if self.label_names is None else len(self.label_names)

    @cached_property
    def _tokenizer(self) -> Any:
        with _reading(self._folder):
            tokenizer = _transformers().AutoTokenizer.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
        if tokenizer.pad_token_id is None:
            raise BadTask(
                f"the tokenizer in {self._folder} has no padding token; name one in its "
                f"tokenizer_config.json as pad_token"
            )
        return tokenizer

    def _tokens_of(self, split: str) -> PackedTokens:
        if split not in self._tokens:
            if split not in self._texts:
                raise BadInput(
                    f"task {self.name} has no split {split!r}; it has {', '.join(self._texts)}"
                )
            self._tokens[split] = self._packed(self._texts[split])
        return self._tokens[split]

    def _packed(self, texts: Sequence[Text]) -> PackedTokens:
        columns = [list(texts)]
        if self._paired:
            columns = [[pair[side] for pair in texts] for side in (0, 1)]
        # Of a pair that is too long, the longer text loses tokens until both fit.
        found = self._tokenizer(
            *columns,
            truncation=True,
            max_length=self.max_length,
            return_special_tokens_mask=True,
        )
        types = found.get("token_type_ids") if self._knows_types else None
        return PackedTokens.of(found["input_ids"], found["special_tokens_mask"], types)

    @cached_property
    def _knows_types(self) -> bool:
        """Whether the model can be told of which text of a pair a token is."""
        # A tokenizer may offer types to a model that has none, as BERT's does beside DistilBERT.
        accepted = inspect.signature(self._base.forward).parameters
        return "token_type_ids" in accepted and getattr(self._config, "type_vocab_size", 2) > 1

    def _states_of(self, split: str, needed: Sequence[ExampleNumbers] = ()) -> Tensor | None:
        """What the frozen part of the pre-trained model says, (T, H) float32, packed like ids.

        None when nothing is frozen. Where some examples are `needed` alone, the rows of the others
        mean nothing.
        """
        if self._cut is None:
            return None
        tokens = self._tokens_of(split)
        some = np.unique(np.concatenate(needed)) if needed else np.arange(len(tokens))
        is_whole = len(some) == len(tokens)
        # Kept apart from those of the whole split, which differ in the last bits: what is said
        # must not depend on what was asked before.
        key = split if is_whole else f"{split}/{hashlib.sha256(some.tobytes()).hexdigest()}"
        if key not in self._states:
            dealt = self._dealt(split, None if is_whole else some)
            if self._lender and is_whole:
                self._states[key] = _tensor(self._lender(split, len(dealt)))
            else:
                pieces = (self._said(split, batches) for batches in dealt)
                self._states[key] = self._assembled(split, dealt, pieces)
        return self._states[key]

    def _dealt(self, split: str, some: ExampleNumbers | None = None) -> list[list[list[Tensor]]]:
        """A split, or some of it, in pieces of a few batches, each the rows of its texts.

        All pieces take about as long.
        """
        tokens = self._tokens_of(split)
        chosen = None if some is None else torch.from_numpy(some)
        batches = [
            [tokens.rows(i) for i in batch.tolist()]
            for batch in tokens.by_length(_STATES_BATCH, chosen)
        ]
        count = -(-len(batches) // _STATES_BATCHES)
        return [batches[i::count] for i in range(count)]

    # It is kept, so it must not depend on how the first evaluation computes.
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _said(self, split: str, batches: Sequence[Sequence[Tensor]]) -> Tensor:
        """(t, H) float32, batch after batch."""
        assert self._cut is not None, "nothing is frozen"  # noqa: S101
        tokens, lower = self._tokens_of(split), self._cut.lower(self._base)
        said = []
        for rows in batches:
            inputs = self._inputs(tokens, None, rows)
            output = lower(**inputs).last_hidden_state
            said.append(output[inputs["attention_mask"].bool()])
        return torch.cat(said)

    def _assembled(
        self, split: str, dealt: Sequence[Sequence[Sequence[Tensor]]], pieces: Iterable[Tensor]
    ) -> Tensor:
        """(T, H) float32, of these pieces; zeros elsewhere, for padding looks at one of them."""
        states = torch.zeros(len(self._tokens_of(split).ids), self._base.config.hidden_size)
        for batches, said in zip(dealt, pieces, strict=True):
            states[torch.cat([row for rows in batches for row in rows])] = said
        return states

    def parts(self) -> dict[str, int]:
        """The splits of which a sweep needs what the frozen layers say: see `Precomputing`."""
        if self._cut is None:
            return {}
        needed = [key for key, one in self.splits.items() if one.role in ("train", "held-out")]
        return {split: len(self._dealt(split)) for split in needed}

    def piece(self, name: str, number: int) -> Array:
        said: Array = self._said(name, self._dealt(name)[number]).numpy()
        return said

    def joined(self, name: str, pieces: Sequence[Array]) -> Array:
        states: Array = self._assembled(name, self._dealt(name), map(_tensor, pieces)).numpy()
        return states

    def lend(self, lender: Lender) -> None:
        self._lender = lender

    def _stops_at_trunk(self, model: nn.Module) -> bool:
        """Whether gradients go no further down than to what the frozen part says."""
        asked = (name for name, one in model.named_parameters() if one.requires_grad)
        return self._has_our_trunk(model) and all(map(self.trainable, asked))

    def _has_our_trunk(self, model: nn.Module) -> bool:
        """Whether the frozen tensors of a model are bit for bit those of the folder."""
        if self._cut is None:
            return False
        theirs = dict(model.named_parameters())
        return all(
            name in theirs
            and theirs[name].dtype == ours.dtype
            and torch.equal(theirs[name].detach().cpu(), ours)
            for name, ours in self._base.named_parameters()
            if self._cut.below(name)
        )


def _head_of(model: Any, labels: int) -> str:
    """Path of the last linear layer after the encoder; BadTask if none gives one number a label."""
    base = f"{model.base_model_prefix}."
    paths = [
        str(path)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == labels
        and not path.startswith(base)
    ]
    if not paths:
        raise BadTask(
            f"a {type(model).__name__} does not end in a linear layer; use another architecture"
        )
    return paths[-1]


def _file_digest(file: Any) -> str:
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest()


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        raise MissingExtra("transformers", "text") from None
    return transformers  # type: ignore[no-any-return]


def _classifier(folder: Path, config: Any) -> Any:
    """The pre-trained model in `folder`; parts that it lacks are drawn from a fixed seed."""
    auto = _transformers().AutoModelForSequenceClassification
    with _reading(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_INITIAL_SEED)
        model = auto.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
        )
    return model.float().eval()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise BadTask(f"transformers cannot read {folder}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting what is expected here: that the head is new."""
    logging = _transformers().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _tensor(array: Array) -> Tensor:
    """The same memory, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # That it cannot be written to.
        return torch.from_numpy(array)
