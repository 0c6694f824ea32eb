"""``python -m sb3_trpo_ext export MODEL -o policy.onnx``: a saved model as one file for a robot."""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
import zipfile
from pathlib import Path

from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext.export.files import WRITERS, export_policy
from sb3_trpo_ext.export.policy import ExportError, reason
from sb3_trpo_ext.sb3.checkpoints.model_files import STATISTICS_NAME, statistics_in
from sb3_trpo_ext.sb3.trpo import TRPO

SUMMARY = "write a trained policy as ONNX or TorchScript"

NOT_FINAL = ("best_model", "rl_model")
"""How zips in a folder of the Zoo begin that are not the model at the end of the training."""
OF_TRPO = "cg_max_steps"
"""A setting that every TRPO saves, ours and sb3-contrib's, and no other algorithm of theirs."""
API = "sb3_trpo_ext.export.export_policy, which takes any of SB3's actor-critics"


def main(arguments: list[str]) -> int:
    """
    Export a saved model.

    :param arguments: the command line behind ``export``
    :return: 0; 2 if it can't be exported
    """
    args = _parse(arguments)
    try:
        zipped = model_in(args.model)
        inside = None if args.normalize else statistics_in(zipped)
        normalize = args.normalize or (statistics_beside(zipped) if inside is None else zipped / STATISTICS_NAME)
        exported = export_policy(load(zipped), args.output, read_statistics(normalize, inside), args.channels_last)
    except (OSError, ValueError) as error:
        print(f"sb3_trpo_ext export: {error}", file=sys.stderr)
        return 2
    if normalize and not args.normalize and inside is None and zipped.name.startswith(NOT_FINAL):
        print(
            f"sb3_trpo_ext export: {zipped} does not hold the statistics of its own moment: {normalize} may be of a later one",
            file=sys.stderr,
        )
    inputs = ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in exported.inputs.items())
    print(f"{zipped}, observations {f'normalised by {normalize}' if normalize else 'as they are'}")
    print(f"{exported.path}: {inputs} -> action; largest difference to predict: {exported.difference:.1e}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sb3_trpo_ext export", description=f"{SUMMARY.capitalize()}.")
    parser.add_argument("model", type=Path, help="a saved model, or the folder of a run of the Zoo (its author is trusted)")
    parser.add_argument("-o", "--output", type=Path, required=True, help=f"file to write: {', '.join(WRITERS)}")
    parser.add_argument(
        "--normalize", type=Path, help="vecnormalize.pkl (default: the one in the model's zip, or of its run of the Zoo)"
    )
    parser.add_argument("--channels-last", action="store_true", help="images come as (height, width, channels)")
    return parser.parse_args(arguments)


def model_in(path: Path) -> Path:
    """
    Find the model.

    :param path: a zip, with or without its suffix, or a folder of the Zoo
    :return: the zip; in a folder, the model at the end of its training
    """
    zipped = Path(f"{path}.zip")
    if zipped.exists() or not path.is_dir():
        return zipped if zipped.exists() else path
    zips = [found for found in sorted(path.glob("*.zip")) if not found.name.startswith(NOT_FINAL)]
    if len(zips) != 1:
        raise ExportError(f"{path} holds {len(zips)} models: name the zip")
    return zips[0]


def load(path: Path) -> TRPO:
    """
    Load a model to act, not to train on: what it would say about its settings does not matter.

    :param path: its zip, of our TRPO or of sb3-contrib's
    :return: the model, on the CPU
    """
    if not zipfile.is_zipfile(path):
        raise ExportError(f"{path} is no saved model (a zip)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            of_trpo = _is_of_trpo(path)
            model = TRPO.load(path, device="cpu") if of_trpo else None
        except Exception as error:  # pickles and archives of others: anything may come
            raise ExportError(f"{path} can't be loaded as a model of TRPO (cut off?): {reason(error)}") from error
    if model is None:
        raise ExportError(f"{path} is another algorithm's model, not TRPO's: load it in a script, for {API}")
    return model


def _is_of_trpo(path: Path) -> bool:
    """A zip does not name its algorithm, and ``load`` fills what a model of A2C lacks with TRPO's defaults."""
    with zipfile.ZipFile(path) as zipped:
        return OF_TRPO in json.loads(zipped.read("data"))


def statistics_beside(path: Path) -> Path | None:
    """
    Find the statistics that the Zoo has saved with a model.

    :param path: the model's zip
    :return: ``FOLDER/ENV/vecnormalize.pkl``, with the Zoo's ``config.yml`` beside it; None if there is none, such as where
        statistics may be anyone's
    """
    found = [each for each in sorted(path.parent.glob("*/vecnormalize.pkl")) if each.with_name("config.yml").is_file()]
    if len(found) > 1:
        raise ExportError(f"{len(found)} folders beside {path.name} hold a vecnormalize.pkl: name one with --normalize")
    return found[0] if found else None


def read_statistics(path: Path | None, content: bytes | None = None) -> VecNormalize | None:
    """
    Read statistics.

    :param path: vecnormalize.pkl; None if observations are not normalised
    :param content: of it, where it is an entry of a zip
    :return: without an environment, which normalising needs none of
    """
    if path is None:
        return None
    try:
        statistics = load_from_pkl(path if content is None else io.BytesIO(content))
    except Exception as error:
        raise ExportError(f"{path} can't be read as saved by VecNormalize.save: {reason(error)}") from error
    if not isinstance(statistics, VecNormalize):
        raise ExportError(f"{path} holds no VecNormalize, but a {type(statistics).__name__}")
    return statistics
