"""Chat templates are programs of other people: what one may reach, and how much time and memory it may take."""

import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UsageError
from tests.conversations import QWEN3, TOOLS, pair, tokenized, with_template
from tests.tiny_models import CHAT_TEMPLATE
from trainer.data import limits
from trainer.data.limits import OutOfTime, TimeLimit, bounded_memory, has_powers, is_far_longer

ESCAPES = (
    "{{ lipsum.__globals__['os'].popen('touch canary') }}",
    "{{ lipsum | attr('__globals__') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch canary') }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__['os'].popen('touch canary') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ raise_exception.__globals__['os'].popen('touch canary') }}",
    "{{ strftime_now.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ ''|attr('__cl' ~ 'ass__')|attr('mro') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(lipsum) }}",
    "{{ '{a.__class__}'.format_map({'a': lipsum}) }}",
    "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
    "{{ ['{0.__class__}'] | map('format', lipsum) | first }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
)
"""Ways out of a sandbox, or to change what is rendered next."""


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
MIDDLE_SECONDS = 5.0
"""Much longer than the limit of the tests below, and than they take even on a busy machine."""


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_reaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = with_template(template + CHAT_TEMPLATE)
    try:
        written = tokenizer.decode(tokenized(tokenizer, pair("a", "b")).groups[0].prompt)
    except UsageError as error:
        written = str(error).partition(" refuses a conversation of user: ")[2]
        assert written
    assert not any(word in written for word in ("<module", "<class", "root:", "<built-in", "<function"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 2, 9, 14, 18])
def test_a_way_out_of_the_sandbox_is_told(number: int) -> None:
    with pytest.raises(UsageError, match=r"^pairs.jsonl:1: the chat template of .* refuses a conversation of user: ."):
        tokenized(with_template(ESCAPES[number] + CHAT_TEMPLATE), pair("a", "b"))


def test_what_a_template_raises_stays_on_its_line() -> None:
    """A line that begins with :: is a command to GitHub's runners."""
    template = "{{ raise_exception('x\n::error file=x::y\r\x1b[2J\u202e') }}"
    with pytest.raises(UsageError) as caught:
        tokenized(with_template(template), pair("a", "b"))
    assert not any(char in str(caught.value) for char in "\n\r\x1b\u202e")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a tenth of a second only."""
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.1)
    monkeypatch.setattr("trainer.data.render.MAX_SECONDS", 0.1)


@pytest.mark.parametrize(
    "template",
    [
        LOOPS,
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in 'abc' %}{% if n %}{{ f(n - 1) }}{% endif %}{% endfor %}{% endmacro %}{{ f(40) }}",
        "{{ lipsum(n=99999999) }}",
        "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% generation %}" + LOOPS + "{% endgeneration %}",
    ],
)
@pytest.mark.usefixtures("hurried")
def test_a_template_that_does_not_end_is_ended(template: str) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"^pairs.jsonl:1: the chat template of .* takes more than 0.1 s for a conv"):
        tokenized(with_template(template + CHAT_TEMPLATE), pair("a", "b"))
    assert time.monotonic() - started < MIDDLE_SECONDS


@pytest.mark.usefixtures("hurried")
def test_the_row_at_which_a_template_hangs_is_named() -> None:
    template = "{% if 'x' in messages[0].content %}" + LOOPS + "{% endif %}" + CHAT_TEMPLATE
    pairs = [pair("a", "b", prompt=f"{'x' if line == 3 else 'y'}{line}", line=line) for line in range(1, 6)]
    with pytest.raises(UsageError, match=r"^pairs.jsonl:3: .* takes more than 0.1 s for a conversation of user; name"):
        tokenized(with_template(template), *pairs)


@pytest.mark.usefixtures("hurried")
def test_nothing_is_left_of_the_limit_in_any_thread() -> None:
    def state() -> tuple[Any, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)]
        names = {thread.name for thread in threading.enumerate()}
        return handlers, names, signal.getitimer(signal.ITIMER_REAL), resource.getrlimit(resource.RLIMIT_AS)

    before, errors = state(), []

    def render(template: str) -> None:
        try:
            tokenized(with_template(template + CHAT_TEMPLATE), pair("a", "b"))
        except UsageError as error:
            errors.append(str(error))

    others = [threading.Thread(target=render, args=(LOOPS,)) for _ in range(3)]
    for thread in others:
        thread.start()
    render(LOOPS)
    for thread in others:
        thread.join()
    assert len([error for error in errors if "more than 0.1 s" in error]) == 4
    render("")
    assert len(errors) == 4
    left = state()
    assert (left[0], left[2], left[3]) == (before[0], before[2], before[3])
    assert left[1] <= before[1]


@pytest.mark.usefixtures("hurried")
def test_the_limit_is_on_each_rendering_not_on_all() -> None:
    with TimeLimit() as limit:
        started, calls = time.monotonic(), 0
        while time.monotonic() - started < 0.4:
            assert limit.call(lambda: "text") == "text"
            calls += 1
    assert calls > 1000


def test_an_error_that_comes_late_hits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that end about when the limit does: each gives its value or runs out of time, and nothing comes behind."""
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.002)
    ended = broken_off = 0
    with TimeLimit() as limit:
        for number in range(400):
            stop = time.monotonic() + 0.0018 + 0.000001 * number

            def wait(stop: float = stop) -> str:
                while time.monotonic() < stop:
                    pass
                return "done"

            try:
                assert limit.call(wait) == "done"
                ended += 1
            except OutOfTime:
                broken_off += 1
            for _ in range(50):  # where a late error would be raised
                time.monotonic()
    assert ended + broken_off == 400
    assert broken_off
    assert ended


GREEDY = [
    "{{ 'a' * 1000000000000 }}",
    "{% set n = namespace(s='a') %}{% for i in range(50) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s=[1]) %}{% for i in range(50) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{{ 'a' | center(900000000000) }}",
    "{{ '%900000000000d' % 1 }}",
    "{{ '{:900000000000}'.format('a') }}",
    "{{ [messages] | tojson(indent=900000000000) }}",
]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux bounds the address space")
@pytest.mark.parametrize("template", GREEDY)
def test_a_greedy_template_is_refused(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(limits, "MAX_GROWTH_BYTES", 256 << 20)
    with pytest.raises(UsageError, match=r"^pairs.jsonl:1: the chat template of .* (takes more than|refuses) "):
        tokenized(with_template(template + CHAT_TEMPLATE), pair("a", "b"))
    assert len("a" * (512 << 20)) == 512 << 20  # the limit is gone


def test_a_text_many_times_as_long_as_its_conversation_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^pairs.jsonl:1: .* writes 20,000,\d+ characters, many times their length"):
        tokenized(with_template("{{ 'a' * 20000000 }}" + CHAT_TEMPLATE), pair("a", "b"))
    assert not is_far_longer("a" * 20_000_000, {"content": "a" * 10_000_000})
    assert not is_far_longer("a" * 1_000_000, {"content": ""})


def test_blocks_of_several_threads_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_GROWTH_BYTES", 64 << 30)
    usual = resource.getrlimit(resource.RLIMIT_AS)
    first, second = bounded_memory(), bounded_memory()
    first.__enter__()
    bound = resource.getrlimit(resource.RLIMIT_AS)
    assert bound != usual
    second.__enter__()
    first.__exit__(None, None, None)  # not the last one in
    assert resource.getrlimit(resource.RLIMIT_AS) == bound
    second.__exit__(None, None, None)
    assert resource.getrlimit(resource.RLIMIT_AS) == usual


@pytest.mark.parametrize(
    "template",
    ["{{ 9 ** 9 ** 9 }}", "{{ 'a' * 10**9 }}", "{{(2)**(3)}}", "{{ f(a, b ** c) }}", "{%- set x = y\n**\nz %}"],
)
def test_powers_are_refused(template: str) -> None:
    assert has_powers(template)
    with pytest.raises(UsageError, match=r"^the chat template of .* computes powers"):
        tokenized(with_template(template + CHAT_TEMPLATE), pair("a", "b"))


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        QWEN3,
        TOOLS,
        "**bold** {{ x }}",
        "{{ f(**x) }}{{ f(a, **x) }}",
        "{{ '2 ** 3' }}",
        "{# 2 ** 3 #}",
        "{% raw %}{{ 2 ** 3 }}{% endraw %}",
        "{{ 'no end",
    ],
)
def test_what_is_no_power(template: str) -> None:
    assert not has_powers(template)


def test_many_named_templates_are_looked_at() -> None:
    tokenizer = with_template({"default": CHAT_TEMPLATE, "tool_use": "{{ 9 ** 9 }}"})
    with pytest.raises(UsageError, match="computes powers"):
        tokenized(tokenizer, pair("a", "b"))


def test_a_template_that_is_nested_too_deeply_is_told() -> None:
    for template in ("{{ " + "(" * 100_000, "{{ " + "[" * 5000 + "]" * 5000 + " }}", "{% if 1 %}" * 5000):
        with pytest.raises(UsageError, match="refuses a conversation of user: "):
            tokenized(with_template(template), pair("a", "b"))


def test_the_limit_costs_next_to_nothing() -> None:
    """A call within the limit takes less than a microsecond more; renderings take dozens."""

    def nothing() -> None:
        pass

    def seconds_of(call: Any) -> float:
        started = time.perf_counter()
        for _ in range(2000):
            call()
        return (time.perf_counter() - started) / 2000

    with TimeLimit() as limit:
        assert min(seconds_of(lambda: limit.call(nothing)) for _ in range(20)) < 5e-6  # on a machine of any speed
