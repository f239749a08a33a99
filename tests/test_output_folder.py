"""Outputs appear whole or not at all: refused places, full disks, Ctrl-C and SIGKILL at every step, and --resume."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from transformers import Trainer

from generic_logits import DistillConfig, ReinforceConfig, distill, reinforce
from generic_logits.cli import main
from generic_logits.errors import InputError, OutputError, StorageError
from generic_logits.training import run as training_run
from generic_logits.training.run import OutputFolder, leaving_no_trace

QUICK = {"block_size": 32, "batch_size": 4, "lora_rank": 2, "learning_rate": 1e-2, "epochs": 2, "save_steps": 2}
OPTIONS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A baseline, a corpus of a few blocks, and an adapter."""
    root = tmp_path_factory.mktemp("output")
    folders.model_folder(root / "baseline")
    folders.text_file(root / "corpus.txt", folders.prose(8))
    run(root, root / "adapter")
    folders.settle()
    return root


def run(root: Path, output: Path, *, resume: bool = False, **changes: Any) -> Path:
    config = ReinforceConfig(**{**QUICK, **changes})
    return reinforce(root / "baseline", root / "corpus.txt", output, config=config, resume=resume)


def command(name: str, root: Path, output: Path, *more: str) -> list[str]:
    teacher = ["--reinforced", str(root / "adapter")] if name == "distill" else []
    return [name, str(root / "baseline"), str(root / "corpus.txt"), "-o", str(output), *teacher, *OPTIONS, *more]


def result_of(folder: Path) -> dict[str, str]:
    """Digests of what a result is: everything but the record, which holds the seconds."""
    return {name: digest for name, digest in folders.digests(folder).items() if name != "generic_logits.json"}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def stop_at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> list[int]:
    """Call ``action`` in the middle of a training step; returns the list of steps begun."""
    steps: list[int] = []
    original = Trainer.training_step

    def training_step(self: Trainer, *arguments: Any, **options: Any) -> Any:
        steps.append(self.state.global_step + 1)
        if len(steps) == step:
            action()
        return original(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    return steps


def fail(error: BaseException) -> None:
    raise error


# --- places -----------------------------------------------------------------------------------------------------------


def refusal(path: Path | str, *, resume: bool = False) -> str:
    with pytest.raises(OutputError) as caught:
        OutputFolder(path, resume=resume)
    return str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_with_content_is_refused(tmp_path, resume):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note").touch()
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        assert refusal(tmp_path / name, resume=resume) == (
            f"wanted an output folder that is new or empty; got {tmp_path / name} with content; choose another one"
        )


def test_an_empty_output_folder_is_taken(root, tmp_path):
    (tmp_path / "out").mkdir()
    assert run(root, tmp_path / "out", epochs=1) == tmp_path / "out"
    assert names(tmp_path) == ["out"] and "adapter_model.safetensors" in names(tmp_path / "out")


def test_an_unfinished_run_in_the_way_is_refused_with_both_remedies(tmp_path):
    (tmp_path / "out.partial").mkdir()
    assert refusal(tmp_path / "out") == (
        f"wanted no unfinished run in the way; got {tmp_path / 'out.partial'}; "
        "continue it with --resume, or delete that folder"
    )
    OutputFolder(tmp_path / "out", resume=True)


@pytest.mark.parametrize("place", [".", "..", "/", "somewhere/.."])
def test_an_output_without_a_name_of_its_own_is_refused(place):
    assert refusal(place) == f"wanted the name of a folder to create; got {Path(place)}; choose a name"


def test_a_link_or_a_mount_cannot_be_renamed_onto(tmp_path, monkeypatch):
    message = "wanted an output folder that can appear by rename; got a link or mount, {}; choose a folder below it"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert refusal(tmp_path / "link") == message.format(tmp_path / "link")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "empty"))
    assert refusal(tmp_path / "empty") == message.format(tmp_path / "empty")


def test_a_place_below_a_file_or_without_permission_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    message = "wanted a place that can be written; got {}; choose another one: {} refuses"
    output = tmp_path / "file" / "deep" / "out"
    assert refusal(output) == message.format(output, tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)  # root may write everywhere
    output = tmp_path / "new" / "out"
    assert refusal(output) == message.format(output, tmp_path)


def test_a_place_that_only_refuses_when_written_is_refused_too(tmp_path):
    with pytest.raises(OutputError) as caught:
        OutputFolder("/proc/new/out", resume=False).open({})
    assert str(caught.value).startswith(
        "wanted a place that can be written; got /proc/new/out; choose another one: /proc"
    )


def test_nothing_is_written_before_the_inputs_were_read(root, tmp_path):
    with pytest.raises(InputError):
        reinforce(root / "baseline", tmp_path / "no", tmp_path / "a" / "out")
    assert not names(tmp_path)


def test_the_result_appears_by_one_rename(root, tmp_path, monkeypatch):
    seen: list[list[str]] = []
    original = Path.replace

    def replace(self: Path, target: Path) -> Any:
        if Path(target) == tmp_path / "out":
            seen.append(names(self))
            assert not (tmp_path / "out").exists()
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    result = run(root, tmp_path / "out", epochs=1)
    assert seen == [names(result)] and "generic_logits.json" in seen[0]


def test_the_result_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    folder = OutputFolder(tmp_path / "out", resume=False)
    folder.open({})

    def write(result: Path) -> None:
        for file in (result / "weights", result / "deep" / "tokens"):
            file.parent.mkdir(exist_ok=True)
            file.write_text("x")

    folder.publish(write)
    assert sorted(Path(each).name for each in synced) == ["tokens", "weights"]
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["deep", "weights"]


# --- taking up an unfinished run --------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(root, tmp_path, monkeypatch) -> Path:
    """The folder of a run that failed in its fourth step, with its second step saved."""
    with monkeypatch.context() as patch:
        stop_at_step(patch, 4, lambda: fail(RuntimeError("the power went")))
        with pytest.raises(RuntimeError, match="the power went"):
            run(root, tmp_path / "out")
    assert names(tmp_path) == ["out.partial"]
    assert names(tmp_path / "out.partial") == ["blocks", "checkpoint-2", "run.json"]
    return tmp_path


def test_a_run_goes_on_from_its_checkpoint_and_ends_where_it_would_have(root, unfinished, monkeypatch):
    steps = stop_at_step(monkeypatch, 0, None)
    run(root, unfinished / "out", resume=True)
    assert steps[0] == 3 and names(unfinished) == ["out"]
    assert result_of(unfinished / "out") == result_of(root / "adapter")


@pytest.mark.parametrize(
    ("changes", "other"),
    [({"epochs": 3}, "settings"), ({"seed": 1}, "settings"), ({"trainer_options": {"max_steps": 3}}, "settings")],
    ids=str,
)
def test_other_settings_are_refused_on_resume_and_the_run_is_kept(root, unfinished, changes, other):
    before = folders.digests(unfinished)
    with pytest.raises(OutputError) as caught:
        run(root, unfinished / "out", resume=True, **changes)
    assert str(caught.value) == (
        f"wanted the inputs and settings that the unfinished run began with; got another {other}; "
        f"repeat the first command with --resume, or delete {unfinished / 'out.partial'}"
    )
    assert folders.digests(unfinished) == before


def test_other_inputs_are_refused_on_resume_by_name(root, unfinished):
    folders.text_file(unfinished / "corpus.txt", folders.prose(9))
    folders.model_folder(unfinished / "baseline", tie_word_embeddings=True)
    for baseline, corpus, changed in (
        (root / "baseline", unfinished / "corpus.txt", "corpus"),
        (unfinished / "baseline", root / "corpus.txt", "baseline"),
        (unfinished / "baseline", unfinished / "corpus.txt", "baseline, corpus"),
    ):
        with pytest.raises(OutputError, match=f"got another {changed}; repeat"):
            reinforce(baseline, corpus, unfinished / "out", config=ReinforceConfig(**QUICK), resume=True)
    with pytest.raises(OutputError, match="got another command, held_to, reinforced, retain, settings; repeat"):
        config = DistillConfig(**QUICK)
        paths = (root / "baseline", root / "corpus.txt", unfinished / "out")
        distill(*paths, reinforced=root / "adapter", config=config, resume=True)


@pytest.mark.parametrize("harm", ["no state", "cut state", "empty state", "state without a step"])
def test_a_half_written_checkpoint_is_passed_over_and_removed(root, unfinished, harm, monkeypatch):
    half = unfinished / "out.partial" / "checkpoint-4"
    shutil.copytree(unfinished / "out.partial" / "checkpoint-2", half)
    state = half / "trainer_state.json"
    text = state.read_text()
    state.unlink()
    if harm != "no state":
        state.write_text({"cut state": text[: len(text) // 2], "empty state": ""}.get(harm, "{}"))
    assert OutputFolder(unfinished / "out", resume=True).last_checkpoint == half.with_name("checkpoint-2")
    assert not half.exists()
    steps = stop_at_step(monkeypatch, 0, None)
    run(root, unfinished / "out", resume=True)
    assert steps[0] == 3 and result_of(unfinished / "out") == result_of(root / "adapter")


def test_the_newest_checkpoint_is_the_one_of_the_latest_step(tmp_path):
    folder = OutputFolder(tmp_path / "out", resume=False)
    assert folder.last_checkpoint is None
    for step in (900, 1000, 99):
        (folder.work / f"checkpoint-{step}").mkdir(parents=True)
        (folder.work / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert folder.last_checkpoint == folder.work / "checkpoint-1000"


def test_what_a_dead_run_left_of_its_result_is_thrown_away(root, unfinished):
    (unfinished / "out.partial" / "result").mkdir()
    (unfinished / "out.partial" / "result" / "half.safetensors").touch()
    run(root, unfinished / "out", resume=True)
    assert result_of(unfinished / "out") == result_of(root / "adapter")


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ([], False),
        (["targets.partial/run.json", "targets.partial/forget/tokens"], False),
        ([".worth-resuming"], True),
        (["targets.partial/.worth-resuming"], True),
        (["steps/round-1/reinforced.partial/checkpoint-2/trainer_state.json"], True),
        (["steps/round-1/reinforced.partial/checkpoint-2/optimizer.pt"], False),
    ],
)
def test_what_a_step_left_is_worth_resuming_too(tmp_path, left, kept):
    folder = OutputFolder(tmp_path / "out", resume=False)
    with pytest.raises(RuntimeError, match="the power went"), leaving_no_trace(folder):
        folder.open({})
        for name in left:
            folders.text_file(folder.work / name, "{}")
        raise RuntimeError("the power went")
    assert names(tmp_path) == (["out.partial"] if kept else [])


def test_a_step_leaves_the_last_word_to_the_run_that_it_belongs_to(tmp_path, capsys):
    outer = OutputFolder(tmp_path / "out", resume=False)
    inner = OutputFolder(outer.work / "targets", resume=False)
    assert inner.is_step and not outer.is_step
    with pytest.raises(StorageError) as caught, leaving_no_trace(outer):
        outer.open({})
        with leaving_no_trace(inner):
            inner.open({})
            inner.keep()
            raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"the disk is full at {tmp_path}; make room, then continue with --resume"
    with pytest.raises(KeyboardInterrupt), leaving_no_trace(outer), leaving_no_trace(inner):
        raise KeyboardInterrupt
    said = capsys.readouterr().err
    assert said == f"what was done is kept in {outer.work}; continue with --resume\n"


def test_resume_without_an_unfinished_run_is_a_run(root, tmp_path):
    run(root, tmp_path / "out", resume=True)
    assert result_of(tmp_path / "out") == result_of(root / "adapter")


def test_a_failure_before_the_first_checkpoint_leaves_nothing(root, tmp_path, monkeypatch):
    stop_at_step(monkeypatch, 2, lambda: fail(RuntimeError("too hot")))
    with pytest.raises(RuntimeError, match="too hot"):
        run(root, tmp_path / "out")
    assert not names(tmp_path)


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Any]:
    """A function that gives a file system of so many KiB, or makes the one it gave larger."""
    place = tmp_path / "disk"
    place.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root may mount a small disk")

    def sized(kib: int) -> Path:
        again = "remount," if os.path.ismount(place) else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"{again}size={kib}k", "tmpfs", place], check=False)
        if done.returncode:
            pytest.skip("this machine does not let root mount a small disk")
        return place

    yield sized
    if os.path.ismount(place):
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize(
    ("kib", "full", "kept"),
    [
        (4, False, False),  # at run.json
        (16, False, False),  # at the first weights, by safetensors
        (64, False, False),  # at the optimizer, by torch.save
        (300, True, False),
        (144, False, True),  # at the second checkpoint
        (600, True, True),
    ],
)
def test_a_full_disk_is_named_and_leaves_nothing_under_the_final_name(root, small_disk, capfd, kib, full, kept):
    disk = small_disk(kib)
    with pytest.raises(SystemExit) as caught:
        main(command("reinforce", root, disk / "out", *(["--full"] if full else [])))
    remedy = "continue with --resume" if kept else "run it again"
    printed = capfd.readouterr()
    assert printed.err == f"error: the disk is full at {disk}; make room, then {remedy}\n"
    assert caught.value.code == 1 and not printed.out
    assert names(disk) == (["out.partial"] if kept else [])


def test_after_room_was_made_the_run_goes_on(root, small_disk):
    disk = small_disk(144)
    with pytest.raises(StorageError, match="make room, then continue with --resume$"):
        run(root, disk / "out")
    small_disk(4000)
    run(root, disk / "out", resume=True)
    assert names(disk) == ["out"] and result_of(disk / "out") == result_of(root / "adapter")


@pytest.mark.parametrize("kib", [16, 144, 300])
def test_distill_names_a_full_disk_too(root, small_disk, capfd, kib):
    disk = small_disk(kib)
    with pytest.raises(SystemExit) as caught:
        main(command("distill", root, disk / "out"))
    assert capfd.readouterr().err.startswith(f"error: the disk is full at {disk}; make room, then ")
    assert caught.value.code == 1 and "out" not in names(disk)


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("CUDA out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_only_a_full_disk_is_called_one(tmp_path, error, is_full):
    folder = OutputFolder(tmp_path / "out", resume=False)
    with pytest.raises(StorageError if is_full else type(error)) as caught, leaving_no_trace(folder):
        folder.open({})
        raise error
    assert not names(tmp_path)
    assert isinstance(caught.value, StorageError) == is_full
    if is_full:
        assert str(caught.value) == f"the disk is full at {tmp_path}; make room, then run it again"


@pytest.mark.parametrize("is_full", [False, True])
def test_a_save_that_fails_without_a_reason_is_asked_for_one(root, tmp_path, monkeypatch, is_full):
    def save(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", save)
    if is_full:
        refuse = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(training_run.tempfile, "TemporaryFile", lambda **_: fail(refuse))
    with pytest.raises(
        StorageError if is_full else RuntimeError, match="disk is full" if is_full else "unexpected pos"
    ):
        run(root, tmp_path / "out")
    assert not names(tmp_path)


# --- Ctrl-C in one process --------------------------------------------------------------------------------------------


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_step_saves_and_stops(root, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        steps = stop_at_step(patch, 3, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run(root, tmp_path / "out")
    assert steps == [1, 2, 3]
    assert names(tmp_path) == ["out.partial"] and "checkpoint-3" in names(tmp_path / "out.partial")
    assert capsys.readouterr().err == (
        "stopping after this step; press Ctrl-C again to stop at once\n"
        f"what was done is kept in {tmp_path / 'out.partial'}; continue with --resume\n"
    )
    run(root, tmp_path / "out", resume=True)
    assert result_of(tmp_path / "out") == result_of(root / "adapter")


def test_a_second_ctrl_c_stops_at_once(root, tmp_path, monkeypatch):
    steps = stop_at_step(monkeypatch, 1, lambda: (press_ctrl_c(), press_ctrl_c()))
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out")
    assert steps == [1] and not names(tmp_path)


@pytest.mark.parametrize("action", [press_ctrl_c, lambda: None, lambda: fail(RuntimeError("boom"))])
def test_the_handler_of_ctrl_c_is_given_back_however_the_training_ends(root, tmp_path, monkeypatch, action):
    def ours(number: int, frame: Any) -> None:
        """Stand for a caller's own handler."""

    before = signal.signal(signal.SIGINT, ours)
    try:
        stop_at_step(monkeypatch, 2, action)
        try:
            run(root, tmp_path / "out")
        except (KeyboardInterrupt, RuntimeError):
            pass
        assert signal.getsignal(signal.SIGINT) is ours
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_works_outside_the_main_thread(root, tmp_path):
    thread = threading.Thread(target=run, args=(root, tmp_path / "out"))
    thread.start()
    thread.join()
    assert result_of(tmp_path / "out") == result_of(root / "adapter")


# --- crashes of the real command --------------------------------------------------------------------------------------


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "generic_logits", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Wait until a file appears, at most two minutes, and only while the process lives."""
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("name", "sent"),
    [("reinforce", signal.SIGINT), ("distill", signal.SIGINT), ("reinforce", signal.SIGKILL)],
)
def test_an_interrupted_command_goes_on_with_resume_to_the_same_weights(root, tmp_path, name, sent):
    arguments = command(name, root, tmp_path / "out", "--epochs", "60", "--save-steps", "12")
    process = start(arguments)
    try:
        wait_for(process, tmp_path / "out.partial", "checkpoint-*/trainer_state.json")
        process.send_signal(sent)
        printed, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert names(tmp_path) == ["out.partial"] and not printed
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert complaints == (
            "stopping after this step; press Ctrl-C again to stop at once\n"
            f"what was done is kept in {tmp_path / 'out.partial'}; continue with --resume\n"
        )
    else:
        assert process.returncode == -signal.SIGKILL
    folder = OutputFolder(tmp_path / "out", resume=True)
    checkpoint = folder.last_checkpoint
    assert checkpoint is not None
    assert json.loads((checkpoint / "trainer_state.json").read_text())["max_steps"] > int(checkpoint.name.split("-")[1])
    for more in (["--resume"], ["-o", str(tmp_path / "whole")]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *more])
        assert caught.value.code == 0
    assert names(tmp_path) == ["out", "whole"]
    assert result_of(tmp_path / "out") == result_of(tmp_path / "whole")


_SWEEP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import generic_logits.training.distillation, generic_logits.training.reinforcement, folders
print(json.dumps(folders.sweep(*json.loads(sys.argv[2]))))
"""


_MOMENTS = {  # changes of the file system, each by its end; what makes one checkpoint makes the next
    "start": ["os.mkdir out.partial", "os.rename out.partial/run.json.part"],
    "targets": [
        "os.mkdir out.partial/targets.partial",
        "os.rename out.partial/targets.partial/forget-00000.safetensors.part",
        "os.rename out.partial/targets.partial/result",
    ],
    "checkpoints": ["checkpoint-2", "checkpoint-2/trainer_state.json", "checkpoint-4/trainer_state.json"],
    "result": ["os.mkdir out.partial/result", "result/README.md", "result/generic_logits.json"],
    "end": ["os.rename out.partial/result", "shutil.rmtree out.partial", "os.rmdir out.partial"],
}


@pytest.mark.parametrize(
    ("name", "sent", "status", "phases"),
    [
        ("reinforce", signal.SIGKILL, -9, ["start", "checkpoints", "result", "end"]),
        ("distill", signal.SIGKILL, -9, ["targets", "checkpoints", "result", "end"]),
        ("reinforce", signal.SIGINT, 130, ["start", "checkpoints", "end"]),
    ],
)
def test_no_moment_of_dying_leaves_half_a_result(root, tmp_path, name, sent, status, phases):
    moments = [moment for phase in phases for moment in _MOMENTS[phase]]
    arguments = command(name, root, tmp_path / "never")
    swept = subprocess.run(
        [sys.executable, "-c", _SWEEP, Path(__file__).parent, json.dumps([str(tmp_path), sent, arguments, moments])],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert swept.returncode == 0, swept.stderr
    whole = result_of(tmp_path / "whole" / "out")
    outcomes = json.loads(swept.stdout)
    assert len(outcomes) == len(moments)
    for each in outcomes:
        place = tmp_path / each["place"]
        assert each["status"] == status, each
        if "out" in each["left"]:  # it died while it cleaned up
            assert "rename" not in each["change"] and outcomes.index(each) >= len(outcomes) - 2
            assert each["left"] in (["out"], ["out", "out.partial"])
        else:
            assert each["left"] in ([], ["out.partial"])
            assert each["resumed"] == 0, each["log"]
            assert names(place) == ["out"]
        assert result_of(place / "out") == whole
        assert (place / "out" / "generic_logits.json").is_file()
