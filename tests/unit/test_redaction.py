"""Marked fields of payloads are shown to nobody, however deep they lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, fields

from jobserver import job
from jobserver.errors import DeclarationInvalid
from jobserver.redaction import is_marked, masked, redacted, secrets_of

SECRET = {"secret": True}


class Login(Schema):
    user = fields.String()
    password = fields.String(metadata=SECRET)
    next = fields.Nested(lambda: Login())


class Sync(Schema):
    shop = fields.String()
    token = fields.String(data_key="accessToken", metadata=SECRET)
    login = fields.Nested(Login)
    logins = fields.List(fields.Nested(Login))
    many = fields.Nested(Login, many=True)
    codes = fields.List(fields.Integer(metadata=SECRET))
    by_name = fields.Dict(values=fields.Nested(Login))
    pair = fields.Tuple((fields.String(), fields.String(metadata=SECRET)))
    passwords = fields.Pluck(Login, "password", many=True)
    card = fields.Nested(Login, metadata=SECRET)


class Plain(Schema):
    name = fields.String()
    again = fields.Nested(lambda: Plain())


def test_marked_fields_are_hidden_wherever_they_lie() -> None:
    login = {"user": "ada", "password": "hunter22"}
    shown = {"user": "ada", "password": "[redacted]"}
    payload = {
        "shop": "s1",
        "accessToken": "tok-12345",
        "login": {**login, "next": login},
        "logins": [login, login],
        "many": [login],
        "codes": [12345678],
        "by_name": {"a": login},
        "pair": ["left", "right-secret"],
        "passwords": ["plucked-secret"],
        "card": {"user": "in-the-card"},
        "unknown": 1,
    }
    assert redacted(Sync, payload) == {
        "shop": "s1",
        "accessToken": "[redacted]",
        "login": {**shown, "next": shown},
        "logins": [shown, shown],
        "many": [shown],
        "codes": ["[redacted]"],
        "by_name": {"a": shown},
        "pair": ["left", "[redacted]"],
        "passwords": ["[redacted]"],
        "card": "[redacted]",
        "unknown": 1,
    }
    assert set(secrets_of(Sync, payload)) == {
        *("tok-12345", "hunter22", "12345678", "right-secret", "plucked-secret", "in-the-card"),
    }
    assert payload["accessToken"] == "tok-12345"


def test_a_schema_without_marks_is_known_as_such() -> None:
    assert (is_marked(Sync), is_marked(Login), is_marked(Plain), is_marked(None)) == (
        *(True, True, False, False),
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from([*Sync().fields, "accessToken"]), inner)
        ),
    )
)
def test_what_does_not_fit_the_schema_is_no_error(payload: object) -> None:
    shown = redacted(Sync, payload)
    if isinstance(payload, dict):
        assert shown.keys() == payload.keys()
        assert shown.get("accessToken") in (None, "[redacted]")


@pytest.mark.parametrize("form", [str, repr])
def test_secrets_are_masked_in_texts_as_reprs_have_them_too(form: type) -> None:
    secrets = secrets_of(Login, {"user": "ada", "password": 'it\'s\n"so"'})
    assert masked(
        f"no: {form(chr(39).join(['it', 's' + chr(10) + chr(34) + 'so' + chr(34)]))}", secrets
    ).strip("'\"") in ("no: [redacted]", "no: '[redacted]")


def test_a_key_may_not_name_a_secret() -> None:
    with pytest.raises(DeclarationInvalid, match="'token', which is secret: keys are shown"):

        @job(queue="q", schema=Sync, key="sync-{token}")
        def sync(**_: object) -> None:
            """Never declared."""
