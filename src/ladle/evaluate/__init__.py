"""Where soups meet data: the built-in evaluator, the user's own scorers, the store, the judge."""

from ladle.evaluate.batchnorm import BatchNormMode, BatchNormTaster
from ladle.evaluate.black_box import BlackBox, command_identity, in_memory, on_disk, shell_command
from ladle.evaluate.caveats import caveats_of, chosen_by, flattering, shared_examples
from ladle.evaluate.evaluator import Evaluator, Watch, held_out_split, unwatched
from ladle.evaluate.judge import (
    MEAN_OF_SHIFTS,
    Contestant,
    best_by_held_out,
    contestant,
    ensemble_of,
    greedy_ensemble_of,
    judge,
)
from ladle.evaluate.model import Bar, Dropped, Forward, HereForward, Progress, find_device
from ladle.evaluate.store import Store, arrays_of, check_store

__all__ = [
    "MEAN_OF_SHIFTS",
    "Bar",
    "BatchNormMode",
    "BatchNormTaster",
    "BlackBox",
    "Contestant",
    "Dropped",
    "Evaluator",
    "Forward",
    "HereForward",
    "Progress",
    "Store",
    "Watch",
    "arrays_of",
    "best_by_held_out",
    "caveats_of",
    "check_store",
    "chosen_by",
    "command_identity",
    "contestant",
    "ensemble_of",
    "find_device",
    "flattering",
    "greedy_ensemble_of",
    "held_out_split",
    "in_memory",
    "judge",
    "on_disk",
    "shared_examples",
    "shell_command",
    "unwatched",
]
