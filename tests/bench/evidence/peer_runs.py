"""The arms of peers.py that `pgnas` makes by its commands: inflate, train, sample, rank, and the row of a run.

What an arm is allowed stands at the top of peers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import run_steps
from peer_arms import ARMS, BATCH, CANDIDATES, FAMILIES, NETWORK, PASSES, SEARCH_SHARE, TARGET, WARMUP, Row
from run_steps import Commands, ranking_of, stages


class Runs:
    """Runs in folders OUT/FAMILY-ARM-SEED, each gone on with where it is.

    Args:
        pgnas: runs the commands.
        out: the folder.
        data_dir: holds FashionMNIST/raw.
        epochs: of the table.
        candidates: of sampled arms.
        selection: images of the selection split; the others of the training file are trained on.
    """

    def __init__(
        self, pgnas: Commands, out: Path, data_dir: Path, *, epochs: int, candidates: int, selection: int
    ) -> None:
        self.pgnas, self.out, self.data_dir = pgnas, out, data_dir
        self.epochs, self.candidates, self.selection = epochs, candidates, selection

    def folder(self, family: str, arm: str, seed: int) -> Path:
        return self.out / f"{family}-{arm}-{seed}"

    @property
    def search_epochs(self) -> int:
        """Epochs before the default recipe commits (`Recipe.commit_epoch`)."""
        return min(self.epochs - 1, max(1, round(SEARCH_SHARE * self.epochs)))

    def supernet_macs(self, family: str, arm: str, seed: int) -> int:
        """Multiply-adds of the supernet of an arm of ARMS, which is inflated for that."""
        network = getattr(FAMILIES[family], ARMS[arm].network)
        run = self.folder(family, arm, seed)
        run_steps.inflated(self.pgnas, run, network, seed)
        return int(stages(run)["inflate"]["macs"])

    def trained(self, run: Path, network: str, seed: int, epochs: int, options: tuple[object, ...]) -> None:
        """Inflate and train, from where it is."""
        how = [*options, *WARMUP, "--selection", self.selection, "--batch-size", BATCH]
        where = ["--data-dir", self.data_dir, "--device", "cpu", "--run", run]
        run_steps.trained(self.pgnas, run, network, seed, epochs, how, where)

    def ranked(self, run: Path, seed: int, sample: tuple[object, ...], rank: tuple[object, ...]) -> None:
        """Sample and rank, from where it is."""
        if "sample" not in stages(run):
            self.pgnas("sample", *sample, "--seed", seed, "--run", run)
        if "rank" not in stages(run):
            self.pgnas("rank", *rank, "--seed", seed, "--data-dir", self.data_dir, "--device", "cpu", "--run", run)

    def row(self, family: str, arm: str, seed: int, epochs: int, meant: Mapping[str, object] | None = None) -> Row:
        """Make an arm of ARMS; its row.

        Args:
            family, arm, seed: which.
            epochs: of its training.
            meant: word of the arm's options -> what it stands for, beside TARGET and CANDIDATES.
        """
        nets, (_, network, *options), run = FAMILIES[family], ARMS[arm], self.folder(family, arm, seed)
        meant = {TARGET: nets.target, CANDIDATES: self.candidates, **(meant or {})}
        train, sample, rank = (tuple(meant.get(word, word) for word in words) for words in options)
        self.trained(run, getattr(nets, network), seed, epochs, train)
        self.ranked(run, seed, sample, rank)
        save_network(run, self.data_dir)
        trained, ranking = stages(run)["train"], ranking_of(run)
        selection, test = ranking["selection_accuracy"], ranking["test_accuracy"]
        compared = ranking["candidates"] > 1  # one candidate is scored, for this row, and nothing is chosen
        return {
            "family": family, "arm": arm, "seed": seed, "params": ranking["params"], "macs": ranking["macs"],
            **errors(selection, test), "training_images": trained["images"],
            "training_macs": training_macs(trained, ranking["macs"]), "candidates": ranking["candidates"],
            "ranking_images": ranking["images"] if compared else 0, "train_seconds": round(trained["seconds"], 1),
            "rank_seconds": round(ranking["seconds"], 1) if compared else 0.0, "supernet_params": trained["params"],
            "epochs": self.epochs,
        }  # fmt: skip


def errors(selection: dict[str, float], test: dict[str, float]) -> Row:
    """Columns of two accuracies {value, low, high, n}, in percent wrong."""
    wrong = {name: round(100 * (1 - test[name]), 2) for name in ("value", "low", "high")}
    return {
        "test_error": wrong["value"], "test_low": wrong["high"], "test_high": wrong["low"], "test_images": test["n"],
        "selection_error": round(100 * (1 - selection["value"]), 2), "selection_images": selection["n"],
    }  # fmt: skip


def training_macs(trained: Row, macs: int, search_passes: float = 1) -> int:
    """Multiply-adds of a training: PASSES x MACs of the network x images that it saw, before and after a commit.

    Args:
        trained: record of the stage in run.json.
        macs: of the network that came out.
        search_passes: times that the supernet was shown an image in an epoch.
    """
    per_epoch, soft = trained["images"] // trained["epochs"], trained["soft"]
    dense = trained["epochs"] if soft is None else soft["epoch"]
    return int(PASSES * per_epoch * (dense * search_passes * trained["macs"] + (trained["epochs"] - dense) * macs))


def affordable_epochs(budget: int, images: int, searched: int, supernet: int, found: int) -> int:
    """Epochs of a search and of what is trained on after it that cost no more than a budget, one of these at least.

    Args:
        budget: multiply-adds of the training, PASSES x MACs x images.
        images: of an epoch.
        searched: epochs of the search.
        supernet, found: multiply-adds of the supernet, and at most of the network that comes out.
    """
    return searched + max(1, (budget // (PASSES * images) - searched * supernet) // found)


def save_network(run: Path, data_dir: Path) -> None:
    """Write the compact network of a run's winner, with the BatchNorm statistics that it was scored with."""
    import torch

    from pgnas_cli.export.choice import find_candidate
    from pgnas_cli.ranking.candidates import sampled_supernet
    from pgnas_cli.ranking.evaluate import Evaluator, Way
    from pgnas_cli.ranking.same_data import same_data
    from pgnas_cli.run import RunDirectory

    opened, ranking = RunDirectory.open(str(run)), ranking_of(run)
    evaluator = Evaluator(
        sampled_supernet(opened), same_data(opened, data_dir=data_dir), torch.device("cpu"),
        recalibrate=ranking["recalibrate"], way=Way(channels_last=True, repays=0),
    )  # fmt: skip
    with evaluator.ready(find_candidate(opened, ranking["winner"])) as network:
        torch.save(network, run / NETWORK)
