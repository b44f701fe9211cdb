"""Makes docs/images: a screenshot of each page, of data/samples. Look at them before they are committed.

    python -m docs.screenshots [--work FOLDER]

It trains the sample policy twice, evaluates it, lets it answer held-out prompts, and opens the pages in the system's
Chromium. Takes a few minutes on two cores. `--work` keeps what it made, and takes what is there already.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import ARGUMENTS, LAPTOP, PHONE, find_browser
from tests.review_servers import ReviewServer, introduce, look_at

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data" / "samples"
IMAGES = ROOT / "docs" / "images"
USUAL_COLORS, OTHER_COLORS = 192, 64
"""Of a picture: letters and lines need no more, and the clone stays small."""

RUNS = {"runs/beta-0.1": 0.1, "runs/beta-0.5": 0.5}
TALL = {"width": LAPTOP["width"], "height": 1400}


def main() -> None:
    """Make all pages and their pictures."""
    parser = argparse.ArgumentParser(description="Make the screenshots of the docs.")
    parser.add_argument(
        "--work", type=Path, help="where the data and pages are made; default: a folder that is removed"
    )
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = told.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        make_pages(folder)
        IMAGES.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=[*ARGUMENTS, "--no-sandbox"])
            picture_reports(browser, folder)
            picture_review(browser, folder)
            browser.close()


def make_pages(folder: Path) -> None:
    """Make every kind of report, of copies, since pages name the files that they are of."""
    shutil.copy(SAMPLES / "rollouts.jsonl", folder)
    shutil.copytree(SAMPLES / "policy", folder / "policy", dirs_exist_ok=True)
    dpo(folder, "collect-pairs", "rollouts.jsonl", "-o", "dpo_train.jsonl", "--validation-fraction", 0.1)
    dpo(folder, "report", "rollouts.jsonl", "-o", "rollouts.html")
    dpo(folder, "report", "dpo_train.jsonl", "-o", "pairs.html")
    for run, beta in RUNS.items():
        if not (folder / run / "result.json").exists():
            told = ["dpo_train.jsonl", "--validation", "dpo_val.jsonl", "--model", "policy", "-o", run]
            told += ["--beta", beta, "--epochs", 2, "--batch-size", 32, "--lr", 6e-5, "dpo.val_period=10"]
            dpo(folder, "train", *told, "dpo.val_at_start=true", "logger.num_val_samples_to_print=3")
    dpo(folder, "report", *RUNS, "-o", "runs.html")
    if not (folder / "evaluation" / "report.html").exists():
        answers = ["--generate", SAMPLES / "heldout.jsonl", "--max-new-tokens", 32]
        dpo(folder, "eval", "runs/beta-0.1", "dpo_val.jsonl", "-o", "evaluation", *answers)
    answer_heldout(SAMPLES / "policy", folder / "before.jsonl")
    answer_heldout(folder / "runs" / "beta-0.1" / "policy", folder / "after.jsonl")
    dpo(folder, "compare", "before.jsonl", "after.jsonl", "-o", "comparison.html")


def dpo(folder: Path, *arguments: object) -> None:
    """Run a command, which must succeed."""
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def answer_heldout(policy: Path, place: Path, samples: int = 8) -> None:
    """Write rollouts of the held-out prompts, scored by the verifier of the samples."""
    if place.exists():
        return
    sys.path.insert(0, str(SAMPLES))
    from sampling import load_policy, sample_answers
    from sort_task import verify

    tasks = [json.loads(line) for line in (SAMPLES / "heldout.jsonl").read_text().splitlines()]
    chats = [task["responses_create_params"]["input"] for task in tasks]
    answers = sample_answers(load_policy(policy), chats, samples, seed=0)
    with place.open("w") as file:
        for number, (task, of_task) in enumerate(zip(tasks, answers, strict=True)):
            for place_in_task, answer in enumerate(of_task):
                text = {"type": "output_text", "text": answer.text, "annotations": []}
                message = {"type": "message", "role": "assistant", "content": [text]}
                indices = {"_ng_task_index": number, "_ng_rollout_index": place_in_task}
                cut = {"reason": "max_output_tokens"} if answer.truncated else None
                response = {"output": [message], "incomplete_details": cut}
                reward = verify(answer.text, task["expected_answer"]).reward
                file.write(json.dumps({**task, **indices, "response": response, "reward": reward}) + "\n")


def picture_reports(browser: Browser, folder: Path) -> None:
    """Take pictures of the reports."""
    for name, place in {
        "report-rollouts": "rollouts.html",
        "report-pairs": "pairs.html",
        "report-run": "runs/beta-0.1/report.html",
        "report-runs": "runs.html",
        "evaluation": "evaluation/report.html",
        "comparison": "comparison.html",
    }.items():
        page = opened(browser, (folder / place).as_uri(), TALL)
        save(page, name)
        page.context.close()
    page = opened(browser, (folder / "pairs.html").as_uri(), TALL)
    page.locator("#pairs").evaluate("heading => heading.scrollIntoView()")
    save(page, "report-pairs-side-by-side")
    page = opened(browser, (folder / "pairs.html").as_uri(), PHONE, scheme="dark")
    page.locator("article.pair").first.evaluate("pair => pair.scrollIntoView()")
    save(page, "report-pairs-phone-dark")
    page = opened(browser, (folder / "runs" / "beta-0.1" / "report.html").as_uri(), LAPTOP, scheme="dark")
    save(page, "report-run-dark")


def picture_review(browser: Browser, folder: Path) -> None:
    """Take pictures of a review that is under way."""
    (folder / "review.sqlite").unlink(missing_ok=True)
    with ReviewServer("dpo_train.jsonl", "--store", "review.sqlite", "--limit", 50, cwd=folder) as server:
        page = opened(browser, server.address, LAPTOP)
        introduce(page, "Ann")
        for key in "12131":
            look_at(page)
            page.keyboard.press(key)
            page.wait_for_timeout(500)
        look_at(page)
        while not page.locator(".side .own").count():  # an item whose responses share words
            page.keyboard.press("]")
            look_at(page)
        page.keyboard.press("d")
        page.keyboard.press("r")
        page.keyboard.type("242554")
        page.keyboard.press("n")
        page.keyboard.type("The digits are right in both; only one of them stops there.")
        page.keyboard.press("Escape")
        save(page, "review")
        page.emulate_media(color_scheme="dark")
        save(page, "review-dark")
        page.emulate_media(color_scheme="light")
        page.goto(server.origin + "/done")
        save(page, "review-summary")
        phone = opened(browser, server.address, PHONE)
        introduce(phone, "Bob")
        save(phone, "review-phone")


def opened(browser: Browser, address: str, size: dict[str, int], scheme: Any = "light") -> Page:
    """Open a page in a window of its own."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    return page


def save(page: Page, name: str) -> None:
    """Save what is seen of a page as a small PNG: the usual colours as they are, of the others what is nearest."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    usual = sorted(picture.getcolors(1 << 24) or (), reverse=True)[:USUAL_COLORS]
    others = picture.quantize(OTHER_COLORS, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, color in usual for channel in color] + others)
    small = picture.quantize(palette=palette, dither=Image.Dither.NONE)
    small.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
