// Keys for the buttons and fields of the page, which work without it too. What a key does stands in the page, as
// data-keys: a button or a box is clicked, a field gets the focus, a fold opens or closes.
"use strict";

// A key that is pressed twice by accident must not answer the next item, which nobody has seen yet.
const UNSEEN_MILLISECONDS = 250;

const started = performance.now();
let sent = false;

// Who clicked on a rating and then presses 1 means the verdict: digits rate where people came by keys. A single
// response has no such verdict.
const hasDigitVerdicts = document.querySelector('[data-keys~="1"]') !== null;
let isPointed = false;

function keyOf(event) {
  const latin = /^[ -~]$/.test(event.key);  // on other layouts, the key that has the letter
  const letter = /^Key([A-Z])$/.exec(event.code);
  return !latin && letter && event.key.length === 1 ? letter[1].toLowerCase() : event.key.toLowerCase();
}

function isWrittenIn(element) {
  if (element.isContentEditable || ["TEXTAREA", "SELECT"].includes(element.tagName)) return true;
  return element.tagName === "INPUT" && !["radio", "checkbox", "submit", "button"].includes(element.type);
}

// Within the ratings, 1 to 5 rate, and lead on to the next row.
function rate(group, key) {
  const mark = group.querySelector(`input[value="${key}"]`);
  if (!mark) return;
  mark.checked = true;
  const groups = [...document.querySelectorAll("[data-rating]")];
  const next = groups[groups.indexOf(group) + 1];
  const save = document.querySelector('button[value="rated"]');
  if (next) (next.querySelector("input:checked") || next.querySelector("input")).focus();
  else if (save) save.focus();
  else document.activeElement.blur();
}

function use(element) {
  if (element.tagName === "SUMMARY") {
    element.parentElement.open = !element.parentElement.open;
    element.focus();
  } else if (isWrittenIn(element)) {
    element.focus();
    if (element.select) element.select();
  } else if (element.type === "radio") {
    isPointed = false;
    (element.closest("[data-rating]").querySelector("input:checked") || element).focus();
  } else if (!element.disabled && !(element.type === "submit" && performance.now() - started < UNSEEN_MILLISECONDS)) {
    element.click();
  }
}

document.addEventListener("pointerdown", () => {
  isPointed = true;
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Tab" || event.key.startsWith("Arrow")) isPointed = false;
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  if (event.key === "Escape") {
    event.target.blur();
    return;
  }
  if (isWrittenIn(event.target)) return;
  const key = keyOf(event);
  const group = event.target.closest("[data-rating]");
  if (group && /^[1-5]$/.test(key) && !(isPointed && hasDigitVerdicts)) {
    event.preventDefault();
    rate(group, key);
    return;
  }
  const element = [...document.querySelectorAll("[data-keys]")].find((each) => each.dataset.keys.split(" ").includes(key));
  if (element) {
    event.preventDefault();
    use(element);
  }
});

document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});

window.addEventListener("pageshow", () => {
  sent = false;
});

// The note is as high as what stands in it.
const note = document.getElementById("note");
if (note) {
  const fit = () => {
    note.rows = Math.min(8, Math.max(1, note.value.split("\n").length, Math.ceil(note.scrollHeight / 24) - 1));
  };
  note.addEventListener("input", fit);
  fit();
}

document.documentElement.dataset.keys = "ready";
