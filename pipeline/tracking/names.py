"""The names of every metric, tag and artifact that is tracked, and what MLflow accepts as a name.

The engine and the training do not import this module (they stand beside or below the tracker); they report plain keys,
and this is where each is written down.
"""

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pipeline.digests import digest

# -- metrics of a benchmark's run: one sampler setting on one checkpoint -------------------------------------------

FID = "fid"  # the Frechet distance of the Inception network's features, and of nothing else
FD = "fd"  # a Frechet distance of any other extractor, which the tag `protocol` names
FD_LOW, FD_HIGH = "fd_low", "fd_high"  # its interval
FID_LOW, FID_HIGH = "fid_low", "fid_high"
# Scores: the ends of their intervals are under `_low` and `_high`, unusual settings after the name (`precision_k5`).
KID, KD = "kid", "kd"  # the kernel distance: of the published Inception network, and of any other extractor
INCEPTION_SCORE, CLASS_SCORE = "inception_score", "class_score"  # the same two
PRECISION, RECALL = "precision", "recall"
DENSITY, COVERAGE = "density", "coverage"
ACCURACY_WORST_CLASS = "accuracy_worst_class"
FD_CLASS_MEAN, FD_CLASS_WORST = "fd_class_mean", "fd_class_worst"  # Frechet distances class by class
NEAR_RATIO, NEAR_SHARE = "near_ratio", "near_share"  # how near images are to the nearest of the reference
COPIED_SHARE, COPIED_ODDS = "copied_share", "copied_odds"  # the same by images that were held out
FD_LIMIT, FD_LIMIT_LOW, FD_LIMIT_HIGH = "fd_limit", "fd_limit_low", "fd_limit_high"  # of infinitely many images
FID_LIMIT, FID_LIMIT_LOW, FID_LIMIT_HIGH = "fid_limit", "fid_limit_low", "fid_limit_high"
DIFFERENCE, DIFFERENCE_LOW, DIFFERENCE_HIGH = "difference", "difference_low", "difference_high"  # to COMPARED_WITH
P_BETTER = "p_better"  # how sure it is that this setting has the smaller distance
IMAGES_TO_TELL = "images_to_tell"  # so many of each setting tell such a difference at 5 %, in 8 of 10
ACCURACY_DIFFERENCE = "accuracy_difference"  # with _low and _high, as the distance's
ACCURACY = "accuracy"  # the share of images that a classifier recognises as their label
NFE = "nfe"  # evaluations of the network an image, counted
SECONDS = "seconds"  # for 1,000 images, by a separate warm timing
IMAGES_PER_SECOND = "images_per_second"
NUM_IMAGES = "num_images"
TRAJECTORY_RMSE = "trajectory_rmse"  # distance to the converged answer of each seed, in the range -1 to 1
TRAJECTORY_LOW, TRAJECTORY_HIGH = "trajectory_rmse_low", "trajectory_rmse_high"  # its interval
TRAJECTORY_QUANTILE = "trajectory_"  # with the quantile over the samples: trajectory_p50

# -- metrics of a training's run; the step is the number of images seen --------------------------------------------

TRAIN_LOSS = "train/loss"
TRAIN_LOSS_SIGMA = "train/loss_sigma_"  # with the bin of the noise level: train/loss_sigma_0.1
TRAIN_IMAGES_PER_SECOND = "train/images_per_second"
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_NAN_LOSSES = "train/nan_losses"

# -- tags ----------------------------------------------------------------------------------------------------------

KEY = "sigmasweep.key"  # what makes a run the same run; one run has it
CHANGED_PARAMS = "sigmasweep.changed_params"  # JSON: the newest values of params that MLflow keeps as first logged
KIND = "kind"  # training, or sampler
BENCHMARK = "benchmark"
CHECKPOINT = "checkpoint"
GUIDE = "guide"  # the checkpoint of the second network, where guidance asks one
COMPARED_WITH = "compared_with"  # the setting that the differences are to
PROTOCOL = "protocol"  # in one short line; whole, piece by piece:
PROTOCOL_DIGEST = "protocol_digest"  # equal where numbers may be compared
PROTOCOL_EXTRACTOR, PROTOCOL_RESIZE = "protocol_extractor", "protocol_resize"
PROTOCOL_QUANTIZATION, PROTOCOL_VERSIONS = "protocol_quantization", "protocol_versions"
PROTOCOL_NUM_IMAGES, PROTOCOL_SEEDS = "protocol_num_images", "protocol_seeds"
PROTOCOL_REFERENCE, PROTOCOL_REFERENCE_COUNT = "protocol_reference", "protocol_reference_count"
PROTOCOL_NAME = "protocol_name"  # of the published protocol that is followed, or `legacy`
DATASET = "dataset"
EXTRACTOR = "extractor"
LICENCE = "licence"  # of imported weights

# -- tags of a registered model's version: where its checkpoint lies, and what it must be --------------------------

STORE = "sigmasweep.store"  # the address of the store; of a training's run, too
TRAINING = "sigmasweep.training"  # the training's folder; of a training's run, too
NUM_IMAGES_SEEN = "sigmasweep.num_images"
WEIGHTS = "sigmasweep.weights"  # the name of the set of weights
WEIGHTS_SHA256 = "sigmasweep.weights_sha256"
MODEL_DIGEST = "sigmasweep.model_digest"
CHECKPOINT_DIGEST = "sigmasweep.checkpoint"  # of these two: what makes a version the same version; one has it
PARETO = "pareto"  # yes, or no
COLOUR = "mlflow.runColor"  # MLflow's: of the run's dot in tables and charts
NOTE = "mlflow.note.content"  # MLflow's: the description, in Markdown

# -- params that stand for a setting where there is little room: in columns and on axes; they sort before `sampler.` --

POINT_NFE, POINT_SOLVER, POINT_STEPS = "point.nfe", "point.solver", "point.steps"

# -- artifacts -----------------------------------------------------------------------------------------------------

SETTINGS_FILE = "settings.yaml"  # the resolved settings, whole
MODEL_FOLDER = "model"  # of a training's run: a folder for each checkpoint that was registered
LONG_PARAMS_FOLDER = "long_params"  # one text for each param that MLflow would cut
PER_CLASS_FILE = "per_class.csv"  # accuracy and distance class by class
NEAREST_IMAGE = "nearest_pairs"  # image key of images above their nearest reference images
SAMPLES_IMAGE = "samples"  # image key of a grid of the same seeds in the same cells

# -- limits of MLflow ----------------------------------------------------------------------------------------------

MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000  # longer values are cut silently by MLflow
MAX_TAG_LENGTH = 5000  # 8,000 in newer servers
_CUT = " ... (cut)"


def clean_key(key: str) -> str:
    """A key that MLflow accepts: letters, digits and `_-. :/`, a path without empty or dotted parts, 250 characters.

    Raises:
        ValueError: nothing is left of the key.
    """
    text = re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)
    text = posixpath.normpath(text).lstrip("/")
    while text.startswith("../"):
        text = text[3:]
    if not text or text in (".", ".."):
        raise ValueError(f"{key!r} cannot be the name of a metric, param or tag")
    return text[:MAX_KEY_LENGTH].rstrip("/")


def clean_run_key(key: str) -> str:
    """A run's key as its tag has it: itself, or its digest where MLflow's search could not quote it.

    Raises:
        ValueError: the key is empty.
    """
    if not key:
        raise ValueError("key: must not be empty")
    return key if re.fullmatch(r"[\w.\-:/ ]{1,250}", key, flags=re.ASCII) else digest(key)


def cut(text: str, length: int) -> str:
    """The text, with its end replaced by a mark where it is too long."""
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT


def flatten(settings: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys with text values.

    Mappings and dataclasses are descended into, and lists that hold any; other lists are one value. Text stands as it
    is, everything else as JSON writes it.
    """
    if is_dataclass(settings) and not isinstance(settings, type):
        settings = {field.name: getattr(settings, field.name) for field in fields(settings)}
    if isinstance(settings, list | tuple) and any(isinstance(item, Mapping) or is_dataclass(item) for item in settings):
        settings = dict(enumerate(settings))
    if not isinstance(settings, Mapping) or (not settings and prefix):
        return {clean_key(prefix or "value"): _text(settings)}
    found: dict[str, str] = {}
    for key, value in settings.items():
        found.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
