"""Preference files: reading both formats into one record, refusing the rest by file:line, writing them back."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import DpoError, InputError
from schemas.preference import is_policys, iter_pairs, read_pairs, write_rows

USER = {"role": "user", "content": "Q"}
SYSTEM = {"role": "system", "content": "S"}


def answer(text):
    return [{"role": "assistant", "content": text}]


def binary(**changes):
    return {"prompt": "Q", "chosen": "A", "rejected": "B", **changes}


def ranked(first, second, **changes):
    completions = [{"rank": first, "completion": answer("first")}, {"rank": second, "completion": answer("second")}]
    return {"context": [USER], "completions": completions, **changes}


def trl(**changes):
    return {"prompt": [USER], "chosen": answer("A"), "rejected": answer("B"), **changes}


def sampled(**changes):
    ids = {"prompt_token_ids": [9], "chosen_token_ids": [1, 2], "rejected_token_ids": [3]}
    return binary(**(ids | changes))


def ranked_tokens(first, second, second_mask=None):
    """Two completions with sampled tokens; the mask is only there where one is given."""
    better = {"rank": 0, "completion": answer("first"), "token_ids": first}
    worse = {"rank": 1, "completion": answer("second"), "token_ids": second, "loss_mask": second_mask}
    return [better, worse]


def ids_of(tokens):
    mask = tokens and tokens.loss_mask
    return tokens and (list(tokens.ids), mask and list(mask))


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("Q", (USER,)),  # text is one user message
        ([USER], (USER,)),
        ([SYSTEM, USER, *answer("A"), USER], (SYSTEM, USER, *answer("A"), USER)),
    ],
)
def test_a_binary_row_becomes_a_pair(tmp_path, write_jsonl, prompt, messages):
    path = write_jsonl(tmp_path / "pairs.jsonl", [binary(prompt=prompt, chosen_reward=1.0, other="column")])
    (pair,) = read_pairs(path)
    assert pair.prompt == messages
    assert (pair.chosen, pair.rejected) == (tuple(answer("A")), tuple(answer("B")))
    assert (pair.chosen_reward, pair.rejected_reward) == (1.0, None)
    assert pair.source == f"{path}:1"


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        (0, 1, "first"),  # the lower rank is preferred
        (1, 0, "second"),
        (2, 1.5, "second"),
        (-1, 0, "first"),
        (2**53 + 1, 2**53, "second"),  # equal as floats, not as numbers
        (10**400, 1, "second"),  # beyond the floats
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_lower_rank_is_chosen_wherever_it_stands(tmp_path, write_jsonl, first, second, chosen):
    (pair,) = read_pairs(write_jsonl(tmp_path / "pairs.jsonl", [ranked(first, second)]))
    assert pair.chosen == tuple(answer(chosen))
    assert pair.rejected != pair.chosen
    assert pair.prompt == (USER,)


def test_the_reward_of_a_completion_goes_with_it(tmp_path, write_jsonl):
    row = ranked(1, 0)
    row["completions"][0]["reward"], row["completions"][1]["reward"] = 0.25, 0.75  # the second is the better one
    (pair,) = read_pairs(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    assert (pair.chosen_reward, pair.rejected_reward) == (0.75, 0.25)


TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


@pytest.mark.parametrize(
    ("row", "tools"),
    [
        (trl(tools=[TOOL]), (TOOL,)),
        (trl(tools=json.dumps([TOOL])), (TOOL,)),  # as TRL has them
        (binary(tools=[TOOL]), (TOOL,)),
        (ranked(0, 1, tools=[TOOL]), (TOOL,)),
        (trl(tools=[]), ()),
        (trl(tools=None), ()),
        (trl(tools=""), ()),
    ],
)
def test_tools_are_read(tmp_path, write_jsonl, row, tools):
    (pair,) = read_pairs(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    assert pair.tools == tools


def test_a_completion_may_hold_several_messages(tmp_path, write_jsonl):
    result = {"role": "tool", "content": "3", "weight": 0}
    several = [*answer("A"), result, *answer("B")]
    completions = [{"rank": 0, "completion": several}, {"rank": 1, "completion": answer("C")}]
    for row in (trl(chosen=several, rejected=answer("C")), ranked(0, 1, completions=completions)):
        (pair,) = read_pairs(write_jsonl(tmp_path / "pairs.jsonl", [row]))
        assert pair.chosen == tuple(several)
        assert [is_policys(message) for message in pair.chosen] == [True, False, True]
    assert not is_policys({**answer("A")[0], "weight": 0})
    assert is_policys({**answer("A")[0], "weight": None})


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        (binary(), None, None, None),
        (sampled(), [9], ([1, 2], None), ([3], None)),
        (sampled(chosen_loss_mask=[0, 1]), [9], ([1, 2], [0, 1]), ([3], None)),
        (sampled(chosen_loss_mask=[1, 1]), [9], ([1, 2], None), ([3], None)),  # all ones say nothing
        (sampled(chosen_token_ids=None), [9], None, ([3], None)),
        (sampled(chosen_token_ids=[], chosen_loss_mask=[]), [9], ([], None), ([3], None)),
        (
            ranked(0, 1, prompt_token_ids=[9], completions=ranked_tokens([1, 2], [3, 4], [1, 0])),
            [9],
            ([1, 2], None),
            ([3, 4], [1, 0]),
        ),
        (
            ranked(0, 1, prompt_token_ids=[9], completions=ranked_tokens([1, 2], [3])[::-1]),  # the better one second
            [9],
            ([1, 2], None),
            ([3], None),
        ),
    ],
)
def test_sampled_token_ids_are_read(tmp_path, write_jsonl, row, prompt, chosen, rejected):
    (pair,) = read_pairs(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    assert (pair.prompt_token_ids and list(pair.prompt_token_ids)) == prompt
    assert (ids_of(pair.chosen_sampled), ids_of(pair.rejected_sampled)) == (chosen, rejected)


def test_pairs_come_before_the_file_is_read_and_its_problems_at_the_end(tmp_path, write_jsonl):
    stream = iter_pairs(write_jsonl(tmp_path / "pairs.jsonl", [binary(), binary(chosen=1), binary(chosen="last")]))
    assert next(stream).chosen == tuple(answer("A"))
    assert next(stream).chosen == tuple(answer("last"))
    with pytest.raises(InputError, match=r":2: .*; 1 of 3 rows are no preference pairs"):
        next(stream)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            ranked(1, 1),
            "/completions: got two completions of rank 1, expected distinct ranks: the lower one is preferred",
        ),
        (ranked(1, 1.0), "two completions of rank 1"),
        (
            ranked(0, 1, completions=[{"rank": rank, "completion": [USER]} for rank in (0, 1)]),
            "a completion of roles user: no message of the assistant",
        ),
        (trl(tools="[1"), "/tools: got a text that is no JSON"),
        (trl(tools="[1]"), "/tools: got something else, expected an array of objects"),
        (sampled(prompt_token_ids=None), "/prompt_token_ids: got none, expected the prompt's, since a response has"),
        (sampled(prompt_token_ids=[]), "/prompt_token_ids: got no token, expected a length of at least 1"),
        (sampled(chosen_token_ids=[1.0]), "/chosen_token_ids"),
        (sampled(chosen_token_ids=[-1]), "/chosen_token_ids"),
        (sampled(chosen_token_ids=[2**31]), "/chosen_token_ids"),
        (sampled(rejected_token_ids=[True]), "/rejected_token_ids"),
        (sampled(rejected_token_ids="1 2"), "/rejected_token_ids"),
        (sampled(chosen_loss_mask=[1]), "/chosen_loss_mask: got 1 numbers from 1 to 1, expected 0 or 1 for each of 2"),
        (sampled(chosen_loss_mask=[1, 2]), "/chosen_loss_mask"),
        (sampled(chosen_token_ids=None, chosen_loss_mask=[1, 1]), "/chosen_loss_mask: got a loss mask, expected"),
        (
            ranked(0, 1, prompt_token_ids=[1], completions=ranked_tokens([1], [1], [1, 0])),
            "/completions/1/loss_mask: got",
        ),
        (binary(chosen=""), "/chosen: got an empty string, expected a length of at least 1"),
        (binary(prompt=[{"role": "bot", "content": "Q"}]), "/prompt/0/role: got 'bot', expected one of system,"),
        ({"messages": []}, "(row): got an object with keys messages, expected a rollout, a BinaryPreference row"),
        ([], "(row): got an array of 0"),
        (b'{"prompt":"Q"', "truncated"),
        (b'{"prompt":"Q","chosen":"A","rejected":"B","chosen_reward":NaN}', "malformed"),
    ],
)
def test_a_row_that_is_no_pair_is_named_with_its_line_and_the_remedy(tmp_path, write_jsonl, row, problem):
    path = write_jsonl(tmp_path / "pairs.jsonl", [row])
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    message = str(raised.value)
    assert message.startswith(f"{path}:1: ")
    assert problem in message
    assert message.endswith(f"; 1 of 1 rows are no preference pairs, see each with: dpo validate {path}")


def test_only_the_first_problem_is_named_but_all_are_counted(tmp_path, write_jsonl):
    rows = [binary(), binary(chosen=1), b"", binary(chosen=2), binary(), binary(chosen=3), binary(chosen=4)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    message = str(raised.value)
    assert message.startswith(f"{path}:2: /chosen: got 1, expected string; 4 of 6 rows are no preference pairs")


def test_a_file_holds_rows_of_one_kind(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "pairs.jsonl", [binary(), ranked(0, 1)])
    with pytest.raises(InputError, match=r":2: \(row\): got an object with keys"):
        read_pairs(path)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_rows_is_an_error_with_a_remedy(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(DpoError, match="has no rows; make pairs with: dpo collect-pairs ROLLOUTS -o ") as raised:
        read_pairs(path)
    assert raised.value.exit_code == 1


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "absent.jsonl")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_what_is_written_is_read_back(tmp_path, texts):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, "chosen_reward": reward}
        for prompt, chosen, rejected, reward in texts
    ]
    write_rows(path, rows)
    assert path.read_bytes().count(b"\n") == len(rows)
    read = [
        (pair.prompt[0]["content"], pair.chosen[0]["content"], pair.rejected[0]["content"], pair.chosen_reward)
        for pair in read_pairs(path)
    ]
    assert read == texts


def test_unicode_is_written_as_it_is(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_rows(path, [binary(chosen="naïve 🙂 \u2028 \x00")])
    assert path.read_bytes() == (
        b'{"prompt":"Q","chosen":"na\xc3\xafve \xf0\x9f\x99\x82 \xe2\x80\xa8 \\u0000","rejected":"B"}\n'
    )


def test_no_rows_make_an_empty_file(tmp_path):
    write_rows(tmp_path / "pairs.jsonl", [])
    assert (tmp_path / "pairs.jsonl").read_bytes() == b""


def test_rollouts_given_for_pairs_are_told_at_once(tmp_path, write_jsonl):
    row = {"responses_create_params": {"input": "Q"}, "response": {"output": []}, "reward": 1.0}
    path = write_jsonl(tmp_path / "rollouts.jsonl", [row] * 3)
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    assert str(raised.value) == f"{path}: holds rollouts, not pairs; make pairs with: dpo collect-pairs {path}"
    write_jsonl(path, [{"responses_create_params": {"input": "Q"}, "expected_answer": "A"}])
    with pytest.raises(
        InputError, match="holds tasks without answers, not pairs; collect rollouts first: gym eval run"
    ):
        read_pairs(path)
