"""The report on runs: what is read of a folder, what is said of it, and what the page holds."""

import fcntl
import json
import math
import os
import re
import shutil
from array import array
from pathlib import Path
from typing import Any

import pytest

import views.run.history as history_module
from schemas.errors import DpoError, InputError, UsageError
from tests.hostile_texts import HUGE, TEXTS
from trainer.config.settings import resolve
from trainer.save.run_folder import config_text
from views.report_command import report_command
from views.report_places import Kind, asked_for, refuse_foreign
from views.run.configuration import differences, settings_of
from views.run.folder import read_run
from views.run.history import read_history, thinned
from views.run.names import named_runs
from views.run.numbers import json_of, json_of_several
from views.run.page import write_run_page
from views.run.plots import plots_of, plots_of_several
from views.run.several import write_runs_page
from views.run.state import State, duration, state_of

LN_2 = math.log(2)


def step_line(step: int, **metrics: float | None) -> dict[str, Any]:
    usual = {"loss": LN_2 - step / 100, "accuracy": 0.5 + step / 100, "margin_mean": step / 50, "grad_norm": 1.0}
    found = {f"train/{name}": value for name, value in {**usual, **metrics}.items()}
    return {"step": step, "epoch": 1, **found, "timing/elapsed_seconds": 2.0 * step}


def validation_line(step: int, loss: float, name: str = "default") -> dict[str, Any]:
    prefix = f"validation-{name}/"
    found = {"loss": loss, "accuracy": 0.75, "margin_mean": 0.2, "accuracy/math": 0.5, "accuracy/code": 1.0}
    return {"step": step, "epoch": 1} | {f"{prefix}{key}": value for key, value in found.items()}


def make_run(folder: Path, *lines: dict[str, Any], settings: tuple[str, ...] = (), **files: Any) -> Path:
    """Write a run's folder: its configuration, lines of metrics, and files of JSON by their names without ending."""
    folder.mkdir(parents=True)
    told = [*settings, "policy.optimizer.lr=1e-6"]
    config = resolve(told, train_data_path=Path("pairs.jsonl"), model_name="org/model", output_dir=folder)
    (folder / "train_config.json").write_text(config_text(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def facts(*, ended: dict[str, str] | None = None, digest: str = "d" * 32, **more: Any) -> dict[str, Any]:
    source = {"name": "pairs.jsonl", "sha256": "a" * 64}
    data = {"name": "training", "pairs": 1_234, "prompts": 100, "responses": 500, "dropped": {"too_long": 3}}
    return {"planned_steps": 10, "data": [{**data, "digest": digest, "sources": [source]}], "ended": ended, **more}


FINISHED = {"finished": True, "planned_steps": 10}
STEPS = [step_line(step) for step in range(1, 11)]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    lines = [validation_line(0, LN_2), *STEPS[:5], validation_line(5, 0.6), *STEPS[5:], validation_line(10, 0.65)]
    folder = make_run(tmp_path / "first", *lines, result=FINISHED, run=facts(ended={"how": "finished", "why": ""}))
    (folder / "policy").mkdir()
    return folder


@pytest.fixture
def undrawn(tmp_path: Path) -> Path:
    """A run whose page takes no time: it has no step to be drawn yet."""
    return make_run(tmp_path / "first", run=facts())


def page_of(folder: Path) -> str:
    write_run_page(read_run(folder), folder / "report.html", plots_folder=None)
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """Give what a reader sees, on one line."""
    body = re.sub(r"<svg.*?</svg>|<style>.*?</style>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_a_finished_run_in_numbers(finished: Path) -> None:
    found = json_of(read_run(finished))
    assert (found["state"], found["steps"], found["planned_steps"], found["seconds"]) == ("finished", 10, 10, 20.0)
    assert found["sentence"] == "Finished: 10 steps, 1 epoch, in 20 s."
    # the mean of ln 2 - step / 100 over the steps 1 to 10
    assert found["metrics"]["loss"] == pytest.approx(LN_2 - 0.055)
    default = found["validation"]["default"]
    assert (default["best_loss"], default["best_step"], default["last"]["loss"]) == (0.6, 5, 0.65)
    assert default["accuracy_by_environment"] == {"math": 0.5, "code": 1.0}
    assert found["settings"]["policy.optimizer.lr"] == 1e-6
    assert "policy.max_grad_norm" not in found["settings"]  # the default


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (
            {"how": "stopped", "why": "by SIGTERM"},
            "Stopped at step 10 of 12, as it was asked to by SIGTERM, after 20 s.",
        ),
        ({"how": "failed", "why": "the disk is full"}, "Failed at step 10 of 12 after 20 s: the disk is full"),
        (None, "Broken off at step 10 of 12 after 20 s. It ended without a word: it was killed, or the machine"),
    ],
)
def test_a_run_that_did_not_finish(tmp_path: Path, ended: dict[str, str] | None, expected: str) -> None:
    folder = make_run(tmp_path / "run", *STEPS, run=facts(ended=ended) | {"planned_steps": 12})
    (folder / "checkpoints" / "step_8" / "state").mkdir(parents=True)
    (folder / "checkpoints" / "step_4").mkdir()  # its state is gone
    state = state_of(read_run(folder))
    assert state.sentence.startswith(expected)
    assert state.remedy == "The same command with --resume auto goes on from step 8."


def test_a_running_run_is_told_by_its_lock(tmp_path: Path) -> None:
    again = {"resumed": [{"step": 4, "at": "2026-01-01T00:00:00+00:00"}], "planned_steps": 15}
    folder = make_run(tmp_path / "run", *STEPS, run=facts() | again)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # 2 s a step, and five are to go
        expected = "Running: at step 10 of 15 after 20 s, about 10 s to go; gone on with after step 4."
        assert state_of(read_run(folder)) == State("running", expected)
        assert "Running" in page_of(folder)
    finally:
        os.close(descriptor)
    assert state_of(read_run(folder)).how == "broken off"


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert state_of(read_run(folder)).how == "not begun"
    assert "No step is done yet." in text_of(page_of(folder))


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", *STEPS[:3])
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('no JSON\n[1]\n{"epoch": 1}\n{"step": "4", "train/loss": 1}\n{"step": 4, "train/loss": "x"}\n')
        stream.write('{"step": 4, "train/loss": 0.5}\n{"step": 5, "train/lo')  # being written
    history = read_history(folder)
    assert (history.step, history.num_unreadable) == (4, 5)
    assert "5 lines of metrics.jsonl can&#39;t be read." in page_of(folder)


def test_steps_that_are_done_twice_count_once(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", *STEPS[:6], validation_line(6, 0.6), *(step_line(step, loss=9.0) for step in (4, 5))
    )
    history = read_history(folder)
    assert list(history.column("train/loss").x) == [1, 2, 3, 4, 5]
    assert list(history.column("train/loss").y[3:]) == [9.0, 9.0]
    assert not list(history.column("validation-default/loss").points)  # of a step that is not done yet


def test_what_is_no_number_is_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", *STEPS[:2], step_line(3, loss=None), step_line(4, loss=None))
    assert "loss was no finite number in 2 steps, first at step 3." in text_of(page_of(folder))
    assert json_of(read_run(folder))["metrics"]["loss"] == pytest.approx(LN_2 - 0.015)  # of the steps 1 and 2


def test_thinning_keeps_what_stands_out() -> None:
    x = array("d", range(10_000))
    y = array("d", (math.sin(each / 500) for each in x))
    y[1_234], y[8_765], y[4_000] = 7.0, -7.0, math.nan
    thin_x, thin_y = thinned(x, y, buckets=100)
    assert len(thin_x) == len(thin_y) <= 202
    assert (thin_x[0], thin_x[-1]) == (0, 9_999)
    assert list(thin_x) == sorted(set(thin_x))
    found = dict(zip(thin_x, thin_y, strict=True))
    assert (found[1_234], found[8_765]) == (7.0, -7.0)
    assert all(found[each] == y[int(each)] for each in found if each != 4_000)
    y[5_000:5_200] = array("d", [math.nan] * 200)
    assert sum(map(math.isnan, thinned(x, y, buckets=100)[1])) == 2  # two stretches of 100 have nothing else


def test_a_long_run_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "KEPT", 1_000)
    lines = (step_line(step, loss=50.0 if step == 2_222 else 0.5) for step in range(1, 8_001))
    column = read_history(make_run(tmp_path / "run", *lines)).column("train/loss")
    assert len(column.x) <= 1_000
    assert (column.count, column.mean) == (8_000, pytest.approx(0.5 + 49.5 / 8_000))
    assert dict(zip(column.x, column.y, strict=True))[2_222] == 50.0
    assert column.x[-1] == 8_000


def test_only_what_differs_from_the_defaults_comes_first(tmp_path: Path) -> None:
    mixture = ("data.train=[{data_path: a.jsonl, weight: 2.0}, b.jsonl]", "data.val_data_paths.hard=hard.jsonl")
    told = ["loss.name=ipo", "dpo.max_num_epochs=1", "policy.optimizer.lr=1e-6", *mixture]
    config = resolve(told, model_name="org/model", output_dir=tmp_path / "run")
    settings = settings_of(json.loads(config_text(config)))
    differing = {each.key: each.value for each in settings if each.differs}
    assert differing == {
        "data.train.0.data_path": "a.jsonl",
        "data.train.0.weight": 2.0,
        "data.train.1.data_path": "b.jsonl",
        "data.val_data_paths.hard.data_path": "hard.jsonl",
        "loss.name": "ipo",
        "policy.model_name": "org/model",
        "policy.optimizer.lr": 1e-6,
    }
    assert all(each.meaning for each in settings if each.differs)


def test_runs_are_compared_by_what_they_were_told(tmp_path: Path) -> None:
    base = make_run(tmp_path / "base", *STEPS, run=facts())
    other = make_run(
        tmp_path / "other",
        *(step_line(step, loss=1.0) for step in range(1, 21)),
        settings=("loss.name=ipo", "data.validation.data_path=held_out.jsonl"),
        run=facts(digest="e" * 32),
    )
    runs = {name: read_run(place) for name, place in named_runs([base, other]).items()}
    assert dict(differences({name: run.settings for name, run in runs.items()})) == {
        "loss.name": ["sigmoid", "ipo"],
        "data.validation.data_path": [None, "held_out.jsonl"],
    }
    assert json_of_several(runs)["runs"]["other"]["metrics"]["loss"] == 1.0
    write_runs_page(runs, tmp_path / "page.html", plots_folder=tmp_path / "plots")
    text = text_of((tmp_path / "page.html").read_text())
    assert "2 runs side by side" in text
    assert "loss.name sigmoid ipo" in text
    assert "They were not trained on the same pairs" in text
    (loss,) = (plot for plot in plots_of_several(runs) if plot.name == "loss")
    assert [(each.name, len(each.x)) for each in loss.series] == [("base", 10), ("other", 20)]
    assert (tmp_path / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [
        (("loss.mix={sigmoid: 1.0, ipo: 0.5}",), True),
        (("dpo.preference_average_log_probs=true",), True),
        (("dpo.sft_loss_weight=0.1",), True),
        (("dpo.seed=7",), False),
    ],
)
def test_losses_on_another_scale_are_told(tmp_path: Path, settings: tuple[str, ...], is_told: bool) -> None:
    runs = {"a": read_run(make_run(tmp_path / "a")), "b": read_run(make_run(tmp_path / "b", settings=settings))}
    write_runs_page(runs, tmp_path / "page.html", plots_folder=None)
    assert ("are on another scale" in text_of((tmp_path / "page.html").read_text())) == is_told


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert named_runs(places) == {"a/run": places[0], "b/run": places[1]}
    with pytest.raises(UsageError, match="named twice"):
        named_runs([tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(UsageError, match="25 runs: at most 24"):
        named_runs([tmp_path / str(number) for number in range(25)])


def test_accuracy_is_not_drawn_where_rounding_decides(finished: Path) -> None:
    with (finished / "metrics.jsonl").open("w") as stream:
        for line in (step_line(1, accuracy=0.0, margin_mean=0.0), step_line(2, accuracy=0.9, margin_mean=0.1)):
            stream.write(json.dumps(line) + "\n")
    (plot,) = (plot for plot in plots_of(read_run(finished)) if plot.name == "accuracy")
    assert (list(plot.series[0].x), list(plot.series[0].y)) == ([2], [0.9])


def test_verdicts_are_told_with_what_to_do(undrawn: Path) -> None:
    verdict = {"kind": "easy_pairs", "seen": "accuracy 1.00", "first": 11, "last": 40, "count": 3}
    told = {"meaning": "the <b>answer</b> is given away", "remedy": "harder pairs"}
    (undrawn / "health.json").write_text(json.dumps({"step": 10, "verdicts": [{**verdict, **told}]}))
    text = text_of(page_of(undrawn))
    assert "Easy pairs 3 times, at steps 11 to 40 Seen: accuracy 1.00." in text
    assert "It may mean: the &lt;b&gt;answer&lt;/b&gt; is given away. What to do: harder pairs." in text
    (undrawn / "health.json").write_text('{"verdicts": []}')
    assert "Nothing unusual" in text_of(page_of(undrawn))
    (undrawn / "health.json").write_text('{"verdicts": [{"kind": 1}]}')
    assert "nothing is known of warnings" in text_of(page_of(undrawn))


def test_answers_before_and_after(undrawn: Path) -> None:
    usual = {"set": "default", "prompt": "2 + 2", "chosen": "4", "rejected": "5"}
    rows = [{**usual, "step": step, "response": answer} for step, answer in ((0, "it is 5"), (5, "hm"), (10, " 4 "))]
    rows.append({**usual, "step": 10, "prompt": "alone", "response": ""})
    (undrawn / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 15, "se')
    text = text_of(page_of(undrawn))
    assert "Prompt 1 set default, 3 answers 2 + 2 Before training it is 5 After step 10, as chosen 4" in text
    assert "Prompt 2 set default, 1 answer alone After step 10 nothing" in text
    assert "hm" not in text.split()


def test_hostile_texts_do_nothing(tmp_path: Path) -> None:
    texts = [text for key, text in TEXTS.items() if key not in HUGE]
    name = "</style><script>alert(1)</script>{{ 7*7 }}\u202e\x1b[31m"
    rows = [
        {"step": step, "set": name, "prompt": text, "response": text + str(step), "chosen": text, "rejected": name}
        for text in texts
        for step in (1, 2)
    ]
    verdict = {"kind": name, "seen": name, "meaning": name, "remedy": name, "first": 1, "last": 1, "count": 1}
    data = [{"name": name, "pairs": name, "dropped": {name: 3}, "digest": name, "sources": [{"name": name}, 5]}]
    folder = make_run(
        tmp_path / "run<i>&",
        *STEPS,
        validation_line(10, 0.5, name),
        health={"verdicts": [verdict]},
        run=facts(ended={"how": "failed", "why": name}) | {"data": data, "resumed": [name]},
        result={"planned_steps": name},
    )
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / "samples.jsonl").write_text(
        "".join(line for line in lines if "\\ud8" not in line and "\\udc" not in line)
    )
    page = page_of(folder)
    write_runs_page({name: read_run(folder), "other": read_run(folder)}, tmp_path / "two.html", plots_folder=None)
    for found in (page, (tmp_path / "two.html").read_text()):
        assert "<script" not in found
        assert not {"\u202e", "\x1b"} & {*found}
        assert found.count("</style>") == 1
        assert "{{ 7*7 }}" in found
        assert not re.search(r'\s(style|on\w+)="', found)


def test_files_of_another_form_are_no_reason_to_fail(undrawn: Path) -> None:
    for content in ("[]", "null", "{", '"text"', '{"ended": 5, "data": {}, "resumed": 3, "verdicts": 7, "best": []}'):
        for name in ("run", "result", "health"):
            (undrawn / f"{name}.json").write_text(content)
        assert "Run first" in page_of(undrawn)
        assert json_of(read_run(undrawn))["state"] == "not begun"
    (undrawn / "train_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"train_config\.json: got no object"):
        read_run(undrawn)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3_700, "1 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_lengths_of_time(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_what_a_place_is(tmp_path: Path, finished: Path) -> None:
    pairs, evaluation = tmp_path / "pairs.jsonl", tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "eval.json").write_text("{}")
    assert (asked_for([finished], None).kind, asked_for([finished], None).page) == (Kind.RUN, finished / "report.html")
    assert asked_for([finished], None).plots_folder == finished / "plots"
    assert asked_for([finished], tmp_path / "x.html").plots_folder is None
    assert asked_for([finished, tmp_path / "first" / ".." / "first"], None).kind is Kind.RUNS
    assert asked_for([evaluation], None).page == evaluation / "report.html"
    assert asked_for([pairs], None) == asked_for([pairs], Path("report.html"))
    with pytest.raises(UsageError, match=r"first is a run, .*pairs\.jsonl is rollouts or pairs; make a page of each"):
        asked_for([finished, pairs], None)
    (finished / "policy" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"policy: is the folder of a model, .*; its run is .*first"):
        asked_for([finished / "policy"], None)


def test_only_pages_are_replaced(tmp_path: Path, finished: Path) -> None:
    page_of(finished)
    refuse_foreign(finished / "report.html")
    refuse_foreign(tmp_path / "new.html")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(UsageError, match="is no page of dpo"):
        refuse_foreign(tmp_path / "pairs.jsonl")


def test_the_command_writes_beside_the_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_command([finished])
    assert capsys.readouterr().out == f"{finished / 'report.html'}\n"
    names = {path.name for path in (finished / "plots").iterdir()}
    assert {"loss.svg", "loss.png", "accuracy.svg", "validation_loss.svg"} <= names
    shutil.rmtree(finished / "plots")
    (finished / "report.html").unlink()
    report_command([finished], as_json=True)
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    assert not (finished / "report.html").exists()
    with pytest.raises(UsageError, match="options for rollouts and pairs were given"):
        report_command([finished], num_pairs=3)
    with pytest.raises(UsageError, match="--plots goes with a page"):
        report_command([finished], plots=finished / "elsewhere", as_json=True)


def test_plots_that_can_not_be_written_cost_no_page(finished: Path) -> None:
    (finished / "plots").write_text("a file")
    with pytest.raises(DpoError, match=r"plots: can't be made.*: File exists; the page is there without it: .*html"):
        report_command([finished])
    assert "Finished: 10 steps" in (finished / "report.html").read_text()


def test_a_page_says_what_it_was_trained_on(finished: Path) -> None:
    text = text_of(page_of(finished))
    assert "training 1,234 100 500 3 too_long pairs.jsonl aaaaaaaaaaaa dddddddddddd" in text
    assert "policy.optimizer.lr 1e-06 5e-06 Highest learning rate." in text
