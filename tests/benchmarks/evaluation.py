"""Seconds of the downstream tasks beside an obvious reference, and as a share of what limits them, in one run.

    python tests/benchmarks/evaluation.py [--part features linear retrieval few-shot all] [--samples N] [--threads 2]
    python tests/benchmarks/evaluation.py --part all --profile        where the time goes
    python tests/benchmarks/evaluation.py --device cuda               at the size of NTU 60

- features: `extract_features` from the resident loader, beside the encoder's forward pass alone over the same batches
  ready in memory, which is the limit.
- linear: 100 epochs of the linear protocol on kept features, beside a loop over a DataLoader, of which 5 are run.
- retrieval: the nearest sample of each query, beside the bare float32 product (the limit) and scikit-learn; and the
  memory of a search of 114,000 among 114,000, measured at the share of it that `--samples` is of NTU 60.
- few-shot: 3,000 episodes of 5 classes with 1 and with 5 shots on features of the size of the 23 novel classes of NTU
  120, beside scikit-learn on the whole width, of which 60 episodes are run.
- all: every task of one checkpoint that needs no other data, by the product's `evaluate`, with one epoch of
  fine-tuning and one draw of 5 % of the labels; `--set` changes options as on the command line.

Data are synthetic. Contenders take turns; medians of `--rounds`, and ratios within a round. Without `--samples` a CPU
takes a fifth of NTU 60 for linear and retrieval, 600 recordings for all and 192 for features.
"""

import argparse
import contextlib
import cProfile
import pstats
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import LinearSVC
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from models.encoders.gru import GRUConfig, GRUEncoder
from models.evaluation import neighbours
from models.evaluation.episodes import Episodes, draw_episodes
from models.evaluation.features import Features, extract_features, frozen
from models.evaluation.few_shot import FewShotConfig, few_shot
from models.evaluation.linear import LinearConfig, linear_evaluation
from models.training.precision import products
from pipelines.loaders.loader import TorchEngine, ViewLoader
from pipelines.loaders.order import Partition
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import open_split
from pipelines.synthetic import motion, ntu
from pipelines.views.downstream import evaluation_spec
from shards.catalog import info_from_name
from shards.manifest import STORE, Manifest, counts, file_entry, write_manifest
from shards.schema import FORMAT_VERSION
from shards.writer import sample_record, write_shard

TRAIN, TEST = 40_091, 16_487  # NTU 60, cross-subject
NTU120 = 114_000
NOVEL = 11_400  # test samples of the 23 novel classes of NTU 120, cross-setup
WIDTH, CLASSES = 2048, 60
LENGTHS = (60, 150)
FINGERPRINT = "0" * 12
QUICK = ("linear.crop=centre", "finetune.epochs=1", "semi.fractions=[0.05]", "semi.draws=1")

NEEDED = {"features": ("zarr",), "all": ("zarr", "prefect")}
"""Packages that a machine with PyTorch may lack."""

Contenders = dict[str, Callable[[], object]]


def take_turns(contenders: Contenders, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one that warms up where the device is a GPU."""
    took: dict[str, list[float]] = {name: [] for name in contenders}
    warm = 1 if device == "cuda" else 0
    for number in range(rounds + warm):
        for name, work in contenders.items():
            begun = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if number >= warm:
                took[name].append(time.perf_counter() - begun)
    return took


def ratio(above: list[float], below: list[float], factor: float = 1.0) -> float:
    """Median over the rounds of `factor * above / below`."""
    return factor * statistics.median(a / b for a, b in zip(above, below, strict=True))


def profiled(title: str, work: Callable[[], object], *, by: str) -> None:
    """Print where the time of one call goes, by operation of torch or by function of Python."""
    print(f"  -- profile of {title}")
    if by == "python":
        profile = cProfile.Profile()
        profile.runcall(work)
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(20)
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=activities) as found:
        work()
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=40))


def clusters(count: int, seed: int, device: str, classes: int = CLASSES, spread: float = 0.3) -> Features:
    """Features as an encoder that has learned something gives them: bounded, and around a centre for each class."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(99))
    label = torch.randint(classes, (count,), generator=generator)
    values = torch.empty(count, WIDTH)
    for part, own in zip(torch.split(values, 4096), torch.split(label, 4096), strict=True):
        part.copy_((spread * centre[own] + 0.6 * torch.randn(len(own), WIDTH, generator=generator)).tanh())
    return Features(values, label, torch.arange(count)).to(device)


def make_store(folder: Path, samples: int) -> Path:
    """A finished store of official NTU names with synthetic motions, without its raw text and the frames in Zarr.

    An eighth of the classes are of NTU 120 alone, as in synthetic archives.
    """
    # here, because they import Zarr
    from pipelines.conversion.pack import plan_packing
    from shards.store import create

    names = ntu.choose_names(40, max(8, min(CLASSES, samples // 60)), samples)
    infos = [info_from_name("ntu", name) for name in names]
    lengths = np.random.default_rng(0).integers(*LENGTHS, len(names)).tolist()
    create(folder / STORE, infos, lengths, None)
    packing = plan_packing("ntu", infos, lengths, None, 1024)

    def members(ids: tuple[int, ...]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        identity: dict[str, Any] = {"source": "ntu", "recipe": "raw", "fingerprint": FINGERPRINT}
        for i in ids:
            person, random = motion.subject(infos[i].subject, 0), np.random.default_rng([1, i])
            frames = np.zeros((lengths[i], 2, 25, 3), np.float32)
            frames[:, 0] = motion.perform(motion.class_motion(infos[i].label, 0), person, lengths[i], random)[0]
            yield names[i], frames, sample_record(infos[i], index=i, frames=lengths[i], **identity)

    for plan in packing.shards:
        write_shard(folder / plan.path, members(plan.ids))
    sizes = {"sequences": len(names), "samples": len(names), "frames": sum(lengths)}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="ntu",
        recipe="raw",
        recipe_steps=[],
        inventory="0" * 64,
        fingerprint=FINGERPRINT,
        counts=counts(**sizes, dropped=0, repaired=0),
        dtype="float32",
        max_error=0.0,
        cells=packing.cells,
        shards=[plan.entry for plan in packing.shards],
        files=[file_entry(folder, path) for path in sorted(folder.rglob("*.*")) if path.is_file()],
        dropped=[],
        repaired=[],
    )
    write_manifest(folder, manifest)
    return folder


def features(store: Path, hidden: int, batch: int, batches: int, options: argparse.Namespace) -> None:
    """The share of the encoder's own speed at which features are extracted."""
    device = torch.device(options.device)
    split, spec = open_split(store, "ntu60", "xsub", "train"), evaluation_spec("centre", "joint", 64)
    partition = Partition(split.num_samples, batch, drop_last=True)
    encoder = GRUEncoder(GRUConfig(hidden=hidden)).to(device)
    with closing(
        ViewLoader(
            TorchEngine(Resident(split, device), spec, 0), split.order(seed=0, shuffle=False), partition, spec, seed=0
        )
    ) as loader:
        batches = min(batches, len(loader))
        ready = [views.views["x"] for views in islice(loader.epoch(0), batches)]

        def limit() -> None:
            with frozen(encoder), products("float32", device):
                for x in ready:
                    encoder(x)

        def ours() -> None:
            extract_features(encoder, islice(loader.epoch(0), batches), device=device)

        took = take_turns({"ours": ours, "limit": limit}, options.rounds, options.device)
        rate = batch * batches / statistics.median(took["ours"])
        print(
            f"features, hidden {hidden}, {batches} batches of {batch}: {rate:,.0f} samples/s, "
            f"{ratio(took['limit'], took['ours']):.1%} of the encoder's forward pass alone (target 95 %); "
            f"{TRAIN + TEST:,} samples of NTU 60 in {(TRAIN + TEST) / rate:,.0f} s",
            flush=True,
        )
        if options.profile:
            profiled("features", ours, by="torch")


def all_features(store: Path, options: argparse.Namespace) -> None:
    """The encoder as published, and a small one beside which the loader weighs more."""
    on_cpu = options.device == "cpu"
    features(store, 1024, 128 if on_cpu else 256, 1 if on_cpu else 10**6, options)
    features(store, 128, 128 if on_cpu else 256, 2 if on_cpu else 10**6, options)


def obvious_linear(train: Features, test: Features, epochs: int, device: str) -> float:
    """The loop that comes to mind: a shuffling DataLoader, SGD, and the accuracy after each epoch."""
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(train.values.cpu(), train.label.cpu()), batch_size=1024, shuffle=True)
    tests = DataLoader(TensorDataset(test.values.cpu(), test.label.cpu()), batch_size=1024)
    head = nn.Linear(WIDTH, CLASSES).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss = F.cross_entropy(head(x.to(device)), y.to(device))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        with torch.no_grad():
            right = sum(int((head(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in tests)
    return right / len(test)


def linear(train: Features, test: Features, options: argparse.Namespace) -> None:
    """100 epochs on kept features; the limit is their products alone, on a batch that is ready."""
    config, few = LinearConfig(crop="centre"), 5
    scores: dict[str, float] = {}
    batch, weight, steps = train.values[: config.batch_size], torch.randn(CLASSES, WIDTH), -(-len(train) // 1024)
    weight = weight.to(options.device)

    def ours() -> None:
        scores["ours"] = linear_evaluation(train, test, config, CLASSES, device=options.device).last

    def reference() -> None:
        scores["reference"] = obvious_linear(train, test, few, options.device)

    def limit() -> None:
        for _ in range(few):
            for _ in range(steps):
                logits = batch @ weight.T
                logits.T @ batch  # as the gradient of the weights has it
            test.values @ weight.T

    took = take_turns({"ours": ours, "reference": reference, "limit": limit}, options.rounds, options.device)
    seconds, whole = statistics.median(took["ours"]), TRAIN / len(train)
    print(
        f"linear, {len(train):,} x {WIDTH}, {config.epochs} epochs: {seconds:.1f} s "
        f"({seconds * whole:.0f} s at the size of NTU 60), "
        f"{ratio(took['reference'], took['ours'], config.epochs / few):.1f}x a loop over a DataLoader; the products "
        f"alone are {ratio(took['limit'], took['ours'], config.epochs / few):.0%} of it (target: seconds); "
        f"accuracy {scores['ours']:.3f} and, after {few} epochs of the loop, {scores['reference']:.3f}",
        flush=True,
    )
    if options.profile:
        profiled("linear", ours, by="torch")


def retrieval(gallery: Features, query: Features, options: argparse.Namespace) -> None:
    """The search as a share of the product's speed, for one neighbour and for 20."""
    g, q = gallery.values, query.values
    unit_g, unit_q = F.normalize(g), F.normalize(q)
    found: dict[str, Any] = {}
    room = g.new_empty(1024, len(g))

    def product() -> None:
        with products("float32", g.device):
            for part in torch.split(unit_q, 1024):
                torch.mm(part, unit_g.T, out=room[: len(part)])

    def ours(count: int) -> Callable[[], None]:
        return lambda: found.update({str(count): neighbours.nearest(g, q, "cosine", count)})

    def scikit_learn() -> None:
        index = NearestNeighbors(n_neighbors=1, algorithm="brute", metric="cosine").fit(g.cpu().numpy())
        found["sklearn"] = index.kneighbors(q.cpu().numpy(), return_distance=False)

    contenders: Contenders = {"1": ours(1), "20": ours(20), "product": product}
    took = take_turns(contenders, options.rounds, options.device)
    slow = take_turns({"sklearn": scikit_learn, "1": ours(1)}, 1, "cpu")
    same = (torch.from_numpy(found["sklearn"]) == found["1"].cpu()).double().mean()
    print(f"retrieval, {len(q):,} among {len(g):,} x {WIDTH}: {statistics.median(took['1']):.2f} s, k = 1")
    shares = ", ".join(f"k = {count}: {ratio(took['product'], took[count]):.0%}" for count in ("1", "20"))
    print(f"  of the speed of the bare product: {shares} (target 90 % for k = 1)")
    print(f"  {ratio(slow['sklearn'], slow['1']):.1f}x scikit-learn's brute force, {same:.2%} of the answers equal")
    if options.profile:
        profiled("retrieval", ours(1), by="torch")


def search_memory(share: float, device: str, threads: int) -> None:
    """Peak of a search among as many samples as NTU 120 has, scaled, beside what all scores would take."""
    torch.set_num_threads(threads)
    count, width = round(NTU120 * share), 64
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(0)).to(device)
    with peak_memory(device) as peak:
        begun = time.perf_counter()
        neighbours.nearest(values, values, "cosine")
        seconds = time.perf_counter() - begun
    copy = 4 * count * width
    whole = 4 * NTU120 * WIDTH + neighbours._BUDGET
    print(
        f"  {count:,} among {count:,} x {width}: {peak[0] / 1e6:.0f} MB beside the features, of which one copy of them "
        f"is {copy / 1e6:.0f}; all scores would be {4 * count**2 / 1e6:,.0f} MB ({seconds:.1f} s). "
        f"114,000 x {WIDTH}: at most {whole / 1e6:,.0f} MB by formula, all scores {4 * NTU120**2 / 1e6:,.0f} MB",
        flush=True,
    )


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """Yields a list that afterwards holds the bytes by which memory grew at most."""
    found: list[int] = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    before, highest, end = anonymous_memory(), [0], threading.Event()

    def watch() -> None:
        while not end.wait(0.005):
            highest[0] = max(highest[0], anonymous_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield found
    end.set()
    thread.join()
    found.append(highest[0] - before)


def anonymous_memory() -> int:
    """Bytes of memory of this process that are no file's."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def obvious_few_shot(found: Features, episodes: Episodes, shots: int) -> list[float]:
    """Accuracy of each episode by scikit-learn's LinearSVC on the whole width."""
    values = F.normalize(found.values.double(), dim=1).cpu().numpy()
    scores = []
    for support, query in zip(episodes.support[..., :shots], episodes.query, strict=True):
        model = LinearSVC(C=1.0, dual=True, random_state=0)
        model.fit(values[support.ravel()], np.repeat(range(len(support)), shots))
        scores.append(float(np.mean(model.predict(values[query.ravel()]) == np.repeat(range(len(query)), 15))))
    return scores


def few_shots(options: argparse.Namespace) -> None:
    """The published 3,000 episodes."""
    found, config, some = clusters(NOVEL, 2, options.device, 23, 0.12), FewShotConfig(), 60
    episodes = draw_episodes(found.sample_id, found.label, config)
    first = Episodes(episodes.classes[:some], episodes.support[:some], episodes.query[:some])
    scores: dict[str, Any] = {}

    def ours() -> None:
        scores["ours"] = few_shot(found, episodes, config)

    def reference() -> None:
        scores["reference"] = [obvious_few_shot(found, first, shots) for shots in config.shots]

    took = take_turns({"ours": ours, "reference": reference}, options.rounds, options.device)
    pairs = zip(scores["ours"], scores["reference"], strict=True)
    same = statistics.mean(a == b for ours, other in pairs for a, b in zip(ours.per_episode, other, strict=False))
    texts = [f"{r.shots} shots {r.accuracy:.2%} +- {r.interval:.2%}" for r in scores["ours"]]
    print(
        f"few-shot, {config.episodes:,} episodes with 1 and 5 shots, features {NOVEL:,} x {WIDTH}: "
        f"{statistics.median(took['ours']):.1f} s (target 60 s), "
        f"{ratio(took['reference'], took['ours'], config.episodes / some):.1f}x scikit-learn on the whole width, "
        f"{same:.1%} of {some} episodes equal; {', '.join(texts)}",
        flush=True,
    )
    if options.profile:
        profiled("few-shot", ours, by="python")


def every_task(store: Path, folder: Path, options: argparse.Namespace) -> None:
    """Seconds of each task of one checkpoint, from its records."""
    # here, because they import Prefect
    from flows.evaluate import evaluate, find_omitted_tasks
    from flows.options import EvaluateOptions, PretrainOptions
    from flows.pretrain import pretrain

    pretrain(
        PretrainOptions(
            method="pcm3pp-small" if options.device == "cpu" else "pcm3pp",
            data=str(store),
            dataset="ntu60",
            protocol="xsub",
            run=folder / "run",
            overrides=("train.epochs=1", "train.stages.post.epochs=0", "train.milestones=[]"),
            device=options.device,
        )
    )
    asked = EvaluateOptions(run=folder / "run", tasks=("all",), overrides=(*QUICK, *options.set), device=options.device)
    begun, results = time.perf_counter(), []

    def work() -> None:
        results.extend(evaluate(asked))

    if options.profile:
        profiled("all", work, by="python")
    else:
        work()
    whole = time.perf_counter() - begun
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in results:
        seconds[row.task].append(row.seconds)
    split = {side: open_split(store, "ntu60", "xsub", side).num_samples for side in ("train", "test")}
    print(f"all tasks, {split['train']:,} + {split['test']:,} samples, {', '.join(asked.overrides)}: {whole:.1f} s")
    for name, rows in seconds.items():
        print(f"  {sum(rows):8.1f} s  {name}, {len(rows)} rows")
    print(f"  {whole - sum(map(sum, seconds.values())):8.1f} s  between the rows")
    print(f"  left out: {', '.join(find_omitted_tasks(asked))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("features", "linear", "retrieval", "few-shot", "all")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--samples", type=int, help="recordings, or training features (the test side in proportion)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="an option of evaluate, in the part all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part, packages in NEEDED.items():
        absent = [name for name in packages if find_spec(name) is None]
        if part in options.part and absent:
            print(f"{part}: left out, since this Python lacks {' and '.join(absent)}")
            options.part = [name for name in options.part if name != part]
    on_cpu = options.device == "cpu"
    train = options.samples or (TRAIN // 5 if on_cpu else TRAIN)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"features", "all"} & set(options.part):
            store = make_store(folder / "store", options.samples or (600 if on_cpu else TRAIN + TEST))
        if "features" in options.part:
            all_features(store, options)
        if {"linear", "retrieval"} & set(options.part):
            sides = clusters(train, 0, options.device), clusters(round(train * TEST / TRAIN), 1, options.device)
        if "linear" in options.part:
            linear(*sides, options)
        if "retrieval" in options.part:
            retrieval(*sides, options)
            # in a process of its own, whose memory begins without what others gave back
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(search_memory, min(1.0, train / TRAIN), options.device, options.threads).result()
        if "few-shot" in options.part:
            few_shots(options)
        if "all" in options.part:
            every_task(store, folder, options)


if __name__ == "__main__":
    main()
