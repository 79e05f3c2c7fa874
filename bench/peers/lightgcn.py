"""The peer of docs/autograph.md: RecBole's LightGCN, trained by RecBole, on the split that matching.py wrote.

    python -m venv peer-env
    peer-env/bin/pip install torch==2.13.0 numpy==1.26.4 scipy==1.11.4 "pandas<2.3" "scikit-learn<1.6" tqdm pyyaml \\
        colorlog==4.7.2 colorama==0.4.4 tensorboard thop tabulate plotly texttable psutil
    peer-env/bin/pip install --no-deps recbole==1.2.1
    peer-env/bin/python bench/peers/lightgcn.py --split split.npz --out lightgcn.npz

Imports nothing of Lorank: the split comes as an npz file (``LeaveOneOut.save``), the ranked lists leave as one
(``Lists.load`` reads it), and our evaluator judges them like ours. RecBole's own numbers are printed beside, those of
the test item only with ``--test``. The epoch is chosen by RecBole on the validation item. RecBole 1.2.1 calls a private
method that scipy 1.13 removed and numpy names that numpy 2 removed, hence old versions in an environment of its own.

Two things differ from ``run_recbole``: the adjacency matrix is stored as CSR instead of COO (same values; torch's COO
product is several times slower on a CPU), and each validation's score and time are kept in a log beside the lists.
Settings are to be compared by the scores in those logs, which are of the validation item.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # RecBole's checkpoints hold its configuration object

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer
from recbole.utils import init_logger, init_seed

TOP = 50


def main() -> None:
    arguments = parsed()
    arguments.split, arguments.out = arguments.split.resolve(), arguments.out.resolve()
    saved_in(arguments).mkdir(parents=True, exist_ok=True)
    os.chdir(saved_in(arguments))  # RecBole writes two folders of logs into the current one
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    split = dict(np.load(arguments.split))
    with tempfile.TemporaryDirectory() as folder:
        write_benchmark(split, Path(folder) / "split")
        config = configuration(arguments, folder)
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        dataset = create_dataset(config)
        train, validation, test = data_preparation(config, dataset)
        model = LightGCN(config, train.dataset).to(config["device"])
        model.norm_adj_matrix = model.norm_adj_matrix.coalesce().to_sparse_csr()
        print(f"{dataset.inter_num} interactions, {len(train.dataset)} of them for training", flush=True)
        trainer = Trainer(config, model)
        if checkpoints := sorted(saved_in(arguments).glob("*.pth")):
            trainer.resume_checkpoint(checkpoints[-1])
        started, busy = time.monotonic(), time.process_time()
        epochs: list[dict[str, float]] = []

        def spent() -> dict[str, float]:
            return {"seconds": time.monotonic() - started, "busy_s": time.process_time() - busy}

        def note(epoch: int, score: float) -> None:
            epochs.append({"epoch": epoch, "score": float(score), **spent()})
            print(json.dumps(epochs[-1]), flush=True)

        trainer.fit(train, validation, saved=True, show_progress=False, callback_fn=note)
        fitted = spent()
        print("library, validation:", dict(trainer.evaluate(validation, load_best_model=True)), flush=True)
        if arguments.test:
            print("library, test:", dict(trainer.evaluate(test, load_best_model=False)), flush=True)
        lists = ranked(model, dataset, split)
    np.savez(arguments.out, **lists)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    document = {"settings": settings, "epochs": epochs, **fitted}
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1))


def saved_in(arguments: argparse.Namespace) -> Path:
    """RecBole's checkpoints and logs; a run that was stopped goes on from its best epoch."""
    return Path(arguments.out.parent / f"{arguments.out.stem}-saved")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--regularisation", type=float, default=1e-4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--every", type=int, default=5, help="epochs between two validations")
    parser.add_argument("--patience", type=int, default=5, help="validations without a better one before stopping")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="print RecBole's own numbers of the test item too")
    return parser.parse_args()


def write_benchmark(split: dict[str, Any], folder: Path) -> None:
    """The three parts in RecBole's own format; it then neither filters nor splits."""
    folder.mkdir(parents=True)
    parts = {
        "train": (split["train_user"], split["train_item"]),
        "valid": (split["user"], split["validation"]),
        "test": (split["user"], split["test"]),
    }
    for name, (users, items) in parts.items():
        lines = [f"{user}\t{item}\n" for user, item in zip(users.tolist(), items.tolist(), strict=True)]
        (folder / f"split.{name}.inter").write_text("user_id:token\titem_id:token\n" + "".join(lines))


def configuration(arguments: argparse.Namespace, folder: str) -> Config:
    settings = {
        "data_path": folder,
        "checkpoint_dir": str(saved_in(arguments)),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "embedding_size": arguments.dim,
        "n_layers": arguments.layers,
        "reg_weight": arguments.regularisation,
        "learning_rate": arguments.learning_rate,
        "train_batch_size": arguments.batch,
        "epochs": arguments.epochs,
        "eval_step": arguments.every,
        "stopping_step": arguments.patience,
        "metrics": ["Recall", "NDCG"],
        "topk": [TOP],
        "valid_metric": f"NDCG@{TOP}",
        "eval_args": {"split": None, "group_by": "user", "order": "TO", "mode": "full"},
        "metric_decimal_place": 6,
        "use_gpu": torch.cuda.is_available(),
        "show_progress": False,
        "seed": arguments.seed,
    }
    return Config(model="LightGCN", dataset="split", config_dict=settings)


def ranked(model: Any, dataset: Any, split: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Lists [E, TOP] for both targets, in our numbers; RecBole numbers users and items in order of appearance."""
    count = len(split["catalogue"])
    users = dataset.token2id("user_id", [str(user) for user in split["user"]])
    items = dataset.token2id("item_id", [str(item) for item in range(count)])  # every item occurs in some part
    train = [np.empty(0, np.int64)] * len(split["members"])
    order = np.argsort(split["train_user"], kind="stable")
    bounds = np.cumsum(np.bincount(split["train_user"], minlength=len(train)))
    train = np.split(split["train_item"][order], bounds[:-1])
    lists = {name: np.empty((len(users), TOP), np.int64) for name in ("validation", "test")}
    model.eval()
    with torch.no_grad():
        for row, (user, number) in enumerate(zip(split["user"], users, strict=True)):
            interaction = Interaction({"user_id": torch.tensor([number])}).to(model.device)
            scores = model.full_sort_predict(interaction).cpu().numpy()[items].astype(np.float64)
            scores[train[user]] = -np.inf
            lists["validation"][row] = np.argsort(-scores, kind="stable")[:TOP]
            scores[split["validation"][row]] = -np.inf
            lists["test"][row] = np.argsort(-scores, kind="stable")[:TOP]
    return lists


if __name__ == "__main__":
    main()
