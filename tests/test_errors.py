"""One tree of errors, one table of statuses, one envelope."""

import json
from collections.abc import Iterator

import pytest

import errors
from errors import AdapterRefused, Locked, Refused, SamevoiceError, internal_failure
from service.answers import STATUS, UnicodeJSONResponse, answer, envelope, status_of


def tree(kind: type[SamevoiceError]) -> Iterator[type[SamevoiceError]]:
    """*kind* and all that is below it in errors.py."""
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from tree(below)


EVERY = list(tree(SamevoiceError))
LEAVES = [kind for kind in EVERY if len(list(tree(kind))) == 1]

# interface.md: what an error of each kind is over HTTP. What only a command raises is a plain refusal there.
STATUSES = {
    "PromptRefused": 422, "BaseRefused": 422, "DataRefused": 422, "ConfigRefused": 422, "TrainingStopped": 422,
    "AdapterRefused": 409, "Malformed": 400, "InvalidField": 422, "Unauthorized": 401, "Forbidden": 403,
    "UnknownAdapter": 404, "GenerationConflict": 412, "TooLarge": 413, "NotJson": 415, "Busy": 429, "NotReady": 503,
    "DeadlinePassed": 504, "Locked": 500,
}  # fmt: skip


@pytest.mark.parametrize("kind", LEAVES)
def test_every_leaf_has_the_status_of_the_interface(kind: type[SamevoiceError]) -> None:
    """An error of each kind has the status that interface.md gives it."""
    assert STATUSES[kind.__name__] == status_of(kind("x"))


def test_no_refusal_is_a_fault_of_ours() -> None:
    """Of all kinds only those that no input can cause are 500."""
    assert {SamevoiceError, Locked} == {kind for kind in EVERY if status_of(kind("x")) == 500}


def test_the_table_holds_nothing_else() -> None:
    """Every row of the table is a kind of the tree."""
    assert set(STATUS) <= set(EVERY)


def test_the_docstring_draws_the_tree() -> None:
    """errors.py opens with every kind there is."""
    drawing = errors.__doc__ or ""

    assert [] == [kind.__name__ for kind in EVERY if kind.__name__ not in drawing]


@pytest.mark.parametrize("kind", EVERY)
def test_codes_are_stable_words(kind: type[SamevoiceError]) -> None:
    """Each kind has a code of its own, in lower case; Forbidden and the like may carry a nearer one."""
    assert kind.code.replace("_", "").isalpha() and kind.code == kind.code.lower()
    assert 1 == [other.code for other in EVERY].count(kind.code)
    assert "nearer" == kind("x", code="nearer").code
    assert kind.code == kind("x").code


def test_refusals_end_a_command_with_code_1() -> None:
    """What is bad input is below Refused; what is not, is beside it."""
    beside = {kind.__name__ for kind in EVERY if not issubclass(kind, Refused)}

    assert {"SamevoiceError", "NotReady", "DeadlinePassed", "Locked"} == beside


def test_an_error_prints_all_that_was_wrong() -> None:
    """As text an error is its message and every detail on a line of its own."""
    assert "bad\n  - one\n  - two" == str(AdapterRefused("bad", details=["one", "two"]))
    assert "bad" == str(AdapterRefused("bad"))


def test_an_error_is_answered_as_an_envelope() -> None:
    """Status, code, message and details, in UTF-8, written out."""
    answered = answer(AdapterRefused("nö", code="base_mismatch", details=["a", "😅"]))

    assert 409 == answered.status_code
    assert (
        b'{"error":{"code":"base_mismatch","message":"n\xc3\xb6","details":["a","\xf0\x9f\x98\x85"]}}' == answered.body
    )
    assert "application/json" == answered.headers["content-type"]


@pytest.mark.parametrize("kind", LEAVES)
def test_who_may_come_again_is_told_when(kind: type[SamevoiceError]) -> None:
    """429 and 503 say Retry-After in whole seconds, 401 what to authenticate with; no other does."""
    answered = answer(kind("x"))

    assert (answered.status_code in (429, 503)) == ("retry-after" in answered.headers)
    assert answered.headers.get("retry-after", "1").isdigit()
    assert ("Bearer" if answered.status_code == 401 else None) == answered.headers.get("www-authenticate")


def test_an_envelope_has_details_always() -> None:
    """A client finds a list of details in every error."""
    assert {"error": {"code": "c", "message": "m", "details": []}} == envelope("c", "m")


def test_an_answer_is_json_that_everybody_reads() -> None:
    """NaN is in no answer: it is not JSON."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        UnicodeJSONResponse({"a": float("nan")})
    assert {"a": "\u2028"} == json.loads(UnicodeJSONResponse({"a": "\u2028"}).body)


def test_an_unforeseen_error_is_told_by_kind_and_place_alone() -> None:
    """Its text could be a message, so the line has only the error's type and where it came from."""
    try:
        int("see you at the canal")
    except ValueError as error:
        line = internal_failure(error)

    assert line.startswith("error [internal]: ValueError at test_errors.py:")
    assert "canal" not in line
