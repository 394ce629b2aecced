"""The command that shows one sample and its views."""

import argparse
from typing import Any

from flows.cli.data import command, local_path
from shards.catalog import DATASETS


def add_view(commands: Any) -> None:
    """Add `view`."""
    sub = command(commands, "view", _view, "draw a sample and all its views as an animation in one HTML file")
    sub.add_argument("data", metavar="DATA", help="a store's folder, or the folder that holds the stores; path or URL")
    sub.add_argument("key", metavar="KEY", help="key of the sample, such as S001C001P001R001A001")
    sub.add_argument(
        "--views",
        default="pcm3pp",
        help="a method, a .json file of a ViewSpec, all (a view for each operation), or the folder of a run: then also "
        "what its last checkpoint predicts of hidden joints, and the nearest training samples",
    )
    sub.add_argument("--stream", choices=["joint", "bone", "motion"], default="joint", help="of a method's views")
    sub.add_argument("--seed", type=int, help="of the run to replay; without it that of the run in --views, else 0")
    sub.add_argument("--epoch", type=int, default=0, help="from 0")
    sub.add_argument("--step", type=int, default=0, help="global batch of the epoch, for what a whole batch shares")
    sub.add_argument("--frames", type=int, metavar="T", help="of a method's views; without it the method's own")
    sub.add_argument("--dataset", metavar="DATASET", choices=DATASETS, help="whose store holds the sample: %(choices)s")
    sub.add_argument("--out", type=local_path, metavar="FILE", help="the page; without it KEY.html")


def _view(options: argparse.Namespace) -> None:
    from flows.pages.sample.page import ViewRequest, write_view
    from shards.places import place

    request = ViewRequest(
        data=place(options.data),
        key=options.key,
        views=str(local_path(options.views)),
        stream=options.stream,
        seed=options.seed,
        epoch=options.epoch,
        step=options.step,
        frames=options.frames,
        dataset=options.dataset,
    )
    print(f"wrote {write_view(request, options.out)}\nagain: {request.command}")
