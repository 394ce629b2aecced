"""The command line: instant help, one line for a user's error, and every command as one would type it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.cli import main as cli
from flows.cli.commands import COMMANDS
from flows.options import PretrainOptions
from flows.recipes.method import METHODS
from shards.catalog import SOURCES
from shards.manifest import read_manifest, write_manifest
from tests.flows.conftest import METHOD

HEAVY = (
    *("torch", "prefect", "zarr", "webdataset", "distributed", "dask", "matplotlib", "numba", "fsspec"),
    *("numpy", "pydantic", "importlib.metadata"),
)


PRETRAIN = ("pretrain", "pcm3pp", "--data", "d", "--dataset", "ntu60", "--protocol", "xview", "--run", "r")


def main(*arguments: str | Path) -> int:
    return cli.main([str(argument) for argument in arguments])


def modules_after(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after running that code."""
    script = f"{code}\nimport sys\nprint('\\n' + ' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    return set(done.stdout.splitlines()[-1].split())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a refused command says."""
    capsys.readouterr()
    assert main(*arguments) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("skelstream: error: ")]
    assert len(lines) == 1
    assert error.endswith(lines[0] + "\n")
    assert "Traceback" not in error
    return lines[0]


def pretrain_command(options: PretrainOptions, *more: str) -> list[str]:
    sets = [word for override in options.overrides for word in ("--set", override)]
    names = ("data", "dataset", "protocol", "run", "device")
    given = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    return ["pretrain", options.method, *given, "--stream", ",".join(options.streams), *sets, "--plain", *more]


HELP = """
from flows.cli.main import main
for command in {commands}:
    try: main([*command, "--help"])
    except SystemExit as end: assert end.code == 0
"""


def test_the_help_of_all_commands_imports_nothing_that_takes_long() -> None:
    assert modules_after(HELP.format(commands=[[]])) == set()


def test_the_help_of_a_command_imports_nothing_heavy() -> None:
    commands = [[name] for name in COMMANDS]
    assert modules_after(HELP.format(commands=commands)) <= {"pydantic", "importlib.metadata"}


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"]])
def test_help_takes_a_fraction_of_a_second(words: list[str]) -> None:
    def seconds() -> float:
        """Of the processor; other processes are none of ours."""
        before = os.times()
        subprocess.run([sys.executable, "-m", "skelstream", *words], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.6  # 0.07 and 0.2 on one core of 2024


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"skelstream {version('skelstream')}\n"


@pytest.mark.parametrize("width", [60, 200])
def test_help_is_as_wide_as_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    longest = []
    for words in ([], ["pretrain"], ["prune"]):
        with pytest.raises(SystemExit):
            main(*words, "--help")
        text = capsys.readouterr().out.partition("usage: ")[2].partition("\n\n")[2].partition("\nexample")[0]
        longest.append(max(map(len, text.splitlines())))
    assert width * 0.9 < max(longest) <= width


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("completion", shell) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, "init-from", "pkummd1", "resident", "version"))
    program = shutil.which(shell)
    if program is not None:  # it can read the script
        subprocess.run([program, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["pre"], ["preprocess", "pretrain"]),
        (["pretrain", "--st"], ["--stream"]),
        (["evaluate", "run", "--loader", ""], ["auto", "resident", "stream", "dali"]),
        (["import-checkpoint", "c"], ["cmd"]),
        (["report", "note"], ["notes.txt"]),
    ],
)
def test_bash_completes_commands_options_values_and_files(
    words: list[str], completed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    main("completion", "bash")
    script = (
        capsys.readouterr().out
        + '\nCOMP_WORDS=(skelstream "$@"); COMP_CWORD=$#; _shtab_skelstream; echo ${COMPREPLY[@]}'
    )
    command = ["bash", "-c", script, "bash", *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert told.split() == completed


def test_the_methods_are_listed_with_the_papers_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("methods") == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert all(part in text for part in (name, method.about, *method.variants))
        assert all(part in text for row in method.rows for part in row)


def test_one_method_is_described_and_an_unknown_one_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("methods", "pcm3") == 0
    text = capsys.readouterr().out
    assert METHODS["pcm3"].about in text
    assert all(name in text for name in METHODS["pcm3"].variants)
    assert main("methods", "--json", "pcm3") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "pcm3"
    assert main("methods", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(METHODS)
    assert "unknown method 'moco'" in refused(capsys, "methods", "moco")


def test_a_conversion_that_is_done_is_found_without_prefect(raw: Path, store: Path) -> None:
    arguments = ["preprocess", "ntu", str(raw), "--out", str(store.parent)]
    code = f"from flows.cli.main import main; assert main({arguments!r}) == 0"
    assert modules_after(code).isdisjoint({"prefect", "torch", "distributed", "matplotlib", "numba"})


def test_a_conversion_imports_neither_torch_nor_prefect_nor_a_cluster(raw: Path, tmp_path: Path) -> None:
    arguments = ["preprocess", "ntu", str(raw), "--out", str(tmp_path), "--plain"]
    code = f"from flows.cli.main import main; assert main({arguments!r}) == 0"
    assert modules_after(code).isdisjoint({"prefect", "torch", "distributed", "matplotlib", "webdataset"})


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(*filter(None, [command]), "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: skelstream")
    if command:
        assert f"  skelstream {command}" in text.partition("\nexample")[2]
    else:
        assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["--plain"], "required"),
        (["preproces"], "invalid choice: 'preproces'; nearest: preprocess"),
        (["preprocess", "kinetics", "raw", "--out", "data"], "invalid choice: 'kinetics'"),
        (["preprocess", "ntu", "--out", "data"], "RAW"),
        (["preprocess", "ntu", "raw"], "--out"),
        (["preprocess", "ntu", "raw", "--out", "data", "--workers", "two"], "argument --workers: found 'two': "),
        (["preprocess", "ntu", "raw", "--out", "data", "--workers", "-1"], "argument --workers: found '-1': "),
        (["preprocess", "ntu", "raw", "--out", "data", "--worker=2", "--sources", "x"], "unrecognized arguments: --so"),
        ([*PRETRAIN, "--gpus", "0"], "argument --gpus: found '0': Input should be greater than or equal to 1"),
        ([*PRETRAIN, "--stream", "joint,bones"], "argument --stream: found 'bones': Input should be 'joint', 'bone'"),
        ([*PRETRAIN, "--stream", ","], "argument --stream: found []: "),
        ([*PRETRAIN, "--loader", "fast"], "argument --loader: invalid choice: 'fast'"),
        ([*PRETRAIN, "--cache-gb", "nan"], "argument --cache-gb: found 'nan': Input should be a finite number"),
        ([*PRETRAIN, "--cach-gb", "3"], "unrecognized arguments: --cach-gb 3; nearest: --cache-gb"),
        (["distill", "run", "--lr", "inf", "--epochs", "0"], "--lr: found 'inf': Input should be a finite number"),
        (["evaluate", "run", "--stream", "joint,bone"], "argument --stream: invalid choice: 'joint,bone'"),
        (["pretrain", "pcm3pp", "--data", "d", "--dataset", "ntu61", "--protocol", "x", "--run", "r"], "ntu61"),
        (["synth", "--source", "nwucla", "--out", "raw"], "invalid choice: 'nwucla'"),
    ],
)
def test_a_command_that_is_no_command_is_refused_with_its_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: skelstream")
    assert message in error


def test_synth_writes_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--subjects", "2", "--classes", "2", "--samples", "4", "--seed", "5", "--zip")
    assert main("synth", "--source", "ntu", "--out", tmp_path / "raw", *sizes) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'raw'}\n"
    names = [name for path in (tmp_path / "raw").iterdir() for name in zipfile.ZipFile(path).namelist()]
    assert len(names) == 5
    assert "expected a new or empty folder" in refused(capsys, "synth", "--source", "ntu", "--out", tmp_path / "raw")


def test_preprocess_converts_once(raw: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("preprocess", "ntu", raw, "--out", tmp_path, "--workers", "0", "--plain")
    assert main(*command) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"wrote {tmp_path / store.name}: 48 sequences")
    assert "dropped S" in first
    assert main(*command) == 0
    second = capsys.readouterr().out
    assert second.startswith(f"found {tmp_path / store.name}: 48 sequences")
    assert "nothing to do" in second


def test_preprocess_takes_recipe_and_dtype(raw: Path, tmp_path: Path) -> None:
    options = ("--recipe", "raw", "--dtype", "float16", "--workers", "0", "--plain")
    assert main("preprocess", "ntu", raw, "--out", tmp_path, *options) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    manifest = read_manifest(folder)
    assert (manifest.recipe, manifest.dtype) == ("raw", "float16")


def test_preprocess_stops_at_a_bad_sample_or_drops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main("synth", "--source", "ntu", "--out", tmp_path / "raw", "--subjects", "2", "--classes", "2", "--samples", "4")
    bad = sorted((tmp_path / "raw").rglob("*.skeleton"))[1]
    bad.write_bytes(bad.read_bytes()[:500])
    command = ("preprocess", "ntu", tmp_path / "raw", "--out", tmp_path / "data", "--workers", "0", "--plain")
    assert bad.stem in refused(capsys, *command)
    assert not list((tmp_path / "data").glob("ntu-*"))
    assert main(*command, "--on-error", "drop") == 0
    assert f"dropped {bad.stem}" in capsys.readouterr().out


def test_preprocess_refuses_what_it_cannot_use(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip at all")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    (tmp_path / "file").write_text("not a folder")
    out = ("--out", tmp_path / "data", "--workers", "0", "--plain")
    assert "bad.zip" in refused(capsys, "preprocess", "ntu", tmp_path / "bad.zip", *out)
    assert "empty.zip" in refused(capsys, "preprocess", "ntu", tmp_path / "empty.zip", *out)
    assert "none" in refused(capsys, "preprocess", "ntu", tmp_path / "none", *out)
    assert "unknown recipe" in refused(capsys, "preprocess", "ntu", raw, *out, "--recipe", "pcm4")
    assert not (tmp_path / "data").exists()
    assert "file" in refused(capsys, "preprocess", "ntu", raw, "--out", tmp_path / "file", "--workers", "0", "--plain")


def test_verify_says_good_or_what_is_wrong(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (store, store.parent):
        assert main("verify", data) == 0
        assert capsys.readouterr().out.rstrip().endswith("good")
    for name in SOURCES:
        (tmp_path / f"{name}-pcm3-0123456789ab").mkdir()
    copy = tmp_path / "ntu-pcm3-000000000000"
    copy.mkdir()
    (copy / "manifest.json").write_text("{")
    assert main("verify", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SOURCES) + 1
    assert sum("found no manifest.json" in line for line in lines) == len(SOURCES)
    assert sum("found no readable JSON" in line for line in lines) == 1
    assert "found no store" in refused(capsys, "verify", tmp_path / "none")


@pytest.mark.parametrize("field", ["source", "recipe"])
def test_verify_names_a_store_it_cannot_judge(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    copy = tmp_path / store.name
    copy.mkdir()
    write_manifest(copy, read_manifest(store).model_copy(update={field: "unheard"}))
    assert main("verify", tmp_path) == 1
    assert "unheard" in capsys.readouterr().out


def test_pretrain_evaluate_and_report_follow_each_other(
    options: Callable[..., PretrainOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train = pretrain_command(options(run))
    assert main(*train) == 0
    done = f"{run / 'checkpoints' / 'epoch_0002.pt'}: 2 epochs, 8 steps\n"
    assert capsys.readouterr().out == done
    assert main(*train) == 0
    assert capsys.readouterr().out == done
    score = ("evaluate", run, "--tasks", " retrieval, linear,retrieval", "--set", "linear.epochs=2", "--plain")
    assert main(*score) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == ["task", "retrieval", "linear"]
    assert main(*score) == 0
    assert capsys.readouterr().out == table
    assert main(*score, "--checkpoint", "epoch_0001.pt") == 0
    assert [path.name for path in sorted((run / "results").iterdir())] == [
        ".lock",
        "class-scores",
        "epoch_0001",
        "linear.json",
        "retrieval.json",
    ]
    assert capsys.readouterr().out.count("\n") == table.count("\n")
    assert main("report", run) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert main("report", run, "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()


def test_pretrain_refuses_in_one_line(
    options: Callable[..., PretrainOptions], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*overrides: str, method: str = METHOD, folder: Path = tmp_path / "run", **fields: object) -> str:
        return refused(capsys, *pretrain_command(options(folder, *overrides, method=method, **fields)))

    assert "unknown key 'train.epoch'; nearest: train.epochs" in say("train.epoch=3")
    assert "objective.temperature: found 0" in say("objective.temperature=0")
    assert "views.mask_ratio: found 2.0" in say("views.mask_ratio=2.0")
    assert "objective.encoder.hidden: found -8" in say("objective.encoder.hidden=-8")
    assert "clip_frames=64, expected at most frames=16" in say("views.clip_frames=64")
    assert "objective.pairs.0: found 'bass'" in say('objective.pairs=["bass"]')
    assert "train.precision: found 'float16'" in say("train.precision=float16")
    assert "precision tf32 on the device cpu, which lacks it" in say("train.precision=tf32")
    assert "found 32 samples for an epoch, expected" in say("train.batch_size=40", "objective.queue_size=80")
    assert "unknown variant 'no-clips'" in say(method="pcm3pp+no-clips")
    assert "unknown method 'moco'" in say(method="moco")
    assert "no protocol 'xset'" in say(protocol="xset")
    assert "no such folder" in say(data=tmp_path / "none")
    assert "train.lr is 0.02 there and 0.1 here" in say("train.lr=0.1", folder=run)
    assert not (tmp_path / "run").exists()


def test_evaluate_and_report_refuse_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no readable run.json" in refused(capsys, "evaluate", tmp_path / "none", "--plain")
    assert "detection" in refused(capsys, "evaluate", run, "--tasks", "detection", "--plain")
    missing = ("--checkpoint", "epoch_0009.pt", "--plain")
    assert "found no 'epoch_0009.pt', expected one of epoch_0001.pt" in refused(capsys, "evaluate", run, *missing)
    assert "unknown key 'linear.epoch'" in refused(capsys, "evaluate", run, "--set", "linear.epoch=2", "--plain")
    assert "no readable configuration" in refused(capsys, "report", tmp_path / "none")
    (tmp_path / "file").write_text("not a folder")
    assert "file" in refused(capsys, "report", run, "--out", tmp_path / "file" / "report.html")


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.repair.stores.verify_data", interrupt)
    assert main("verify", tmp_path) == 130
    error = capsys.readouterr().err
    assert error.startswith("skelstream: interrupted")
    assert "--resume" in error
    assert "Traceback" not in error


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr("pipelines.repair.stores.verify_data", fail)
    with pytest.raises(AssertionError):
        main("verify", tmp_path)


def test_what_the_user_has_set_of_prefect_stays(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.delenv("DO_NOT_TRACK")
    assert main("verify", store) == 0
    assert (os.environ["PREFECT_LOGGING_LEVEL"], os.environ["DO_NOT_TRACK"]) == ("DEBUG", "1")


@pytest.mark.parametrize(
    "arguments", [["-m", "skelstream"], ["-c", "from flows.cli.main import main; raise SystemExit(main())"]]
)
def test_the_command_ends_with_its_exit_code(arguments: Sequence[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments, "verify", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"skelstream: error: {tmp_path}: found no store")
    assert done.stderr.count("\n") == 1


def test_a_terminated_command_runs_the_exit_handlers_so_that_no_embedded_server_outlives_it() -> None:
    program = (
        "import atexit, os, signal\n"
        "import pipelines.synthetic\n"
        "from flows.cli import main as cli\n"
        "atexit.register(print, 'handlers ran')\n"
        "pipelines.synthetic.synthesize = lambda *words, **options: os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.main(['synth', '--source', 'ntu', '--out', 'unused'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "handlers ran\n")
